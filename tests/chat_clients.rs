//! The chat server with clients that nobody here wrote, with a crowd of them, with those that
//! misbehave, and as a program with flags, signals and inherited sockets.
//!
//! `UNBROKEN_LONG=1` lets the crowd talk for 30 seconds instead of 5.

#[path = "chat_clients/chat.rs"]
mod chat;
#[path = "chat_clients/crowd.rs"]
mod crowd;

mod util;

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chat::{answer, connect, Chat, Irc, Program, Scratch};
use nix::sys::signal::Signal;
use util::{eventually, narrow_client};

/// One line into a FIFO, which its reader may still be about to open.
fn write_fifo(path: &Path, line: &str) {
    eventually("a FIFO with a reader", || {
        // Without a reader this fails at once (ENXIO) instead of waiting for one.
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
        let fifo = rustix::fs::open(path, flags, rustix::fs::Mode::empty());
        fifo.is_ok_and(|fifo| std::fs::File::from(fifo).write_all(format!("{line}\n").as_bytes()).is_ok())
    });
}

fn eventually_in(path: &Path, what: &str) {
    eventually(&format!("{what:?} in {}", path.display()), || {
        std::fs::read_to_string(path).is_ok_and(|text| text.contains(what))
    });
}

#[test]
fn ii_joins_talks_hears_and_quits() {
    if !util::have("ii") {
        return;
    }
    let chat = Chat::start(&[]);
    let mut friend = chat.member("friend", "#fifo");
    let dir = Scratch::new("ii");
    let mut ii = Command::new("ii");
    ii.args(["-s", "127.0.0.1", "-p", &chat.irc.port().to_string(), "-n", "fred", "-i"]).arg(dir.path());
    let mut ii = Program::start(&mut ii);
    let server = dir.path().join("127.0.0.1");
    eventually_in(&server.join("out"), "End of /MOTD command");
    write_fifo(&server.join("in"), "/j #fifo");
    friend.hear(":fred!~fred@127.0.0.1 JOIN #fifo");
    let channel = server.join("#fifo");
    write_fifo(&channel.join("in"), "good morning from a FIFO");
    friend.hear(":fred!~fred@127.0.0.1 PRIVMSG #fifo :good morning from a FIFO");
    friend.say("PRIVMSG #fifo :good morning from a socket");
    eventually_in(&channel.join("out"), "<friend> good morning from a socket");
    write_fifo(&server.join("in"), "/q so long");
    assert_eq!(friend.departure_of("fred"), "so long");
    assert!(ii.ended().0.success());
}

#[test]
fn sic_joins_talks_hears_and_quits() {
    if !util::have("sic") {
        return;
    }
    let chat = Chat::start(&[]);
    let mut friend = chat.member("friend", "#simple");
    let mut sic = Command::new("sic");
    sic.args(["-h", "127.0.0.1", "-p", &chat.irc.port().to_string(), "-n", "sid"]).stderr(Stdio::null());
    let mut sic = Program::start(&mut sic);
    sic.hear(" 376 ");
    sic.say(":j #simple\n");
    friend.hear(":sid!~sid@127.0.0.1 JOIN #simple");
    sic.say(":m #simple simple is best\n");
    friend.hear(":sid!~sid@127.0.0.1 PRIVMSG #simple :simple is best");
    friend.say("PRIVMSG #simple :it is");
    sic.hear("<friend> it is");
    sic.say(":QUIT :simply gone\n");
    assert_eq!(friend.departure_of("sid"), "simply gone");
    sic.hear("ERROR");
}

/// A terminal with a program in it. Dropping it ends both.
struct Terminal(Scratch);

impl Terminal {
    fn start(name: &str, program: &[&str]) -> Self {
        let terminal = Self(Scratch::new(name));
        let mut start = terminal.tmux();
        let home = terminal.0.path().join("home");
        start.args(["-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "40"]);
        start.args(program).arg(format!("--home={}", home.display()));
        assert!(start.status().expect("tmux").success());
        terminal
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.0.path().join("socket")).stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn keys(&self, line: &str) {
        assert!(self.tmux().args(["send-keys", "-l", line]).status().expect("tmux").success());
        assert!(self.tmux().args(["send-keys", "Enter"]).status().expect("tmux").success());
    }

    fn until_it_shows(&self, what: &str) {
        eventually(&format!("{what:?} on the screen"), || {
            std::thread::sleep(Duration::from_millis(50));
            let screen = self.tmux().args(["capture-pane", "-p"]).output().expect("tmux");
            String::from_utf8_lossy(&screen.stdout).contains(what)
        });
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux().arg("kill-server").status();
    }
}

#[test]
fn irssi_joins_talks_hears_and_quits() {
    if !["irssi", "tmux"].iter().all(|program| util::have(program)) {
        return;
    }
    let chat = Chat::start(&[]);
    let mut friend = chat.member("friend", "#terminal");
    let port = chat.irc.port().to_string();
    let irssi = Terminal::start("irssi", &["irssi", "-c", "127.0.0.1", "-p", &port, "-n", "irma"]);
    irssi.until_it_shows("Nobody here dies of a broken pipe.");
    irssi.keys("/join #terminal");
    friend.hear(":irma!");
    irssi.until_it_shows("[#terminal]");
    irssi.keys("good evening from a terminal");
    friend.hear("PRIVMSG #terminal :good evening from a terminal");
    friend.say("PRIVMSG #terminal :good evening from a socket");
    irssi.until_it_shows("good evening from a socket");
    irssi.keys("/me waves");
    friend.hear("PRIVMSG #terminal :\u{1}ACTION waves\u{1}");
    irssi.keys("/quit the kettle boils");
    assert_eq!(friend.departure_of("irma"), "the kettle boils");
}

/// A whole client, on the standard library of another language.
const PYTHON: &str = r#"
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10)
lines = s.makefile("r", encoding="utf-8", newline="\r\n")
def say(line): s.sendall((line + "\r\n").encode())
def hear(what):
    for line in lines:
        print(line.rstrip(), flush=True)
        if what in line: return
    sys.exit("closed before " + what)
say("NICK monty"); say("USER monty 0 * :Monty")
hear(" 376 ")
say("JOIN #mixed")
hear(" 366 ")
hear("PRIVMSG #mixed :is anybody there?")
say("PRIVMSG #mixed :me, with a ünïcödé snake")
hear("PRIVMSG monty :only for you")
say("QUIT :and now for something else")
hear("ERROR :")
sys.exit(0 if lines.readline() == "" else "something behind the end")
"#;

#[test]
fn nc_and_python_talk_to_each_other() {
    if !["nc", "python3"].iter().all(|program| util::have(program)) {
        return;
    }
    let chat = Chat::start(&[]);
    let port = chat.irc.port().to_string();
    let mut nc = Program::start(Command::new("nc").args(["127.0.0.1", &port]));
    // What a person types ends with a bare LF.
    nc.say("NICK kitty\nUSER kitty 0 * :Kitty\n");
    nc.hear(" 001 kitty ");
    nc.hear(" 376 kitty ");
    nc.say("JOIN #mixed\n");
    nc.hear(" 366 kitty #mixed ");
    let mut python = Program::start(Command::new("python3").args(["-", &port]));
    python.say(PYTHON);
    python.finish_input();
    nc.hear(":monty!~monty@127.0.0.1 JOIN #mixed");
    nc.say("PRIVMSG #mixed :is anybody there?\n");
    nc.hear(":monty!~monty@127.0.0.1 PRIVMSG #mixed :me, with a ünïcödé snake");
    nc.say("PRIVMSG monty :only for you\n");
    nc.hear(":monty!~monty@127.0.0.1 QUIT :and now for something else");
    let (status, heard) = python.ended();
    assert!(status.success(), "{status}: {heard:#?}");
    nc.say("QUIT :purr\n");
    nc.hear("ERROR :Closing link: 127.0.0.1 (purr)");
    nc.finish_input();
    assert!(nc.ended().0.success());
}

#[test]
fn a_script_piped_into_nc_gets_all_its_answers() {
    if !util::have("nc") {
        return;
    }
    let chat = Chat::start(&[]);
    let mut friend = chat.member("friend", "#pipe");
    // -N: the end of the input is a FIN, long before the answers are read.
    let mut nc = Program::start(Command::new("nc").args(["-N", "127.0.0.1", &chat.irc.port().to_string()]));
    nc.say("NICK pipe\nUSER pipe 0 * :p\nJOIN #pipe\nPRIVMSG #pipe :deployed\nPING :last\n");
    nc.finish_input();
    friend.hear(":pipe!~pipe@127.0.0.1 PRIVMSG #pipe :deployed");
    assert_eq!(friend.departure_of("pipe"), "Connection closed");
    nc.hear(" 366 pipe #pipe ");
    nc.hear("PONG chat.local :last");
    assert!(nc.ended().0.success());
}

#[test]
fn a_script_beyond_the_rate_waits_and_loses_nothing() {
    let chat = Chat::start(&["--rate", "40", "--burst", "5"]);
    let mut friend = chat.member("friend", "#pipe");
    let mut script = chat.member("script", "#pipe");
    let begin = Instant::now();
    let lines: Vec<String> = (0..60).map(|n| format!("PRIVMSG #pipe :line {n}\r\n")).collect();
    script.write(lines.concat().as_bytes());
    script.stream().shutdown(Shutdown::Write).unwrap();
    friend.hear(" JOIN #pipe");
    for n in 0..60 {
        assert_eq!(friend.line(), format!(":script!~script@127.0.0.1 PRIVMSG #pipe :line {n}"));
    }
    assert!(begin.elapsed() > Duration::from_secs(1), "60 lines within {:?}", begin.elapsed());
    assert_eq!(friend.departure_of("script"), "Connection closed");
    assert_eq!(script.rest(), [""; 0]);
}

#[test]
fn prometheus_accepts_the_metrics() {
    if !util::have("promtool") {
        return;
    }
    let chat = Chat::start(&[]);
    let mut alice = chat.member("alice", "#graph");
    let mut bob = chat.member("bob", "#graph");
    alice.say("PRIVMSG #graph :count me");
    bob.hear("count me");
    util::reset(alice.into_stream());
    bob.departure_of("alice");
    let (head, metrics) = chat.get("/metrics");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.to_ascii_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    let (status, said) = answer(Command::new("promtool").args(["check", "metrics"]), &metrics);
    assert!(status.success(), "{status}: {said}\n{metrics}");
    assert_eq!(chat.metric("chat_messages_total"), 1.0);
    assert_eq!(chat.metric(r#"chat_closes_total{reason="reset"}"#), 1.0);
}

#[test]
fn in_a_crowd_every_healthy_client_hears_every_line_once_and_in_order() {
    let long = std::env::var_os("UNBROKEN_LONG").is_some_and(|value| value == "1");
    let time = Duration::from_secs(if long { 30 } else { 5 });
    let limits = ["--rate", "1000", "--burst", "1000", "--max-clients-per-address", "1000"];
    let chat = Chat::start(&[&limits[..], &["--send-queue", "65536"]].concat());
    let outcome = crowd::run(chat.irc, time);
    for read in &outcome.slow {
        assert!(read.len() > 1000, "a slow reader got {} bytes", read.len());
        crowd::assert_without_gaps(read);
    }
    let left = |nick: &str, why: &str| {
        let seen: Vec<_> = outcome.departures.iter().filter(|(who, _)| who == nick).collect();
        assert!(seen.iter().all(|(_, words)| words == why), "{seen:?}");
        seen.len()
    };
    for n in 0..10 {
        // In one channel, with ten healthy members.
        assert_eq!(left(&format!("reset{n}"), "Connection reset by peer"), 10);
        // In all channels.
        assert_eq!(left(&format!("never{n}"), "Slow consumer"), 200);
        // It may have kept up with the queue.
        let seen = left(&format!("slow{n}"), "Slow consumer");
        assert!(seen == 10 || seen == 0, "slow{n} was seen to leave by {seen} of 10");
    }
    assert!(outcome.departures.iter().all(|(who, _)| !who.starts_with('h')), "{:?}", outcome.departures);
    assert!(chat.metric("chat_deliveries_total") >= outcome.delivered as f64);
}

/// Lines in a row before the speaker waits for somebody to have heard them.
const BATCH: usize = 50;

/// Says a batch of long lines, and has a friend hear them all, in order.
fn flood(talker: &mut Irc, friend: &mut Irc, batch: usize) -> Vec<String> {
    let mut others = Vec::new();
    let padding = "~".repeat(400);
    let lines: Vec<String> =
        (0..BATCH).map(|n| format!("PRIVMSG #flood :{} {padding}", batch * BATCH + n)).collect();
    talker.say(&lines.join("\r\n"));
    for line in lines {
        loop {
            let heard = friend.line();
            match heard.split_once(" PRIVMSG ") {
                Some((_, said)) => {
                    assert_eq!(said, line.trim_start_matches("PRIVMSG "));
                    break;
                }
                None => others.push(heard),
            }
        }
    }
    others
}

#[test]
fn who_stops_reading_is_dropped_as_a_slow_consumer_and_nobody_else_waits() {
    let chat = Chat::start(&["--send-queue", "65536", "--rate", "1000000", "--burst", "1000000"]);
    let mut talker = chat.member("talker", "#flood");
    let mut friend = chat.member("friend", "#flood");
    let mut stalled = Irc::register(narrow_client(chat.irc), "stalled");
    stalled.join("#flood");
    friend.hear(":stalled!");
    let (mut dropped, mut slowest) = (None, Duration::ZERO);
    for batch in 0..2000 {
        let begin = Instant::now();
        let others = flood(&mut talker, &mut friend, batch);
        slowest = slowest.max(begin.elapsed());
        if let Some(line) = others.first() {
            assert_eq!(line, ":stalled!~stalled@127.0.0.1 QUIT :Slow consumer");
            dropped = Some(batch);
        }
        // It goes on after that, too.
        if dropped.is_some_and(|at| batch >= at + 5) {
            break;
        }
    }
    let dropped = dropped.expect("it was dropped");
    assert!((dropped + 1) * BATCH * 400 >= 65536, "dropped after {dropped} batches, before its cap");
    assert!(slowest < Duration::from_secs(2), "a batch took {slowest:?} to be delivered");
    talker.hear(":stalled!~stalled@127.0.0.1 JOIN");
    assert_eq!(talker.departure_of("stalled"), "Slow consumer");
    talker.say("NAMES #flood");
    assert!(!talker.hear(" 353 ").contains("stalled"));
    assert_eq!(chat.metric(r#"chat_closes_total{reason="slow_consumer"}"#), 1.0);
    assert_eq!(chat.metric("chat_queued_bytes"), 0.0);
}

#[test]
fn a_departure_shows_its_cause() {
    let chat = Chat::start(&[]);
    let mut witness = chat.member("witness", "#c");
    let leave = |nick: &str| chat.member(nick, "#c");

    util::reset(leave("a").into_stream());
    assert_eq!(witness.departure_of_joined("a"), "Connection reset by peer");

    let mut half_a_line = leave("b");
    half_a_line.write(b"PRIVMSG #c :half a li");
    util::reset(half_a_line.into_stream());
    assert_eq!(witness.departure_of_joined("b"), "Connection reset by peer");

    drop(leave("c"));
    assert_eq!(witness.departure_of_joined("c"), "Connection closed");

    let mut half_closed = leave("d");
    half_closed.write(b"PRIVMSG #c :half a li");
    half_closed.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(witness.departure_of_joined("d"), "Connection closed");
    assert_eq!(half_closed.rest(), [""; 0]);

    let mut polite = leave("e");
    polite.say("QUIT :off to the sea: bye :)");
    assert_eq!(witness.departure_of_joined("e"), "off to the sea: bye :)");
    polite.is_told("off to the sea: bye :)");

    // Words that are on their way count, whatever comes right behind them.
    let mut hasty = leave("f");
    hasty.say("PRIVMSG #c :one word more\r\nQUIT :in a hurry");
    hasty.stream().shutdown(Shutdown::Both).unwrap();
    drop(hasty);
    witness.hear(":f!~f@127.0.0.1 PRIVMSG #c :one word more");
    assert_eq!(witness.departure_of("f"), "in a hurry");

    // One who is not in any of the witness's channels is nobody's departure.
    drop(chat.client("g"));
    drop(leave("h"));
    assert_eq!(witness.departure_of_joined("h"), "Connection closed");
}

#[test]
fn a_reset_shows_behind_what_the_rate_still_holds_back() {
    let chat = Chat::start(&["--rate", "20", "--burst", "8"]);
    let mut witness = chat.member("witness", "#c");
    let mut flooder = chat.member("flooder", "#c");
    flooder.write("PRIVMSG #c :more\r\n".repeat(20).as_bytes());
    witness.hear("PRIVMSG #c :more");
    util::reset(flooder.into_stream());
    for _ in 1..20 {
        assert!(witness.line().ends_with(" PRIVMSG #c :more"));
    }
    assert_eq!(witness.departure_of("flooder"), "Connection reset by peer");
}

impl Irc {
    /// As `departure_of`, for one whose coming is still to be heard.
    fn departure_of_joined(&mut self, nick: &str) -> String {
        let joined = self.line();
        assert_eq!(joined, format!(":{nick}!~{nick}@127.0.0.1 JOIN #c"));
        let line = self.line();
        let words = line.strip_prefix(&format!(":{nick}!~{nick}@127.0.0.1 QUIT :"));
        words.unwrap_or_else(|| panic!("not a departure: {line}")).to_owned()
    }
}

#[test]
fn a_frozen_client_times_out_and_one_that_answers_does_not() {
    let chat = Chat::start(&["--ping-interval", "1", "--ping-timeout", "1"]);
    let mut witness = chat.member("witness", "#c");
    let mut frozen = chat.member("frozen", "#c");
    let begin = Instant::now();
    // The witness answers what it is asked, as it reads.
    let words = witness.departure_of_joined("frozen");
    assert!(words.starts_with("Ping timeout"), "{words}");
    assert!(begin.elapsed() > Duration::from_millis(1500), "after {:?}", begin.elapsed());
    frozen.is_told("Ping timeout");
    // It stays for as long again.
    let end = Instant::now() + Duration::from_secs(3);
    witness.stream().set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut chunk = [0; 512];
    while Instant::now() < end {
        let asked = std::io::Read::read(&mut witness.stream(), &mut chunk);
        match asked {
            Ok(length) => {
                assert!(
                    chunk[..length].starts_with(b"PING "),
                    "{}",
                    String::from_utf8_lossy(&chunk[..length])
                );
                witness.say("PONG :here");
            }
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}"),
        }
    }
}

#[test]
fn sigterm_delivers_what_is_queued_and_tells_everybody() {
    let flags = ["--send-queue", "67108864", "--rate", "1000000", "--burst", "1000000", "--drain", "10"];
    let mut chat = Chat::start(&flags);
    let mut talker = chat.member("talker", "#flood");
    let mut friend = chat.member("friend", "#flood");
    let behind = |n: usize| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        socket.connect(&chat.irc.into()).unwrap();
        let stream = TcpStream::from(socket);
        util::patient(&stream);
        let mut irc = Irc::register(stream, &format!("behind{n}"));
        irc.join("#flood");
        irc
    };
    let mut behind: Vec<Irc> = (0..3).map(behind).collect();
    let mut idle = chat.client("idle");
    let mut unregistered = Irc::new(connect(chat.irc), "unregistered");
    let mut browser = connect(chat.web);
    let (mut page, _) = tungstenite::client(format!("ws://{}/irc", chat.web), connect(chat.web)).unwrap();
    page.send("NICK page".into()).unwrap();
    page.send("USER page 0 * :page".into()).unwrap();
    while !page.read().unwrap().to_text().unwrap().contains(" 376 page ") {}
    // With the one that asks.
    eventually("all are known", || chat.metric("chat_connections") == 10.0);

    // More than the kernel's buffers hold.
    let mut lines = 0;
    while chat.metric("chat_queued_bytes") < 3e6 {
        for _ in 0..20 {
            flood(&mut talker, &mut friend, lines / BATCH);
            lines += BATCH;
        }
        assert!(lines < 200_000, "nothing stays queued");
    }
    let begin = Instant::now();
    chat.signal(Signal::SIGTERM);
    for irc in [&mut talker, &mut friend, &mut idle, &mut unregistered] {
        irc.is_told("Server shutting down");
    }
    let last = page.read().unwrap();
    assert!(last.is_text() && last.to_text().unwrap().starts_with("ERROR :"), "{last}");
    assert!(page.read().unwrap().is_close());
    assert!(matches!(page.read(), Err(tungstenite::Error::ConnectionClosed)));
    let (said, error) = util::read_all(&mut browser);
    assert!(said.is_empty() && error.is_none(), "{said:?} {error:?}");
    std::thread::scope(|scope| {
        for irc in &mut behind {
            scope.spawn(|| {
                let rest = irc.rest();
                let (last, rest) = rest.split_last().expect("an ERROR");
                assert!(last.starts_with("ERROR :") && last.contains("Server shutting down"), "{last}");
                let said = rest.iter().filter_map(|line| line.split_once(" PRIVMSG #flood :"));
                let numbers: Vec<usize> =
                    said.map(|(_, said)| said.split(' ').next().unwrap().parse().unwrap()).collect();
                assert!(numbers.iter().copied().eq(0..lines), "{} of {lines} lines", numbers.len());
            });
        }
    });
    let (status, _) = chat.ended();
    assert_eq!(status, Some(0));
    assert!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
}

#[test]
fn sigterm_waits_for_a_client_that_does_not_read_no_longer_than_the_drain() {
    let flags = ["--send-queue", "67108864", "--rate", "1000000", "--burst", "1000000", "--drain", "1"];
    let mut chat = Chat::start(&flags);
    let mut talker = chat.member("talker", "#flood");
    let mut friend = chat.member("friend", "#flood");
    let mut stalled = Irc::register(narrow_client(chat.irc), "stalled");
    stalled.join("#flood");
    let mut batch = 0;
    while chat.metric("chat_queued_bytes") < 100_000.0 {
        for _ in 0..10 {
            flood(&mut talker, &mut friend, batch);
            batch += 1;
        }
        assert!(batch < 4000, "nothing stays queued");
    }
    chat.signal(Signal::SIGTERM);
    talker.is_told("Server shutting down");
    friend.is_told("Server shutting down");
    let (status, took) = chat.ended();
    assert_eq!(status, Some(0));
    assert!(took < Duration::from_secs(3), "it took {took:?}");
}

/// The chat with the listeners of a service manager, which are this test's too. The shell puts
/// them where they belong; `before` is the rest of its line.
fn activated(irc: &TcpListener, web: &TcpListener, before: &str) -> Chat {
    let start = format!(r#"{before} exec "$0" "$@" 3<&0 4<&2 0</dev/null 2>/dev/null"#);
    let mut manager = Command::new("sh");
    manager.args(["-c", &start]).arg(util::example("chat"));
    manager.args(["--irc", "127.0.0.1:0", "--web", "127.0.0.1:0"]);
    let copy = |listener: &TcpListener| Stdio::from(OwnedFd::from(listener.try_clone().unwrap()));
    manager.stdin(copy(irc)).stderr(copy(web));
    Chat::spawn(manager)
}

fn listeners() -> (TcpListener, TcpListener, SocketAddr, SocketAddr) {
    let (irc, web) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let addrs = (irc.local_addr().unwrap(), web.local_addr().unwrap());
    (irc, web, addrs.0, addrs.1)
}

#[test]
fn a_service_managers_sockets_are_served_with_those_who_wait_already() {
    let (irc, web, irc_addr, web_addr) = listeners();
    for before in [
        // As systemd does, as a simple script does, and in the other order by name.
        "export LISTEN_FDS=2 LISTEN_PID=$$;",
        "export LISTEN_FDS=2;",
        "export LISTEN_FDS=2 LISTEN_FDNAMES=web:irc;",
    ] {
        // They wait before it starts, and have spoken.
        let mut early = Irc::new(connect(irc_addr), "early");
        early.say("NICK early\r\nUSER early 0 * :early");
        let mut browser = connect(web_addr);
        browser.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let chat = match before.contains("web:irc") {
            true => activated(&web, &irc, before),
            false => activated(&irc, &web, before),
        };
        assert_eq!((chat.irc, chat.web), (irc_addr, web_addr), "{before}");
        early.hear(" 001 early ");
        let (health, error) = util::read_all(&mut browser);
        assert!(error.is_none() && health.starts_with(b"HTTP/1.1 200 "), "{health:?} {error:?}");
        chat.member("late", "#c");
    }
    // Meant for another process: its own flags count.
    let chat = activated(&irc, &web, "export LISTEN_FDS=2 LISTEN_PID=1;");
    assert!(chat.irc != irc_addr && chat.web != web_addr);
}

/// Connects, registers and leaves. What went wrong, if something did.
fn visit(addr: SocketAddr, nick: &str) -> Result<(), String> {
    let mut stream = TcpStream::connect(addr).map_err(|error| format!("connect: {error}"))?;
    util::patient(&stream);
    let hello = format!("NICK {nick}\r\nUSER {nick} 0 * :visitor\r\nQUIT :seen\r\n");
    stream.write_all(hello.as_bytes()).map_err(|error| format!("write: {error}"))?;
    let (heard, error) = util::read_all(&mut stream);
    let heard = String::from_utf8_lossy(&heard);
    match (heard.contains(" 001 ") && heard.contains("(seen)"), error) {
        (true, None) => Ok(()),
        (_, error) => Err(format!("{error:?} after {heard:?}")),
    }
}

#[test]
fn a_restart_refuses_nobody() {
    let (irc, web, addr, _) = listeners();
    let mut old = activated(&irc, &web, "export LISTEN_FDS=2;");
    let mut resident = old.member("resident", "#c");
    let over = AtomicBool::new(false);
    let (visits, told, failures) = std::thread::scope(|scope| {
        let visitors: Vec<_> = (0..2)
            .map(|visitor| {
                let over = &over;
                scope.spawn(move || {
                    let (mut visits, mut told, mut failures) = (0, 0, Vec::new());
                    while !over.load(Ordering::Relaxed) {
                        match visit(addr, &format!("v{visitor}")) {
                            Ok(()) => visits += 1,
                            // It was connected to the old one already, and told in words.
                            Err(why) if why.starts_with("None") && why.contains("shutting down") => told += 1,
                            Err(why) => failures.push(why),
                        }
                        std::thread::sleep(Duration::from_millis(4));
                    }
                    (visits, told, failures)
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        old.signal(Signal::SIGTERM);
        resident.is_told("Server shutting down");
        assert_eq!(old.ended().0, Some(0));
        // Nobody serves now, and nobody is refused.
        let mut between = Irc::new(connect(addr), "between");
        between.say("NICK between\r\nUSER between 0 * :between");
        let new = activated(&irc, &web, "export LISTEN_FDS=2;");
        between.hear(" 001 between ");
        let mut resident = new.member("resident", "#c");
        std::thread::sleep(Duration::from_millis(300));
        over.store(true, Ordering::Relaxed);
        resident.say("QUIT :done");
        resident.is_told("done");
        let mut all = (0, 0, Vec::new());
        for visitor in visitors {
            let (visits, told, failures) = visitor.join().unwrap();
            all.0 += visits;
            all.1 += told;
            all.2.extend(failures);
        }
        all
    });
    assert!(failures.is_empty(), "{} failed, {visits} did not: {failures:#?}", failures.len());
    assert!(visits > 20, "{visits} visits");
    assert!(told <= 2, "{told} met a server that was shutting down, of 2 who came one by one");
}

/// How the chat ends with these flags: status, output, errors.
fn outcome(flags: &[&str]) -> (Option<i32>, String, String) {
    outcome_of(Command::new(util::example("chat")).args(flags).stdin(Stdio::null()))
}

fn outcome_of(command: &mut Command) -> (Option<i32>, String, String) {
    let dir = Scratch::new("flags");
    let file = |name: &str| {
        let options = OpenOptions::new().write(true).create(true).truncate(true).open(dir.path().join(name));
        Stdio::from(options.unwrap())
    };
    let mut child = command.env_remove("RUST_LOG").stdout(file("out")).stderr(file("err")).spawn().unwrap();
    let end = Instant::now() + util::SOON;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        if Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    (status, read("out"), read("err"))
}

#[test]
fn wrong_flags_exit_with_2_and_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let free = ["--irc", "127.0.0.1:0", "--web", "127.0.0.1:0"];
    let wrong: [(&[&str], &str); 18] = [
        (&["--irc", "nonsense"], "--irc"),
        (&["--web", "127.0.0.1"], "--web"),
        (&["--rate", "0"], "--rate"),
        (&["--rate", "NaN"], "--rate"),
        (&["--burst", "0"], "--burst"),
        (&["--burst=-1"], "--burst"),
        (&["--drain", "0"], "--drain"),
        (&["--drain", "soon"], "--drain"),
        (&["--ping-interval", "1e99"], "--ping-interval"),
        (&["--send-queue", "1"], "--send-queue"),
        (&["--max-line", "10"], "--max-line"),
        (&["--nick-length", "1000"], "--nick-length"),
        (&["--name", "two words"], "--name"),
        (&["--redis", "no port"], "no port"),
        (&["--no-such-flag"], "--no-such-flag"),
        (&["surplus"], "surplus"),
        (&["--irc", &taken], &taken),
        (&["--web", &taken], &taken),
    ];
    for (flags, named) in wrong {
        let given: Vec<&str> = free.chunks(2).filter(|flag| flag[0] != flags[0]).flatten().copied().collect();
        let (status, output, errors) = outcome(&[&given, flags].concat());
        assert_eq!((status, output.as_str()), (Some(2), ""), "{flags:?}: {errors}");
        assert!(errors.lines().count() == 1 && errors.ends_with('\n'), "{flags:?}: {errors:?}");
        assert!(errors.starts_with("chat: ") && errors.contains(named), "{flags:?}: {errors:?}");
    }
}

/// How the chat ends when a shell starts it like this.
fn outcome_by(start: &str, stdin: Stdio) -> (Option<i32>, String, String) {
    let mut manager = Command::new("sh");
    manager.args(["-c", start]).arg(util::example("chat"));
    manager.args(["--irc", "127.0.0.1:0", "--web", "127.0.0.1:0"]).env_remove("LISTEN_PID");
    outcome_of(manager.stdin(stdin))
}

#[test]
fn promised_sockets_that_cannot_listen_exit_with_2_and_one_line() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let cases = [
        // More than there is a use for; files; a connection.
        (r#"LISTEN_FDS=3 exec "$0" "$@" 3</dev/null 4</dev/null 5</dev/null"#, Stdio::null()),
        (r#"LISTEN_FDS=2 exec "$0" "$@" 3</dev/null 4</dev/null"#, Stdio::null()),
        (r#"LISTEN_FDS=1 exec "$0" "$@" 3<&0"#, OwnedFd::from(connected).into()),
    ];
    for (start, stdin) in cases {
        let (status, output, errors) = outcome_by(start, stdin);
        assert_eq!((status, output.as_str()), (Some(2), ""), "{start}: {errors}");
        assert!(errors.lines().count() == 1 && errors.starts_with("chat: "), "{start}: {errors:?}");
    }
}

// The numbers must not be taken for what the program itself has opened meanwhile.
#[test]
fn promised_sockets_that_are_not_there_exit_with_2_and_one_line() {
    for count in 1..=2 {
        let start = format!(r#"LISTEN_FDS={count} exec "$0" "$@" 3<&- 4<&-"#);
        let (status, output, errors) = outcome_by(&start, Stdio::null());
        assert_eq!((status, output.as_str()), (Some(2), ""), "{start}: {errors}");
        assert!(errors.lines().count() == 1 && errors.starts_with("chat: "), "{start}: {errors:?}");
    }
}

#[test]
fn the_help_names_every_flag_with_its_default() {
    let (status, help, errors) = outcome(&["--help"]);
    assert_eq!((status, errors.as_str()), (Some(0), ""));
    let flags = [
        ("irc", "127.0.0.1:6667"),
        ("web", "127.0.0.1:8080"),
        ("name", "chat.local"),
        ("network", "unbroken"),
        ("motd", "Welcome. Nobody here dies of a broken pipe."),
        ("redis", ""),
        ("origin", ""),
        ("max-clients", "10000"),
        ("max-clients-per-address", "1000"),
        ("max-channels", "1000"),
        ("max-channels-per-client", "50"),
        ("max-line", "512"),
        ("rate", "5"),
        ("burst", "30"),
        ("nick-length", "30"),
        ("send-queue", "262144"),
        ("register-timeout", "30"),
        ("ping-interval", "60"),
        ("ping-timeout", "30"),
        ("drain", "10"),
        ("announce", "5"),
    ];
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for (flag, default) in flags {
        let (_, about) = words.split_once(&format!(" --{flag} <")).unwrap_or_else(|| panic!("no --{flag}"));
        let about = about.split(" --").next().unwrap();
        assert!(
            default.is_empty() || about.replace('"', "").contains(&format!("[default: {default}]")),
            "--{flag} {about}"
        );
    }
    // And none that this test does not know.
    let named = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
    for flag in named.map(|line| line.split([' ', '=']).next().unwrap()) {
        assert!(flags.iter().any(|(known, _)| *known == flag), "--{flag} is new");
    }
}
