//! Any history of calls, answers and waits keeps the books straight.

use super::*;

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
        world.socket.acknowledged = Some(0);
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
                    // None is ever taken back.
                    let pending = world.socket.unacknowledged().unwrap_or(0);
                    let newly = pending.saturating_sub(left);
                    world.socket.acknowledged = world.socket.acknowledged.map(|before| before + newly);
                }
            }
            world.turn();
        }
        world.conn.resume_reading();
        world.close();
        for _ in 0..40 {
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
