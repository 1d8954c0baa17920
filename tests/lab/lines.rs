//! What the lab says: the form of each line, and each reason of an end that a peer or the system
//! can bring about.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{Closed, Lab};
use crate::util::{blackhole, have, pattern, read_all, skip, SOON};

/// A path for a Unix-domain socket that is this test's own.
pub fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("unbroken-lab-{name}-{}.sock", std::process::id()))
}

#[test]
fn every_line_has_its_form() {
    let lab = Lab::start(&["--sndbuf", "4096", "--max-write-buffer", "200k"]);
    let mut client = lab.narrow("SEND 200000\n");
    lab.told(&client, "congested");
    assert!(client.read_exactly(200_000) == pattern(200_000));
    lab.told(&client, "drain");
    client.end();
    let closed = lab.closed(&client);
    let conn = lab.conn(&client);
    let told = lab.lines_of(&conn);
    let ms = closed.duration.as_millis();
    let peer = client.local_addr().unwrap();
    let expected = [
        format!(r#"{{"event":"open","conn":"{conn}","peer":"{peer}"}}"#),
        format!(r#"{{"event":"congested","conn":"{conn}","queued":{}}}"#, told[1].queued()),
        format!(r#"{{"event":"drain","conn":"{conn}","queued":{}}}"#, told[2].queued()),
        format!(r#"{{"event":"eof","conn":"{conn}"}}"#),
        format!(
            concat!(
                r#"{{"event":"close","conn":"{}","peer":"{}","reason":"peer_closed","errno":null,"#,
                r#""saw_fin":true,"received":12,"handed":200000,"unsent":0,"unacked":0,"duration_ms":{}}}"#
            ),
            conn, peer, ms
        ),
    ];
    assert_eq!(told.iter().map(|line| &line.text).collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
    let (congested, drain) = (told[1].queued(), told[2].queued());
    assert!((64 << 10..=200_000).contains(&congested) && drain <= 16 << 10, "{congested}, {drain}");

    // Who sent nothing lost nothing, and an errno is a number.
    let mut client = lab.client("SINK\n");
    client.write_all(b"abc").unwrap();
    let conn = lab.conn(&client);
    let peer = client.local_addr().unwrap();
    let gone = client.reset();
    let ms = lab.closed(&gone).duration.as_millis();
    let start = format!(r#"{{"event":"close","conn":"{conn}","peer":"{peer}","reason":"reset","errno":104,"#);
    let rest =
        format!(r#""saw_fin":false,"received":8,"handed":0,"unsent":0,"unacked":0,"duration_ms":{ms}}}"#);
    assert_eq!(lab.told(&gone, "close").text, start + &rest);
}

#[test]
fn a_unix_socket_has_no_peer_and_no_unacked() {
    let path = path("lines");
    let text = format!("unix:{}", path.display());
    let lab = Lab::start(&["--listen", &text, "--listen", "127.0.0.1:0"]);
    assert_eq!(lab.addrs[0], text);
    assert!(lab.addrs[1].starts_with("127.0.0.1:"));
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.write_all(b"SENDCLOSE 1000000\n").unwrap();
    let (data, error) = read_all(&mut client);
    assert!(data == pattern(1_000_000) && error.is_none());
    drop(client);
    let close = lab.wait(|line| line.event() == "close");
    let conn = close.conn();
    let ms = &close.value["duration_ms"];
    let expected = format!(
        concat!(
            r#"{{"event":"close","conn":"{}","peer":null,"reason":"finished","errno":null,"saw_fin":true,"#,
            r#""received":18,"handed":1000000,"unsent":0,"unacked":null,"duration_ms":{}}}"#
        ),
        conn, ms
    );
    assert_eq!(close.text, expected);
    let open = lab.wait(|line| line.event() == "open");
    assert_eq!(open.text, format!(r#"{{"event":"open","conn":"{conn}","peer":null}}"#));
    // R12: a Unix-domain socket that was closed answers the first write with EPIPE.
    let client = UnixStream::connect(&path).unwrap();
    (&client).write_all(b"TWICE 100\n").unwrap();
    drop(client);
    let close = lab.wait(|line| line.event() == "close" && line.conn() != conn);
    assert_eq!((&close.value["reason"], &close.value["errno"]), (&"broken_pipe".into(), &32.into()));
    assert_eq!(close.value["unsent"].as_u64(), Some(1000));
}

// R6
#[test]
fn every_byte_of_a_connection_reset_in_flight_is_accounted_for() {
    let lab = Lab::start(&[]);
    let mut client = lab.narrow("SEND 4000000\n");
    let got = client.read_exactly(100_000).len() as u64;
    let closed = lab.closed(&client.gone());
    assert_eq!((closed.reason.as_str(), closed.errno, closed.saw_fin), ("reset", Some(104), false));
    assert_eq!(closed.handed + closed.unsent, 4_000_000);
    // What counts as delivered was read or lay in the client's kernel, whose buffer is small. (It
    // may be less than was read: the last acknowledgements can be lost under a closed window.)
    let acknowledged = closed.handed - closed.unacked.unwrap();
    assert!(acknowledged <= got + (128 << 10), "{closed:?}");
}

/// An end by a deadline of the engine comes when that is over, and not much later.
fn on_time(closed: &Closed, reason: &str, least: Duration) {
    assert_eq!((closed.reason.as_str(), closed.errno), (reason, None), "{closed:?}");
    assert!(closed.duration >= least && closed.duration < least + SOON / 2, "{closed:?}");
}

#[test]
fn the_engines_own_deadlines_have_reasons_of_their_own() {
    let args = ["--idle", "300ms", "--linger-idle", "400ms", "--write-stall", "500ms", "--sndbuf", "4096"];
    let lab = Lab::start(&args);
    let idle = lab.client("SINK\n");
    let mut stuck = lab.narrow("SEND 4000000\n");
    // L5: it reads everything and then neither ends nor says anything.
    let mut silent = lab.client("SENDCLOSE 1000\n");
    assert_eq!(silent.read_to_eof(), pattern(1000));
    // It does not even read.
    let mut deaf = lab.narrow("SENDCLOSE 4000000\n");

    let closed = lab.closed(&idle);
    on_time(&closed, "idle_timeout", Duration::from_millis(300));
    let closed = lab.closed(&silent);
    on_time(&closed, "linger_timeout", Duration::from_millis(400));
    assert_eq!((closed.handed, closed.unsent, closed.saw_fin), (1000, 0, false));

    let closed = lab.closed(&deaf);
    on_time(&closed, "write_stall", Duration::from_millis(500));
    assert!(closed.unsent > 0 && closed.handed + closed.unsent == 4_000_000, "{closed:?}");
    assert!(deaf.read_to_reset().len() < 4_000_000);

    // Idle with bytes to send: they are lost, and the peer must not take it for an end.
    let closed = lab.closed(&stuck);
    on_time(&closed, "idle_timeout", Duration::from_millis(300));
    assert!(closed.unsent > 0, "{closed:?}");
    assert!(stuck.read_to_reset().len() < 4_000_000);
}

// D6
#[test]
fn a_peer_that_does_not_read_stalls_and_its_end_of_stream_is_seen_all_the_same() {
    let lab = Lab::start(&["--write-stall", "500ms", "--sndbuf", "4096"]);
    let mut client = lab.narrow("SEND 4000000\nabc");
    client.end();
    let closed = lab.closed(&client);
    on_time(&closed, "write_stall", Duration::from_millis(500));
    assert!(closed.saw_fin && closed.unsent > 0, "{closed:?}");
    assert_eq!(closed.handed + closed.unsent, 4_000_000);
    let got = client.read_to_reset().len() as u64;
    assert!(got <= closed.handed, "{got}, {closed:?}");
    // What it sends makes nothing grow: it is heard.
    let conn = lab.conn(&client);
    assert_eq!(lab.lines_of(&conn).iter().filter(|line| line.event() == "eof").count(), 1);
}

// L4, L6
#[test]
fn a_linger_is_capped_in_time_and_in_bytes() {
    let lab = Lab::start(&["--linger-total", "600ms", "--linger-idle", "400ms", "--linger-bytes", "100k"]);
    let mut trickler = lab.client("SENDCLOSE 10\n");
    assert_eq!(trickler.read_exactly(10), pattern(10));
    let mut writer = trickler.try_clone().unwrap();
    let trickling = std::thread::spawn(move || {
        while writer.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let mut pusher = lab.client("SENDCLOSE 10\n");
    assert_eq!(pusher.read_to_eof(), pattern(10));
    let _ = pusher.write_all(&[b'x'; 300_000]);
    let closed = lab.closed(&pusher);
    assert_eq!((closed.reason.as_str(), closed.errno), ("linger_timeout", None));
    assert!(closed.received > 100 << 10, "{closed:?}");

    let closed = lab.closed(&trickler);
    on_time(&closed, "linger_timeout", Duration::from_millis(600));
    trickling.join().unwrap();
}

// D1, D2
#[test]
fn a_host_that_vanished_is_a_kernel_timeout() {
    let probing = Lab::start(&["--keepalive", "1/1/1", "--user-timeout", "off"]);
    let automatic = Lab::start(&["--keepalive", "1/1/1"]);
    let waiting = Lab::start(&["--keepalive", "off", "--user-timeout", "1s"]);
    let idle = [(&probing, probing.client("SINK\n")), (&automatic, automatic.client("SINK\n"))];
    let mut unacked = waiting.client("");
    waiting.conn(&unacked);
    for client in [&idle[0].1, &idle[1].1, &unacked] {
        if !blackhole(client) {
            return;
        }
    }
    // What it says still arrives; of the answer nothing does.
    unacked.write_all(b"SEND 100\n").unwrap();
    let closed = waiting.closed(&unacked);
    assert_eq!(closed.account(), ("kernel_timeout", 9, 100, 100));
    assert_eq!((closed.errno, closed.unacked), (Some(110), Some(100)));
    assert!(closed.duration >= Duration::from_secs(1), "{closed:?}");
    for (lab, client) in &idle {
        let closed = lab.closed(client);
        assert_eq!(closed.account(), ("kernel_timeout", 5, 0, 0));
        assert_eq!(closed.errno, Some(110));
        assert!(closed.duration >= Duration::from_secs(1), "{closed:?}");
    }
}

// R13
#[test]
fn an_administrators_kill_is_a_kernel_abort() {
    if !have("ss") {
        return;
    }
    let lab = Lab::start(&[]);
    let client = lab.client("SINK\n");
    lab.conn(&client);
    let lab_end = client.peer_addr().unwrap();
    let peer = client.local_addr().unwrap();
    let killed = Command::new("ss")
        .args(["-K", "-H", "-t", "state", "established"])
        .args(["src", &lab_end.to_string(), "dst", &peer.to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if !killed.status.success() || killed.stdout.is_empty() {
        return skip("root and INET_DIAG_DESTROY", &String::from_utf8_lossy(&killed.stderr));
    }
    let closed = lab.closed(&client);
    assert_eq!((closed.reason.as_str(), closed.errno), ("kernel_aborted", Some(103)));
}
