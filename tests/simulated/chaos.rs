//! A handler that does whatever the interface allows, whenever it is called.

mod deeds;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use unbroken::sim::Clock;
use unbroken::{
    Bytes, CloseReport, ConnId, Handle, Handler, ListenerId, Net, SendError, State, TimerId, Via,
};

use crate::dice::Dice;

/// What it may do. Each can be switched off, to find the fewest that still show a failure.
pub const HABITS: [&str; 28] = [
    "echo",
    "send",
    "send_large",
    "oversize",
    "reserve",
    "broadcast",
    "leave_input",
    "hoard",
    "pause",
    "resume_at_once",
    "close",
    "close_write",
    "abort",
    "close_everybody",
    "connect",
    "timers",
    "stale",
    "panic",
    "several_at_once",
    "dawdle",
    "handle",
    "tasks",
    "listeners",
    "shutdown",
    "keep_after_eof",
    "deadlines",
    "want",
    "names",
];

/// The message of its own panics.
pub const PANIC: &str = "chaos";

pub struct Chaos {
    dice: Dice,
    /// How often each habit shows in a callback, in a thousand.
    chances: [usize; HABITS.len()],
    /// For taking its time.
    pub clock: Option<Clock>,
    /// Some of those that it connects to speak TLS; which, from dice of their own.
    pub secured: bool,
    trust: Dice,
    /// For going a roundabout way.
    pub handle: Option<Handle>,
    /// Every identifier it was ever given.
    known: Vec<ConnId>,
    closed: Vec<ConnId>,
    /// How many connects it still makes.
    connects: usize,
    timers: Vec<TimerId>,
    cancelled: Vec<TimerId>,
    /// Timers that end a pause.
    resumes: Vec<(TimerId, ConnId)>,
    /// How many timers it still sets, and how often it still takes its time.
    ticks: usize,
    naps: usize,
    /// Listeners that it opened itself.
    listeners: Vec<ListenerId>,
    /// Who leaves how much unused before it uses any.
    hoards: BTreeMap<ConnId, usize>,
    /// What the handle took and has not given back.
    posted: BTreeMap<ConnId, Vec<Bytes>>,
    /// Tasks that the handle took, and those that ran.
    tasks: usize,
    ran: Arc<AtomicUsize>,
}

impl Chaos {
    pub fn new(seed: u64, off: &[bool; HABITS.len()]) -> Self {
        let mut dice = Dice::new(seed ^ 0xC4A0);
        let mut chances = [0; HABITS.len()];
        for (habit, chance) in chances.iter_mut().enumerate() {
            let most = match HABITS[habit] {
                "echo" => 1000,
                "send" | "leave_input" | "pause" | "timers" | "stale" => 300,
                "resume_at_once" | "hoard" | "several_at_once" | "deadlines" => 300,
                "send_large" | "broadcast" | "connect" | "reserve" | "handle" | "want" => 100,
                "close" | "close_write" | "oversize" | "tasks" | "keep_after_eof" | "names" => 60,
                "dawdle" => 40,
                "shutdown" => 4,
                _ => 15,
            };
            let drawn = if dice.chance(600) { dice.between(1, most) } else { 0 };
            // Drawn in any case: switching one off leaves the others as they were.
            *chance = if off[habit] { 0 } else { drawn };
        }
        Self {
            dice,
            chances,
            clock: None,
            secured: false,
            trust: Dice::new(seed ^ 0x7125),
            handle: None,
            known: Vec::new(),
            closed: Vec::new(),
            connects: 12,
            timers: Vec::new(),
            cancelled: Vec::new(),
            resumes: Vec::new(),
            ticks: 60,
            naps: 30,
            listeners: Vec::new(),
            hoards: BTreeMap::new(),
            posted: BTreeMap::new(),
            tasks: 0,
            ran: Arc::default(),
        }
    }

    fn feels_like(&mut self, habit: &str) -> bool {
        let place = HABITS.iter().position(|name| *name == habit).expect("a habit");
        self.chances[place] > 0 && self.dice.chance(self.chances[place])
    }

    /// After the end: what was taken from it has been done.
    pub fn settle_accounts(&self) {
        assert_eq!(self.ran.load(Ordering::Relaxed), self.tasks, "tasks that were taken and did not run");
    }

    /// How much of its input it uses.
    fn use_up(&mut self, conn: ConnId, len: usize) -> usize {
        if let Some(most) = self.hoards.get(&conn).copied() {
            if len < most {
                return 0;
            }
            self.hoards.remove(&conn);
            return len;
        }
        if self.feels_like("hoard") {
            self.hoards.insert(conn, self.dice.between(1, 20_000));
            return 0;
        }
        match self.feels_like("leave_input") {
            true => self.dice.between(0, len),
            false => len,
        }
    }
}

impl Handler for Chaos {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, _: Via) {
        self.known.push(conn);
        self.meddle(net, conn);
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let used = self.use_up(conn, data.len());
        if self.feels_like("echo") {
            let _ = net.send(conn, &data[..used]);
        }
        self.meddle(net, conn);
        used
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        self.meddle(net, conn);
        if !self.feels_like("keep_after_eof") {
            net.close(conn);
        }
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        if self.feels_like("pause") {
            net.resume_reading(conn);
        }
        self.meddle(net, conn);
    }

    fn on_timer(&mut self, net: &mut Net, timer: TimerId) {
        assert!(!self.cancelled.contains(&timer), "{timer} was cancelled");
        if let Some(place) = self.resumes.iter().position(|(resume, _)| *resume == timer) {
            let (_, conn) = self.resumes.swap_remove(place);
            self.hoards.remove(&conn);
            return net.resume_reading(conn);
        }
        if let Some(&conn) = self.known.last() {
            let whom = self.any(conn);
            if self.dice.chance(500) {
                net.resume_reading(whom);
            }
            self.meddle(net, whom);
        }
    }

    fn on_deadline(&mut self, net: &mut Net, conn: ConnId) {
        match self.dice.chance(300) {
            true => net.close(conn),
            false => self.meddle(net, conn),
        }
    }

    fn on_shutdown(&mut self, net: &mut Net) {
        if let Some(&conn) = self.known.last() {
            self.meddle(net, conn);
        }
    }

    fn on_wake(&mut self, net: &mut Net) {
        if let Some(&conn) = self.known.last() {
            self.meddle(net, conn);
        }
    }

    fn on_refused(&mut self, net: &mut Net, conn: ConnId, data: Bytes) {
        let posted = self.posted.entry(conn).or_default();
        let place = posted.iter().position(|posted| *posted == data).expect("it was posted");
        posted.swap_remove(place);
        self.meddle(net, conn);
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, _: &CloseReport) {
        self.closed.push(conn);
        self.hoards.remove(&conn);
        assert_eq!(net.send(conn, b"too late"), Err(SendError::Closed));
        assert_eq!(net.state(conn), Some(State::Dead));
        self.meddle(net, conn);
    }
}
