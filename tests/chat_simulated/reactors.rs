//! The chat on several reactors, whose turns the seed draws: it promises what it does on one.

use std::time::{Duration, SystemTime};

use clap::Parser;
use unbroken::sim::{Faults, GroupSim, PeerId, Reading, Script};
use unbroken::{CloseReason, CloseReport};

use crate::crew::{Crew, Part};
use crate::options::Options;
use crate::pace::TICK;
use crate::relay::Relay;
use crate::server::{self, Chat};
use crate::worlds::{mild, script, survey, View, CHANNELS};
use crate::{seeds, Dice, IRC, WEB};

fn chat(seed: u64, faults: Faults, reactors: usize, flags: &[&str]) -> GroupSim<Part> {
    let options = Options::try_parse_from([&["chat"], flags].concat()).expect("flags");
    let config = server::config(&options);
    let crew = Crew::new(Chat::new(options, Relay::none(), || SystemTime::UNIX_EPOCH), reactors);
    let mut sim = GroupSim::new(seed, faults, config, reactors, |peers| crew.part(peers)).expect("a group");
    let irc = sim.group().listen(IRC).expect("a listener");
    let web = sim.group().listen(WEB).expect("a listener");
    for reactor in 0..reactors {
        match sim.handler(reactor).expect("a handler") {
            Part::State(chat) => chat.serve(&[irc], web, false),
            Part::Front(front) => front.ports.irc = vec![irc],
        }
        sim.group().net(reactor).expect("a net").set_timer(TICK);
    }
    sim
}

fn state(sim: &mut GroupSim<Part>) -> &mut Chat {
    match sim.handler(0) {
        Some(Part::State(chat)) => chat,
        _ => panic!("the state is with the first"),
    }
}

fn client(sim: &mut GroupSim<Part>, script: Script) -> PeerId {
    sim.client_after(Duration::ZERO, IRC, script)
}

fn heard(sim: &GroupSim<Part>, peer: PeerId) -> String {
    String::from_utf8_lossy(&sim.received(peer)).into_owned()
}

fn run(sim: &mut GroupSim<Part>, time: Duration) {
    sim.run_for(time).unwrap_or_else(|what| panic!("{what}"));
}

/// What a world came to: messages received, lists compared.
fn play(seed: u64) -> Result<(usize, usize), String> {
    let mut dice = Dice(seed);
    let mut flags = vec!["--register-timeout", "3", "--ping-interval", "4", "--ping-timeout", "3"];
    flags.extend(["--send-queue", "8192"]);
    if dice.roll(2) == 0 {
        flags.extend(["--rate", "20", "--burst", "4"]);
    } else {
        flags.extend(["--rate", "1000", "--burst", "1000"]);
    }
    let faults = if dice.roll(3) == 0 { Faults::none() } else { mild(&mut dice) };
    let reactors = 2 + dice.roll(3);
    let mut sim = chat(seed, faults, reactors, &flags);
    let ask = CHANNELS.map(|channel| format!("NAMES {channel}\r\n")).concat();
    let steady: Vec<(PeerId, String)> = (0..3)
        .map(|n| {
            let nick = format!("n{n}");
            let script = script(&mut dice, &nick, true).wait(Duration::from_secs(3)).send(ask.clone());
            (client(&mut sim, script), nick)
        })
        .collect();
    for n in 3..8 {
        let script = script(&mut dice, &format!("n{n}"), false);
        client(&mut sim, script);
    }
    let figures = Script::new().send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").half_close();
    let asker = sim.client_after(Duration::from_millis(seed % 500), WEB, figures);
    sim.client_after(Duration::ZERO, WEB, Script::random(seed));
    for _ in 0..12 {
        sim.run_for(Duration::from_secs(1)).map_err(|what| what.to_string())?;
        let chat = state(&mut sim);
        chat.state.check();
        let registered = chat.clients.values().filter(|client| client.user.is_some()).count();
        assert_eq!((registered, chat.state.user_count()), (chat.conns.len(), chat.conns.len()));
    }
    let (mut messages, mut compared) = (0, 0);
    for (peer, nick) in &steady {
        let mut view = View::default();
        for line in heard(&sim, *peer).split_terminator("\r\n") {
            view.hear(line).map_err(|why| format!("seed {seed}: {nick}: {why}"))?;
        }
        messages += view.messages;
        compared += view.compared;
    }
    let in_order =
        |report: &CloseReport| matches!(report.reason, CloseReason::PeerClosed | CloseReason::Finished);
    if sim.report_of(asker).is_some_and(in_order) && !heard(&sim, asker).contains("chat_closes_total") {
        return Err(format!("seed {seed}: no answer to a question for figures"));
    }
    // How long a shutdown may take is no matter here.
    let _ = sim.handle().shutdown(Duration::from_secs(1));
    sim.finish().map_err(|what| what.to_string())?;
    let chat = state(&mut sim);
    match chat.state.user_count() + chat.state.channel_count() {
        0 => Ok((messages, compared)),
        _ => Err(format!("seed {seed}: somebody is left in an empty server")),
    }
}

#[test]
fn on_several_reactors_membership_agrees_with_names_as_on_one() {
    survey(300, play);
}

/// A client of the state's own reactor and one of the other, after two seconds in which they say hello.
fn near_and_far(
    sim: &mut GroupSim<Part>,
    near: impl FnOnce(Script) -> Script,
    far: impl FnOnce(Script) -> Script,
) -> [PeerId; 2] {
    let wait = Duration::from_secs(1);
    let near = client(sim, near(hello("near").wait(2 * wait)));
    run(sim, wait);
    let far = client(sim, far(hello("far").wait(wait)));
    run(sim, wait);
    assert_eq!([near, far].map(|peer| sim.reactor_of(peer)), [Some(0), Some(1)], "they are spread");
    [near, far]
}

fn hello(nick: &str) -> Script {
    Script::new().send(format!("NICK {nick}\r\nUSER {nick} 0 * :{nick}\r\nJOIN #c\r\n"))
}

#[test]
fn whoever_says_much_and_breaks_off_is_heard_to_the_end_of_its_burst() {
    for seed in seeds(50) {
        let mut sim = chat(seed, Faults::none(), 2, &[]);
        let last = |script: Script| script.send("PRIVMSG #c :more\r\n".repeat(20)).reset();
        let [near, _] = near_and_far(&mut sim, |script| script, last);
        run(&mut sim, Duration::from_secs(1));
        let heard = heard(&sim, near);
        let said = heard.matches(" PRIVMSG #c :more").count();
        assert!(said == 20 && heard.contains(":far!~far@10.1.0.1 QUIT :"), "seed {seed}: {said}, {heard}");
    }
}

#[test]
fn a_flood_from_afar_is_held_to_the_same_rate() {
    for seed in seeds(20) {
        let mut sim = chat(seed, Faults::none(), 2, &[]);
        let flood = |nick: &str| format!("PRIVMSG #c :{nick}\r\n").repeat(200);
        let [near, far] =
            near_and_far(&mut sim, |near| near.send(flood("near")), |far| far.send(flood("far")));
        run(&mut sim, Duration::from_secs(9));
        for (peer, other) in [(near, "far"), (far, "near")] {
            // Its burst, and nine seconds at its rate.
            let said = heard(&sim, peer).matches(&format!(" PRIVMSG #c :{other}")).count();
            assert!((30 + 43..=30 + 45).contains(&said), "seed {seed}: {said} of {other}");
        }
    }
}

#[test]
fn who_asks_for_more_than_it_takes_gets_all_of_it_in_its_order_and_costs_no_more_than_on_one() {
    let motd = "x".repeat(60_000);
    let flags = ["--send-queue", "8192", "--rate", "1000", "--burst", "1000", "--motd", &motd];
    for seed in seeds(10) {
        let mut sim = chat(seed, Faults::none(), 2, &flags);
        let ask: String = (0..30).map(|n| format!("MOTD\r\nPING {n}\r\n")).collect();
        let ask = |script: Script| {
            script.read(Reading::Never).send(ask).wait(Duration::from_secs(3)).read(Reading::Eager)
        };
        let [_, far] = near_and_far(&mut sim, |script| script, ask);
        run(&mut sim, Duration::from_secs(2));
        let queued = sim.group().net(1).expect("a net").stats().queued;
        assert!(queued < 2 * 70_000, "seed {seed}: {queued} bytes wait for one");
        run(&mut sim, Duration::from_secs(40));
        let heard = heard(&sim, far);
        let tokens = heard.lines().filter_map(|line| line.split_once(" PONG chat.local :")?.1.parse().ok());
        assert_eq!(tokens.collect::<Vec<usize>>(), (0..30).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn what_is_said_in_a_rush_reaches_everybody_although_nothing_follows() {
    let flags = ["--rate", "1000000", "--burst", "1000000", "--send-queue", "4000000"];
    for seed in seeds(20) {
        let mut sim = chat(seed, Faults::none(), 2, &flags);
        // More than a reactor, or the state, carries out at a time.
        let rush = |nick: &str| format!("PRIVMSG #c :{nick} {}\r\n", "x".repeat(400)).repeat(300);
        let [near, far] = near_and_far(&mut sim, |near| near.send(rush("near")), |far| far.send(rush("far")));
        run(&mut sim, Duration::from_secs(3));
        for (peer, other) in [(near, "far"), (far, "near")] {
            let said = heard(&sim, peer).matches(&format!(" PRIVMSG #c :{other} ")).count();
            assert_eq!(said, 300, "seed {seed}: of {other}");
        }
    }
}
