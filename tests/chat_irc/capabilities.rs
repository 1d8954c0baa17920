//! IRCv3: tags, labels, batches, histories, accounts.

use std::fs;
use std::process::Command;

use crate::chat::{connect, Chat, Irc, Scratch};
use crate::{answers, ask, capable, util};

#[test]
fn a_clients_tags_reach_those_who_take_them() {
    let chat = Chat::start(&[]);
    let mut anna = capable(&chat, "anna", "message-tags");
    let mut bert = capable(&chat, "bert", "message-tags");
    let mut plain = chat.member("plain", "#x");
    anna.join("#x");
    bert.join("#x");
    anna.hear(":bert!");
    anna.say("@+typing=active;secret=1;+a TAGMSG #x");
    let line = bert.hear(" TAGMSG #x");
    assert!(line.starts_with("@+typing=active;+a;msgid=") && !line.contains("secret"), "{line}");
    anna.say("@+react=x PRIVMSG #x :hello");
    assert!(bert.hear("PRIVMSG").starts_with("@+react=x;msgid="));
    plain.hear(":bert!");
    assert_eq!(plain.line(), ":anna!~anna@127.0.0.1 PRIVMSG #x :hello");
    // 4094 bytes are theirs.
    let long = |length: usize| format!("@+x={} PRIVMSG bert :y", "z".repeat(length - 3));
    anna.say(&long(4094));
    bert.hear("PRIVMSG bert :y");
    answers(&mut anna, &long(4095), " 417 anna :Input line was too long");
}

#[test]
fn answers_carry_the_label_of_their_question() {
    let chat = Chat::start(&[]);
    let mut anna = capable(&chat, "anna", "labeled-response batch echo-message");
    let none = ask(&mut anna, "@label=a PONG x");
    assert_eq!(none, ["@label=a :chat.local ACK"]);
    let one = ask(&mut anna, "@label=b WHO nobody");
    assert_eq!(one, ["@label=b :chat.local 315 anna nobody :End of /WHO list"]);
    let many = ask(&mut anna, "@label=c JOIN #x");
    assert_eq!(many[0], "@label=c :chat.local BATCH +1 labeled-response");
    assert_eq!(many[1], "@batch=1 :anna!~anna@127.0.0.1 JOIN #x");
    assert!(
        many[2].starts_with("@batch=1 :chat.local 353 ") && many[3].starts_with("@batch=1 :chat.local 366 ")
    );
    assert_eq!(many[4], ":chat.local BATCH -1");
    // What one says to oneself is not the answer; its echo is.
    let own = ask(&mut anna, "@label=d PRIVMSG anna :me");
    let text = ":anna!~anna@127.0.0.1 PRIVMSG anna :me".to_owned();
    assert!(own.len() == 2 && own.contains(&text) && own.contains(&format!("@label=d {text}")), "{own:?}");
    anna.say("@label=e QUIT :bye");
    let rest = anna.rest();
    assert!(rest[0].starts_with("@label=e ERROR :") && rest.len() == 1, "{rest:?}");
}

#[test]
fn the_last_lines_of_a_channel_can_be_asked_for() {
    let chat = Chat::start(&["--history", "3"]);
    let mut anna = chat.member("anna", "#x");
    for n in 0..5 {
        ask(&mut anna, &format!("PRIVMSG #x :{n}"));
    }
    let mut late = capable(&chat, "late", "batch server-time message-tags draft/chathistory");
    assert!(ask(&mut late, "CHATHISTORY LATEST #x * 9")[0]
        .contains(" FAIL CHATHISTORY INVALID_TARGET LATEST #x "));
    late.join("#x");
    let mut texts = |ask_for: &str| {
        let lines = ask(&mut late, &format!("CHATHISTORY {ask_for}"));
        let (first, last) = (lines.first().expect("a batch"), lines.last().expect("a batch"));
        assert!(first.contains(" BATCH +") && last.contains(" BATCH -"), "{lines:?}");
        lines[1..lines.len() - 1].to_vec()
    };
    let all = texts("LATEST #x * 9");
    let said = |lines: &[String]| {
        lines.iter().map(|line| line.rsplit(':').next().unwrap().to_owned()).collect::<String>()
    };
    assert_eq!(said(&all), "234");
    assert!(
        all[0].starts_with("@batch=") && all[0].contains(";time=") && all[0].contains(";msgid="),
        "{all:?}"
    );
    assert_eq!(said(&texts("LATEST #x * 2")), "34");
    let id = all[1].split("msgid=").nth(1).unwrap().split(' ').next().unwrap();
    assert_eq!(said(&texts(&format!("BEFORE #x msgid={id} 9"))), "2");
    assert_eq!(said(&texts(&format!("AFTER #x msgid={id} 9"))), "4");
    assert_eq!(said(&texts(&format!("AROUND #x msgid={id} 3"))), "234");
    assert_eq!(
        said(&texts("BETWEEN #x timestamp=2000-01-01T00:00:00.000Z timestamp=2999-01-01T00:00:00.000Z 2")),
        "23"
    );
    assert_eq!(
        said(&texts("BETWEEN #x timestamp=2999-01-01T00:00:00.000Z timestamp=2000-01-01T00:00:00.000Z 2")),
        "34"
    );
    for wrong in ["LATEST #x", "LATEST #x * x", "BEFORE #x nonsense 1", "SIDEWAYS #x * 1", "LATEST"] {
        assert!(
            ask(&mut late, &format!("CHATHISTORY {wrong}"))[0].contains(" FAIL CHATHISTORY INVALID_PARAMS ")
        );
    }
    // Without the flag there is none, and none is offered.
    let chat = Chat::start(&[]);
    let mut anna = chat.member("anna", "#x");
    answers(&mut anna, "CHATHISTORY LATEST #x * 9", " 421 anna CHATHISTORY :Unknown command");
    assert!(!ask(&mut anna, "CAP LS 302")[0].contains("chathistory"));
}

/// `openssl passwd -6`.
pub fn hashed(password: &str) -> String {
    let output = Command::new("openssl").args(["passwd", "-6", password]).output().expect("openssl");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

fn base64(text: &str) -> String {
    data_encoding::BASE64.encode(text.as_bytes())
}

#[test]
fn an_account_is_proved_by_its_password() {
    if !util::have("openssl") {
        return;
    }
    let dir = Scratch::new("accounts");
    let file = dir.path().join("accounts");
    let long = "p".repeat(255);
    fs::write(
        &file,
        format!("# who may log in\n\nanna:{}\n{}:{}\n", hashed("sesame"), "l".repeat(21), hashed(&long)),
    )
    .expect("write");
    let chat = Chat::start(&["--accounts", file.to_str().expect("UTF-8")]);
    let mut anna = Irc::new(connect(chat.irc), "anna");
    anna.say("CAP LS 302");
    assert!(anna.line().contains(" sasl=PLAIN"));
    anna.say("CAP REQ sasl\r\nNICK anna\r\nUSER anna 0 * :anna");
    anna.hear(" ACK :sasl");
    anna.say(&format!("AUTHENTICATE PLAIN\r\nAUTHENTICATE {}", base64("\0anna\0Sesame")));
    assert_eq!(anna.line(), "AUTHENTICATE +");
    anna.hear(" 904 ");
    anna.say(&format!("AUTHENTICATE PLAIN\r\nAUTHENTICATE {}", base64("\0anna\0sesame")));
    anna.hear(" 900 * anna!*@127.0.0.1 anna :");
    anna.hear(" 903 ");
    anna.say("CAP END");
    anna.hear(" 376 ");
    assert!(ask(&mut anna, "WHOIS anna")
        .iter()
        .any(|line| line.ends_with(" 330 anna anna anna :is logged in as")));
    // What is said in one whole piece has a second one behind it.
    let words = base64(&format!("{0}\0{0}\0{long}", "l".repeat(21)));
    assert_eq!(words.len(), 400);
    anna.say(&format!("AUTHENTICATE PLAIN\r\nAUTHENTICATE {words}\r\nAUTHENTICATE +"));
    anna.hear(" 900 anna anna!~anna@127.0.0.1 lllllllllllllllllllll :");
    // Guessing has an end.
    let mut thief = Irc::new(connect(chat.irc), "thief");
    for n in 0..5 {
        thief.say(&format!("AUTHENTICATE PLAIN\r\nAUTHENTICATE {}", base64(&format!("\0anna\0{n}"))));
        thief.hear(" 904 ");
    }
    thief.say(&format!("AUTHENTICATE PLAIN\r\nAUTHENTICATE {}", base64("\0anna\0sesame")));
    thief.hear(" 904 ");
}
