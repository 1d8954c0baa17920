//! Worlds in which clients join, talk, part, take other names, stop reading and break off, while the
//! network does its worst.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use clap::Parser;
use unbroken::sim::{Faults, PeerId, Reading, Script, Sim};
use unbroken::{CloseReport, ConnId, Handler, Net, TimerId, Via};

use crate::options::Options;
use crate::pace::TICK;
use crate::relay::Relay;
use crate::server::{self, Chat};
use crate::{seeds, Dice, IRC, WEB};

pub const CHANNELS: [&str; 3] = ["#a", "#b", "#c"];

/// The server, whose state is looked at after every callback.
struct Watched(Chat);

impl Watched {
    fn check(&self) {
        self.0.state.check();
        for (user, conn) in &self.0.conns {
            assert_eq!(self.0.clients.get(*conn).and_then(|client| client.user), Some(*user));
        }
        let registered = self.0.clients.values().filter(|client| client.user.is_some()).count();
        assert_eq!(registered, self.0.conns.len());
        assert_eq!(self.0.state.user_count(), self.0.conns.len(), "without a relay all users are local");
    }
}

impl Handler for Watched {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, via: Via) {
        self.0.on_open(net, conn, via);
        self.check();
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let used = self.0.on_data(net, conn, data);
        self.check();
        used
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        self.0.on_drain(net, conn);
        self.check();
    }

    fn on_timer(&mut self, net: &mut Net, timer: TimerId) {
        self.0.on_timer(net, timer);
        self.check();
    }

    fn on_deadline(&mut self, net: &mut Net, conn: ConnId) {
        self.0.on_deadline(net, conn);
        self.check();
    }

    fn on_shutdown(&mut self, net: &mut Net) {
        self.0.on_shutdown(net);
        self.check();
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        self.0.on_close(net, conn, report);
        self.check();
    }
}

/// What one client wants: a script of lines, at the end of which a steady one asks for the names
/// of all channels.
pub fn script(dice: &mut Dice, nick: &str, steady: bool) -> Script {
    let pause = |dice: &mut Dice| Duration::from_millis(dice.roll(400) as u64);
    let mut script = Script::new().wait(pause(dice));
    let say = |script: Script, dice: &mut Dice, line: String| {
        let line = line + "\r\n";
        match dice.roll(4) {
            0 => script.send_slowly(line, 1 + dice.roll(5), Duration::from_millis(2)),
            _ => script.send(line),
        }
    };
    script = say(script, dice, format!("NICK {nick}"));
    script = say(script, dice, format!("USER {nick} 0 * :{nick}"));
    for n in 0..3 + dice.roll(12) {
        let channel = CHANNELS[dice.roll(CHANNELS.len())];
        let line = match dice.roll(14) {
            0..=3 => format!("JOIN {channel}"),
            4 => format!("PART {channel} :enough"),
            5 => format!("NICK {nick}{n}"),
            // Somebody else's nick, perhaps: it must not be had twice.
            6 => format!("NICK n{}", dice.roll(8)),
            7 => format!("MODE {channel} {}o n{}", ["+", "-"][dice.roll(2)], dice.roll(8)),
            8 => format!("KICK {channel} n{} :out", dice.roll(8)),
            9 => format!("MODE {channel} {}v n{}", ["+", "-"][dice.roll(2)], dice.roll(8)),
            10 => {
                format!("MODE {channel} {}", ["+ik x", "-ik x", "+l 2", "-l", "+b n3", "-b n3"][dice.roll(6)])
            }
            11 => format!("INVITE n{} {channel}\r\nAWAY :{n}\r\nWHO {channel}", dice.roll(8)),
            _ => format!("PRIVMSG {channel} :{nick} says {n}"),
        };
        script = say(script, dice, line).wait(pause(dice));
        if !steady {
            match dice.roll(24) {
                0 => return script.reset(),
                1 => return say(script, dice, "QUIT :words".to_owned()).await_end(),
                2 => return script.send("PRIVMSG #a :half a li").reset(),
                3 => return script.half_close().await_end(),
                4 => return script.read(Reading::Never).wait(Duration::from_secs(20)).reset(),
                5 => return script.vanish(),
                6 => return script.send(vec![b'x'; 40_000]).await_end(),
                _ => {}
            }
        }
    }
    script
}

/// One client's view of the channels, by what it was told.
#[derive(Default)]
pub struct View {
    nick: String,
    /// The members of the channels that it is in.
    channels: BTreeMap<String, BTreeSet<String>>,
    /// A reply to NAMES that is not complete.
    names: BTreeMap<String, BTreeSet<String>>,
    /// Channels whose list it got with its join: from then on it knows the members.
    known: BTreeSet<String>,
    pub messages: usize,
    pub compared: usize,
}

impl View {
    pub fn hear(&mut self, line: &str) -> Result<(), String> {
        let (source, rest) =
            line.strip_prefix(':').and_then(|line| line.split_once(' ')).unwrap_or(("", line));
        let who = source.split('!').next().unwrap_or_default().to_owned();
        let words: Vec<&str> = rest.split(' ').collect();
        let word = |n: usize| words.get(n).copied().unwrap_or_default().trim_start_matches(':').to_owned();
        match words[0] {
            "001" => self.nick = word(1),
            "JOIN" if who == self.nick => drop(self.channels.insert(word(1), BTreeSet::from([who]))),
            "JOIN" => {
                let members = self.channels.get_mut(&word(1)).ok_or(format!("not in the channel: {line}"))?;
                if !members.insert(who) {
                    return Err(format!("in the channel already: {line}"));
                }
            }
            "PART" => self.leave(&word(1), &who, line)?,
            "KICK" => self.leave(&word(1), &word(2), line)?,
            "QUIT" => {
                let shared = self.channels.values_mut().filter_map(|members| members.take(&who)).count();
                if shared == 0 {
                    return Err(format!("shares no channel: {line}"));
                }
            }
            "NICK" => {
                for members in self.channels.values_mut() {
                    if members.remove(&who) && !members.insert(word(1)) {
                        return Err(format!("two of one name: {line}"));
                    }
                }
                if who == self.nick {
                    self.nick = word(1);
                }
            }
            "PRIVMSG" => {
                let members = self.channels.get(&word(1)).ok_or(format!("not in the channel: {line}"))?;
                if self.known.contains(&word(1)) && !members.contains(&who) {
                    return Err(format!("its sender is not in the channel: {line}"));
                }
                self.messages += 1;
            }
            "353" => {
                let list = rest.split_once(" :").map_or("", |(_, list)| list);
                let names = list.split(' ').map(|name| name.trim_start_matches(['@', '+']).to_owned());
                self.names.entry(word(3)).or_default().extend(names);
            }
            "366" => self.compare(&word(2), line)?,
            _ => {}
        }
        Ok(())
    }

    fn leave(&mut self, channel: &str, who: &str, line: &str) -> Result<(), String> {
        let members = self.channels.get_mut(channel).ok_or(format!("not in the channel: {line}"))?;
        if !members.remove(who) {
            return Err(format!("was not in the channel: {line}"));
        }
        if who == self.nick {
            self.channels.remove(channel);
            self.known.remove(channel);
        }
        Ok(())
    }

    /// The first list of a channel is believed, every later one must agree with what was told.
    fn compare(&mut self, channel: &str, line: &str) -> Result<(), String> {
        let told = self.names.remove(channel).unwrap_or_default();
        let Some(members) = self.channels.get_mut(channel) else { return Ok(()) };
        if self.known.insert(channel.to_owned()) {
            *members = told;
        } else if *members != told {
            return Err(format!("{line}: {told:?} are named, {members:?} were told of"));
        } else {
            self.compared += 1;
        }
        Ok(())
    }
}

/// What a world came to: messages received, lists compared.
fn play(seed: u64) -> Result<(usize, usize), String> {
    let mut dice = Dice(seed);
    let mut args = vec!["chat", "--register-timeout", "3", "--ping-interval", "4", "--ping-timeout", "3"];
    args.extend(["--send-queue", "8192"]);
    if dice.roll(2) == 0 {
        args.extend(["--rate", "20", "--burst", "4"]);
    } else {
        args.extend(["--rate", "1000", "--burst", "1000"]);
    }
    let options = Options::try_parse_from(args).map_err(|error| error.to_string())?;
    let config = server::config(&options);
    let chat = Watched(Chat::new(options, Relay::none(), || SystemTime::UNIX_EPOCH));
    let faults = if dice.roll(3) == 0 { Faults::none() } else { mild(&mut dice) };
    let mut sim = Sim::with_faults(seed, faults, config, chat).map_err(|error| error.to_string())?;
    let irc = sim.net().listen(IRC).map_err(|error| error.to_string())?;
    let web = sim.net().listen(WEB).map_err(|error| error.to_string())?;
    sim.handler().0.serve(&[irc], web, false);
    sim.net().set_timer(TICK);

    let steady: Vec<(PeerId, String)> = (0..3)
        .map(|n| {
            let nick = format!("n{n}");
            (sim.client(IRC, script(&mut dice, &nick, true)), nick)
        })
        .collect();
    let mut others: Vec<PeerId> =
        (3..8).map(|n| sim.client(IRC, script(&mut dice, &format!("n{n}"), false))).collect();
    others.push(sim.client(WEB, Script::new().send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").half_close()));
    others.push(sim.client(WEB, Script::random(seed)));
    let story = |violation: unbroken::sim::Violation| violation.to_string();
    sim.run_for(Duration::from_secs(8)).map_err(story)?;
    // Those who are still here, by now at rest, ask who else is.
    for (peer, _) in &steady {
        let ask = CHANNELS.map(|channel| format!("NAMES {channel}\r\n")).concat();
        sim.perform(*peer, Script::new().send(ask));
    }
    sim.run_for(Duration::from_secs(2)).map_err(story)?;
    let (mut messages, mut compared) = (0, 0);
    for (peer, nick) in &steady {
        let received = sim.received(*peer);
        let mut view = View::default();
        for line in String::from_utf8_lossy(&received).split_terminator("\r\n") {
            view.hear(line).map_err(|why| format!("seed {seed}: {nick}: {why}"))?;
        }
        messages += view.messages;
        compared += view.compared;
    }
    sim.net().shutdown(Duration::from_secs(5));
    sim.run_for(Duration::from_secs(30)).map_err(story)?;
    let (Watched(chat), _) = sim.finish().map_err(story)?;
    if !(chat.clients.is_empty() && chat.state.user_count() == 0 && chat.state.channel_count() == 0) {
        return Err(format!("seed {seed}: somebody is left in an empty server"));
    }
    Ok((messages, compared))
}

/// Faults that cost time and not connections, and now and then a connection.
pub fn mild(dice: &mut Dice) -> Faults {
    let mut faults = Faults::none();
    faults.short_write = dice.roll(300) as u16;
    faults.short_read = dice.roll(300) as u16;
    faults.would_block = dice.roll(100) as u16;
    faults.interrupt = dice.roll(100) as u16;
    faults.event_shuffle = dice.roll(500) as u16;
    faults.event_spurious = dice.roll(50) as u16;
    faults.event_delay = dice.roll(200) as u16;
    if dice.roll(4) == 0 {
        faults.reset = 1;
    }
    faults
}

/// Plays so many worlds, unless told otherwise; each returns how many messages were received and lists of names
/// compared.
pub(crate) fn survey(worlds: u64, play: impl Fn(u64) -> Result<(usize, usize), String>) {
    let seeds = seeds(worlds);
    let count = seeds.end - seeds.start;
    let (mut messages, mut compared) = (0, 0);
    for seed in seeds {
        match play(seed) {
            Ok((heard, agreed)) => (messages, compared) = (messages + heard, compared + agreed),
            Err(why) => panic!("{why}\nplay it again: UNBROKEN_SEED={seed} cargo test --test chat_simulated"),
        }
    }
    println!("{count} worlds: {messages} messages received, {compared} lists of names compared");
    // A simulation in which nothing happens proves nothing.
    assert!(count < 100 || (messages as u64 > count && compared as u64 > count), "{messages} {compared}");
}

#[test]
fn membership_agrees_with_names_and_nobody_hears_a_channel_they_are_not_in() {
    survey(500, play);
}
