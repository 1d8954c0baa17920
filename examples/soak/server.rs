//! The server under test, a process of its own: it answers the frames of `wire.rs` and tells the
//! other side, a line each, how every connection ended and what its counters say.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use unbroken::{
    Bytes, CloseReport, Config, ConnId, Handle, HandleError, Handler, Net, PerConn, Reactor, Sent, TimerId,
    Via,
};

use crate::wire::{Frame, Kind, Rng, HEADER};

const TICK: Duration = Duration::from_secs(1);

/// How long a shutdown may take. By then nobody should be left.
const DRAIN: Duration = Duration::from_secs(5);

/// Small caps and short times, so that all of them are met.
fn config(clients: usize) -> Config {
    let mut config = Config::default();
    config.send_buffer = Some(128 << 10);
    config.max_write_buffer = 1 << 20;
    config.total_write_buffer = (clients * (16 << 10)).max(8 << 20);
    config.max_read_buffer = 256 << 10;
    config.idle_timeout = Some(Duration::from_secs(6));
    config.half_close_timeout = Some(Duration::from_secs(6));
    config.write_stall = Some(Duration::from_secs(5));
    config.linger_idle = Duration::from_secs(3);
    config.linger_total = Duration::from_secs(8);
    config.linger_bytes = 4 << 20;
    config.backlog = 4096;
    config
}

/// What is known of a connection besides what the engine knows.
#[derive(Default)]
struct Member {
    /// Bytes that sends of its own callbacks took.
    sent: u64,
    /// Bytes that may have been taken besides: from the other thread, and of broadcasts.
    others: u64,
    /// It wants broadcasts.
    joined: bool,
}

struct Server {
    members: PerConn<Member>,
    /// Frames that the other thread is to answer.
    jobs: mpsc::Sender<(ConnId, Bytes)>,
    rng: Rng,
    tick: TimerId,
    burst: TimerId,
    broadcasts: u32,
    /// Bytes that all sends took, those of the other thread not counted.
    taken: u64,
    /// Bytes that the other thread sent too late.
    refused: u64,
    /// Frames that no client sent.
    garbled: u64,
}

/// Runs the server until SIGTERM.
pub fn run(clients: usize, seed: u64) -> io::Result<()> {
    // The terminal's interrupt goes to the other side as well, which then ends us in its own time.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mut reactor = Reactor::new(config(clients))?;
    let handle = reactor.net().handle();
    thread::spawn(move || {
        if signals.forever().any(|signal| signal == SIGTERM) {
            let _ = handle.shutdown(DRAIN);
        }
    });
    let (jobs, queue) = mpsc::channel();
    let posted = Arc::new(AtomicU64::new(0));
    let handle = reactor.net().handle();
    let other_thread = thread::spawn({
        let posted = posted.clone();
        move || answer_from_here(&handle, &queue, &posted)
    });
    let net = reactor.net();
    let listener = net.listen("127.0.0.1:0")?;
    let (tick, burst) = (net.set_timer(TICK), net.set_timer(TICK));
    let addr = net.local_addr(listener).ok_or_else(|| io::Error::other("the listener has no address"))?;
    writeln!(io::stdout(), "listening {addr}")?;
    let mut server = Server {
        members: PerConn::new(),
        jobs,
        rng: Rng::new(seed),
        tick,
        burst,
        broadcasts: 0,
        taken: 0,
        refused: 0,
        garbled: 0,
    };
    reactor.run(&mut server)?;
    let Server { jobs, taken, refused, garbled, members, .. } = server;
    drop(jobs);
    let _ = other_thread.join();
    let taken = taken + posted.load(Ordering::Relaxed) - refused;
    say_stats(reactor.net())?;
    writeln!(io::stdout(), "end taken={taken} garbled={garbled} members={}", members.len())
}

/// The other thread: sends each frame back through the handle.
fn answer_from_here(handle: &Handle, queue: &mpsc::Receiver<(ConnId, Bytes)>, posted: &AtomicU64) {
    for (conn, mut frame) in queue {
        let len = frame.len() as u64;
        loop {
            match handle.send(conn, frame) {
                Ok(()) => {
                    posted.fetch_add(len, Ordering::Relaxed);
                    break;
                }
                Err(HandleError::Full(again)) => {
                    frame = again;
                    thread::sleep(Duration::from_millis(1));
                }
                Err(_) => break,
            }
        }
    }
}

fn say_stats(net: &Net) -> io::Result<()> {
    let stats = net.stats();
    let counters: [(&str, u64); 12] = [
        ("accepted", stats.accepted),
        ("opened", stats.opened),
        ("closed", stats.closed),
        ("connections", stats.connections as u64),
        ("queued", stats.queued as u64),
        ("queued_peak", stats.queued_peak as u64),
        ("bytes_in", stats.bytes_in),
        ("bytes_out", stats.bytes_out),
        ("partial_writes", stats.partial_writes),
        ("overflows", stats.overflows),
        ("accept_pauses", stats.accept_pauses),
        ("longest_turn_us", stats.longest_turn.as_micros() as u64),
    ];
    let fields: Vec<_> = counters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    writeln!(io::stdout(), "stats {}", fields.join(" "))
}

impl Server {
    /// Sends, and keeps the books.
    fn send(&mut self, net: &mut Net, conn: ConnId, data: Bytes) -> bool {
        let len = data.len() as u64;
        let sent = net.send_bytes(conn, data);
        if sent.is_ok() {
            self.taken += len;
            if let Some(member) = self.members.get_mut(conn) {
                member.sent += len;
            }
        }
        sent == Ok(Sent::Congested)
    }

    /// Carries out one frame; `whole` is all of it. Returns whether the queue is full.
    fn carry_out(&mut self, net: &mut Net, conn: ConnId, frame: Frame, whole: &[u8]) -> bool {
        match frame.kind {
            Kind::Echo => self.send(net, conn, Bytes::copy_from_slice(whole)),
            Kind::Push | Kind::Heedless => {
                let full = self.send(net, conn, Bytes::copy_from_slice(whole));
                let full = self.send(net, conn, frame.payload()) || full;
                full && frame.kind == Kind::Push
            }
            Kind::Remote => {
                if let Some(member) = self.members.get_mut(conn) {
                    member.others += whole.len() as u64;
                }
                let _ = self.jobs.send((conn, Bytes::copy_from_slice(whole)));
                false
            }
            Kind::Join => {
                self.members[conn].joined = true;
                false
            }
            Kind::Close => {
                net.close(conn);
                true
            }
            Kind::Sink => false,
            Kind::Broadcast => {
                self.garbled += 1;
                false
            }
        }
    }

    /// A few messages to everybody who wants them.
    fn broadcast(&mut self, net: &mut Net) {
        for _ in 0..self.rng.between(1, 5) {
            let frame = Frame {
                kind: Kind::Broadcast,
                len: self.rng.between(0, 8000) as usize,
                tag: self.broadcasts,
            };
            self.broadcasts = self.broadcasts.wrapping_add(1);
            let message: Bytes = [&frame.header()[..], &frame.payload()].concat().into();
            let len = message.len() as u64;
            for member in self.members.values_mut().filter(|member| member.joined) {
                member.others += len;
            }
            let room = self.members.iter().filter(|(_, member)| member.joined);
            let outcome = net.broadcast(room.map(|(conn, _)| conn), message);
            self.taken += len * outcome.queued as u64;
        }
    }
}

impl Handler for Server {
    fn on_open(&mut self, _: &mut Net, conn: ConnId, _: Via) {
        self.members.insert(conn, Member::default());
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let mut rest = data;
        while let Some(header) = rest.first_chunk::<HEADER>() {
            let Some(frame) = Frame::parse(*header) else {
                self.garbled += 1;
                return data.len();
            };
            let length = HEADER + frame.asked();
            let Some(whole) = rest.get(..length) else {
                // Whoever asks for more than is kept ends as `input_overflow` when so much has come.
                let _ = net.want(conn, length);
                break;
            };
            rest = &rest[whole.len()..];
            // What a client asks for must not pile up here: the rest is shown again when there is room.
            if self.carry_out(net, conn, frame, whole) {
                break;
            }
        }
        data.len() - rest.len()
    }

    fn on_timer(&mut self, net: &mut Net, timer: TimerId) {
        if timer == self.tick {
            self.tick = net.set_timer(TICK);
            if say_stats(net).is_err() {
                // Nobody listens any more.
                net.shutdown(Duration::ZERO);
            }
        } else if timer == self.burst {
            self.burst = net.set_timer(Duration::from_millis(self.rng.between(100, 1000)));
            self.broadcast(net);
        }
    }

    fn on_refused(&mut self, _: &mut Net, _: ConnId, data: Bytes) {
        self.refused += data.len() as u64;
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        let member = self.members.remove(conn).unwrap_or_default();
        let peer = net.peer_addr(conn).map_or("?".to_owned(), |peer| peer.to_string());
        let said = writeln!(
            io::stdout(),
            "closed {peer} {} {} {} {} {} {} {} {} {} {}",
            report.reason.name(),
            u8::from(report.reason.is_clean()),
            report.errno.unwrap_or(0),
            u8::from(report.saw_fin),
            report.received,
            report.handed,
            report.unsent,
            report.unacked.map_or("?".to_owned(), |unacked| unacked.to_string()),
            member.sent,
            member.others,
        );
        if said.is_err() {
            net.shutdown(Duration::ZERO);
        }
    }
}
