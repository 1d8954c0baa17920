//! Questions about people and channels.

use crate::chat::Chat;
use crate::{answers, ask, capable, util};

#[test]
fn who_is_away_says_so() {
    let chat = Chat::start(&[]);
    let mut anna = chat.member("anna", "#x");
    let mut bert = capable(&chat, "bert", "away-notify");
    bert.join("#x");
    anna.hear(":bert!");
    answers(&mut anna, "AWAY :out to lunch", " 306 anna :You have been marked as being away");
    assert_eq!(bert.line(), ":anna!~anna@127.0.0.1 AWAY :out to lunch");
    answers(&mut bert, "PRIVMSG anna :there?", " 301 bert anna :out to lunch");
    assert!(ask(&mut bert, "WHO #x").iter().any(|line| line.contains(" anna G@ :0 ")));
    assert!(ask(&mut bert, "WHOIS anna").iter().any(|line| line.ends_with(" 301 bert anna :out to lunch")));
    answers(&mut bert, "USERHOST anna bert nobody", " 302 bert :anna=-~anna@127.0.0.1 bert=+~bert@127.0.0.1");
    // Who comes in away is announced as such.
    let mut carl = capable(&chat, "carl", "away-notify");
    carl.join("#y");
    ask(&mut anna, "JOIN #y");
    assert_eq!(carl.line(), ":anna!~anna@127.0.0.1 JOIN #y");
    assert_eq!(carl.line(), ":anna!~anna@127.0.0.1 AWAY :out to lunch");
    assert!(ask(&mut anna, "AWAY")[0].contains(" 305 anna "));
    assert_eq!(bert.line(), ":anna!~anna@127.0.0.1 AWAY");
}

#[test]
fn who_is_there_and_who_was_can_be_asked() {
    let chat = Chat::start(&[]);
    let mut anna = chat.client("anna");
    let mut bert = chat.client("bert");
    answers(&mut anna, "ISON BERT nobody :anna carl", " 303 anna :bert anna");
    assert!(ask(&mut anna, "WHOWAS nobody")[0].contains(" 406 anna nobody :"));
    bert.say("NICK bertram\r\nQUIT");
    bert.is_told("Client quit");
    util::eventually("both nicks to be past", || {
        let past = ask(&mut anna, "WHOWAS bertram");
        past.len() == 3 && past[0].ends_with(" 314 anna bertram ~bert 127.0.0.1 * :bert")
    });
    assert!(ask(&mut anna, "WHOWAS bert 1")[0].contains(" 314 anna bert "));
}

#[test]
fn the_server_tells_of_itself() {
    let chat = Chat::start(&[]);
    let mut anna = chat.client("anna");
    assert!(ask(&mut anna, "INFO").last().expect("lines").contains(" 374 anna "));
    assert!(ask(&mut anna, "VERSION")[0].contains(" 351 anna unbroken-"));
    assert!(ask(&mut anna, "TIME chat.local")[0].contains(" 391 anna chat.local :"));
    answers(&mut anna, "TIME other.server", " 402 anna other.server :No such server");
}

#[test]
fn channels_are_listed_by_name_size_and_age() {
    let chat = Chat::start(&[]);
    let mut anna = chat.client("anna");
    let mut bert = chat.client("bert");
    ask(&mut anna, "JOIN #one,#two,#three\r\nTOPIC #one :first");
    ask(&mut bert, "JOIN #two");
    let mut listed = |filter: &str| {
        let lines = ask(&mut bert, &format!("LIST {filter}"));
        let names = lines.iter().filter(|line| line.contains(" 322 "));
        names.map(|line| line.split(' ').nth(3).expect("a name").to_owned()).collect::<Vec<_>>().join(" ")
    };
    for (filter, names) in [
        ("", "#one #three #two"),
        (">1", "#two"),
        ("<2", "#one #three"),
        ("#t*", "#three #two"),
        ("!#t*", "#one"),
        ("#t*,<2", "#three"),
        ("C<1", "#one #three #two"),
        ("C>1", ""),
        ("T<1", "#one"),
        ("#ONE", "#one"),
        (">99999999999999999999999", ""),
    ] {
        assert_eq!(listed(filter), names, "{filter}");
    }
}

#[test]
fn a_watched_nick_is_told_of() {
    let chat = Chat::start(&[]);
    let mut anna = chat.client("anna");
    let lines = ask(&mut anna, "MONITOR + anna,bert,9bad");
    assert_eq!(lines, [":chat.local 730 anna :anna!~anna@127.0.0.1", ":chat.local 731 anna :bert"]);
    let mut bert = chat.client("bert");
    assert_eq!(anna.line(), ":chat.local 730 anna :bert!~bert@127.0.0.1");
    ask(&mut bert, "NICK other");
    assert_eq!(anna.line(), ":chat.local 731 anna :bert");
    ask(&mut bert, "NICK Bert");
    assert_eq!(anna.line(), ":chat.local 730 anna :Bert!~bert@127.0.0.1");
    assert_eq!(ask(&mut anna, "MONITOR - anna"), [""; 0]);
    assert_eq!(
        ask(&mut anna, "MONITOR L"),
        [":chat.local 732 anna :bert", ":chat.local 733 anna :End of MONITOR list"]
    );
    drop(bert);
    assert_eq!(anna.line(), ":chat.local 731 anna :Bert");
    let many: Vec<String> = (0..101).map(|n| format!("n{n}")).collect();
    for some in many.chunks(40) {
        anna.say(&format!("MONITOR + {}", some.join(",")));
    }
    anna.hear(" 734 anna 100 n99,n100 :");
    ask(&mut anna, "PONG");
    assert_eq!(ask(&mut anna, "MONITOR C\r\nMONITOR S"), [""; 0]);
}

#[test]
fn members_of_several_channels_have_one_end() {
    let chat = Chat::start(&[]);
    let mut anna = chat.member("anna", "#a");
    ask(&mut anna, "JOIN #b");
    let all = [":chat.local 353 anna = #a :@anna", ":chat.local 353 anna = #b :@anna"];
    let end = |of: &str| format!(":chat.local 366 anna {of} :End of /NAMES list");
    assert_eq!(ask(&mut anna, "NAMES #a,#B,#a,#c"), [all[0], all[1], &end("#a,#B,#a,#c")]);
    assert_eq!(ask(&mut anna, "NAMES"), [all[0], all[1], &end("*")]);
    assert_eq!(ask(&mut anna, "NAMES :no such"), [end("*")]);
    assert_eq!(ask(&mut anna, "NAMES :#a,x y"), [all[0], &end("*")]);
}
