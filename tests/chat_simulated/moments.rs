//! What takes seconds on a real clock, in virtual time.

use std::time::{Duration, SystemTime};

use clap::Parser;
use unbroken::sim::{PeerId, Script, Sim};

use crate::options::Options;
use crate::pace::TICK;
use crate::relay::Relay;
use crate::server::{self, Chat};
use crate::{IRC, WEB};

/// A chat with these flags.
fn chat(flags: &[&str]) -> Sim<Chat> {
    let options = Options::try_parse_from([&["chat"], flags].concat()).expect("flags");
    let (config, chat) =
        (server::config(&options), Chat::new(options, Relay::none(), || SystemTime::UNIX_EPOCH));
    let mut sim = Sim::new(1, config, chat).expect("a simulation");
    let irc = sim.net().listen(IRC).expect("a listener");
    let web = sim.net().listen(WEB).expect("a listener");
    sim.handler().serve(&[irc], web, false);
    sim.net().set_timer(TICK);
    sim
}

fn hello(nick: &str) -> Script {
    Script::new().send(format!("NICK {nick}\r\nUSER {nick} 0 * :{nick}\r\nJOIN #c\r\n"))
}

fn heard(sim: &Sim<Chat>, peer: PeerId) -> String {
    String::from_utf8(sim.received(peer)).expect("UTF-8")
}

fn run(sim: &mut Sim<Chat>, seconds: u64) {
    sim.run_for(Duration::from_secs(seconds)).expect("no violation");
}

#[test]
fn a_throttled_client_does_not_outlive_its_connection() {
    type End = fn(Script) -> Script;
    let ends: [(&str, End); 3] =
        [("FIN", Script::half_close), ("RST", Script::reset), ("both", Script::close)];
    for (what, end) in ends {
        let mut sim = chat(&[]);
        let witness = sim.client(IRC, hello("witness"));
        run(&mut sim, 1);
        sim.client(IRC, end(hello("flooder").send("PRIVMSG #c :more\r\n".repeat(270))));
        run(&mut sim, 7);
        let heard = heard(&sim, witness);
        let said = heard.matches(" PRIVMSG #c :more").count();
        assert!(heard.contains(":flooder!~flooder@10.1.0.1 QUIT :"), "{what}: it stays after {said} lines");
        // Its burst, and five seconds at its rate.
        assert!((27..=27 + 30).contains(&said), "{what}: {said} lines");
        let taker = sim.client(IRC, hello("flooder"));
        run(&mut sim, 1);
        assert!(self::heard(&sim, taker).contains(" 001 flooder "), "{what}: its nick is taken still");
    }
}

#[test]
fn a_client_that_ended_its_stream_and_does_not_read_has_left_all_the_same() {
    let mut sim = chat(&[]);
    let witness = sim.client(IRC, hello("witness"));
    let stalled = hello("stalled").read(unbroken::sim::Reading::Never).send("MOTD\r\n".repeat(20));
    sim.client(IRC, stalled.wait(Duration::from_secs(1)).half_close());
    run(&mut sim, 3);
    assert!(heard(&sim, witness).contains(":stalled!~stalled@10.1.0.1 QUIT :Connection closed"));
}

#[test]
fn who_pastes_more_than_the_rate_and_stays_is_heard_to_the_end() {
    let mut sim = chat(&[]);
    let witness = sim.client(IRC, hello("witness"));
    run(&mut sim, 1);
    sim.client(IRC, hello("paster").send("PRIVMSG #c :more\r\n".repeat(200)));
    run(&mut sim, 40);
    let heard = heard(&sim, witness);
    assert_eq!(heard.matches(" PRIVMSG #c :more").count(), 200);
    assert!(!heard.contains(" QUIT "), "{heard}");
}
