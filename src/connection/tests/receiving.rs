//! What is read: nothing that came before an error is lost, no end is called clean that is not.

use super::*;

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
    assert!(world.conn.has_work(&world.config.settings()));
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

#[test]
fn of_two_other_errors_the_first_is_kept() {
    let pairs = [(libc::ETIMEDOUT, libc::ECONNRESET), (libc::EPIPE, libc::ETIMEDOUT)];
    for (first, second) in pairs {
        let mut world = world();
        let _ = world.send(5);
        world.socket.reads.extend([Answer::Error(second)]);
        world.writable([Answer::Error(first)]);
        world.turn();
        assert_eq!(world.report().errno, Some(first));
    }
}

#[test]
fn a_congested_connection_is_read_from_as_long_as_its_own_queue_does_not_grow_by_it() {
    let congested = || {
        let mut world = world();
        world.config.high_water = 100;
        world.config.low_water = 20;
        let _ = world.send(100);
        let _ = world.send(100);
        world
    };
    // Two ends that both send before they read: what comes makes nothing grow.
    let mut sink = congested();
    sink.readable(vec![Answer::Bytes(1000); 9]);
    assert_eq!(sink.shown, 9000);
    // What comes is answered: one read after the crossing, then one after each drain.
    let mut echo = congested();
    let mut scratch = [0; 1000];
    let mut read = |world: &mut World| {
        let mut read = 0;
        world.socket.reads = vec![Answer::Bytes(1000); 3].into();
        world.hint(Hints { readable: true, more: true, ..Hints::default() });
        while world.conn.may_read(&world.config.settings()) {
            world.step(|conn, socket, cx| conn.receive(socket, &mut scratch, cx));
            let _ = world.send(10);
            read += 1;
        }
        read
    };
    assert_eq!(read(&mut echo), 1);
    assert_eq!(read(&mut echo), 0);
    for round in 1..=3 {
        echo.socket.reads.clear();
        echo.writable([Answer::Bytes(1000)]);
        assert_eq!(echo.drains, round);
        // The handler fills the queue again at once: the peer is heard all the same.
        let _ = echo.send(100);
        let _ = echo.send(100);
        assert_eq!(read(&mut echo), 1);
        assert_eq!(read(&mut echo), 0);
    }
    // What others send to it makes it wait as well, unless it is to be heard whatever happens.
    let mut member = congested();
    assert_eq!(read(&mut member), 1);
    member.config.read_while_congested = true;
    assert!(member.conn.may_read(&member.config.settings()));
}

#[test]
fn what_is_left_unused_by_who_cannot_answer_grows_by_one_read_above_its_limit() {
    let mut world = world();
    world.config.high_water = 100;
    world.config.max_read_buffer = 1500;
    let _ = world.send(100);
    let mut reads = 0;
    world.socket.reads = vec![Answer::Bytes(1000); 9].into();
    world.hint(Hints { readable: true, more: true, ..Hints::default() });
    let mut scratch = [0; 1000];
    while world.conn.may_read(&world.config.settings()) {
        let received = world.step(|conn, socket, cx| conn.receive(socket, &mut scratch, cx));
        assert_eq!(received, Received::Data(1000));
        let input = world.conn.take_input_with(&scratch);
        world.step(|conn, socket, cx| conn.keep_input(input, socket, cx));
        reads += 1;
    }
    assert_eq!((reads, world.conn.unused()), (2, 2000));
    assert!(!world.conn.is_dead(), "it waits for a drain");
}

// Two flags that wait for each other must be settled together.
#[test]
fn a_pause_that_ended_meanwhile_does_not_hold_back_the_end() {
    let ended = |used: bool| {
        let mut world = world();
        world.socket.reads.extend([Answer::Bytes(5), Answer::Eof]);
        world.hint(Hints { readable: true, more: true, ..Hints::default() });
        let mut scratch = [0; 10];
        world.step(|conn, socket, cx| conn.receive(socket, &mut scratch, cx));
        world.conn.pause_reading();
        world.conn.resume_reading();
        if !used {
            let input = world.conn.take_input_with(&scratch[..5]);
            world.step(|conn, socket, cx| conn.keep_input(input, socket, cx));
        }
        assert!(world.conn.may_read(&world.config.settings()));
        assert_eq!(world.step(|conn, socket, cx| conn.receive(socket, &mut scratch, cx)), Received::Eof);
        world.conn.postpone_eof();
        world
    };
    assert!(ended(true).conn.take_eof());
    let mut unused = ended(false);
    assert!(unused.conn.take_shown_again().is_none(), "the handler has just seen it");
    assert!(unused.conn.take_eof());
    // A pause that goes on holds the end back, and what was left comes before it.
    let mut paused = ended(false);
    paused.conn.pause_reading();
    assert!(!paused.conn.take_eof());
    paused.conn.resume_reading();
    assert!(!paused.conn.take_eof());
    assert!(paused.conn.take_shown_again().is_some());
    assert!(paused.conn.take_eof());
}

#[test]
fn to_end_our_stream_does_not_take_the_peers_end_from_who_has_not_heard_of_it() {
    for ended_before in [true, false] {
        let mut world = world();
        world.config.high_water = 100;
        world.config.low_water = 20;
        world.config.read_while_congested = true;
        let _ = world.send(100);
        let mut scratch = [0; 10];
        world.socket.reads.extend([Answer::Bytes(5), Answer::Eof]);
        world.hint(Hints { readable: true, more: true, ..Hints::default() });
        world.step(|conn, socket, cx| conn.receive(socket, &mut scratch, cx));
        if ended_before {
            world.step(|conn, _, cx| conn.close_write(cx));
        }
        let input = world.conn.take_input_with(&scratch[..5]);
        world.step(|conn, socket, cx| conn.keep_input(input, socket, cx));
        world.step(|conn, socket, cx| conn.receive(socket, &mut scratch, cx));
        world.conn.postpone_eof();
        if !ended_before {
            world.step(|conn, _, cx| conn.close_write(cx));
        }
        world.turn();
        assert_eq!((world.conn.take_eof(), world.conn.unused()), (false, 5));
        assert_eq!(world.conn.check_sendable(), Err(SendError::WriteClosed));
        world.writable([Answer::Bytes(100)]);
        assert_eq!(world.drains, 1);
        assert!(world.conn.take_shown_again().is_some());
        assert!(world.conn.take_eof());
        world.turn();
        let reason = if ended_before { CloseReason::Finished } else { CloseReason::PeerClosed };
        assert_eq!(world.reason(), reason);
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
