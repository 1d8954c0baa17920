//! What operators of a channel can do with it.

use crate::chat::Chat;
use crate::{answers, ask, capable};

#[test]
fn who_may_come_in_is_the_operators_choice() {
    let chat = Chat::start(&[]);
    let mut anna = chat.member("anna", "#x");
    let mut bert = chat.client("bert");
    for (mode, number) in [("+i", 473), ("+k secret", 475), ("+l 1", 471), ("+b bert", 474)] {
        answers(
            &mut anna,
            &format!("MODE #x {mode}"),
            &format!("MODE #x {}", mode.replace("bert", "bert!*@*")),
        );
        let refusal = ask(&mut bert, "JOIN #x");
        assert!(refusal[0].contains(&format!(" {number} bert #x ")), "{mode}: {refusal:?}");
        // An invitation opens every door, once.
        ask(&mut anna, "INVITE bert #x");
        assert_eq!(bert.line(), ":anna!~anna@127.0.0.1 INVITE bert #x");
        bert.join("#x");
        ask(&mut bert, "PART #x");
        assert!(ask(&mut bert, "JOIN #x")[0].contains(&format!(" {number} ")));
        ask(&mut anna, &format!("MODE #x -{}", mode.strip_prefix('+').unwrap()));
    }
    ask(&mut anna, "MODE #x +k secret");
    assert!(ask(&mut bert, "JOIN #x wrong")[0].contains(" 475 "));
    assert!(ask(&mut bert, "MODE #x")[0].ends_with(" 324 bert #x +ntk *"), "the key is for members");
    ask(&mut bert, "JOIN #x secret");
    assert!(ask(&mut bert, "MODE #x")[0].ends_with(" 324 bert #x +ntk secret"));
}

#[test]
fn who_may_speak_is_the_operators_choice() {
    let chat = Chat::start(&[]);
    let mut anna = chat.member("anna", "#x");
    let mut bert = chat.member("bert", "#x");
    ask(&mut anna, "MODE #x +m");
    bert.hear("MODE #x +m");
    answers(&mut bert, "PRIVMSG #x :hello", " 404 bert #x :Cannot send to channel (+m)");
    ask(&mut anna, "MODE #x +v bert");
    bert.hear("MODE #x +v bert");
    bert.say("PRIVMSG #x :thank you");
    anna.hear("PRIVMSG #x :thank you");
    assert!(ask(&mut anna, "NAMES #x")[0].ends_with(":@anna +bert"));
    ask(&mut anna, "MODE #x -mv bert");
    ask(&mut anna, "MODE #x +b *!~bert@*");
    bert.hear("+b");
    answers(&mut bert, "PRIVMSG #x :hello", " 404 bert #x :Cannot send to channel (+b)");
    // To a notice nothing is ever answered.
    assert_eq!(ask(&mut bert, "NOTICE #x :hello"), [""; 0]);
    ask(&mut anna, "MODE #x +e bert!*@*");
    bert.hear("+e");
    assert_eq!(ask(&mut bert, "PRIVMSG #x :hello"), [""; 0]);
}

#[test]
fn lists_are_shown_to_everybody_and_bounded() {
    let chat = Chat::start(&["--rate", "10000", "--burst", "10000"]);
    let mut anna = chat.member("anna", "#x");
    let mut bert = chat.client("bert");
    let masks = ask(&mut anna, "MODE #x +bbb a!*@* @h *!b");
    assert_eq!(masks[0], ":anna!~anna@127.0.0.1 MODE #x +bbb *!*@h *!b@* a!*@*");
    let bans = ask(&mut bert, "MODE #x b");
    assert!(bans[0].contains(" 367 bert #x *!*@h anna!~anna@127.0.0.1 ") && bans.len() == 4, "{bans:?}");
    assert!(ask(&mut bert, "MODE #x e")[0].contains(" 349 bert #x "));
    answers(&mut bert, "MODE #x +b x", " 482 bert #x :You're not channel operator");
    for n in 0..97 {
        anna.say(&format!("MODE #x +b n{n}"));
        anna.hear("+b");
    }
    answers(&mut anna, "MODE #x +b one-more", " 478 anna #x b :Channel list is full");
    answers(&mut anna, "MODE #x +l x", " 696 anna #x l x :Invalid mode parameter");
    answers(&mut anna, "MODE #x +k", " 461 anna MODE :Not enough parameters");
    answers(&mut anna, "MODE #x +X", " 472 anna X :is unknown mode char to me");
}

#[test]
fn a_secret_channel_is_known_to_its_members_alone() {
    let chat = Chat::start(&[]);
    let mut anna = chat.member("anna", "#x");
    let mut bert = chat.client("bert");
    ask(&mut anna, "MODE #x +s\r\nTOPIC #x :hidden");
    assert!(ask(&mut bert, "LIST").iter().all(|line| !line.contains("#x")));
    assert!(ask(&mut bert, "WHOIS anna").iter().all(|line| !line.contains("#x")));
    answers(&mut bert, "NAMES #x", " 366 bert #x :End of /NAMES list");
    answers(&mut bert, "WHO #x", " 315 bert #x :End of /WHO list");
    answers(&mut bert, "TOPIC #x", " 403 bert #x :No such channel");
    answers(&mut bert, "MODE #x", " 403 bert #x :No such channel");
    assert!(ask(&mut anna, "NAMES #x")[0].contains(" 353 anna @ #x :@anna"));
}

#[test]
fn all_marks_of_a_member_are_shown_to_who_asks_for_them() {
    let chat = Chat::start(&[]);
    let mut anna = capable(&chat, "anna", "multi-prefix userhost-in-names");
    anna.join("#x");
    ask(&mut anna, "MODE #x +v anna");
    assert!(ask(&mut anna, "NAMES #x")[0].ends_with(":@+anna!~anna@127.0.0.1"));
    assert!(ask(&mut anna, "WHO #x")[0].contains(" anna H@+ :0 "));
    let mut bert = chat.client("bert");
    assert!(ask(&mut bert, "NAMES #x")[0].ends_with(":@anna"));
}
