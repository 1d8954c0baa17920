//! A handler that writes down what it sees and does as the test says, on the test's own thread: what
//! happens between two turns is the test's to choose.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use unbroken::{Bytes, CloseReport, Config, ConnId, Handler, Net, Reactor, TimerId, Via};

#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Open(ConnId),
    Data(ConnId, Vec<u8>),
    Eof(ConnId),
    Drain(ConnId),
    Deadline(ConnId),
    Shutdown,
    Refused(ConnId),
    Close(ConnId, CloseReport),
}
pub type Log = Rc<RefCell<Vec<Seen>>>;

#[derive(Default)]
#[allow(clippy::type_complexity)]
pub struct Probe {
    pub log: Log,
    pub quiet: bool,
    pub open: Option<Box<dyn FnMut(&mut Net, ConnId)>>,
    pub data: Option<Box<dyn FnMut(&mut Net, ConnId, &[u8]) -> usize>>,
    pub eof: Option<Box<dyn FnMut(&mut Net, ConnId)>>,
    pub drain: Option<Box<dyn FnMut(&mut Net, ConnId)>>,
    pub timer: Option<Box<dyn FnMut(&mut Net, TimerId)>>,
    pub deadline: Option<Box<dyn FnMut(&mut Net, ConnId)>>,
    pub shutdown: Option<Box<dyn FnMut(&mut Net)>>,
    pub refused: Option<Box<dyn FnMut(&mut Net, ConnId)>>,
    pub close: Option<Box<dyn FnMut(&mut Net, ConnId)>>,
}
impl Probe {
    fn put(&self, seen: Seen) {
        if !self.quiet || matches!(seen, Seen::Close(..)) {
            self.log.borrow_mut().push(seen);
        }
    }
}
impl Handler for Probe {
    fn on_open(&mut self, net: &mut Net, c: ConnId, _: Via) {
        self.put(Seen::Open(c));
        if let Some(f) = &mut self.open {
            f(net, c)
        }
    }
    fn on_data(&mut self, net: &mut Net, c: ConnId, d: &[u8]) -> usize {
        self.put(Seen::Data(c, d.to_vec()));
        match &mut self.data {
            Some(f) => f(net, c, d),
            None => d.len(),
        }
    }
    fn on_eof(&mut self, net: &mut Net, c: ConnId) {
        self.put(Seen::Eof(c));
        match &mut self.eof {
            Some(f) => f(net, c),
            None => net.close(c),
        }
    }
    fn on_drain(&mut self, net: &mut Net, c: ConnId) {
        self.put(Seen::Drain(c));
        if let Some(f) = &mut self.drain {
            f(net, c)
        }
    }
    fn on_timer(&mut self, net: &mut Net, t: TimerId) {
        if let Some(f) = &mut self.timer {
            f(net, t)
        }
    }
    fn on_deadline(&mut self, net: &mut Net, c: ConnId) {
        self.put(Seen::Deadline(c));
        match &mut self.deadline {
            Some(f) => f(net, c),
            None => net.close(c),
        }
    }
    fn on_shutdown(&mut self, net: &mut Net) {
        self.put(Seen::Shutdown);
        if let Some(f) = &mut self.shutdown {
            f(net)
        }
    }
    fn on_refused(&mut self, net: &mut Net, c: ConnId, _: Bytes) {
        self.put(Seen::Refused(c));
        if let Some(f) = &mut self.refused {
            f(net, c)
        }
    }
    fn on_close(&mut self, net: &mut Net, c: ConnId, r: &CloseReport) {
        self.put(Seen::Close(c, r.clone()));
        if let Some(f) = &mut self.close {
            f(net, c)
        }
    }
}

pub fn reactor(config: Config) -> (Reactor, SocketAddr) {
    let mut r = Reactor::new(config).unwrap();
    let l = r.net().listen("127.0.0.1:0").unwrap();
    let a = r.net().local_addr(l).unwrap().as_tcp().unwrap();
    (r, a)
}

pub fn turn_for(r: &mut Reactor, h: &mut Probe, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        let left = end.saturating_duration_since(Instant::now());
        r.turn(h, Some(left.min(Duration::from_millis(20)))).unwrap();
    }
}

pub fn turn_until(r: &mut Reactor, h: &mut Probe, mut done: impl FnMut(&[Seen]) -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        if done(&h.log.borrow()) {
            return true;
        }
        r.turn(h, Some(Duration::from_millis(20))).unwrap();
    }
    false
}

pub fn reports(log: &Log) -> Vec<CloseReport> {
    log.borrow()
        .iter()
        .filter_map(|e| match e {
            Seen::Close(_, r) => Some(r.clone()),
            _ => None,
        })
        .collect()
}

pub fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}
