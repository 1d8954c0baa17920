//! One budget for all that is held for connections, output and input: whoever makes no progress for
//! longest pays first, and a healthy receiver never.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use unbroken::{Bytes, CloseReason, Config, ConnId, Overflow, Reactor, SendError, State};

use crate::stage::{client_with_room, crowd, enter, meanwhile, millis, reactor, reports, turn_for, until};
use crate::stage::{Probe, Roll, Seen};
use crate::util::{self, SOON};

const BUDGET: usize = 1 << 20;

fn config() -> Config {
    let mut config = Config::default();
    config.total_write_buffer = BUDGET;
    config.send_buffer = Some(8 << 10);
    config
}

/// A client that reads nothing, and its kernel full: what is sent to it stays queued.
fn enter_deaf(r: &mut Reactor, h: &mut Probe, addr: SocketAddr, bytes: usize) -> (TcpStream, ConnId) {
    let client = client_with_room(addr, 4096);
    let conn = opened(r, h);
    r.net().send(conn, &vec![0; bytes]).expect("there is room");
    turn_for(r, h, millis(15));
    (client, conn)
}

/// The same over a Unix-domain socket, where progress is what the kernel takes: it is known exactly
/// when there was none any more.
fn enter_deaf_at(r: &mut Reactor, h: &mut Probe, path: &Path, bytes: usize) -> (UnixStream, ConnId) {
    let client = UnixStream::connect(path).expect("connect");
    let conn = opened(r, h);
    while r.net().queued(conn) < bytes {
        r.net().send(conn, &[0; 10_000]).expect("there is room");
        r.turn(h, Some(Duration::ZERO)).unwrap();
    }
    turn_for(r, h, millis(15));
    (client, conn)
}

fn opened(r: &mut Reactor, h: &mut Probe) -> ConnId {
    let before = h.log.borrow().len();
    assert!(until(r, h, SOON, |log| log.len() > before));
    match h.log.borrow()[before] {
        Seen::Open(conn) => conn,
        _ => panic!("nobody came in"),
    }
}

fn closed(h: &Probe) -> Vec<(ConnId, CloseReason)> {
    let log = h.log.borrow();
    let close = |seen: &Seen| match seen {
        Seen::Close(conn, report) => Some((*conn, report.reason)),
        _ => None,
    };
    log.iter().filter_map(close).collect()
}

// C4
#[test]
fn at_the_common_budget_who_has_stalled_for_longest_goes_first() {
    let (mut r, _) = reactor(config());
    let path = std::env::temp_dir().join(format!("patience-{}", std::process::id()));
    r.net().listen(path.clone()).unwrap();
    let mut h = Probe::default();
    // The latest ones hold most.
    let deaf: Vec<_> = (0..9).map(|n| enter_deaf_at(&mut r, &mut h, &path, 80_000 + 5000 * n)).collect();
    let mut healthy = UnixStream::connect(&path).unwrap();
    let conn = opened(&mut r, &mut h);
    turn_for(&mut r, &mut h, millis(100));
    // So much that three of them have to go.
    let held: Vec<_> = deaf.iter().map(|(_, conn)| r.net().queued(*conn)).collect();
    let len = BUDGET - held[3..].iter().sum::<usize>();
    assert!(r.net().send(conn, &vec![1; len]).is_ok());
    let reader = std::thread::spawn(move || (healthy.read_exact(&mut vec![0; len]).is_ok(), healthy));
    until(&mut r, &mut h, SOON / 5, |_| reader.is_finished());
    let oldest: Vec<_> = deaf[..3].iter().map(|(_, conn)| (*conn, CloseReason::SlowConsumer)).collect();
    assert_eq!(closed(&h), oldest, "{conn} is the healthy one; they held {held:?}");
    assert!(reader.join().unwrap().0);
}

// C4
#[test]
fn at_the_common_budget_a_healthy_receiver_gets_everything_and_those_who_stall_pay() {
    const LEN: usize = 256 << 10;
    let (mut r, addr) = reactor(config());
    let mut h = Probe::default();
    let deaf: Vec<_> = (0..10).map(|_| enter_deaf(&mut r, &mut h, addr, 100_000)).collect();
    let (mut healthy, conn) = enter(&mut r, &mut h, addr);
    turn_for(&mut r, &mut h, millis(200));
    let held = r.net().stats().queued;
    assert!(held + LEN > BUDGET, "{held}");
    assert!(r.net().send(conn, &[1; LEN]).is_ok());
    let reader = std::thread::spawn(move || (healthy.read_exact(&mut [0; LEN]).is_ok(), healthy));
    until(&mut r, &mut h, SOON / 5, |_| reader.is_finished());
    let ended = closed(&h);
    let payers = ended.iter().filter(|(conn, _)| deaf.iter().any(|(_, deaf)| deaf == conn)).count();
    assert_eq!(payers, ended.len(), "{conn} is the healthy one: {ended:?}");
    assert!(ended.iter().all(|(_, reason)| *reason == CloseReason::SlowConsumer), "{ended:?}");
    // No more than had to.
    assert!((1..5).contains(&payers), "{payers} for {} bytes too many", held + LEN - BUDGET);
    assert!(reader.join().unwrap().0);
}

// C4
#[test]
fn who_takes_a_lot_steadily_does_not_pay_for_who_takes_nothing() {
    let mut config = config();
    config.total_write_buffer = 4 * BUDGET;
    config.send_buffer = Some(32 << 10);
    let (mut r, addr) = reactor(config);
    let mut h = Probe::default();
    let (mut steady, large) = enter(&mut r, &mut h, addr);
    r.net().send(large, &vec![1; 3 * BUDGET]).unwrap();
    let _reading = meanwhile(move || {
        let _ = steady.read(&mut [0; 4000]);
        std::thread::sleep(millis(2));
    });
    turn_for(&mut r, &mut h, millis(30));
    let (_deaf, small) = enter_deaf(&mut r, &mut h, addr, 800_000);
    let (_other, other) = enter(&mut r, &mut h, addr);
    turn_for(&mut r, &mut h, millis(200));
    let held = (r.net().queued(large), r.net().queued(small));
    assert!(held.0 > 2 * held.1 && held.1 > 600_000, "{held:?}");
    let room = 4 * BUDGET - r.net().stats().queued;
    assert!(r.net().send(other, &vec![2; room + 1000]).is_ok(), "{held:?} {room}");
    turn_for(&mut r, &mut h, millis(20));
    assert_eq!(closed(&h), [(small, CloseReason::SlowConsumer)]);
}

// C4
#[test]
fn when_only_healthy_receivers_hold_the_budget_a_send_is_refused_and_ends_nobody() {
    let (mut r, addr) = reactor(config());
    let mut h = Probe::default();
    let (mut first, holder) = enter(&mut r, &mut h, addr);
    let (mut second, other) = enter(&mut r, &mut h, addr);
    // Nobody had a chance to be flushed.
    let net = r.net();
    net.send_bytes(holder, Bytes::from(vec![1; 900_000])).unwrap();
    assert_eq!(net.send_bytes(other, Bytes::from(vec![2; 300_000])), Err(SendError::Full));
    assert_eq!(net.try_reserve(other, 300_000), Err(SendError::Full));
    assert_eq!(net.send_bytes(holder, Bytes::from(vec![1; 300_000])), Err(SendError::Full));
    assert_eq!((net.queued(holder), net.queued(other)), (900_000, 0));
    let reader = std::thread::spawn(move || (first.read_exact(&mut vec![0; 900_000]).is_ok(), first));
    until(&mut r, &mut h, SOON, |_| reader.is_finished());
    assert!(reader.join().unwrap().0);
    assert_eq!(closed(&h), []);
    // There is room again.
    r.net().send_bytes(other, Bytes::from(vec![2; 300_000])).unwrap();
    let reader = std::thread::spawn(move || (second.read_exact(&mut vec![0; 300_000]).is_ok(), second));
    until(&mut r, &mut h, SOON, |_| reader.is_finished());
    assert!(reader.join().unwrap().0);
}

/// Turns until nothing is queued any more.
fn flush_all(r: &mut Reactor, h: &mut Roll) {
    let deadline = Instant::now() + SOON;
    while r.net().stats().queued > 0 {
        assert!(Instant::now() < deadline, "{} are queued", r.net().stats().queued);
        r.turn(h, Some(millis(5))).unwrap();
    }
}

// C4
#[test]
fn a_broadcast_at_the_common_budget_counts_its_failures_and_ends_nobody() {
    const RECEIVERS: usize = 300;
    let mut config = config();
    config.high_water = 1024;
    config.low_water = 512;
    config.total_write_buffer = 4096 * RECEIVERS;
    let (mut r, addr) = reactor(config);
    let mut h = Roll::default();
    let mut clients = crowd(&mut r, &mut h, addr, RECEIVERS);
    let all = h.0.clone();
    let first = r.net().broadcast(all.iter().copied(), Bytes::from(vec![1; 4096]));
    assert_eq!((first.queued, first.failed), (RECEIVERS, 0));
    for len in [256, 4096, 100_000] {
        let next = r.net().broadcast(all.iter().copied(), Bytes::from(vec![2; len]));
        assert_eq!((next.queued, next.failed), (0, RECEIVERS), "{len} bytes");
    }
    assert_eq!(r.net().stats().queued, 4096 * RECEIVERS);
    flush_all(&mut r, &mut h);
    assert_eq!(r.net().stats().closed, 0);
    let last = r.net().broadcast(all, Bytes::from(vec![3; 1000]));
    assert_eq!((last.queued, last.failed), (RECEIVERS, 0));
    flush_all(&mut r, &mut h);
    for client in &mut clients {
        util::patient(client);
        client.read_exact(&mut [0; 5096]).unwrap();
    }
}

// C4
#[test]
fn who_has_stalled_for_longest_pays_for_what_it_is_sent_itself() {
    let (mut r, addr) = reactor(config());
    let mut h = Probe::default();
    let (_deaf, stalled) = enter_deaf(&mut r, &mut h, addr, 700_000);
    turn_for(&mut r, &mut h, millis(150));
    assert!(r.net().send(stalled, &[0; 600_000]).is_err());
    turn_for(&mut r, &mut h, millis(10));
    assert_eq!(closed(&h), [(stalled, CloseReason::SlowConsumer)]);
}

/// Stalled receivers, one healthy one, and a budget of which they hold a part each.
struct Stalled {
    reactor: Reactor,
    roll: Roll,
    _clients: Vec<TcpStream>,
}

impl Stalled {
    const EACH: usize = 60_000;

    fn new(size: usize) -> Self {
        let mut config = config();
        config.high_water = 1024;
        config.low_water = 512;
        config.send_buffer = Some(4096);
        config.total_write_buffer = size * Self::EACH;
        config.max_write_buffer = size * Self::EACH;
        // Acknowledgements are looked for every half a second.
        config.write_stall = Some(Duration::from_secs(4));
        let (mut r, addr) = reactor(config);
        let mut h = Roll::default();
        let mut clients = Vec::with_capacity(size + 1);
        while h.0.len() < size {
            if clients.len() < size {
                clients.push(client_with_room(addr, 2048));
            }
            if clients.len() % 50 == 0 || clients.len() == size {
                r.turn(&mut h, Some(Duration::ZERO)).unwrap();
            }
        }
        let sent = r.net().broadcast(h.0.iter().copied(), Bytes::from(vec![1; Self::EACH]));
        assert_eq!(sent.failed, 0);
        clients.extend(crowd(&mut r, &mut h, addr, 1));
        Self { reactor: r, roll: h, _clients: clients }
    }

    fn turn_for(&mut self, time: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < time {
            self.reactor.turn(&mut self.roll, Some(millis(5))).unwrap();
        }
    }

    /// How much processor time it takes to end all of them in one go: a message comes that fits when
    /// nothing else is held.
    fn cost_of_ending_all(mut self) -> Duration {
        let (net, healthy) = (self.reactor.net(), self.roll.0.pop().unwrap());
        let all = net.config().total_write_buffer;
        assert!(net.stats().queued > all / 2, "the kernel took most of it");
        let message = Bytes::from(vec![0; all]);
        let begin = util::thread_cpu();
        let sent = net.send_bytes(healthy, message);
        let cost = util::thread_cpu() - begin;
        let dead = |conn: &ConnId| net.state(*conn).is_none_or(|state| state == State::Dead);
        let left = self.roll.0.iter().filter(|conn| !dead(conn)).count();
        assert!(sent.is_ok() && left == 0, "{sent:?}, {left} of {} are left", self.roll.0.len());
        cost
    }
}

// C4
#[test]
fn ending_four_times_as_many_costs_four_times_as_much() {
    let test = "budget::ending_four_times_as_many_costs_four_times_as_much";
    if util::role().is_none() {
        let _alone = crate::stage::alone();
        let output = util::again(test, "alone").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    util::allow_descriptors(16_000);
    let (mut few, mut many) = (Stalled::new(1000), Stalled::new(4000));
    // Whatever was acknowledged is known.
    for _ in 0..8 {
        few.turn_for(millis(40));
        many.turn_for(millis(40));
    }
    let (few, many) = (few.cost_of_ending_all(), many.cost_of_ending_all());
    println!("1,000: {few:?}, 4,000: {many:?}");
    assert!(many < 8 * few, "1,000: {few:?}, 4,000: {many:?}");
}

/// Leaves all input unused, and keeps what it was shown last.
fn leaves_all(shown: Rc<RefCell<HashMap<ConnId, usize>>>) -> Probe {
    let mut h = Probe::default();
    let gone = shown.clone();
    h.data = Some(Box::new(move |_, conn, data| {
        shown.borrow_mut().insert(conn, data.len());
        0
    }));
    h.close = Some(Box::new(move |_, conn| {
        gone.borrow_mut().remove(&conn);
    }));
    h
}

/// So many clients, one after the other, of which 60,000 bytes each are left unused.
fn enter_unused(r: &mut Reactor, h: &mut Probe, addr: SocketAddr, count: usize) -> Vec<(TcpStream, ConnId)> {
    let enter = |_| {
        let (mut client, conn) = enter(r, h, addr);
        client.write_all(&[1; 60_000]).unwrap();
        turn_for(r, h, millis(6));
        (client, conn)
    };
    (0..count).map(enter).collect()
}

// D5
#[test]
fn input_that_is_left_unused_is_bounded_in_sum_and_who_left_it_longest_ago_goes_first() {
    const CLIENTS: usize = 40;
    let (mut r, addr) = reactor(config());
    let shown = Rc::new(RefCell::new(HashMap::new()));
    let mut h = leaves_all(shown.clone());
    let clients = enter_unused(&mut r, &mut h, addr, CLIENTS);
    turn_for(&mut r, &mut h, millis(20));
    let held: usize = shown.borrow().values().sum();
    assert!(held <= BUDGET + (128 << 10), "{held} bytes of unused input in {} clients", shown.borrow().len());
    // No more went than had to, and those in order.
    assert!(held + 3 * 60_000 >= BUDGET, "{held}");
    let ended = closed(&h);
    let oldest: Vec<_> = clients.iter().map(|(_, conn)| (*conn, CloseReason::InputOverflow)).collect();
    assert_eq!(ended[..], oldest[..ended.len()]);
}

// D5
#[test]
fn unused_input_and_queued_output_share_the_budget() {
    let (mut r, addr) = reactor(config());
    let mut h = leaves_all(Rc::default());
    let holders = enter_unused(&mut r, &mut h, addr, 10);
    let (mut healthy, conn) = enter(&mut r, &mut h, addr);
    turn_for(&mut r, &mut h, millis(100));
    // 600,000 bytes of input are held: two of them have to go.
    assert!(r.net().send(conn, &[1; 550_000]).is_ok());
    let reader = std::thread::spawn(move || (healthy.read_exact(&mut [0; 550_000]).is_ok(), healthy));
    until(&mut r, &mut h, SOON / 5, |_| reader.is_finished());
    assert!(reader.join().unwrap().0);
    let oldest: Vec<_> = holders.iter().map(|(_, conn)| (*conn, CloseReason::InputOverflow)).collect();
    let ended = closed(&h);
    assert!((2..=4).contains(&ended.len()), "{ended:?}");
    assert_eq!(ended[..], oldest[..ended.len()]);
}

// D5
#[test]
fn who_goes_on_with_its_input_does_not_pay_for_who_left_it_and_is_silent() {
    let (mut r, addr) = reactor(config());
    let mut h = Probe::default();
    // Lines; what has no end yet is left.
    h.data =
        Some(Box::new(|_, _, data| data.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)));
    let mut clients = enter_unused(&mut r, &mut h, addr, 10);
    let (mut busy, silent) = (clients.remove(0), clients);
    // The first one completes its line, and leaves half of another.
    busy.0.write_all(b"\n").unwrap();
    busy.0.write_all(&[b'y'; 60_000]).unwrap();
    turn_for(&mut r, &mut h, millis(20));
    let (_other, other) = enter(&mut r, &mut h, addr);
    turn_for(&mut r, &mut h, millis(100));
    assert!(r.net().send_bytes(other, Bytes::from(vec![1; 550_000])).is_ok());
    turn_for(&mut r, &mut h, millis(10));
    let ended = closed(&h);
    let oldest: Vec<_> = silent.iter().map(|(_, conn)| (*conn, CloseReason::InputOverflow)).collect();
    assert!((2..=4).contains(&ended.len()), "{ended:?}");
    assert_eq!(ended[..], oldest[..ended.len()], "{} is the busy one", busy.1);
}

// C4, D5
#[test]
fn under_the_policy_that_refuses_nobody_is_ended_for_the_common_budget() {
    let mut config = config();
    config.overflow = Overflow::Refuse;
    let (mut r, addr) = reactor(config);
    let mut h = leaves_all(Rc::default());
    let _holders = enter_unused(&mut r, &mut h, addr, 5);
    let (_deaf, _) = enter_deaf(&mut r, &mut h, addr, 500_000);
    let (_other, other) = enter(&mut r, &mut h, addr);
    turn_for(&mut r, &mut h, millis(150));
    assert_eq!(r.net().send(other, &[1; 400_000]), Err(SendError::Full));
    assert_eq!(r.net().queued(other), 0);
    assert!(r.net().send(other, &[1; 100_000]).is_ok());
    turn_for(&mut r, &mut h, millis(20));
    assert_eq!(reports(&h.log), []);
}
