//! Clients that others wrote: `ii`, `sic`, `irssi`, `nc`, Python; and Prometheus.

use std::io::Write;
use std::net::Shutdown;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::chat::{answer, Chat, Program, Scratch};
use crate::util::{self, eventually};

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
    assert_eq!(friend.departure_of("fred"), "Quit: so long");
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
    assert_eq!(friend.departure_of("sid"), "Quit: simply gone");
    sic.hear("ERROR");
}

/// A terminal with a program in it. Dropping it ends both.
pub struct Terminal(Scratch);

impl Terminal {
    pub fn start(name: &str, program: &[&str]) -> Self {
        let terminal = Self(Scratch::new(name));
        let mut start = terminal.tmux();
        let home = terminal.0.path().join("home");
        // It would wait two seconds between commands.
        std::fs::create_dir(&home).expect("a directory");
        let settings = r#"settings = { "irc/core" = { cmd_queue_speed = "10msec"; }; };"#;
        std::fs::write(home.join("config"), settings).expect("write");
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

    pub fn keys(&self, line: &str) {
        assert!(self.tmux().args(["send-keys", "-l", line]).status().expect("tmux").success());
        assert!(self.tmux().args(["send-keys", "Enter"]).status().expect("tmux").success());
    }

    pub fn until_it_shows(&self, what: &str) {
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
    // What operators type: the key, the ban, the invitation.
    irssi.keys("/join #kettle");
    irssi.until_it_shows("[#kettle");
    irssi.keys("/mode +k earlgrey");
    irssi.until_it_shows("mode/#kettle [+k earlgrey]");
    friend.say("JOIN #kettle");
    friend.hear(" 475 friend #kettle ");
    irssi.keys("/invite friend");
    friend.hear(":irma!~");
    friend.join("#kettle");
    irssi.keys("/ban friend");
    irssi.until_it_shows("mode/#kettle [+b ");
    friend.hear(" MODE #kettle +b ");
    friend.say("PRIVMSG #kettle :one lump or two?");
    friend.hear(" 404 friend #kettle ");
    irssi.keys("/kick friend no sugar here");
    friend.hear(" KICK #kettle friend :no sugar here");
    irssi.keys("/quit the kettle boils");
    assert_eq!(friend.departure_of("irma"), "Quit: the kettle boils");
}

#[test]
fn weechat_invites_bans_and_locks_a_channel() {
    if !util::have("weechat-headless") {
        return;
    }
    let chat = Chat::start(&[]);
    let mut friend = chat.member("friend", "#garden");
    let dir = Scratch::new("weechat");
    let port = chat.irc.port();
    let mut weechat = Command::new("weechat-headless");
    weechat.arg("--dir").arg(dir.path()).env("HOME", dir.path());
    for command in [
        format!("/server add test 127.0.0.1/{port} -notls"),
        "/set irc.server.test.nicks winnie".to_owned(),
        "/set irc.server.test.autojoin #tea".to_owned(),
        // It would wait two seconds between commands; the name of this depends on its version.
        "/set irc.server.test.anti_flood_prio_high 0".to_owned(),
        "/set irc.server.test.anti_flood 0".to_owned(),
        "/connect test".to_owned(),
    ] {
        weechat.args(["--run-command", &command]);
    }
    let _weechat = Program::start(&mut weechat);
    let mut fifo = dir.path().to_owned();
    eventually("weechat's FIFO", || {
        let files = std::fs::read_dir(dir.path()).expect("a directory").flatten();
        let found =
            files.map(|file| file.path()).find(|path| path.to_string_lossy().contains("weechat_fifo"));
        found.is_some_and(|path| {
            fifo = path;
            true
        })
    });
    let in_channel = |text: &str| write_fifo(&fifo, &format!("irc.test.#tea *{text}"));
    // It comes to its channel when it likes, and opens a buffer for it.
    eventually("a key for the channel", || {
        in_channel("/mode +k earlgrey");
        std::thread::sleep(Duration::from_millis(200));
        friend.say("MODE #tea\r\nPING asked");
        let answer = friend.hear("#tea");
        friend.hear(" PONG ");
        answer.ends_with(" 324 friend #tea +ntk *")
    });
    friend.say("JOIN #tea");
    friend.hear(" 475 friend #tea ");
    in_channel("/invite friend");
    friend.hear(":winnie!~");
    friend.join("#tea");
    in_channel("/ban friend!*@*");
    friend.hear(" MODE #tea +b friend!*@*");
    in_channel("/kick friend no sugar here");
    friend.hear(" KICK #tea friend :no sugar here");
    in_channel("/away -all out for a walk");
    eventually("winnie to be away", || {
        friend.say("USERHOST winnie");
        friend.hear(" 302 ").contains(":winnie=-~")
    });
    in_channel("/quit bye");
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
    nc.hear(":monty!~monty@127.0.0.1 QUIT :Quit: and now for something else");
    let (status, heard) = python.ended();
    assert!(status.success(), "{status}: {heard:#?}");
    nc.say("QUIT :purr\n");
    nc.hear("ERROR :Closing link: 127.0.0.1 (Quit: purr)");
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
