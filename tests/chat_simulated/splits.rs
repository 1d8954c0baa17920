//! What two servers make of each other's news, after splits and from strangers.

use crate::redis::Servers;

#[test]
fn a_channel_is_not_taken_over_through_a_split() {
    let mut servers = Servers::start(2);
    let founder = servers.client(0, "founder", "JOIN #x|MODE #x +mk secret|TOPIC #x :ours");
    servers.stall(true);
    servers.run(4.0);
    let thief = servers.client(1, "thief", "JOIN #x|MODE #x -t+i|TOPIC #x :mine");
    assert!(servers.channel(1, "#x").contains("@thief"), "alone, it founded a channel");
    servers.stall(false);
    servers.run(8.0);
    servers.say(thief, "KICK #x founder :mine now|MODE #x +o thief");
    let channel = servers.channel(0, "#x");
    assert!(channel.contains("\"@founder\"") && channel.contains("\"thief\""), "{channel}");
    assert!(channel.contains("secret") && channel.contains("ours") && !channel.contains("mine"), "{channel}");
    servers.agree();
    let heard = servers.heard(founder);
    assert!(!heard.contains(" KICK ") && !heard.contains("+o thief"), "{heard}");
    // The thief is told what became of it.
    let heard = servers.heard(thief);
    assert!(heard.contains(":s1 MODE #x -i+kmt-o+o secret thief founder\r\n"), "{heard}");
    assert!(heard.contains(" TOPIC #x :ours") && heard.contains(" 482 thief #x "), "{heard}");
}

#[test]
fn of_two_who_found_a_channel_at_the_same_time_one_is_its_operator_everywhere() {
    let mut servers = Servers::start(2);
    let (a, b) = (servers.client(0, "a", "PING :x"), servers.client(1, "b", "PING :x"));
    servers.0[0].link.stalled = 2;
    servers.0[1].link.stalled = 2;
    let join = || unbroken::sim::Script::new().send("JOIN #x\r\n");
    servers.0[0].sim.perform(a.1, join());
    servers.0[1].sim.perform(b.1, join());
    servers.run(2.0);
    servers.agree();
    let channel = servers.channel(0, "#x");
    assert_eq!(channel.matches('@').count(), 1, "{channel}");
}

#[test]
fn who_comes_with_a_server_comes_with_rank_and_settings() {
    let mut servers = Servers::start(2);
    let late = servers.client(1, "late", "PING :x");
    servers.stall(true);
    servers.client(0, "anna", "JOIN #x|MODE #x +k-n secret|MODE #x +b *!*@evil|TOPIC #x :ours");
    servers.run(3.0);
    servers.stall(false);
    servers.run(6.0);
    servers.agree();
    servers.say(late, "JOIN #x");
    assert!(servers.heard(late).contains(" 475 late #x "), "the key is known");
    servers.say(late, "JOIN #x secret|MODE #x b");
    let heard = servers.heard(late);
    assert!(heard.contains(" 332 late #x :ours") && heard.contains(" 353 late = #x :late @anna"), "{heard}");
    assert!(heard.contains(" 367 late #x *!*@evil anna!~anna@"), "{heard}");
}

#[test]
fn operators_of_another_server_are_announced() {
    let mut servers = Servers::start(2);
    servers.stall(true);
    servers.run(4.0);
    servers.client(0, "older", "JOIN #x");
    let younger = servers.client(1, "younger", "JOIN #x");
    servers.stall(false);
    servers.run(8.0);
    let heard = servers.heard(younger);
    assert!(heard.contains("@10.1.0.1 JOIN #x\r\n:s1 MODE #x -o+o younger older\r\n"), "{heard}");
}

#[test]
fn a_member_elsewhere_is_ranked_and_kicked_by_its_own_server() {
    let mut servers = Servers::start(2);
    let anna = servers.client(0, "anna", "JOIN #x");
    let bert = servers.client(1, "bert", "JOIN #x");
    servers.say(anna, "MODE #x +v bert");
    assert!(servers.heard(bert).contains(":anna!~anna@10.1.0.1 MODE #x +v bert"), "{}", servers.heard(bert));
    assert!(servers.heard(anna).contains(":anna!~anna@10.1.0.1 MODE #x +v bert"));
    servers.agree();
    servers.say(anna, "INVITE bert #y|KICK #x bert :enough");
    for client in [anna, bert] {
        assert!(servers.heard(client).contains(":anna!~anna@10.1.0.1 KICK #x bert :enough"));
    }
    servers.say(anna, "MODE #x +i");
    servers.say(bert, "JOIN #x");
    assert!(servers.heard(bert).contains(" 473 bert #x "));
    servers.say(anna, "INVITE bert #x");
    assert!(servers.heard(bert).contains(":anna!~anna@10.1.0.1 INVITE bert #x"));
    servers.say(bert, "JOIN #x");
    assert!(servers.channel(0, "#x").contains("bert"));
    servers.agree();
}

#[test]
fn a_nick_belongs_to_whoever_took_it_first_whenever_they_registered() {
    let mut servers = Servers::start(2);
    // It comes early, and takes the nick late.
    let early = servers.client(1, "early", "JOIN #x");
    let watcher = servers.client(0, "watcher", "JOIN #x");
    let holder = servers.client(0, "wanted", "JOIN #x");
    servers.stall(true);
    servers.run(4.0);
    servers.say(early, "NICK wanted");
    servers.stall(false);
    servers.run(8.0);
    servers.agree();
    servers.say(holder, "PRIVMSG #x :it is me");
    assert!(servers.heard(watcher).contains(":wanted!~wanted@10.1.0.1 PRIVMSG #x :it is me"));
    // One change of nick, and no more, for each who sees it.
    assert_eq!(servers.heard(early).matches(" NICK wanted_").count(), 1, "{}", servers.heard(early));
    for client in [early, watcher, holder] {
        assert!(servers.heard(client).matches(" NICK ").count() <= 2, "{}", servers.heard(client));
    }
}

#[test]
fn a_stalled_redis_is_noticed_and_said() {
    let mut servers = Servers::start(2);
    let anna = servers.client(0, "anna", "JOIN #x");
    servers.stall(true);
    servers.run(3.0);
    let heard = servers.heard(anna);
    let told =
        heard.contains("The link to the other servers is down; what was said in the last 2 seconds may not");
    assert!(told && !servers.0[0].sim.handler().relay.is_up(), "{heard}");
    // A Redis that takes connections and says nothing is none.
    servers.run(10.0);
    assert!(!servers.0[0].sim.handler().relay.is_up());
    servers.stall(false);
    servers.run(12.0);
    assert!(servers.heard(anna).contains("The link to the other servers is back"));
    servers.agree();
}

#[test]
fn what_a_stranger_publishes_injects_no_line() {
    let mut servers = Servers::start(1);
    let anna = servers.client(0, "anna", "JOIN #x");
    let before = servers.heard(anna).len();
    let stamp = r#"{"at":1,"server":"00000000000000aa"}"#;
    let person = |nick: &str, host: &str| {
        format!(
            r##"{{"user":1,"nick":"{nick}","claim":{stamp},"username":"u","host":"{host}","realname":"r","account":null,
        "away":null,"invisible":false,"since":1,"active":1,"channels":[{{"channel":"#x","born":{stamp}}}]}}"##
        )
    };
    let topic = |text: &str| {
        format!(
            r##"{{"channel":"#x","born":{stamp},"settings":[{{"letter":"T","mask":"","at":{stamp},
        "value":{{"text":"{text}","by":"u!u@u","when":1}}}}]}}"##
        )
    };
    let letter = |number: u64, rest: String| {
        format!(r#"{{"server":"00000000000000aa","name":"evil","number":{number},{rest}}}"#)
    };
    let state = |users: String, channels: String| {
        format!(r#""kind":"state","users":[{users}],"channels":[{channels}]"#)
    };
    for (n, rest) in [
        state(person("a b", "h"), topic("t")),
        state(person("evil", "h QUIT"), topic("t")),
        state(person("evil", "h"), topic(r"t\r\nQUIT :gone")),
        state(person("evil", "h"), topic(r"t\u0000")),
        r#""kind":"no such""#.to_owned(),
        r#""kind":"hello","number":-1"#.to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        servers.publish(&letter(n as u64 + 1, rest));
    }
    servers.publish("nonsense");
    servers.publish("");
    assert_eq!(&servers.heard(anna)[before..], "");
    // The same without the tricks is believed.
    servers.publish(&letter(20, state(person("evil", "h"), topic("t"))));
    let heard = servers.heard(anna);
    assert!(heard[before..].contains(":evil!u@h JOIN #x\r\n"), "{heard}");
}

#[test]
fn whois_tells_how_long_somebody_elsewhere_has_been_silent() {
    let mut servers = Servers::start(2);
    let anna = servers.client(0, "anna", "JOIN #x");
    let bert = servers.client(1, "bert", "PING :x");
    servers.run(20.0);
    let idle = |servers: &mut Servers| {
        servers.say(bert, "WHOIS anna");
        let heard = servers.heard(bert);
        let line = heard.lines().rfind(|line| line.contains(" 317 ")).expect("a line").to_owned();
        line.split(' ').nth(4).expect("seconds").parse::<u64>().expect("a number")
    };
    assert!((19..25).contains(&idle(&mut servers)));
    // To somebody whose server does not hear of it.
    servers.say(anna, "PRIVMSG anna :to myself");
    servers.run(1.0);
    assert!(idle(&mut servers) <= 3);
}
