//! Builds and runs the race (`benches/race`), a package of its own: its dependencies are the peers',
//! and nobody who tests or uses the library compiles them.
//!
//! cargo bench --bench race              all of it, in under fifteen minutes
//! cargo bench --bench race -- --quick   with less care, in under two

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    // `cargo bench` passes `--bench`; `cargo test --benches` does not.
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "--bench") {
        println!("nothing is raced without `cargo bench`");
        return ExitCode::SUCCESS;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let run = |args: &[&str], rest: &[String]| {
        let mut command = Command::new(&cargo);
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args(args).args(rest);
        match command.status() {
            Ok(status) => status.success(),
            Err(error) => {
                eprintln!("{command:?}: {error}");
                false
            }
        }
    };
    let build = |package| run(&["build", "--release", "--package", package, "--bins"], &[]);
    // One after the other: built together they would share the engine, with the features of both.
    let built = build("unbroken-race") && build("unbroken-race-engine");
    let raced = built
        && run(&["run", "--release", "--quiet", "--package", "unbroken-race", "--bin", "race", "--"], &args);
    match raced {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
