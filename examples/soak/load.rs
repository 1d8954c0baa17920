//! Thousands of clients in one loop over epoll, as many as there ought to be at any time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{epoll, Timespec};
use rustix::io::Errno;

use crate::client::Client;
use crate::ledger::Ledger;
use crate::script::Script;

/// New clients in one pass at most, unless very many are missing.
const ARRIVALS: usize = 32;

/// The longest sleep: new clients and faults are due all the time.
const NAP: Duration = Duration::from_millis(5);

/// The ports that clients come from, below those that the system hands out by itself.
const FIRST_PORT: u64 = 10_000;
const PORTS: u64 = 20_000;

pub struct Load {
    server: SocketAddr,
    seed: u64,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    slots: Vec<Option<Client>>,
    free: Vec<usize>,
    /// Moments at which clients want to be looked at. Some of them have changed their mind.
    wakes: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    scratch: Vec<u8>,
    next: u64,
    pub started: u64,
    pub messages: u64,
    pub bad: u64,
}

impl Load {
    pub fn new(server: SocketAddr, seed: u64) -> io::Result<Self> {
        Ok(Self {
            server,
            seed,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(1024),
            slots: Vec::new(),
            free: Vec::new(),
            wakes: BinaryHeap::new(),
            scratch: vec![0; 64 << 10],
            next: 0,
            started: 0,
            messages: 0,
            bad: 0,
        })
    }

    pub fn present(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// One pass: whoever has something to do does it, and new clients come until there are `wanted`.
    pub fn pass(&mut self, wanted: usize, ledger: &mut Ledger) -> io::Result<()> {
        let missing = wanted.saturating_sub(self.present());
        let arrivals = ARRIVALS.max(missing / 8);
        for _ in 0..missing.min(arrivals) {
            self.arrive(ledger)?;
        }
        let now = Instant::now();
        let due = self.wakes.peek().map_or(NAP, |Reverse((at, ..))| at.saturating_duration_since(now));
        let nap = if missing > arrivals { Duration::ZERO } else { due.min(NAP) };
        let timeout = Timespec { tv_sec: 0, tv_nsec: nap.subsec_nanos().into() };
        let mut events = std::mem::take(&mut self.events);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let now = Instant::now();
        for event in events.drain(..) {
            let over = epoll::EventFlags::HUP | epoll::EventFlags::ERR | epoll::EventFlags::RDHUP;
            let (slot, flags) = (event.data.u64() as usize, event.flags);
            if flags.intersects(over) {
                if let Some(Some(client)) = self.slots.get_mut(slot) {
                    client.hung_up();
                }
            }
            self.step(slot, now, ledger);
        }
        self.events = events;
        while let Some(Reverse((at, slot, n))) = self.wakes.peek().copied() {
            if at > now {
                break;
            }
            self.wakes.pop();
            let client = self.slots.get_mut(slot).and_then(|slot| slot.as_mut());
            if client.is_some_and(|client| client.n == n && client.wake.is_some_and(|wake| wake <= now)) {
                self.step(slot, now, ledger);
            }
        }
        Ok(())
    }

    fn arrive(&mut self, ledger: &mut Ledger) -> io::Result<()> {
        let n = self.next;
        self.next += 1;
        let script = Script::draw(self.seed, n);
        let behaviour = script.behaviour;
        let client = match Client::start(n, script, address(n), self.server) {
            Ok(client) => client,
            // Somebody else has this port.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(()),
            Err(error) => return Err(error),
        };
        ledger.came(n, behaviour);
        self.started += 1;
        self.bad += u64::from(!behaviour.is_good());
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP;
        let data = epoll::EventData::new_u64(slot as u64);
        epoll::add(&self.epoll, client.fd(), data, flags | epoll::EventFlags::ET)?;
        self.slots[slot] = Some(client);
        self.step(slot, Instant::now(), ledger);
        Ok(())
    }

    fn step(&mut self, slot: usize, now: Instant, ledger: &mut Ledger) {
        let Some(Some(client)) = self.slots.get_mut(slot) else { return };
        let before = client.wake;
        let farewell = client.step(now, &mut self.scratch);
        self.messages += client.take_messages();
        if let Some(farewell) = farewell {
            // The socket goes first: a client is gone when its end is on the wire.
            self.slots[slot] = None;
            self.free.push(slot);
            ledger.left(farewell);
        } else if let (Some(at), n) = (client.wake, client.n) {
            if before != client.wake || at <= now {
                self.wakes.push(Reverse((at, slot, n)));
            }
        }
    }
}

/// Where client number `n` comes from: each has an address and port of its own, so that no report
/// can be taken for that of another.
fn address(n: u64) -> SocketAddr {
    let host = first_host() + (n / PORTS) as u32;
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(host)), (FIRST_PORT + n % PORTS) as u16)
}

/// The number of the client that comes from there.
pub fn number(addr: SocketAddr) -> Option<u64> {
    let IpAddr::V4(host) = addr.ip() else { return None };
    let host = host.to_bits().checked_sub(first_host())?;
    let port = u64::from(addr.port()).checked_sub(FIRST_PORT)?;
    (port < PORTS).then(|| u64::from(host) * PORTS + port)
}

/// Several soaks at a time do not get into each other's way.
fn first_host() -> u32 {
    Ipv4Addr::new(127, 1 + (std::process::id() % 200) as u8, 0, 0).to_bits()
}
