//! Several chat servers joined into one by a real `redis-server`, which goes away and comes back.

#[path = "chat/mod.rs"]
mod chat;
mod util;

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chat::{Chat, Irc};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

/// A `redis-server`. Dropping it kills it.
struct Redis(Child);

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn redis(port: u16) -> Redis {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()]);
    let redis = Redis(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("it starts"));
    util::eventually("redis listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    redis
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn server(name: &str, redis: u16) -> Chat {
    Chat::start(&["--name", name, "--announce", "0.5", "--redis", &format!("127.0.0.1:{redis}")])
}

/// The members of a channel, in order.
fn names(client: &mut Irc, channel: &str) -> Vec<String> {
    client.say(&format!("NAMES {channel}"));
    let mut names = Vec::new();
    loop {
        let line = client.hear(" 3");
        match line.split_once(" :") {
            Some((head, list)) if head.contains(" 353 ") => {
                names.extend(list.split(' ').map(str::to_owned));
            }
            _ if line.contains(" 366 ") => break,
            _ => {}
        }
    }
    names.sort();
    names
}

/// Waits until a client sees these members in a channel.
fn sees(client: &mut Irc, channel: &str, wanted: &[&str]) {
    let deadline = Instant::now() + util::SOON;
    loop {
        let names = names(client, channel);
        if names == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{channel}: {names:?}, not {wanted:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Two servers at this Redis, and a client of each.
fn two_servers(redis: u16) -> (Chat, Chat, Irc, Irc) {
    let (one, two) = (server("one", redis), server("two", redis));
    let (anna, bert) = (one.client("anna"), two.client("bert"));
    (one, two, anna, bert)
}

/// The founder joins `#x`, and those of the other server once they know of it: whoever does not
/// would found it once more.
fn gather(founder: &mut Irc, other: &mut Irc) {
    founder.join("#x");
    sees(other, "#x", &[&format!("@{}", founder.nick)]);
    other.join("#x");
}

fn can_run() -> bool {
    let can = util::have("redis-server");
    if !can {
        util::skip("redis-server", "not installed");
    }
    can
}

#[test]
fn two_servers_are_one_for_their_users() {
    if !can_run() {
        return;
    }
    let port = free_port();
    let _redis = redis(port);
    let (_one, two, mut anna, mut bert) = two_servers(port);
    gather(&mut anna, &mut bert);
    assert_eq!(anna.hear(" JOIN "), ":bert!~bert@127.0.0.1 JOIN #x");
    sees(&mut anna, "#x", &["@anna", "bert"]);

    anna.say("PRIVMSG #x :to all");
    assert_eq!(bert.hear("PRIVMSG"), ":anna!~anna@127.0.0.1 PRIVMSG #x :to all");
    bert.say("PRIVMSG anna :to one");
    assert_eq!(anna.hear("PRIVMSG"), ":bert!~bert@127.0.0.1 PRIVMSG anna :to one");
    anna.say("TOPIC #x :what for");
    assert_eq!(bert.hear("TOPIC"), ":anna!~anna@127.0.0.1 TOPIC #x :what for");
    bert.say("TOPIC #x :no");
    bert.hear(" 482 ");
    anna.say("MODE #x +o bert");
    bert.hear("MODE #x +o bert");
    bert.say("WHOIS anna");
    assert_eq!(bert.hear(" 312 "), ":two 312 bert anna one :unbroken");

    bert.say("NICK bertram");
    anna.hear("NICK bertram");
    anna.say("KICK #x bertram :enough");
    assert_eq!(bert.hear("KICK"), ":anna!~anna@127.0.0.1 KICK #x bertram :enough");
    bert.say("JOIN #x");
    anna.hear("bertram!~bert@127.0.0.1 JOIN");
    bert.say("QUIT :good night");
    assert_eq!(anna.hear("QUIT"), ":bertram!~bert@127.0.0.1 QUIT :Quit: good night");
    sees(&mut anna, "#x", &["@anna"]);
    // A nick that is had elsewhere is not given out here.
    let mut other = two.client("carl");
    other.say("NICK anna");
    other.hear(" 433 ");
}

#[test]
fn while_redis_is_away_each_server_goes_on_alone_and_then_they_agree_again() {
    if !can_run() {
        return;
    }
    let port = free_port();
    let first = redis(port);
    let (one, two, mut anna, mut bert) = two_servers(port);
    gather(&mut anna, &mut bert);
    let mut carl = one.member("carl", "#x");
    sees(&mut anna, "#x", &["@anna", "bert", "carl"]);

    drop(first);
    anna.hear("NOTICE anna :The link to the other servers is down");
    bert.hear("NOTICE bert :The link to the other servers is down");
    anna.say("PRIVMSG #x :still here");
    assert_eq!(carl.hear("PRIVMSG"), ":anna!~anna@127.0.0.1 PRIVMSG #x :still here");
    carl.say("PART #x");
    carl.hear("PART");
    // Both give out the same nick, one a good second after the other.
    let mut early = one.member("twin", "#x");
    std::thread::sleep(Duration::from_millis(1100));
    let mut late = two.member("twin", "#x");

    let _second = redis(port);
    anna.hear("NOTICE anna :The link to the other servers is back");
    bert.hear("NOTICE bert :The link to the other servers is back");
    // Who came later is renamed, everywhere, and once.
    let renamed = late.hear(" NICK twin_");
    let new = renamed.rsplit(' ').next().expect("a nick").to_owned();
    for client in [&mut anna, &mut bert] {
        sees(client, "#x", &["@anna", "bert", "twin", &new]);
    }
    bert.say("PRIVMSG twin :the first of them");
    assert_eq!(early.hear("PRIVMSG"), ":bert!~bert@127.0.0.1 PRIVMSG twin :the first of them");
}

/// It takes what is published, and says nothing: its connections stand.
#[test]
fn a_redis_that_stands_still_is_noticed_and_costs_nobody_a_channel() {
    if !can_run() {
        return;
    }
    let port = free_port();
    let redis = redis(port);
    let (_one, two, mut anna, mut bert) = two_servers(port);
    gather(&mut anna, &mut bert);
    let signal = |signal| kill(Pid::from_raw(redis.0.id() as i32), signal).expect("kill");
    signal(Signal::SIGSTOP);
    anna.hear("NOTICE anna :The link to the other servers is down; what was said in the last");
    bert.say("PART #x");
    bert.hear(" PART ");
    // Whoever comes to the other end now finds no channel, and founds one.
    util::eventually("the other server's users to leave", || two.metric("chat_relay_servers") == 0.0);
    let mut thief = two.member("thief", "#x");
    sees(&mut thief, "#x", &["@thief"]);
    signal(Signal::SIGCONT);
    anna.hear("NOTICE anna :The link to the other servers is back");
    for client in [&mut anna, &mut thief] {
        sees(client, "#x", &["@anna", "thief"]);
    }
    thief.say("KICK #x anna :mine");
    thief.hear(" 482 ");
}

#[test]
fn the_users_of_a_server_that_vanished_leave() {
    if !can_run() {
        return;
    }
    let port = free_port();
    let _redis = redis(port);
    let (_one, two, mut anna, mut bert) = two_servers(port);
    gather(&mut anna, &mut bert);
    sees(&mut anna, "#x", &["@anna", "bert"]);
    // Killed, it says no goodbye.
    drop(two);
    assert_eq!(anna.hear("QUIT"), ":bert!~bert@127.0.0.1 QUIT :one two");
    sees(&mut anna, "#x", &["@anna"]);
}

#[test]
fn a_server_that_comes_late_learns_of_everybody_however_many_they_are() {
    if !can_run() {
        return;
    }
    let port = free_port();
    let _redis = redis(port);
    let one = server("one", port);
    let mut crowd: Vec<Irc> = (0..400)
        .map(|n| {
            let mut irc = Irc::new(chat::connect(one.irc), &format!("user{n:03}"));
            // In one message to the other servers they are twice what a connection otherwise keeps.
            irc.say(&format!("NICK user{n:03}\r\nUSER u 0 * :{}", "x".repeat(150)));
            irc
        })
        .collect();
    for irc in &mut crowd {
        irc.hear(" 376 ");
        irc.join("#x");
    }
    let two = Chat::start(&["--name", "two", "--redis", &format!("localhost:{port}")]);
    let mut late = two.client("late");
    let wanted: Vec<String> =
        (0..400).map(|n| format!("{}user{n:03}", if n == 0 { "@" } else { "" })).collect();
    sees(&mut late, "#x", &wanted.iter().map(String::as_str).collect::<Vec<_>>());
}
