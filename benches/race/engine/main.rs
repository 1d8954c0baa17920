//! The engine's server in all rows of the race without TLS, in a package of its own: built by itself it
//! has the engine as an embedder has it, without any feature.
//!
//! race-engine echo|fanout|pieces|proxy [UPSTREAM]

#[path = "../peers/frames.rs"]
#[allow(dead_code)]
mod frames;
#[path = "../peers/role.rs"]
mod role;
#[path = "../peers/unbroken.rs"]
mod unbroken;

use std::process::ExitCode;

use self::role::{announce, Role, SUBSCRIBER_CAP};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let served = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["echo"] => unbroken::serve(Role::Echo),
        ["fanout"] => unbroken::serve(Role::Fanout),
        ["pieces"] => unbroken::pieces(),
        ["proxy", upstream] => match upstream.parse() {
            Ok(upstream) => unbroken::serve(Role::Proxy(upstream)),
            Err(_) => {
                eprintln!("race-engine: {upstream} is no address");
                return ExitCode::from(2);
            }
        },
        _ => {
            eprintln!("usage: race-engine echo|fanout|pieces|proxy [UPSTREAM]");
            return ExitCode::from(2);
        }
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("race-engine {}: {error}", args.join(" "));
            ExitCode::FAILURE
        }
    }
}
