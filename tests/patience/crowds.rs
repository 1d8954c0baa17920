//! What a peer or a crowd can run up is bounded: processor time, log lines, waits of other threads.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{getrlimit, setrlimit, Resource};
use unbroken::{Bytes, Config, ConnId, Net};

use crate::stage::{alone, at_best, blackhole_all, connect, count, crowd, end, enter, is_close, is_open};
use crate::stage::{millis, reactor, reports, turn_for, until, Probe};
use crate::util::{self, serve, skip, Custom, Echo, Event, SOON};

/// Answers in short and closes.
fn answer_and_close() -> Probe {
    let data = |net: &mut Net, conn, data: &[u8]| {
        let _ = net.send(conn, &[1; 100]);
        net.close(conn);
        data.len()
    };
    Probe { quiet: true, data: Some(Box::new(data)), ..Probe::default() }
}

// D1
#[test]
fn thousands_that_have_ended_and_acknowledge_nothing_cost_next_to_nothing() {
    const CLIENTS: usize = 3000;
    let _alone = alone();
    let (mut r, addr) = reactor(Config::default());
    let mut h = answer_and_close();
    let mut clients = crowd(&mut r, &mut h, addr, CLIENTS);
    for client in &mut clients {
        client.write_all(b"q").unwrap();
    }
    if !blackhole_all(&clients) {
        return;
    }
    for client in &clients {
        end(client);
    }
    turn_for(&mut r, &mut h, millis(500));
    assert_eq!(r.net().stats().closing, CLIENTS);
    let (begin, cpu) = (Instant::now(), util::thread_cpu());
    while begin.elapsed() < millis(1500) {
        r.turn(&mut h, Some(millis(100))).unwrap();
    }
    let share = (util::thread_cpu() - cpu).as_secs_f64() / begin.elapsed().as_secs_f64();
    assert_eq!(r.net().stats().closing, CLIENTS);
    println!("{:.2} % of a processor", 100.0 * share);
    assert!(share < 0.02, "{:.1} % of a processor", 100.0 * share);
}

// D1
#[test]
fn an_acknowledgement_that_comes_late_is_noticed_soon_all_the_same() {
    let (mut r, addr) = reactor(Config::default());
    let mut h = Probe { quiet: false, ..answer_and_close() };
    let (mut client, _) = enter(&mut r, &mut h, addr);
    client.write_all(b"q").unwrap();
    if !util::blackhole(&client) {
        return;
    }
    end(&client);
    turn_for(&mut r, &mut h, millis(700));
    assert_eq!(reports(&h.log), []);
    util::heal(&client);
    let healed = Instant::now();
    // The kernel sends it again within a second; the engine looks within another one.
    assert!(until(&mut r, &mut h, millis(2500), |log| log.iter().any(is_close)), "{:?}", healed.elapsed());
    let report = reports(&h.log).remove(0);
    assert!(report.reason.is_clean() && report.unacked == Some(0), "{report}");
}

/// Answers every `accept4` of the thread that made it with an error, as long as one is set.
struct Forbidding {
    errno: Arc<AtomicI32>,
    /// How often it was asked.
    asked: Arc<AtomicUsize>,
}

/// The system call of the seccomp filter below is answered by a thread of our own: unlike a filter,
/// that can change its mind.
fn forbid_accept() -> std::io::Result<Forbidding> {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step(0x20, 0, 0, 0),
        step(0x15, 0, 1, libc::SYS_accept4 as u32),
        step(0x06, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        step(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: prctl takes no pointers here; seccomp reads the program, which is alive and as long as
    // it says, during the call; the descriptor that it returns is ours alone.
    let listener = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        let fd = libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd as i32)
    };
    let forbidding = Forbidding { errno: Arc::new(AtomicI32::new(libc::EPERM)), asked: Arc::default() };
    let (errno, asked) = (forbidding.errno.clone(), forbidding.asked.clone());
    std::thread::spawn(move || loop {
        // SAFETY: both structures are plain numbers, for which zero is a value; the kernel fills the
        // first and reads the second during the calls, and both outlive them.
        let answered = unsafe {
            let mut call: libc::seccomp_notif = std::mem::zeroed();
            if libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) != 0 {
                return;
            }
            asked.fetch_add(1, Ordering::Relaxed);
            let mut answer: libc::seccomp_notif_resp = std::mem::zeroed();
            answer.id = call.id;
            match errno.load(Ordering::Relaxed) {
                0 => answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
                errno => answer.error = -errno,
            }
            libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer)
        };
        if answered != 0 {
            return;
        }
    });
    Ok(forbidding)
}

/// In a process of its own, for the filter stays.
fn accept_under_a_filter() {
    let (mut r, addr) = reactor(Config::default());
    let mut h = Probe::default();
    h.data = Some(Box::new(|net, conn, data| {
        let _ = net.send(conn, data);
        data.len()
    }));
    let (mut inside, _) = enter(&mut r, &mut h, addr);
    let forbidding = match forbid_accept() {
        Ok(forbidding) => forbidding,
        Err(error) => return skip("seccomp", &format!("a filter that asks: {error}")),
    };
    for errno in [libc::EPERM, libc::ENETDOWN, libc::ECONNABORTED] {
        forbidding.errno.store(errno, Ordering::Relaxed);
        let clients: Vec<_> = (0..3).map(|_| connect(addr)).collect();
        let opened = count(&h.log.borrow(), is_open);
        let (turns, cpu) = (r.net().stats().turns, util::thread_cpu());
        let asked = forbidding.asked.load(Ordering::Relaxed);
        let begin = Instant::now();
        while begin.elapsed() < millis(400) {
            r.turn(&mut h, Some(millis(50))).unwrap();
        }
        let turns = r.net().stats().turns - turns;
        let asked = forbidding.asked.load(Ordering::Relaxed) - asked;
        let cpu = util::thread_cpu() - cpu;
        println!("errno {errno}: {turns} turns, {asked} accepts, {cpu:?}");
        // A burst of such errors is one client's each, and may be gone through at once.
        assert!(turns < 100 && asked < 1000 && cpu < millis(100), "{errno}: {turns} {asked} {cpu:?}");
        assert_eq!(count(&h.log.borrow(), is_open), opened);
        // Those who are in do not notice.
        inside.write_all(b"ping").unwrap();
        turn_for(&mut r, &mut h, millis(20));
        inside.read_exact(&mut [0; 4]).unwrap();
        // And when it goes away by itself, those who waited come in.
        forbidding.errno.store(0, Ordering::Relaxed);
        let all = opened + clients.len();
        assert!(until(&mut r, &mut h, millis(2500), |log| count(log, is_open) == all), "{errno}: for good");
        assert!(turns > 0);
    }
}

// D2
#[test]
fn an_accept_that_is_forbidden_costs_no_processor_and_is_taken_up_again() {
    if util::role().is_some() {
        return accept_under_a_filter();
    }
    let test = "crowds::an_accept_that_is_forbidden_costs_no_processor_and_is_taken_up_again";
    let output = util::again(test, "filtered").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{errors}", String::from_utf8_lossy(&output.stdout));
    if let Some(line) = errors.lines().find(|line| line.starts_with("skipped: needs")) {
        skip("seccomp", line);
    }
}

static WARNINGS: AtomicUsize = AtomicUsize::new(0);

struct CountWarnings;

impl log::Log for CountWarnings {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.level() <= log::Level::Warn {
            WARNINGS.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

/// In the child: serves echo with few descriptors, and tells what it logged and how often it paused.
fn starved(shed: bool) {
    log::set_logger(&CountWarnings).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(40);
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut config = Config::default();
    config.shed_when_exhausted = shed;
    let stats = util::serve_as_child(config, Echo);
    println!("{} {} {}", WARNINGS.load(Ordering::Relaxed), stats.accept_pauses, stats.shed);
}

/// Warnings, pauses, and clients shed.
fn told(child: util::ServingChild) -> Vec<u64> {
    let rest = child.finish();
    rest.lines().next().unwrap().split(' ').map(|number| number.parse().unwrap()).collect()
}

/// A client that is served within `time`; it says so by an answer.
fn is_served(mut client: &TcpStream, time: Duration) -> bool {
    client.set_read_timeout(Some(time)).unwrap();
    client.read_exact(&mut [0; 4]).is_ok()
}

fn asking(addr: SocketAddr) -> TcpStream {
    let mut client = connect(addr);
    client.write_all(b"ping").unwrap();
    client
}

// D3
#[test]
fn clients_that_come_and_go_where_descriptors_are_short_do_not_flood_the_log() {
    if util::role().is_some() {
        return starved(false);
    }
    let test = "crowds::clients_that_come_and_go_where_descriptors_are_short_do_not_flood_the_log";
    let child = util::serving_child(test, "starved");
    let mut inside = VecDeque::new();
    let mut waiting = asking(child.addr);
    while is_served(&waiting, millis(150)) {
        inside.push_back(std::mem::replace(&mut waiting, asking(child.addr)));
    }
    assert!((10..40).contains(&inside.len()), "{}", inside.len());
    // Two go, the one that waits comes in, and nobody waits; then two come, one of which has to wait.
    let begin = Instant::now();
    let mut times = 0;
    while begin.elapsed() < millis(1500) {
        inside.drain(..2);
        assert!(is_served(&waiting, SOON), "after {times} times");
        let next = asking(child.addr);
        assert!(is_served(&next, SOON), "after {times} times");
        inside.extend([std::mem::replace(&mut waiting, asking(child.addr)), next]);
        // It is seen to wait.
        std::thread::sleep(millis(2));
        times += 1;
    }
    let numbers = told(child);
    let (warnings, pauses) = (numbers[0], numbers[1]);
    assert!(times > 100 && pauses > 100, "{times} times, {pauses} pauses");
    assert!(warnings < 20, "{warnings} lines in {times} times");
}

// D3
#[test]
fn eight_hundred_that_cannot_be_served_are_turned_away_within_two_seconds() {
    const CLIENTS: usize = 800;
    if util::role().is_some() {
        return starved(true);
    }
    let test = "crowds::eight_hundred_that_cannot_be_served_are_turned_away_within_two_seconds";
    let child = util::serving_child(test, "shed");
    let begin = Instant::now();
    // Whoever is turned away at once may hear of it as early as in its connect.
    let clients: Vec<_> = (0..CLIENTS).filter_map(|_| TcpStream::connect(child.addr).ok()).collect();
    let (mut served, mut shed) = (0, CLIENTS - clients.len());
    for mut client in &clients {
        let left = millis(2500).saturating_sub(begin.elapsed()).max(millis(1));
        client.set_read_timeout(Some(left)).unwrap();
        let asked = client.write_all(b"ping").is_ok();
        match client.read(&mut [0; 4]) {
            Ok(4) if asked => served += 1,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            _ => shed += 1,
        }
    }
    assert_eq!(served + shed, CLIENTS, "after {:?}", begin.elapsed());
    assert!(served < 40, "{served}");
    let numbers = told(child);
    assert_eq!(numbers[2], shed as u64);
    assert!(numbers[0] < 20, "{} lines", numbers[0]);
}

/// The longest that a thread waits in `Handle::send` while the mailbox is full and connections end
/// all the time.
fn longest_send() -> Duration {
    const VICTIMS: usize = 300;
    let mut config = Config::default();
    config.commands_per_turn = 1;
    config.max_commands = 100_000;
    let mut victims: Vec<ConnId> = Vec::new();
    let mut handler = Custom::default();
    handler.timer = Some(Box::new(move |net, _| {
        if victims.is_empty() {
            victims = net.connections().collect();
            victims.sort();
            victims.remove(0);
        }
        if let Some(victim) = victims.pop() {
            net.abort(victim);
        }
        net.set_timer(millis(1));
    }));
    let server = serve(config, handler);
    let mut sink = server.client();
    let conn = server.opened();
    let reader =
        std::thread::spawn(move || while sink.read(&mut [0; 1 << 16]).is_ok_and(|count| count > 0) {});
    let clients: Vec<_> = (0..VICTIMS).map(|_| server.client()).collect();
    server.wait_stats(|stats| stats.opened > VICTIMS as u64);
    // By then the mailbox is full, as it stays for a while at one command a turn.
    server.ask(|net| net.set_timer(millis(150)));
    let (handle, message) = (server.handle.clone(), Bytes::from_static(b"message!"));
    let begin = Instant::now();
    while handle.send(conn, message.clone()).is_ok() {}
    let mut longest = Duration::ZERO;
    while begin.elapsed() < millis(400) {
        let call = Instant::now();
        let _ = handle.send(conn, message.clone());
        longest = longest.max(call.elapsed());
        std::thread::sleep(Duration::from_micros(100));
    }
    assert!(server.events_so_far().iter().filter(|event| matches!(event, Event::Close(..))).count() > 10);
    drop((clients, server));
    let _ = reader.join();
    longest
}

// D3
#[test]
fn a_thread_that_sends_does_not_wait_for_the_ends_of_others() {
    let _alone = alone();
    at_best(6, millis(3), "the longest wait of a sending thread", longest_send);
}

/// What it costs to end a hundred connections, one a turn, while so many commands wait.
fn cost_of_ends(waiting: usize) -> Duration {
    let mut config = Config::default();
    config.commands_per_turn = 1;
    config.max_commands = 100_000;
    let (mut r, addr) = reactor(config);
    let mut h = Probe { quiet: true, ..Probe::default() };
    let clients = crowd(&mut r, &mut h, addr, 101);
    let mut conns: Vec<_> = r.net().connections().collect();
    let sink = conns.pop().unwrap();
    let handle = r.net().handle();
    for _ in 0..waiting {
        handle.send(sink, Bytes::from_static(b"message!")).unwrap();
    }
    let begin = util::thread_cpu();
    for conn in conns {
        r.net().abort(conn);
        r.turn(&mut h, Some(Duration::ZERO)).unwrap();
    }
    let cost = util::thread_cpu() - begin;
    assert_eq!(r.net().stats().closed, 100);
    drop(clients);
    cost
}

// D3
#[test]
fn an_end_costs_no_more_when_many_commands_wait() {
    let (none, many) = (cost_of_ends(0), cost_of_ends(100_000));
    // A fifth of a millisecond each would be as much again as all else.
    assert!(many < none + millis(20), "with none {none:?}, with 100,000 {many:?}");
}
