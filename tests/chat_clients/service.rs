//! The server as a service: its end, its sockets, its restart.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::chat::{connect, Chat, Irc};
use crate::peers::{flood, BATCH};
use crate::util::{self, eventually, narrow_client};
use nix::sys::signal::Signal;

#[test]
pub(crate) fn sigterm_delivers_what_is_queued_and_tells_everybody() {
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
    // A shutdown waits for everybody's end.
    drop((browser, page));
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
pub(crate) fn a_service_managers_sockets_are_served_with_those_who_wait_already() {
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
    match (heard.contains(" 001 ") && heard.contains("(Quit: seen)"), error) {
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
        resident.is_told("Quit: done");
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
