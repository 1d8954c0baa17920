//! What is counted, and where the limits lie to the byte.

use super::*;
use crate::settings::SoftLimit;

#[test]
fn every_call_is_counted_for_what_it_was() {
    let mut world = world();
    world.readable([Answer::Bytes(1000), Answer::Bytes(10), EINTR]);
    let stats = &world.stats;
    assert_eq!((stats.reads, stats.bytes_in, stats.read_eagains), (2, 1010, 1));
    let _ = world.send(100);
    world.writable([Answer::Bytes(40), EAGAIN]);
    world.writable([EAGAIN]);
    world.writable([EINTR, Answer::Bytes(60)]);
    let stats = &world.stats;
    assert_eq!((stats.writes, stats.bytes_out), (2, 100));
    assert_eq!((stats.partial_writes, stats.write_eagains, stats.resumed_writes), (1, 2, 1));
    world.readable([Answer::Eof]);
    assert_eq!((world.stats.reads, world.stats.bytes_in), (3, 1010));
}

#[test]
fn a_short_read_is_the_last_and_a_full_one_is_not() {
    let mut world = world();
    world.hint(Hints { readable: true, ..Hints::default() });
    let mut scratch = [0; 100];
    world.socket.reads.extend([Answer::Bytes(100), Answer::Bytes(99)]);
    let received = world.step(|conn, socket, cx| conn.receive(socket, &mut scratch, cx));
    assert_eq!((received, world.conn.may_read(&world.config.settings())), (Received::Data(100), true));
    let received = world.step(|conn, socket, cx| conn.receive(socket, &mut scratch, cx));
    assert_eq!((received, world.conn.may_read(&world.config.settings())), (Received::Data(99), false));
}

#[test]
fn a_flush_ends_with_its_budget() {
    let mut world = world();
    world.config.write_budget = 10;
    let _ = world.send(100);
    world.writable(vec![Answer::Bytes(10); 10]);
    assert_eq!((world.socket.written.len(), world.socket.calls), (10, 1));
    assert!(world.conn.has_work(&world.config.settings()), "the next turn goes on");
}

#[test]
fn a_large_slice_that_the_kernel_takes_whole_is_one_call() {
    let mut world = world();
    world.socket.writes.extend([Answer::Bytes(usize::MAX)]);
    assert_eq!(world.send(40_000), Sent::Queued);
    assert_eq!((world.socket.calls, world.conn.queued()), (1, 0));
}

#[test]
fn a_queue_that_was_never_congested_has_no_drain() {
    let mut world = world();
    let _ = world.send(100);
    world.writable([Answer::Bytes(100)]);
    assert_eq!((world.conn.queued(), world.drains), (0, 0));
}

#[test]
fn the_soft_limit_counts_from_when_it_was_reached_and_down_to_the_byte() {
    let mut world = world();
    world.config.soft_limit = Some(SoftLimit { bytes: 100, duration: 4 * SECOND });
    let _ = world.send(100);
    world.pass(3 * SECOND);
    // More of it does not restart the clock, nor does a dip that ends on the limit.
    let _ = world.send(50);
    world.writable([Answer::Bytes(50)]);
    world.pass(SECOND);
    assert_eq!(world.reason(), CloseReason::SlowConsumer);
}

#[test]
fn who_was_cut_off_by_us_is_reset_even_when_nothing_was_lost() {
    let cut = |reason| {
        let mut world = world();
        world.step(|conn, socket, cx| conn.die(reason, socket, cx));
        assert_eq!(world.reason(), reason);
        world.socket.reset
    };
    for reason in
        [CloseReason::Aborted, CloseReason::HandlerPanic, CloseReason::Refused, CloseReason::SlowConsumer]
    {
        assert!(cut(reason), "{reason}");
    }
    for reason in [CloseReason::TimedOut(Timeout::Idle), CloseReason::InputOverflow, CloseReason::Shutdown] {
        assert!(!cut(reason), "{reason}");
    }
}

#[test]
fn a_write_that_broke_without_an_error_stays_the_reason() {
    let mut world = world();
    let _ = world.send(10);
    world.step(|conn, _, _| conn.pause_reading());
    world.writable([Answer::Eof]);
    assert!(!world.conn.is_dead(), "what the peer sent may still be read");
    world.step(|conn, socket, cx| conn.die(CloseReason::Aborted, socket, cx));
    assert_eq!((world.reason(), world.report().unsent), (CloseReason::Io, 10));
}

#[test]
fn a_close_is_looked_at_while_something_is_under_way() {
    let config = Config::default();
    let looks = |world: &World| world.deadline().since(world.now);
    let mut silent = world();
    silent.close();
    assert_eq!(looks(&silent), config.linger_idle, "nothing to look for");
    let mut queued = world();
    let _ = queued.send(10);
    queued.close();
    assert_eq!(looks(&queued), Duration::from_secs(60) / 8);
    let mut unacknowledged = world();
    let _ = unacknowledged.send(10);
    unacknowledged.socket.unacknowledged = Some(11);
    unacknowledged.socket.writes.extend([Answer::Bytes(10)]);
    unacknowledged.close();
    assert_eq!((unacknowledged.conn.queued(), looks(&unacknowledged)), (0, Duration::from_millis(10)));
}
