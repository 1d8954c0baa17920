//! The state machine against a scripted socket, in made-up time.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::close::{CloseReason, Timeout};

/// What a call of the socket answers.
#[derive(Clone, Debug)]
enum Answer {
    /// This many bytes, or as many as there is room for.
    Bytes(usize),
    Eof,
    Error(i32),
}

const EAGAIN: Answer = Answer::Error(libc::EAGAIN);
const EINTR: Answer = Answer::Error(libc::EINTR);

/// A socket that answers by a script: EAGAIN when it has run out.
#[derive(Default)]
struct Script {
    reads: VecDeque<Answer>,
    writes: VecDeque<Answer>,
    written: Vec<u8>,
    calls: usize,
    pending_error: Option<i32>,
    unacknowledged: Option<u64>,
    shutdowns: usize,
    shutdown_fails: bool,
    reset: bool,
}

fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl Transport for Script {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // E11: a read into nothing would look like the end of the stream.
        assert!(!buf.is_empty());
        match self.reads.pop_front().unwrap_or(EAGAIN) {
            Answer::Bytes(count) => Ok(count.min(buf.len())),
            Answer::Eof => Ok(0),
            Answer::Error(errno) => Err(error(errno)),
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.calls += 1;
        let offered: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        assert!(!offered.is_empty(), "an empty write says nothing and may cost an error");
        assert_eq!(self.shutdowns, 0, "a write after the end of our stream");
        match self.writes.pop_front().unwrap_or(EAGAIN) {
            Answer::Bytes(count) => {
                let count = count.min(offered.len());
                self.written.extend(&offered[..count]);
                Ok(count)
            }
            Answer::Eof => Ok(0),
            Answer::Error(errno) => Err(error(errno)),
        }
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shutdowns += 1;
        match self.shutdown_fails {
            true => Err(error(libc::ENOTCONN)),
            false => Ok(()),
        }
    }

    fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        Ok(self.pending_error.take().map(error))
    }

    fn unacknowledged(&self) -> Option<u64> {
        self.unacknowledged
    }

    fn short_read_empties(&self) -> bool {
        true
    }

    fn reset_on_close(&mut self) {
        self.reset = true;
    }
}

/// A connection, its script, and what stands around it.
struct World {
    conn: Connection,
    socket: Script,
    config: Config,
    pool: BufferPool,
    stats: Stats,
    now: Time,
    scratch: Vec<u8>,
    /// Bytes shown to the handler.
    shown: usize,
    eofs: usize,
    drains: usize,
    taken: u64,
}

fn world() -> World {
    let now = Time::default();
    World {
        conn: Connection::new(State::Open, Via::Connect, None, now),
        socket: Script { unacknowledged: Some(0), ..Script::default() },
        config: Config::default(),
        pool: BufferPool::default(),
        stats: Stats::default(),
        now,
        scratch: vec![0; 1000],
        shown: 0,
        eofs: 0,
        drains: 0,
        taken: 0,
    }
}

fn bytes(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|i| (i % 251) as u8).collect()
}

impl World {
    fn step<R>(&mut self, step: impl FnOnce(&mut Connection, &mut Script, &mut Context<'_>) -> R) -> R {
        let mut cx =
            Context { now: self.now, config: &self.config, pool: &mut self.pool, stats: &mut self.stats };
        let result = step(&mut self.conn, &mut self.socket, &mut cx);
        self.check();
        result
    }

    /// What must hold after every step.
    fn check(&self) {
        let report = self.conn.report(self.now);
        let queued = self.conn.queued() as u64;
        assert_eq!(report.handed + report.unsent + queued, self.taken, "every byte is in one place");
        assert_eq!(report.handed, self.socket.written.len() as u64);
        assert_eq!(self.socket.written, bytes(0, self.socket.written.len()), "in order");
        assert!(self.socket.shutdowns <= 1);
        if self.conn.is_dead() {
            assert_eq!(queued, 0);
            assert!(!self.conn.has_work(&self.config));
            assert_eq!(self.conn.deadline(self.now, &self.config), Time::NEVER);
            let lost = report.unsent > 0 || report.unacked.is_some_and(|unacked| unacked > 0);
            assert!(!(lost && report.reason.is_clean()), "a loss is never clean: {report}");
            assert!(
                !(report.errno.is_some() && report.reason.is_clean()),
                "an error is never clean: {report}"
            );
            let panicked = report.reason == CloseReason::HandlerPanic;
            assert!(!lost || panicked || self.socket.reset, "a cut stream ends in a reset: {report}");
        }
    }

    fn send(&mut self, len: usize) -> Sent {
        let data = bytes(self.taken as usize, len);
        self.taken += len as u64;
        // The books are only right when the push is done.
        let mut cx =
            Context { now: self.now, config: &self.config, pool: &mut self.pool, stats: &mut self.stats };
        let sent = self.conn.push(Data::Slice(&data), &mut self.socket, &mut cx);
        self.check();
        sent
    }

    fn hint(&mut self, hints: Hints) {
        self.conn.on_readiness(hints);
    }

    /// What a reactor does with a connection in one turn, with a handler that uses all it is
    /// shown and closes at the peer's end of stream.
    fn turn(&mut self) {
        self.step(|conn, socket, cx| conn.check_error(socket, cx));
        let mut scratch = std::mem::take(&mut self.scratch);
        for _ in 0..100 {
            let may_read = self.conn.may_read(&self.config);
            if !may_read {
                break;
            }
            match self.step(|conn, socket, cx| conn.receive(socket, &mut scratch, cx)) {
                Received::Data(count) => self.shown += count,
                Received::Eof => {
                    self.eofs += 1;
                    self.step(|conn, socket, cx| conn.close(socket, cx));
                }
                Received::Nothing(_) => {}
            }
        }
        self.scratch = scratch;
        let drained = self.step(|conn, socket, cx| {
            conn.flush(socket, cx);
            conn.advance(socket, cx);
            conn.take_drain()
        });
        self.drains += usize::from(drained);
    }

    fn readable(&mut self, reads: impl IntoIterator<Item = Answer>) {
        self.socket.reads.extend(reads);
        self.hint(Hints { readable: true, more: true, ..Hints::default() });
        self.turn();
    }

    fn writable(&mut self, writes: impl IntoIterator<Item = Answer>) {
        self.socket.writes.extend(writes);
        self.hint(Hints { writable: true, ..Hints::default() });
        self.turn();
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        self.step(|conn, socket, cx| conn.expire(socket, cx));
    }

    fn close(&mut self) {
        self.step(|conn, socket, cx| conn.close(socket, cx));
        self.turn();
    }

    fn report(&self) -> CloseReport {
        assert!(self.conn.is_dead(), "{:?}", self.conn.state());
        self.conn.report(self.now)
    }

    fn reason(&self) -> CloseReason {
        self.report().reason
    }
}

const SECOND: Duration = Duration::from_secs(1);

// P7, P8: at every k-th call something comes between; the output is the same.
#[test]
fn no_interruption_of_a_write_changes_what_is_written() {
    for k in 2..=8 {
        for between in [EAGAIN, EINTR, Answer::Bytes(1), Answer::Bytes(3)] {
            let mut world = world();
            for len in [1, 0, 500, 70, 1] {
                let _ = world.send(len);
            }
            let mut turns = 0;
            while world.conn.queued() > 0 {
                let answers = (1..=10).map(|call| match call % k {
                    0 => between.clone(),
                    _ => Answer::Bytes(97),
                });
                world.socket.writes.clear();
                world.writable(answers);
                turns += 1;
                assert!(turns < 1000, "it does not get on");
            }
            assert_eq!(world.socket.written, bytes(0, 572));
        }
    }
}

// P8
#[test]
fn a_short_write_is_followed_by_another_until_the_kernel_takes_no_more() {
    let mut world = world();
    let _ = world.send(1000);
    world.writable([Answer::Bytes(10), Answer::Bytes(20), Answer::Bytes(30)]);
    assert_eq!((world.socket.written.len(), world.socket.calls), (60, 4));
    assert_eq!(world.stats.partial_writes, 3);
    // Nothing is tried before the kernel says that there is room.
    world.turn();
    assert_eq!(world.socket.calls, 4);
    assert!(!world.conn.has_work(&world.config));
    world.writable([Answer::Bytes(2000)]);
    assert_eq!((world.socket.written.len(), world.stats.resumed_writes), (1000, 1));
}

#[test]
fn sixteen_small_sends_are_one_call() {
    let mut world = world();
    for _ in 0..16 {
        let _ = world.send(64);
    }
    world.writable([Answer::Bytes(1 << 20)]);
    assert_eq!((world.socket.calls, world.socket.written.len()), (1, 1024));
}

#[test]
fn a_write_that_writes_nothing_is_an_error_and_not_tried_for_ever() {
    let mut world = world();
    let _ = world.send(10);
    world.writable([Answer::Eof]);
    world.turn();
    assert_eq!((world.reason(), world.report().unsent), (CloseReason::Io, 10));
}

#[test]
fn a_large_slice_leaves_at_once_and_its_rest_is_queued() {
    let mut world = world();
    world.socket.writes.extend([Answer::Bytes(20_000), Answer::Bytes(5)]);
    assert_eq!(world.send(40_000), Sent::Queued);
    assert_eq!((world.socket.written.len(), world.conn.queued()), (20_005, 19_995));
    // What comes behind it waits its turn, and the stall is watched.
    let _ = world.send(20_000);
    world.turn();
    assert_eq!(world.socket.calls, 3);
    world.socket.unacknowledged = Some(20_005);
    for _ in 0..12 {
        world.pass(10 * SECOND);
    }
    assert_eq!(world.reason(), CloseReason::TimedOut(Timeout::WriteStall));
}

// R3 and fact 1: the write is told first, the read hears of an end only.
#[test]
fn what_was_sent_before_a_reset_is_delivered_though_the_write_met_it_first() {
    let mut world = world();
    let _ = world.send(100);
    world.socket.reads.extend([Answer::Bytes(900), Answer::Bytes(1000), Answer::Bytes(5), Answer::Eof]);
    world.writable([Answer::Error(libc::ECONNRESET)]);
    assert_eq!(world.conn.check_sendable(), Err(SendError::Closed));
    world.turn();
    let report = world.report();
    assert_eq!((report.reason, report.errno), (CloseReason::Reset, Some(libc::ECONNRESET)));
    assert_eq!((world.shown, world.eofs, report.received), (1905, 0, 1905));
    assert_eq!((report.saw_fin, report.unsent), (false, 100));
}

// The same, with the error at every call of a write that takes several.
#[test]
fn the_account_is_exact_wherever_the_pipe_breaks() {
    for errno in [libc::EPIPE, libc::ECONNRESET, libc::ETIMEDOUT, libc::EHOSTUNREACH] {
        for before in 0..5 {
            let mut world = world();
            let _ = world.send(700);
            world.socket.unacknowledged = Some(100 * before);
            let mut writes = vec![Answer::Bytes(100); before as usize];
            writes.push(Answer::Error(errno));
            world.socket.reads.extend([Answer::Bytes(7), Answer::Eof]);
            world.writable(writes);
            world.turn();
            let report = world.report();
            assert_eq!(report.errno, Some(errno));
            assert_eq!((report.handed, report.unsent), (100 * before, 700 - 100 * before));
            assert_eq!((report.unacked, report.received), (Some(100 * before), 7));
            assert_eq!((world.eofs, world.drains), (0, 0));
            assert_eq!(report.saw_fin, errno == libc::EPIPE);
        }
    }
}

// B6
#[test]
fn input_before_a_reset_waits_for_a_paused_handler() {
    let mut world = world();
    world.conn.pause_reading();
    world.socket.reads.extend([Answer::Bytes(1000), Answer::Error(libc::ECONNRESET)]);
    world.hint(Hints { readable: true, writable: true, error: true, more: true });
    world.turn();
    assert_eq!((world.shown, world.conn.state()), (0, State::Open));
    let _ = world.send(10);
    world.writable([Answer::Error(libc::EPIPE)]);
    assert!(!world.conn.is_dead());
    world.conn.resume_reading();
    world.turn();
    assert_eq!((world.shown, world.reason()), (1000, CloseReason::Reset));
}

// R5, fact 3
#[test]
fn a_reset_after_the_peers_end_is_asked_for() {
    let mut world = world();
    world.socket.reads.extend([Answer::Eof]);
    world.hint(Hints { readable: true, ..Hints::default() });
    let mut scratch = [0; 10];
    assert_eq!(world.step(|conn, socket, cx| conn.receive(socket, &mut scratch, cx)), Received::Eof);
    assert_eq!(world.conn.state(), State::HalfClosedRemote);
    world.socket.pending_error = Some(libc::EPIPE);
    world.hint(Hints { readable: true, writable: true, error: true, more: true });
    assert!(world.conn.has_work(&world.config));
    world.turn();
    let report = world.report();
    assert_eq!((report.reason, report.errno), (CloseReason::ResetAfterFin, Some(libc::EPIPE)));
    assert!(report.saw_fin);
}

#[test]
fn an_end_of_stream_with_an_error_behind_it_is_not_clean() {
    let mut world = world();
    let _ = world.send(5);
    world.writable([Answer::Bytes(5)]);
    world.socket.unacknowledged = Some(5);
    world.socket.pending_error = Some(libc::EPIPE);
    world.hint(Hints { error: true, ..Hints::default() });
    world.readable([Answer::Eof]);
    assert_eq!((world.reason(), world.eofs), (CloseReason::BrokenPipe, 0));
    assert_eq!(world.report().unacked, Some(5));
}

// R12: what a Unix-domain socket keeps for the read says more.
#[test]
fn a_reset_that_the_read_tells_outranks_the_broken_pipe_of_the_write() {
    let mut world = world();
    let _ = world.send(5);
    world.socket.reads.extend([Answer::Bytes(3), Answer::Error(libc::ECONNRESET)]);
    world.writable([Answer::Error(libc::EPIPE)]);
    world.turn();
    assert_eq!((world.reason(), world.shown), (CloseReason::Reset, 3));
}

// C28: a peer that shut its reading down, and goes on sending for ever.
#[test]
fn after_a_broken_write_reading_ends_in_bounded_time() {
    let mut world = world();
    world.config.linger_bytes = 5000;
    let _ = world.send(5);
    world.socket.reads.extend(vec![Answer::Bytes(1000); 100]);
    world.writable([Answer::Error(libc::EPIPE)]);
    world.hint(Hints { readable: true, more: true, ..Hints::default() });
    world.turn();
    assert_eq!(world.reason(), CloseReason::BrokenPipe);
    assert!(world.shown <= 6000);
}

#[test]
fn a_close_flushes_ends_the_stream_drains_and_waits_for_the_last_acknowledgement() {
    let mut world = world();
    let _ = world.send(50);
    world.close();
    assert_eq!((world.conn.state(), world.socket.shutdowns), (State::Flushing, 0));
    assert_eq!(world.conn.check_sendable(), Err(SendError::Closed));
    world.socket.unacknowledged = Some(51);
    world.writable([Answer::Bytes(30), Answer::Bytes(20)]);
    assert_eq!((world.conn.state(), world.socket.shutdowns), (State::Lingering, 1));
    world.readable([Answer::Bytes(1000), Answer::Bytes(10)]);
    assert_eq!((world.shown, world.conn.state()), (0, State::Lingering));
    world.readable([Answer::Eof]);
    assert_eq!((world.eofs, world.conn.state()), (0, State::Lingering));
    let soon = world.conn.deadline(world.now, &world.config).since(world.now);
    assert!(soon <= Duration::from_millis(10));
    world.pass(soon);
    assert!(!world.conn.is_dead());
    // Only our end of stream is left: it does not count.
    world.socket.unacknowledged = Some(1);
    world.pass(Duration::from_millis(10));
    let report = world.report();
    assert_eq!((report.reason, report.unacked), (CloseReason::Finished, Some(0)));
    assert_eq!((report.received, world.socket.reset), (1010, false));
}

#[test]
fn who_ended_first_decides_between_finished_and_peer_closed() {
    let mut first = world();
    first.step(|conn, _, cx| conn.close_write(cx));
    first.turn();
    assert_eq!(first.conn.state(), State::HalfClosedLocal);
    assert_eq!(first.conn.check_sendable(), Err(SendError::WriteClosed));
    first.readable([Answer::Bytes(3), Answer::Eof]);
    assert_eq!((first.shown, first.eofs, first.reason()), (3, 1, CloseReason::Finished));

    let mut second = world();
    second.readable([Answer::Bytes(3), Answer::Eof]);
    assert_eq!((second.eofs, second.reason()), (1, CloseReason::PeerClosed));
}

#[test]
fn a_shutdown_that_comes_after_a_reset_finds_the_reset() {
    let mut world = world();
    world.socket.shutdown_fails = true;
    world.socket.reads.extend([Answer::Error(libc::ECONNRESET)]);
    world.close();
    world.turn();
    assert_eq!(world.reason(), CloseReason::Reset);
}

// L4, L5, L6
#[test]
fn a_close_ends_at_each_of_its_caps() {
    let linger = CloseReason::TimedOut(Timeout::Linger);
    let mut silent = world();
    silent.close();
    assert_eq!(silent.conn.deadline(silent.now, &silent.config), silent.now.plus(5 * SECOND));
    silent.pass(4 * SECOND);
    assert!(!silent.conn.is_dead());
    silent.pass(SECOND);
    assert_eq!(silent.reason(), linger);
    assert!(!silent.socket.reset, "nothing was lost");

    let mut trickling = world();
    trickling.close();
    for second in 1..=30 {
        assert!(!trickling.conn.is_dead(), "at {second}");
        trickling.readable([Answer::Bytes(1)]);
        trickling.pass(SECOND);
    }
    assert_eq!((trickling.reason(), trickling.report().received), (linger, 30));

    let mut flooding = world();
    flooding.config.linger_bytes = 10_000;
    flooding.close();
    flooding.readable(vec![Answer::Bytes(1000); 20]);
    assert_eq!((flooding.reason(), flooding.report().received), (linger, 11_000));
}

#[test]
fn a_close_that_the_peer_does_not_take_is_cut_with_a_reset_and_an_account() {
    let mut world = world();
    let _ = world.send(100);
    world.socket.unacknowledged = Some(40);
    world.socket.writes.extend([Answer::Bytes(40)]);
    world.close();
    for _ in 0..5 {
        world.pass(SECOND);
    }
    let report = world.report();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::Linger));
    assert_eq!((report.handed, report.unsent, report.unacked), (40, 60, Some(40)));
    assert!(world.socket.reset);
}

// M6, D6: what our kernel accepts is no progress, what the peer acknowledges is.
#[test]
fn a_stall_is_measured_by_acknowledgements() {
    let mut world = world();
    world.config.write_stall = Some(8 * SECOND);
    let _ = world.send(1000);
    world.socket.unacknowledged = Some(100);
    world.writable([Answer::Bytes(100)]);
    for second in 1..=20 {
        // Taken and acknowledged, a byte a second.
        world.writable([Answer::Bytes(1)]);
        world.pass(SECOND);
        assert!(!world.conn.is_dead(), "at {second}");
    }
    for second in 1..=8 {
        assert!(!world.conn.is_dead(), "at {second}");
        // Taken and not acknowledged.
        world.socket.unacknowledged = world.socket.unacknowledged.map(|unacked| unacked + 1);
        world.writable([Answer::Bytes(1)]);
        world.pass(SECOND);
    }
    assert_eq!(world.reason(), CloseReason::TimedOut(Timeout::WriteStall));
    assert!(world.socket.reset);
}

#[test]
fn where_acknowledgements_cannot_be_asked_for_accepted_bytes_count() {
    let mut world = world();
    world.socket.unacknowledged = None;
    world.config.write_stall = Some(8 * SECOND);
    let _ = world.send(1000);
    world.turn();
    for second in 1..=20 {
        world.writable([Answer::Bytes(1)]);
        world.pass(SECOND);
        assert!(!world.conn.is_dead(), "at {second}");
    }
    for _ in 0..8 {
        world.pass(SECOND);
    }
    assert_eq!(world.reason(), CloseReason::TimedOut(Timeout::WriteStall));
    assert_eq!(world.report().unacked, None);
}

#[test]
fn stalled_connections_share_their_wake_ups() {
    let mut deadlines = Vec::new();
    for millis in [0, 500, 1000, 7000] {
        let mut world = world();
        world.now = world.now.plus(Duration::from_millis(millis));
        let _ = world.send(1000);
        world.turn();
        deadlines.push(world.conn.deadline(world.now, &world.config));
    }
    deadlines.dedup();
    assert_eq!(deadlines.len(), 1, "{deadlines:?}");
}

#[test]
fn silence_ends_an_open_connection_only_when_so_configured() {
    let mut world = world();
    assert_eq!(world.conn.deadline(world.now, &world.config), Time::NEVER);
    world.config.idle_timeout = Some(10 * SECOND);
    world.pass(9 * SECOND);
    world.readable([Answer::Bytes(1)]);
    world.pass(9 * SECOND);
    assert!(!world.conn.is_dead());
    world.pass(SECOND);
    assert_eq!(world.reason(), CloseReason::TimedOut(Timeout::Idle));
    assert!(!world.socket.reset);
}

#[test]
fn half_a_connection_is_not_held_for_ever() {
    let mut world = world();
    world.step(|conn, _, cx| conn.close_write(cx));
    world.turn();
    world.pass(299 * SECOND);
    world.readable([Answer::Bytes(1)]);
    world.pass(299 * SECOND);
    assert!(!world.conn.is_dead());
    world.pass(SECOND);
    assert_eq!(world.reason(), CloseReason::TimedOut(Timeout::Idle));
}

// B3
#[test]
fn a_dip_below_the_soft_limit_resets_its_clock() {
    let mut world = world();
    world.config.soft_limit = Some(crate::SoftLimit { bytes: 100, duration: 2 * SECOND });
    let _ = world.send(150);
    world.turn();
    world.pass(SECOND);
    world.writable([Answer::Bytes(60)]);
    let _ = world.send(60);
    world.pass(SECOND);
    assert!(!world.conn.is_dead());
    world.pass(SECOND);
    assert_eq!(world.reason(), CloseReason::SlowConsumer);
}

#[test]
fn a_drain_comes_once_for_each_crossing() {
    let mut world = world();
    world.config.high_water = 100;
    world.config.low_water = 20;
    for round in 1..=3 {
        assert_eq!(world.send(99), Sent::Queued);
        assert_eq!(world.send(1), Sent::Congested);
        assert_eq!(world.send(1), Sent::Congested);
        world.writable([Answer::Bytes(60), Answer::Bytes(20)]);
        assert_eq!(world.drains, round - 1, "not before low water");
        world.writable([Answer::Bytes(1)]);
        assert_eq!(world.drains, round);
        world.writable([Answer::Bytes(20)]);
        assert_eq!(world.drains, round);
    }
}

#[test]
fn who_is_not_written_to_is_not_read_from_except_once_after_each_drain() {
    let mut world = world();
    world.config.high_water = 100;
    world.config.low_water = 20;
    let _ = world.send(100);
    world.readable(vec![Answer::Bytes(1000); 9]);
    assert_eq!(world.shown, 0);
    for round in 1..=3 {
        world.writable([Answer::Bytes(100)]);
        assert_eq!(world.drains, round);
        // The handler fills the queue again at once: the peer is heard all the same.
        let _ = world.send(100);
        world.turn();
        assert_eq!(world.shown, 1000 * round);
    }
}

#[test]
fn unused_input_beyond_its_limit_ends_the_connection_unless_the_handler_waits() {
    let keep = |world: &mut World, len: usize| {
        let mut input = ReadBuffer::default();
        input.append(&vec![0; len]);
        world.step(|conn, socket, cx| conn.keep_input(input, socket, cx));
    };
    let mut full = world();
    full.config.max_read_buffer = 10;
    keep(&mut full, 10);
    assert!(!full.conn.is_dead());
    keep(&mut full, 11);
    assert_eq!(full.reason(), CloseReason::InputOverflow);

    let mut paused = world();
    paused.config.max_read_buffer = 10;
    paused.conn.pause_reading();
    keep(&mut paused, 11);
    assert!(paused.conn.take_shown_again().is_none());
    paused.conn.resume_reading();
    assert_eq!(paused.conn.take_shown_again().map(|input| input.len()), Some(11));
}

#[test]
fn a_connection_under_way_queues_and_fails_with_an_account() {
    let mut world = world();
    world.conn = Connection::new(State::Connecting, Via::Connect, None, world.now);
    let _ = world.send(30_000);
    world.turn();
    assert_eq!((world.socket.calls, world.conn.queued()), (0, 30_000));
    world.step(|conn, socket, cx| conn.fail(&error(libc::ECONNREFUSED), socket, cx));
    let report = world.report();
    assert_eq!((report.reason, report.errno), (CloseReason::ConnectFailed, Some(libc::ECONNREFUSED)));
    assert_eq!((report.unsent, report.unacked), (30_000, Some(0)));
}

#[test]
fn a_connection_takes_only_so_long_to_be_established() {
    let mut world = world();
    world.conn = Connection::new(State::Connecting, Via::Connect, None, world.now);
    world.pass(9 * SECOND);
    assert!(!world.conn.is_dead());
    world.pass(SECOND);
    assert_eq!(world.reason(), CloseReason::TimedOut(Timeout::Connect));
}

#[test]
fn a_close_while_connecting_still_delivers_what_is_queued() {
    let mut sent = world();
    sent.conn = Connection::new(State::Connecting, Via::Connect, None, sent.now);
    let _ = sent.send(10);
    sent.close();
    assert_eq!(sent.conn.check_sendable(), Err(SendError::Closed));
    let told = sent.step(|conn, socket, cx| conn.opened(socket, None, cx));
    assert!(!told, "the handler closed it and hears of nothing but the end");
    sent.writable([Answer::Bytes(10)]);
    sent.readable([Answer::Eof]);
    assert_eq!((sent.reason(), sent.report().handed), (CloseReason::Finished, 10));

    let mut nothing = world();
    nothing.conn = Connection::new(State::Connecting, Via::Connect, None, nothing.now);
    nothing.close();
    assert_eq!(nothing.reason(), CloseReason::Aborted);
}

#[test]
fn an_abort_is_a_reset_with_an_account_and_a_panic_is_told_as_such() {
    for (reason, first_error) in
        [(CloseReason::Aborted, None), (CloseReason::HandlerPanic, Some(libc::EPIPE))]
    {
        let mut world = world();
        let _ = world.send(10);
        world.conn.errno = first_error.unwrap_or(0);
        world.step(|conn, socket, cx| conn.die(reason, socket, cx));
        assert_eq!((world.reason(), world.report().unsent), (reason, 10));
        assert_eq!((world.report().errno, world.socket.reset), (first_error, true));
    }
}

#[test]
fn an_error_that_came_first_stays_the_reason() {
    let mut world = world();
    let _ = world.send(10);
    world.writable([Answer::Error(libc::EPIPE)]);
    world.step(|conn, socket, cx| conn.die(CloseReason::Aborted, socket, cx));
    assert_eq!(world.reason(), CloseReason::BrokenPipe);
}

fn answers(errors: &'static [i32]) -> impl Strategy<Value = Answer> {
    prop_oneof![
        8 => (1usize..900).prop_map(Answer::Bytes),
        2 => Just(EAGAIN),
        1 => Just(EINTR),
        1 => proptest::sample::select(errors).prop_map(Answer::Error),
    ]
}

#[derive(Clone, Debug)]
enum Op {
    Send(usize),
    Read(Vec<Answer>),
    Write(Vec<Answer>),
    Pause,
    Resume,
    Close,
    CloseWrite,
    Abort,
    Pass(u64),
    Acknowledge(u64),
}

fn ops() -> impl Strategy<Value = Op> {
    let reads = prop_oneof![9 => answers(&[libc::ECONNRESET, libc::ETIMEDOUT]), 1 => Just(Answer::Eof)];
    prop_oneof![
        6 => (0usize..40_000).prop_map(Op::Send),
        4 => proptest::collection::vec(reads, 0..4).prop_map(Op::Read),
        6 => proptest::collection::vec(answers(&[libc::EPIPE, libc::ECONNRESET]), 0..6).prop_map(Op::Write),
        1 => Just(Op::Pause),
        2 => Just(Op::Resume),
        1 => Just(Op::Close),
        1 => Just(Op::CloseWrite),
        1 => Just(Op::Abort),
        2 => (0u64..20_000).prop_map(Op::Pass),
        2 => (0u64..40_000).prop_map(Op::Acknowledge),
    ]
}

proptest! {
    // The invariants of `World::check` hold after every step of every history, and every
    // history comes to an end once the connection is closed and time passes.
    #[test]
    fn no_history_loses_track_of_a_byte(history in proptest::collection::vec(ops(), 1..60)) {
        let mut world = world();
        world.socket.unacknowledged = Some(0);
        for op in history {
            match op {
                Op::Send(len) => {
                    if world.conn.check_sendable().is_ok() {
                        let _ = world.send(len);
                    }
                }
                Op::Read(answers) => world.readable(answers),
                Op::Write(answers) => world.writable(answers),
                Op::Pause => world.conn.pause_reading(),
                Op::Resume => world.conn.resume_reading(),
                Op::Close => world.close(),
                Op::CloseWrite => world.step(|conn, _, cx| conn.close_write(cx)),
                Op::Abort => world.step(|conn, socket, cx| conn.die(CloseReason::Aborted, socket, cx)),
                Op::Pass(millis) => world.pass(Duration::from_millis(millis)),
                Op::Acknowledge(left) => {
                    let fin = world.socket.shutdowns as u64;
                    world.socket.unacknowledged = Some(left.min(world.socket.written.len() as u64 + fin));
                }
            }
            world.turn();
        }
        world.conn.resume_reading();
        world.close();
        for _ in 0..7 {
            world.turn();
            world.pass(5 * SECOND);
        }
        prop_assert!(world.conn.is_dead(), "{:?}", world.conn);
    }

    #[test]
    fn shared_and_copied_sends_keep_their_order(
        sends in proptest::collection::vec((any::<bool>(), 0usize..3000), 1..20),
        writes in proptest::collection::vec(1usize..5000, 1..50),
    ) {
        let mut world = world();
        for (shared, len) in sends {
            if shared {
                let data = Bytes::from(bytes(world.taken as usize, len));
                world.taken += len as u64;
                let _ = world.step(|conn, socket, cx| conn.push(Data::Shared(data), socket, cx));
            } else {
                let _ = world.send(len);
            }
        }
        world.writable(writes.into_iter().map(Answer::Bytes));
        world.writable([Answer::Bytes(usize::MAX), Answer::Bytes(usize::MAX)]);
        prop_assert_eq!(world.socket.written.len() as u64, world.taken);
    }
}
