//! Closes, caps, deadlines, connects.

use super::*;

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
    let soon = world.deadline().since(world.now);
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
    assert_eq!(silent.deadline(), silent.now.plus(5 * SECOND));
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
fn a_close_is_as_patient_with_the_bytes_as_an_open_connection() {
    for (saw_end, queued) in [(false, 0), (true, 0), (false, 90)] {
        let mut world = world();
        let _ = world.send(100);
        let handed = 100 - queued;
        let fin = u64::from(queued == 0);
        world.socket.unacknowledged = Some(handed + fin);
        world.writable([Answer::Bytes(handed as usize)]);
        world.close();
        if saw_end {
            world.readable([Answer::Eof]);
        }
        // Far longer than both linger caps, a byte acknowledged every 50 s.
        for acknowledged in 1..=8 {
            for _ in 0..10 {
                world.pass(5 * SECOND);
            }
            assert!(!world.conn.is_dead(), "after {} s", 50 * acknowledged);
            world.socket.unacknowledged = Some(handed + fin - acknowledged);
            world.pass(Duration::from_millis(1));
        }
        for _ in 0..12 {
            assert!(!world.conn.is_dead());
            world.pass(5 * SECOND);
        }
        assert_eq!(world.reason(), CloseReason::TimedOut(Timeout::WriteStall));
        assert!(world.socket.reset);
    }
}

#[test]
fn the_linger_caps_begin_with_the_last_acknowledgement() {
    let mut world = world();
    let _ = world.send(10);
    world.socket.unacknowledged = Some(10);
    world.writable([Answer::Bytes(10)]);
    world.config.linger_bytes = 5000;
    world.close();
    world.pass(40 * SECOND);
    world.readable(vec![Answer::Bytes(1000); 20]);
    assert!(!world.conn.is_dead(), "the peer has not had its bytes yet");
    world.socket.unacknowledged = Some(1);
    world.pass(SECOND);
    assert_eq!(world.deadline(), world.now.plus(5 * SECOND));
    world.pass(4 * SECOND);
    world.readable(vec![Answer::Bytes(1000); 5]);
    assert!(!world.conn.is_dead(), "what was discarded before does not count");
    world.pass(4 * SECOND);
    assert!(!world.conn.is_dead(), "it was not silent");
    world.pass(SECOND);
    assert_eq!(world.reason(), CloseReason::TimedOut(Timeout::Linger));
    assert!(!world.socket.reset, "it had all");
}

#[test]
fn in_a_shutdown_no_linger_cap_ends_a_close_but_the_stall_does() {
    let mut world = world();
    world.draining = true;
    world.close();
    assert_eq!(world.deadline(), Time::NEVER);
    world.pass(3600 * SECOND);
    assert!(!world.conn.is_dead());

    let mut stalled = self::world();
    stalled.draining = true;
    let _ = stalled.send(10);
    stalled.close();
    stalled.pass(60 * SECOND);
    assert_eq!(stalled.reason(), CloseReason::TimedOut(Timeout::WriteStall));
}

#[test]
fn without_a_stall_limit_half_a_connections_time_bounds_a_close() {
    let mut world = world();
    world.config.write_stall = None;
    let _ = world.send(10);
    world.close();
    world.pass(299 * SECOND);
    assert!(!world.conn.is_dead());
    world.pass(SECOND);
    assert_eq!(world.reason(), CloseReason::TimedOut(Timeout::WriteStall));
}

// D1: thousands that acknowledge nothing must cost nothing.
#[test]
fn the_last_acknowledgement_is_looked_for_ever_more_rarely() {
    let mut world = world();
    let _ = world.send(10);
    world.socket.unacknowledged = Some(11);
    world.writable([Answer::Bytes(10)]);
    world.close();
    world.readable([Answer::Eof]);
    let (mut looks, mut last) = (0, Duration::ZERO);
    while world.now < Time::from_duration(50 * SECOND) {
        let wait = world.deadline().since(world.now);
        assert!(wait >= last && wait <= 5 * SECOND, "{wait:?} after {last:?}");
        (looks, last) = (looks + 1, wait.min(4 * SECOND));
        world.pass(wait);
    }
    assert!(looks < 20, "{looks}");
}

#[test]
fn to_end_our_stream_after_the_peers_is_to_close() {
    let mut world = world();
    world.socket.reads.extend([Answer::Eof]);
    world.hint(Hints { readable: true, ..Hints::default() });
    let mut scratch = [0; 10];
    assert_eq!(world.step(|conn, socket, cx| conn.receive(socket, &mut scratch, cx)), Received::Eof);
    assert_eq!(world.conn.state(), State::HalfClosedRemote);
    world.step(|conn, _, cx| conn.close_write(cx));
    assert_eq!(world.conn.state(), State::Flushing);
    world.turn();
    assert_eq!((world.reason(), world.socket.shutdowns), (CloseReason::PeerClosed, 1));
}

#[test]
fn our_stream_may_be_ended_while_connecting() {
    let mut world = world();
    world.conn = Connection::new(State::Connecting, Via::Connect, None, world.now);
    let _ = world.send(10);
    world.step(|conn, _, cx| conn.close_write(cx));
    assert_eq!(world.conn.check_sendable(), Err(SendError::WriteClosed));
    assert!(world.step(|conn, socket, cx| conn.opened(socket, None, cx)));
    assert_eq!(world.conn.state(), State::HalfClosedLocal);
    world.writable([Answer::Bytes(10)]);
    assert_eq!((world.socket.written.len(), world.socket.shutdowns), (10, 1));
}

#[test]
fn the_end_asked_for_while_connecting_is_ours() {
    let mut world = world();
    world.conn = Connection::new(State::Connecting, Via::Connect, None, world.now);
    world.step(|conn, _, cx| conn.close_write(cx));
    world.step(|conn, socket, cx| conn.opened(socket, None, cx));
    world.turn();
    world.readable([Answer::Eof]);
    assert_eq!(world.reason(), CloseReason::Finished);
}

#[test]
fn the_time_of_connecting_does_not_count_for_the_soft_limit() {
    let mut world = world();
    world.config.soft_limit = Some(crate::settings::SoftLimit { bytes: 100, duration: 4 * SECOND });
    world.conn = Connection::new(State::Connecting, Via::Connect, None, world.now);
    let _ = world.send(100);
    world.pass(5 * SECOND);
    assert!(world.step(|conn, socket, cx| conn.opened(socket, None, cx)));
    world.pass(3 * SECOND);
    assert!(!world.conn.is_dead());
    world.pass(SECOND);
    assert_eq!(world.reason(), CloseReason::SlowConsumer);

    let mut quiet = self::world();
    quiet.config.soft_limit = world.config.soft_limit;
    quiet.conn = Connection::new(State::Connecting, Via::Connect, None, quiet.now);
    assert!(quiet.step(|conn, socket, cx| conn.opened(socket, None, cx)));
    quiet.pass(9 * SECOND);
    assert!(!quiet.conn.is_dead(), "it never had anything queued");
}

#[test]
fn an_error_without_an_errno_is_told_as_what_it_befell() {
    let own = || io::Error::new(io::ErrorKind::InvalidInput, "no such address");
    let mut connecting = world();
    connecting.conn = Connection::new(State::Connecting, Via::Connect, None, connecting.now);
    connecting.step(|conn, socket, cx| conn.fail(&own(), socket, cx));
    assert_eq!((connecting.reason(), connecting.report().errno), (CloseReason::ConnectFailed, None));
    let mut open = world();
    open.step(|conn, socket, cx| conn.fail(&own(), socket, cx));
    assert_eq!((open.reason(), open.report().errno), (CloseReason::Io, None));
}

#[test]
fn what_nobody_could_use_does_not_count_for_the_peers_time() {
    let lapse = |world: &mut World| {
        let begin = world.now.plus(Duration::from_millis(1));
        world.now = begin.plus(2 * SECOND);
        world.lapses.note(begin, world.now);
    };
    let outlives = |mut world: World, time: Duration, reason| {
        lapse(&mut world);
        // But for its first moments: the reactor came by before it.
        world.pass(time - crate::lapses::LAPSE - Duration::from_millis(2));
        assert!(!world.conn.is_dead());
        world.pass(Duration::from_millis(1));
        assert_eq!(world.reason(), reason);
    };
    let mut stalled = world();
    let _ = stalled.send(10);
    stalled.turn();
    outlives(stalled, 60 * SECOND, CloseReason::TimedOut(Timeout::WriteStall));
    let mut lingering = world();
    lingering.close();
    outlives(lingering, 5 * SECOND, CloseReason::TimedOut(Timeout::Linger));
    let mut soft = world();
    soft.config.soft_limit = Some(crate::settings::SoftLimit { bytes: 100, duration: 4 * SECOND });
    let _ = soft.send(100);
    outlives(soft, 4 * SECOND, CloseReason::SlowConsumer);
}

#[test]
fn a_close_that_the_peer_does_not_take_is_cut_with_a_reset_and_an_account() {
    let mut world = world();
    let _ = world.send(100);
    world.socket.unacknowledged = Some(40);
    world.socket.writes.extend([Answer::Bytes(40)]);
    world.close();
    for _ in 0..60 {
        world.pass(SECOND);
    }
    let report = world.report();
    assert_eq!(report.reason, CloseReason::TimedOut(Timeout::WriteStall));
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
        deadlines.push(world.deadline());
    }
    deadlines.dedup();
    assert_eq!(deadlines.len(), 1, "{deadlines:?}");
}

#[test]
fn what_the_peer_acknowledges_is_no_silence_at_the_moment_when_it_did() {
    let heard = |millis| {
        let (data, ack) = (Duration::MAX, Duration::from_millis(millis));
        Some(LastHeard { data, ack, round_trip: Duration::ZERO })
    };
    let mut world = world();
    world.config.idle_timeout = Some(4 * SECOND);
    let _ = world.send(10);
    world.socket.unacknowledged = Some(10);
    world.writable([Answer::Bytes(10)]);
    // While something is under way it is looked at eight times in the span.
    assert_eq!(world.deadline().since(world.now), SECOND / 2);
    world.pass(2 * SECOND);
    world.socket.unacknowledged = Some(5);
    world.socket.heard = heard(100);
    world.pass(Duration::from_millis(500));
    // Known late is not happened late: 2.4 s, not 2.5 s.
    world.pass(Duration::from_millis(3899));
    assert!(!world.conn.is_dead(), "five bytes went meanwhile");
    world.pass(Duration::from_millis(1));
    assert_eq!(world.reason(), CloseReason::TimedOut(Timeout::Idle));
    assert!(world.socket.reset, "five bytes were lost");

    let mut done = self::world();
    done.config.idle_timeout = Some(4 * SECOND);
    let _ = done.send(10);
    done.writable([Answer::Bytes(10)]);
    done.socket.heard = heard(1000);
    done.pass(SECOND);
    assert_eq!(done.deadline().since(done.now), 3 * SECOND, "and then it is not looked at again");
}

#[test]
fn a_connection_that_is_not_read_from_is_judged_by_what_the_kernel_knows() {
    let ago = |millis| {
        let data = Duration::from_millis(millis);
        Some(LastHeard { data, ack: data, round_trip: Duration::ZERO })
    };
    let silent = |paused: bool, heard, unread| {
        let mut world = world();
        world.config.idle_timeout = Some(4 * SECOND);
        match paused {
            true => world.conn.pause_reading(),
            false => {
                (world.config.high_water, world.config.low_water) = (10, 5);
                let _ = world.send(20);
                world.readable([Answer::Bytes(1)]);
                let _ = world.send(20);
            }
        }
        world.now = world.now.plus(SECOND);
        (world.socket.heard, world.socket.unread) = (heard, unread);
        world.pass(3 * SECOND);
        world
    };
    // Paused: while input waits the silence is ours.
    assert!(!silent(true, ago(3999), Some(1)).conn.is_dead());
    assert!(silent(true, ago(4000), Some(0)).conn.is_dead());
    assert!(!silent(true, ago(100), Some(0)).conn.is_dead(), "it came and went meanwhile");
    // Congested: what arrives counts, what waits does not.
    assert!(!silent(false, ago(100), Some(1)).conn.is_dead());
    assert!(silent(false, ago(4000), Some(1)).conn.is_dead());
    assert!(!silent(false, None, Some(1)).conn.is_dead(), "where the time is not known");
    assert!(silent(false, None, Some(0)).conn.is_dead());
}

#[test]
fn silence_ends_an_open_connection_only_when_so_configured() {
    let mut world = world();
    assert_eq!(world.deadline(), Time::NEVER);
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
