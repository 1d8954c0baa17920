//! The queue: order, short counts, failures, drains.

use super::*;

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
    assert!(!world.conn.has_work(&world.config.settings()));
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
