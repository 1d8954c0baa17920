//! Operators of the server.

use std::fs;

use crate::capabilities::hashed;
use crate::chat::{Chat, Scratch};
use crate::{answers, ask, util};

#[test]
fn an_operator_can_end_a_connection_and_speak_to_the_others() {
    if !util::have("openssl") {
        return;
    }
    let dir = Scratch::new("operators");
    let file = dir.path().join("operators");
    fs::write(&file, format!("root:{}\n", hashed("toor"))).expect("write");
    let chat = Chat::start(&["--operators", file.to_str().expect("UTF-8")]);
    let mut anna = chat.member("anna", "#x");
    let mut bert = chat.member("bert", "#x");
    anna.hear(":bert!");
    let mut listener = chat.client("listener");
    ask(&mut listener, "MODE listener +w");
    for command in ["KILL bert :x", "WALLOPS :x"] {
        answers(&mut anna, command, " 481 anna :Permission denied: you're not an IRC operator");
    }
    // It is not to be had by asking for it.
    assert_eq!(ask(&mut anna, "MODE anna +o"), [""; 0]);
    answers(&mut anna, "OPER root wrong", " 464 anna :Password incorrect");
    answers(&mut anna, "OPER nobody toor", " 464 anna :Password incorrect");
    let lines = ask(&mut anna, "OPER root toor");
    assert_eq!(lines, [":chat.local 381 anna :You are now an IRC operator", ":anna MODE anna +o"]);
    assert!(ask(&mut bert, "WHOIS anna")
        .iter()
        .any(|line| line.ends_with(" 313 bert anna :is an IRC operator")));
    anna.say("WALLOPS :attention");
    assert_eq!(anna.line(), ":anna!~anna@127.0.0.1 WALLOPS :attention");
    listener.hear(":anna!~anna@127.0.0.1 WALLOPS :attention");
    answers(&mut anna, "KILL nobody :x", " 401 anna nobody :No such nick");
    anna.say("KILL bert :spam");
    assert_eq!(bert.line(), ":anna!~anna@127.0.0.1 KILL bert :spam");
    bert.is_told("Killed (anna (spam))");
    assert_eq!(anna.departure_of("bert"), "Killed (anna (spam))");
    ask(&mut anna, "MODE anna -o");
    answers(&mut anna, "KILL listener :x", " 481 anna :Permission denied: you're not an IRC operator");
    // Guessing has an end.
    for n in 0..3 {
        answers(&mut listener, &format!("OPER root {n}"), " 464 listener :Password incorrect");
    }
    answers(&mut listener, "OPER root toor", " 464 listener :Password incorrect");
}

#[test]
fn without_a_file_nobody_becomes_one() {
    let chat = Chat::start(&[]);
    let mut anna = chat.client("anna");
    answers(&mut anna, "OPER root toor", " 464 anna :Password incorrect");
}
