//! The commands and capabilities of IRC that clients ask for, each as its specification has it.

mod capabilities;
#[path = "../chat/mod.rs"]
mod chat;
mod modes;
mod operators;
mod people;
#[path = "../util/mod.rs"]
mod util;

use chat::{connect, Chat, Irc};

/// A registered client with these capabilities.
fn capable(chat: &Chat, nick: &str, caps: &str) -> Irc {
    let mut irc = Irc::new(connect(chat.irc), nick);
    irc.say(&format!("CAP REQ :{caps}\r\nNICK {nick}\r\nUSER {nick} 0 * :{nick}\r\nCAP END"));
    irc.hear(" ACK :");
    irc.hear(" 376 ");
    irc
}

/// Says something and returns the answers up to a pong.
fn ask(irc: &mut Irc, line: &str) -> Vec<String> {
    irc.say(&format!("{line}\r\nPING end"));
    let mut lines = Vec::new();
    loop {
        let line = irc.line();
        if line.contains(" PONG ") {
            return lines;
        }
        lines.push(line);
    }
}

/// Checks that the answer is one line, which ends so.
fn answers(irc: &mut Irc, line: &str, end: &str) {
    let lines = ask(irc, line);
    assert!(lines.len() == 1 && lines[0].ends_with(end), "{line}: {lines:?}, not {end:?}");
}
