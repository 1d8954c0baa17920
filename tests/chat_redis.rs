//! Several chat servers joined into one by a real `redis-server`, which goes away and comes back.

mod util;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program that is killed when the test is over.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn redis(port: u16) -> Program {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()]);
    let redis = Program(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("it starts"));
    util::eventually("redis listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    redis
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A chat server and where its IRC clients connect.
struct Server {
    program: Program,
    irc: String,
}

fn server(name: &str, redis: u16) -> Server {
    let mut command = Command::new(util::example("chat"));
    command.args(["--irc", "127.0.0.1:0", "--web", "127.0.0.1:0", "--name", name, "--announce", "0.5"]);
    command.args(["--redis", &format!("127.0.0.1:{redis}")]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = lines.next().expect("a line").expect("a line");
    let irc = line.split_once("irc://").expect("an address").1.to_owned();
    Server { program: Program(child), irc }
}

struct Client {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Client {
    fn register(server: &Server, nick: &str) -> Self {
        let stream = TcpStream::connect(&server.irc).expect("it listens");
        stream.set_read_timeout(Some(util::SOON)).expect("a timeout");
        let lines = BufReader::new(stream.try_clone().expect("a clone"));
        let mut client = Self { stream, lines };
        client.say(&format!("NICK {nick}\r\nUSER {nick} 0 * :{nick}"));
        client.hear(" 376 ");
        client
    }

    fn say(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).expect("it takes a line");
    }

    /// The next line in which `wanted` stands.
    fn hear(&mut self, wanted: &str) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            match self.lines.read_line(&mut line) {
                Ok(count) if count > 0 => {}
                outcome => panic!("no {wanted:?} but {outcome:?} after:\n{all}"),
            }
            if line.contains(wanted) {
                return line.trim_end().to_owned();
            }
            all += &line;
        }
    }

    /// The members of a channel, in order.
    fn names(&mut self, channel: &str) -> Vec<String> {
        self.say(&format!("NAMES {channel}"));
        let mut names = Vec::new();
        loop {
            let line = self.hear(" 3");
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

    /// Waits until a channel has these members.
    fn sees(&mut self, channel: &str, wanted: &[&str]) {
        let deadline = Instant::now() + util::SOON;
        loop {
            let names = self.names(channel);
            if names == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{channel}: {names:?}, not {wanted:?}");
            std::thread::sleep(Duration::from_millis(300));
        }
    }
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
    let (one, two) = (server("one", port), server("two", port));
    let (mut anna, mut bert) = (Client::register(&one, "anna"), Client::register(&two, "bert"));
    anna.say("JOIN #x");
    anna.hear(" 366 ");
    bert.sees("#x", &["@anna"]);
    bert.say("JOIN #x");
    assert_eq!(anna.hear(" JOIN "), ":bert!~bert@127.0.0.1 JOIN #x");
    anna.sees("#x", &["@anna", "bert"]);

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
    assert_eq!(anna.hear("QUIT"), ":bertram!~bert@127.0.0.1 QUIT :good night");
    anna.sees("#x", &["@anna"]);
    // A nick that is had elsewhere is not given out here.
    let mut other = Client::register(&two, "carl");
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
    let (one, two) = (server("one", port), server("two", port));
    let (mut anna, mut bert) = (Client::register(&one, "anna"), Client::register(&two, "bert"));
    let mut carl = Client::register(&one, "carl");
    anna.say("JOIN #x");
    anna.hear(" 366 ");
    // Whoever does not know of the channel yet would found it once more.
    bert.sees("#x", &["@anna"]);
    for client in [&mut bert, &mut carl] {
        client.say("JOIN #x");
        client.hear(" 366 ");
    }
    anna.sees("#x", &["@anna", "bert", "carl"]);

    drop(first);
    anna.hear("NOTICE anna :The link to the other servers is down");
    bert.hear("NOTICE bert :The link to the other servers is down");
    anna.say("PRIVMSG #x :still here");
    assert_eq!(carl.hear("PRIVMSG"), ":anna!~anna@127.0.0.1 PRIVMSG #x :still here");
    carl.say("PART #x");
    carl.hear("PART");
    // Both give out the same nick, one a good second after the other.
    let mut early = Client::register(&one, "twin");
    early.say("JOIN #x");
    early.hear(" 366 ");
    std::thread::sleep(Duration::from_millis(1100));
    let mut late = Client::register(&two, "twin");
    late.say("JOIN #x");
    late.hear(" 366 ");

    let _second = redis(port);
    anna.hear("NOTICE anna :The link to the other servers is back");
    bert.hear("NOTICE bert :The link to the other servers is back");
    // Who came later is renamed, everywhere.
    late.hear("NICK twin_2");
    for client in [&mut anna, &mut bert] {
        client.sees("#x", &["@anna", "bert", "twin", "twin_2"]);
    }
    bert.say("PRIVMSG twin :the first of them");
    assert_eq!(early.hear("PRIVMSG"), ":bert!~bert@127.0.0.1 PRIVMSG twin :the first of them");
}

#[test]
fn the_users_of_a_server_that_vanished_leave() {
    if !can_run() {
        return;
    }
    let port = free_port();
    let _redis = redis(port);
    let (one, two) = (server("one", port), server("two", port));
    let (mut anna, mut bert) = (Client::register(&one, "anna"), Client::register(&two, "bert"));
    anna.say("JOIN #x");
    anna.hear(" 366 ");
    bert.sees("#x", &["@anna"]);
    bert.say("JOIN #x");
    anna.sees("#x", &["@anna", "bert"]);
    // Killed, it says no goodbye.
    drop(two.program);
    assert_eq!(anna.hear("QUIT"), ":bert!~bert@127.0.0.1 QUIT :one two");
    anna.sees("#x", &["@anna"]);
}
