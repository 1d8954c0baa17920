//! A handler that does whatever the interface allows, whenever it is called.

use std::time::Duration;

use unbroken::{Bytes, CloseReport, ConnId, Handler, Net, SendError, TimerId, Via};

use crate::dice::Dice;

/// What it may do. Each can be switched off, to find the fewest that still show a failure.
pub const HABITS: [&str; 14] = [
    "echo",
    "send",
    "send_large",
    "broadcast",
    "leave_input",
    "pause",
    "close",
    "close_write",
    "abort",
    "close_everybody",
    "connect",
    "timers",
    "stale",
    "panic",
];

/// The message of its own panics.
pub const PANIC: &str = "chaos";

pub struct Chaos {
    dice: Dice,
    /// How often each habit shows in a callback, in a thousand.
    chances: [usize; HABITS.len()],
    /// Every identifier it was ever given.
    known: Vec<ConnId>,
    closed: Vec<ConnId>,
    /// How many connects it still makes.
    connects: usize,
    timers: Vec<TimerId>,
    cancelled: Vec<TimerId>,
    /// Timers that end a pause.
    resumes: Vec<(TimerId, ConnId)>,
    /// How many timers it still sets.
    ticks: usize,
}

impl Chaos {
    pub fn new(seed: u64, off: &[bool; HABITS.len()]) -> Self {
        let mut dice = Dice::new(seed ^ 0xC4A0);
        let mut chances = [0; HABITS.len()];
        for (habit, chance) in chances.iter_mut().enumerate() {
            let most = match HABITS[habit] {
                "echo" => 1000,
                "send" | "leave_input" | "pause" | "timers" | "stale" => 300,
                "send_large" | "broadcast" | "connect" => 100,
                "close" | "close_write" => 60,
                _ => 15,
            };
            let drawn = if dice.chance(600) { dice.between(1, most) } else { 0 };
            // Drawn in any case: switching one off leaves the others as they were.
            *chance = if off[habit] { 0 } else { drawn };
        }
        Self {
            dice,
            chances,
            known: Vec::new(),
            closed: Vec::new(),
            connects: 12,
            timers: Vec::new(),
            cancelled: Vec::new(),
            resumes: Vec::new(),
            ticks: 60,
        }
    }

    fn feels_like(&mut self, habit: &str) -> bool {
        let place = HABITS.iter().position(|name| *name == habit).expect("a habit");
        self.chances[place] > 0 && self.dice.chance(self.chances[place])
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let (len, first) = (self.dice.between(1, most), self.dice.below(251));
        (0..len).map(|place| ((first + place) % 251) as u8).collect()
    }

    fn any(&mut self, conn: ConnId) -> ConnId {
        match self.known.len() {
            0 => conn,
            count if self.dice.chance(300) => self.known[self.dice.below(count)],
            _ => conn,
        }
    }

    fn meddle(&mut self, net: &mut Net, conn: ConnId) {
        if self.feels_like("send") {
            let (to, data) = (self.any(conn), self.bytes(2000));
            let _ = net.send(to, &data);
        }
        if self.feels_like("send_large") {
            let (to, data) = (self.any(conn), self.bytes(100_000));
            if self.dice.chance(500) {
                let _ = net.send_bytes(to, data.into());
            } else {
                let _ = net.send(to, &data);
            }
        }
        if self.feels_like("broadcast") {
            let data = Bytes::from(self.bytes(1500));
            let everybody: Vec<_> = net.connections().collect();
            net.broadcast(everybody, data);
        }
        if self.feels_like("pause") {
            let whom = self.any(conn);
            match self.dice.chance(600) {
                true => {
                    net.pause_reading(whom);
                    let after = Duration::from_millis(self.dice.below(500) as u64);
                    self.resumes.push((net.set_timer(after), whom));
                }
                false => net.resume_reading(whom),
            }
        }
        if self.feels_like("timers") && self.ticks > 0 {
            self.ticks -= 1;
            let after = Duration::from_micros(self.dice.below(3_000_000) as u64);
            self.timers.push(net.set_timer(after));
            if self.dice.chance(200) {
                let timer = self.timers[self.dice.below(self.timers.len())];
                net.cancel_timer(timer);
                self.cancelled.push(timer);
            }
        }
        if self.feels_like("connect") && self.connects > 0 {
            self.connects -= 1;
            let addr = ["10.0.1.1:1", "10.0.1.1:2", "10.0.1.1:3", "10.0.1.1:4"][self.dice.below(4)];
            if let Ok(conn) = net.connect(addr) {
                self.known.push(conn);
                if self.dice.chance(500) {
                    let data = self.bytes(3000);
                    let _ = net.send(conn, &data);
                }
            }
        }
        if self.feels_like("stale") && !self.closed.is_empty() {
            let gone = self.closed[self.dice.below(self.closed.len())];
            assert_eq!(net.send(gone, b"for somebody who is gone"), Err(SendError::Closed));
            net.close(gone);
            net.abort(gone);
            net.resume_reading(gone);
        }
        if self.feels_like("close_write") {
            let whom = self.any(conn);
            net.close_write(whom);
        }
        if self.feels_like("close") {
            let whom = self.any(conn);
            net.close(whom);
        }
        if self.feels_like("abort") {
            let whom = self.any(conn);
            net.abort(whom);
        }
        if self.feels_like("close_everybody") {
            for conn in net.connections().collect::<Vec<_>>() {
                net.close(conn);
            }
        }
        if self.feels_like("panic") {
            std::panic::panic_any(PANIC);
        }
    }
}

impl Handler for Chaos {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, _: Via) {
        self.known.push(conn);
        self.meddle(net, conn);
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let used = match self.feels_like("leave_input") {
            true => self.dice.between(0, data.len()),
            false => data.len(),
        };
        if self.feels_like("echo") {
            let _ = net.send(conn, &data[..used]);
        }
        self.meddle(net, conn);
        used
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        self.meddle(net, conn);
        if self.dice.chance(900) {
            net.close(conn);
        }
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        self.meddle(net, conn);
    }

    fn on_timer(&mut self, net: &mut Net, timer: TimerId) {
        assert!(!self.cancelled.contains(&timer), "{timer} was cancelled");
        if let Some(place) = self.resumes.iter().position(|(resume, _)| *resume == timer) {
            let (_, conn) = self.resumes.swap_remove(place);
            return net.resume_reading(conn);
        }
        if let Some(&conn) = self.known.last() {
            let whom = self.any(conn);
            net.resume_reading(whom);
            self.meddle(net, whom);
        }
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, _: &CloseReport) {
        self.closed.push(conn);
        assert_eq!(net.send(conn, b"too late"), Err(SendError::Closed));
        self.meddle(net, conn);
    }
}
