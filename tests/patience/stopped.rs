//! A process that is stopped and continued (Ctrl-Z, a debugger, a virtual machine put to sleep) hears
//! whoever spoke meanwhile before it judges.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::{kill_process, Pid, Signal};
use unbroken::{Config, ConnId, Handler, Net};

use crate::heard::Heartbeats;
use crate::stage::connect;
use crate::util::{self, eventually};

const SPAN: Duration = Duration::from_millis(400);
/// Longer than that.
const STOPPED: Duration = Duration::from_millis(600);

/// Says something only to whoever asks: what was acknowledged is no sign of life here.
struct Quiet;

impl Handler for Quiet {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        if data.ends_with(b"?") {
            let _ = net.send(conn, b"!");
        }
        data.len()
    }
}

/// In the child: a server that ends who is silent for `SPAN`.
fn serve_in_child(role: &str) {
    let mut config = Config::default();
    match role {
        "heartbeats" => util::serve_as_child(config, Heartbeats::new(SPAN)),
        _ => {
            config.idle_timeout = Some(SPAN);
            util::serve_as_child(config, Quiet)
        }
    };
}

/// Whether the process stands still.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
}

/// Starts a server in a process of its own, has clients speak to it while it is stopped for longer
/// than it waits for anybody, and continues it. They must all be answered.
fn speak_to_a_stopped_one(test: &str, role: &str) {
    let child = util::serving_child(test, role);
    let clients: Vec<TcpStream> = (0..8).map(|_| connect(child.addr)).collect();
    let mut answer = [0];
    // Whoever came last is in after all others.
    (&clients[7]).write_all(b"?").unwrap();
    (&clients[7]).read_exact(&mut answer).unwrap();

    let process = Pid::from_raw(child.id() as i32).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    eventually("it is stopped", || is_stopped(child.id()));
    for words in ["beat", "beat", "beat?"] {
        std::thread::sleep(STOPPED / 4);
        for mut client in &clients {
            client.write_all(words.as_bytes()).unwrap();
        }
    }
    std::thread::sleep(STOPPED / 4);
    kill_process(process, Signal::CONT).unwrap();

    let answers: Vec<_> = clients.iter().map(|mut client| client.read(&mut [0])).collect();
    let ended = answers.iter().filter(|answer| !matches!(answer, Ok(1))).count();
    assert_eq!(ended, 0, "{ended} of 8 were ended: {answers:?}");
    // From there on the clock runs as always.
    for mut client in &clients {
        assert!(std::iter::repeat_with(|| client.read(&mut [0; 100]))
            .take(3)
            .any(|end| !matches!(end, Ok(1..))));
    }
    child.finish();
}

// B3
#[test]
fn whoever_sent_while_the_process_was_stopped_is_not_idle() {
    match util::role() {
        Some(role) => serve_in_child(&role),
        None => {
            speak_to_a_stopped_one("stopped::whoever_sent_while_the_process_was_stopped_is_not_idle", "idle")
        }
    }
}

// B3
#[test]
fn a_program_that_was_stopped_sees_the_waiting_heartbeats_before_its_timers_fire() {
    match util::role() {
        Some(role) => serve_in_child(&role),
        None => speak_to_a_stopped_one(
            "stopped::a_program_that_was_stopped_sees_the_waiting_heartbeats_before_its_timers_fire",
            "heartbeats",
        ),
    }
}
