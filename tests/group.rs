//! Several reactors serve the same listeners: whom a client goes to, what holds for all together, and how they
//! end.

mod util;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use unbroken::{
    AtLimit, Bytes, CloseReason, CloseReport, Config, ConnId, Group, GroupHandle, Handler, ListenOptions,
    ListenerId, Net, Peers, Via,
};
use util::{patient, read_all, reset};

/// What all handlers of a group write down.
#[derive(Default)]
struct Book {
    opened: AtomicUsize,
    reports: Mutex<Vec<(usize, CloseReport)>>,
    messages: Mutex<Vec<(usize, Option<usize>, Bytes)>>,
    doors: Mutex<BTreeSet<(usize, ListenerId)>>,
    threads: Mutex<BTreeSet<(usize, String)>>,
}

/// Answers each message with the number of the reactor that serves it; some words are orders.
struct Number {
    peers: Peers,
    book: Arc<Book>,
}

impl Handler for Number {
    fn on_open(&mut self, net: &mut Net, _: ConnId, via: Via) {
        self.book.opened.fetch_add(1, Ordering::SeqCst);
        if let Via::Listener(listener) = via {
            assert!(net.local_addr(listener).is_some(), "its address is known everywhere");
            self.book.doors.lock().unwrap().insert((self.peers.index(), listener));
        }
        let name = thread::current().name().unwrap_or_default().to_owned();
        self.book.threads.lock().unwrap().insert((self.peers.index(), name));
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        match data {
            b"panic" => panic!("as it was told"),
            b"stop" => net.shutdown(Duration::from_secs(5)),
            b"stats" => {
                let error = self.peers.group().stats().unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::Deadlock);
            }
            b"tell" => assert_eq!(self.peers.broadcast(&b"told"[..]), self.peers.len() - 1),
            _ => {}
        }
        let _ = net.send(conn, &[b'0' + self.peers.index() as u8]);
        data.len()
    }

    fn on_message(&mut self, _: &mut Net, from: Option<usize>, message: Bytes) {
        self.book.messages.lock().unwrap().push((self.peers.index(), from, message));
    }

    fn on_close(&mut self, _: &mut Net, _: ConnId, report: &CloseReport) {
        self.book.reports.lock().unwrap().push((self.peers.index(), report.clone()));
    }
}

struct Running {
    addr: SocketAddr,
    handle: GroupHandle,
    book: Arc<Book>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

fn run(config: Config, reactors: usize, options: &ListenOptions) -> Running {
    let mut group = Group::new(config, reactors).unwrap();
    let listener = group.listen_with("127.0.0.1:0", options).unwrap();
    let addr = group.local_addr(listener).and_then(|addr| addr.as_tcp()).unwrap();
    start(group, addr)
}

fn start(group: Group, addr: SocketAddr) -> Running {
    let (handle, book) = (group.handle(), Arc::new(Book::default()));
    let theirs = book.clone();
    let thread = thread::spawn(move || group.run(|peers| Number { peers, book: theirs.clone() }));
    Running { addr, handle, book, thread: Some(thread) }
}

fn plain(reactors: usize) -> Running {
    run(Config::default(), reactors, &ListenOptions::default())
}

impl Running {
    fn client(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        patient(&stream);
        stream
    }

    fn join(mut self) -> thread::Result<std::io::Result<()>> {
        self.thread.take().unwrap().join()
    }

    fn reports(&self) -> usize {
        self.book.reports.lock().unwrap().len()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.handle.shutdown(Duration::ZERO);
            let result = thread.join();
            assert!(thread::panicking() || result.unwrap().is_ok());
        }
    }
}

/// Which reactor serves this client.
fn who(stream: &mut (impl Read + Write)) -> usize {
    stream.write_all(b"who?").unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    usize::from(answer[0] - b'0')
}

#[test]
fn clients_go_to_the_reactor_that_has_the_fewest() {
    let group = plain(4);
    let mut clients: Vec<_> = (0..50).map(|_| group.client()).collect();
    let mut counts = [0; 4];
    for client in &mut clients {
        counts[who(client)] += 1;
    }
    assert!(counts.iter().all(|count| (12..=13).contains(count)), "{counts:?}");
    assert_eq!(group.handle.connections(), counts);
    // Those of one reactor leave: who comes next goes there.
    let mut left: Vec<_> = clients.into_iter().map(|mut client| (who(&mut client), client)).collect();
    left.retain(|(reactor, _)| *reactor != 2);
    util::eventually("they have left", || group.handle.connections()[2] == 0);
    let mut more: Vec<_> = (0..12).map(|_| group.client()).collect();
    assert!(more.iter_mut().all(|client| who(client) == 2));
    let doors = group.book.doors.lock().unwrap();
    assert_eq!(doors.iter().map(|(reactor, _)| reactor).collect::<BTreeSet<_>>().len(), 4);
    assert_eq!(
        doors.iter().map(|(_, door)| door).collect::<BTreeSet<_>>().len(),
        1,
        "one listener, one name"
    );
}

#[test]
fn after_ten_thousand_connects_and_random_ends_no_reactor_is_above_the_mean_by_more_than_two() {
    let group = plain(4);
    let mut clients: Vec<TcpStream> = Vec::new();
    let mut random = 7u64;
    for n in 0..10_000 {
        let mut client = group.client();
        if n % 50 == 0 {
            who(&mut client);
        }
        clients.push(client);
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        if clients.len() > 200 {
            let leaver = clients.swap_remove((random >> 33) as usize % clients.len());
            match random & (1 << 20) {
                0 => drop(leaver),
                _ => reset(leaver),
            }
        }
    }
    util::eventually("rest", || group.handle.connections().iter().sum::<usize>() == clients.len());
    // Whom the dice took last came after the last of them, so that a few more are let in.
    clients.extend((0..8).map(|_| group.client()));
    util::eventually("all are in", || group.handle.connections().iter().sum::<usize>() == clients.len());
    let counts = group.handle.connections();
    let mean = clients.len() / 4;
    assert!(counts.iter().all(|count| *count <= mean + 2), "{counts:?}, mean {mean}");
    let stats = group.handle.stats().unwrap();
    assert_eq!(stats.total.accepted, 10_008);
    assert_eq!(stats.total.opened, 10_008);
    assert!(stats.each.iter().skip(1).all(|each| each.accepted == 0 && each.opened > 1000));
}

#[test]
fn a_shutdown_under_a_storm_of_connects_answers_or_ends_everybody_and_loses_nobody() {
    for round in 0..5 {
        let group = plain(3);
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (stop, addr) = (stop.clone(), group.addr);
                thread::spawn(move || {
                    let (mut answered, mut ended) = (0, 0);
                    while !stop.load(Ordering::Relaxed) {
                        let Ok(mut stream) = TcpStream::connect(addr) else { break };
                        patient(&stream);
                        let _ = stream.write_all(b"who?");
                        let mut byte = [0];
                        match stream.read(&mut byte) {
                            Ok(1) => answered += 1,
                            Ok(_) => ended += 1,
                            // A reset is an end as well; a time-out is not.
                            Err(error) => {
                                assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET), "{error}");
                                ended += 1;
                            }
                        }
                    }
                    (answered, ended)
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(30 + 7 * round));
        let began = Instant::now();
        group.handle.shutdown(Duration::from_secs(5)).unwrap();
        let book = group.book.clone();
        let handle = group.handle.clone();
        group.join().unwrap().unwrap();
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        stop.store(true, Ordering::Relaxed);
        let outcomes: Vec<(usize, usize)> =
            clients.into_iter().map(|client| client.join().unwrap()).collect();
        let answered: usize = outcomes.iter().map(|(answered, _)| answered).sum();
        assert!(answered > 10, "{outcomes:?}");
        let stats = handle.stats().unwrap().total;
        assert_eq!(stats.accepted, stats.closed);
        assert_eq!(stats.closed as usize, book.reports.lock().unwrap().len());
        assert_eq!(stats.opened as usize, book.opened.load(Ordering::SeqCst));
        assert_eq!(handle.connections(), [0, 0, 0]);
    }
}

#[test]
fn who_waits_in_the_backlog_when_a_shutdown_comes_is_taken_in() {
    let mut group = Group::new(Config::default(), 2).unwrap();
    let listener = group.listen("127.0.0.1:0").unwrap();
    let addr = group.local_addr(listener).and_then(|addr| addr.as_tcp()).unwrap();
    let mut clients: Vec<_> = (0..20).map(|_| TcpStream::connect(addr).unwrap()).collect();
    group.handle().shutdown(Duration::from_secs(5)).unwrap();
    let running = start(group, addr);
    let book = running.book.clone();
    for client in &mut clients {
        patient(client);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "an end, and no reset");
    }
    drop(clients);
    running.join().unwrap().unwrap();
    let reports = book.reports.lock().unwrap();
    assert_eq!((book.opened.load(Ordering::SeqCst), reports.len()), (20, 20));
    assert!(reports.iter().all(|(_, report)| report.reason == CloseReason::Finished));
}

#[test]
fn the_limit_of_connections_is_one_of_all_together() {
    let mut config = Config::default();
    config.max_connections = Some(6);
    let group = run(config.clone(), 3, &ListenOptions::default());
    let mut clients: Vec<_> = (0..6).map(|_| group.client()).collect();
    let counts = clients.iter_mut().map(who).fold([0; 3], |mut counts, reactor| {
        counts[reactor] += 1;
        counts
    });
    assert_eq!(counts, [2, 2, 2]);
    // More wait, and get in one by one, whichever reactor has a place.
    for _ in 0..12 {
        let mut next = group.client();
        next.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
        next.write_all(b"who?").unwrap();
        assert!(next.read(&mut [0]).is_err(), "there is no place yet");
        patient(&next);
        drop(clients.remove(0));
        assert_eq!(next.read(&mut [0]).unwrap(), 1);
        clients.push(next);
    }
    drop(group);

    config.at_limit = AtLimit::Refuse;
    let group = run(config, 3, &ListenOptions::default());
    let mut clients: Vec<_> = (0..6).map(|_| group.client()).collect();
    clients.iter_mut().for_each(|client| {
        who(client);
    });
    let (_, error) = read_all(&mut group.client());
    assert_eq!(error.and_then(|error| error.raw_os_error()), Some(libc::ECONNRESET));
    util::eventually("its report", || group.reports() == 1);
    assert_eq!(group.book.reports.lock().unwrap()[0].1.reason, CloseReason::Refused);
    drop(clients.pop());
    util::eventually("a place", || group.handle.connections().iter().sum::<usize>() == 5);
    who(&mut group.client());
}

#[test]
fn every_reactor_that_listens_for_itself_keeps_to_the_limit_of_all() {
    let mut config = Config::default();
    config.max_connections = Some(5);
    let mut options = ListenOptions::default();
    options.reuse_port = true;
    let group = run(config, 4, &options);
    let mut served: Vec<TcpStream> = Vec::new();
    let mut waiting: Vec<_> = (0..40).map(|_| group.client()).collect();
    waiting.iter_mut().for_each(|client| client.write_all(b"who?").unwrap());
    let mut total = 0;
    while !waiting.is_empty() {
        assert!(group.handle.connections().iter().sum::<usize>() <= 5);
        served.clear();
        waiting.retain(|client| {
            client.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
            match (&mut &*client).read(&mut [0]) {
                Ok(1) => {
                    served.push(client.try_clone().unwrap());
                    total += 1;
                    false
                }
                _ => true,
            }
        });
    }
    assert_eq!(total, 40);
}

#[test]
fn with_a_port_of_its_own_each_reactor_accepts_and_nothing_is_handed_out() {
    let mut options = ListenOptions::default();
    options.reuse_port = true;
    let group = run(Config::default(), 3, &options);
    let mut clients: Vec<_> = (0..90).map(|_| group.client()).collect();
    let reactors: BTreeSet<_> = clients.iter_mut().map(who).collect();
    assert_eq!(reactors.len(), 3);
    let stats = group.handle.stats().unwrap();
    assert_eq!((stats.total.accepted, stats.total.handed_out), (90, 0));
    assert!(stats.each.iter().all(|each| each.accepted == each.opened && each.opened > 0));
    assert_eq!(
        group.book.doors.lock().unwrap().iter().map(|(_, door)| door).collect::<BTreeSet<_>>().len(),
        1
    );
}

#[test]
fn unix_sockets_and_inherited_listeners_are_handed_out_as_well() {
    let mut group = Group::new(Config::default(), 2).unwrap();
    let path = std::env::temp_dir().join(format!("unbroken-group-{}", std::process::id()));
    group.listen(path.clone()).unwrap();
    let inherited = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = inherited.local_addr().unwrap();
    group.listen_from(inherited).unwrap();
    let running = start(group, addr);
    let mut unix: Vec<_> = (0..4).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let mut tcp: Vec<_> = (0..4).map(|_| running.client()).collect();
    let reactors: BTreeSet<_> = unix.iter_mut().map(who).collect();
    let others: BTreeSet<_> = tcp.iter_mut().map(who).collect();
    assert_eq!((reactors.len(), others.len()), (2, 2));
    assert_eq!(running.book.doors.lock().unwrap().len(), 4);
}

#[test]
fn a_panic_stops_the_group_and_comes_out_of_run() {
    let group = plain(3);
    let mut clients: Vec<_> = (0..6).map(|_| group.client()).collect();
    let served: Vec<_> = clients.iter_mut().map(who).collect();
    let place = served.iter().position(|reactor| *reactor == 1).unwrap();
    clients[place].write_all(b"panic").unwrap();
    let panic = {
        // Those of the others end in good order, the one that panicked takes its own with it.
        for (client, reactor) in clients.iter_mut().zip(&served) {
            let (_, error) = read_all(client);
            assert!(*reactor == 1 || error.is_none(), "{error:?}");
        }
        drop(clients);
        group.join().unwrap_err()
    };
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"as it was told"));
}

#[test]
fn a_panic_that_is_caught_ends_its_connection_alone() {
    let mut config = Config::default();
    config.catch_panics = true;
    let group = run(config, 2, &ListenOptions::default());
    let (mut one, mut two) = (group.client(), group.client());
    who(&mut two);
    one.write_all(b"panic").unwrap();
    assert!(read_all(&mut one).1.is_some());
    who(&mut two);
    let reports = group.book.reports.lock().unwrap();
    assert_eq!(
        reports.iter().map(|(_, report)| report.reason).collect::<Vec<_>>(),
        [CloseReason::HandlerPanic]
    );
}

#[test]
fn a_reactor_that_stops_alone_is_handed_nobody_any_more() {
    let group = plain(3);
    let mut clients: Vec<_> = (0..3).map(|_| group.client()).collect();
    let place = clients.iter_mut().position(|client| who(client) == 2).unwrap();
    clients[place].write_all(b"stop").unwrap();
    read_all(&mut clients[place]);
    drop(clients);
    util::eventually("it has stopped", || group.handle.run_on(2, |_| {}).is_err());
    let mut clients: Vec<_> = (0..10).map(|_| group.client()).collect();
    let reactors: BTreeSet<_> = clients.iter_mut().map(who).collect();
    assert_eq!(reactors, BTreeSet::from([0, 1]));
    // Its counters are those it had in the end.
    assert_eq!(group.handle.stats().unwrap().each.len(), 3);
}

#[test]
fn a_shutdown_of_the_one_that_accepts_is_one_of_the_group() {
    let group = plain(3);
    let mut clients: Vec<_> = (0..3).map(|_| group.client()).collect();
    let place = clients.iter_mut().position(|client| who(client) == 0).unwrap();
    clients[place].write_all(b"stop").unwrap();
    for client in &mut clients {
        assert!(read_all(client).1.is_none());
    }
    drop(clients);
    group.join().unwrap().unwrap();
}

#[test]
fn messages_come_to_every_handler_and_in_the_order_of_their_sender() {
    let group = plain(3);
    let mut client = group.client();
    let teller = who(&mut client);
    client.write_all(b"tell").unwrap();
    client.read_exact(&mut [0]).unwrap();
    for n in 0..100u8 {
        assert_eq!(group.handle.broadcast(vec![n]), 3);
    }
    util::eventually("all have come", || group.book.messages.lock().unwrap().len() == 302);
    let messages = group.book.messages.lock().unwrap();
    for reactor in 0..3 {
        let from_outside = messages.iter().filter(|(at, from, _)| *at == reactor && from.is_none());
        assert!(from_outside.map(|(_, _, message)| message[0]).eq(0..100));
        let told = messages.iter().filter(|(at, from, _)| *at == reactor && *from == Some(teller)).count();
        assert_eq!(told, usize::from(reactor != teller));
    }
}

#[test]
fn counters_are_summed_and_a_callback_does_not_wait_for_itself() {
    let group = Group::new(Config::default(), 2).unwrap();
    let handle = group.handle();
    assert_eq!(handle.stats().unwrap_err().kind(), std::io::ErrorKind::NotConnected);
    drop(group);
    let group = plain(2);
    let mut client = group.client();
    client.write_all(b"stats").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let stats = group.handle.stats().unwrap();
    assert_eq!((stats.total.bytes_in, stats.total.bytes_out), (5, 1));
    assert_eq!(stats.each.iter().map(|each| each.bytes_in).sum::<u64>(), 5);
    let handle = group.handle.clone();
    let _ = handle.shutdown(Duration::ZERO);
    drop(client);
    group.join().unwrap().unwrap();
    assert_eq!(handle.stats().unwrap().total.closed, 1, "also when all is over");
    assert!(handle.shutdown(Duration::ZERO).is_err());
}

#[test]
fn threads_have_names_and_can_be_pinned() {
    let mut group = Group::new(Config::default(), 2).unwrap();
    let listener = group.listen("127.0.0.1:0").unwrap();
    let addr = group.local_addr(listener).and_then(|addr| addr.as_tcp()).unwrap();
    group.set_name("serve");
    group.pin_to([0]);
    let running = start(group, addr);
    let mut clients: Vec<_> = (0..2).map(|_| running.client()).collect();
    clients.iter_mut().for_each(|client| {
        who(client);
    });
    let names: Vec<_> = running.book.threads.lock().unwrap().iter().cloned().collect();
    assert_eq!(names, [(0, "serve-0".to_owned()), (1, "serve-1".to_owned())]);
    let (told, allowed) = std::sync::mpsc::channel();
    running
        .handle
        .run_on(1, move |_| {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("Cpus_allowed_list:")).unwrap().to_owned();
            told.send(line).unwrap();
        })
        .unwrap();
    let line = allowed.recv_timeout(util::SOON).unwrap();
    assert_eq!(line.split_whitespace().nth(1), Some("0"));

    let mut group = Group::new(Config::default(), 2).unwrap();
    group.pin_to([1023]);
    assert!(group.run(|peers| Number { peers, book: Arc::default() }).is_err());
}

#[test]
fn streams_from_elsewhere_go_to_the_reactor_that_has_the_fewest() {
    let group = plain(2);
    let mut ends = Vec::new();
    for _ in 0..10 {
        let (theirs, ours) = UnixStream::pair().unwrap();
        group.handle.adopt(ours).unwrap();
        ends.push(theirs);
        // Counted when it is taken in, and not before.
        let so_far = ends.len();
        util::eventually("it is in", || group.handle.connections().iter().sum::<usize>() == so_far);
    }
    assert_eq!(group.handle.connections(), [5, 5]);
    assert_eq!(ends.iter_mut().map(who).collect::<BTreeSet<_>>().len(), 2);
}

#[test]
fn descriptors_that_run_out_are_waited_for_wherever_they_become_free() {
    const NAME: &str = "descriptors_that_run_out_are_waited_for_wherever_they_become_free";
    if util::role().is_none() {
        let output = util::again(NAME, "short").output().unwrap();
        return assert!(output.status.success(), "{output:#?}");
    }
    let group = plain(3);
    let mut first: Vec<_> = (0..30).map(|_| group.client()).collect();
    first.iter_mut().for_each(|client| {
        who(client);
    });
    // The clients need some as well: those that wait are made before there are none left.
    let late: Vec<_> =
        (0..10).map(|_| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)).collect();
    util::allow_descriptors(util::open_fds() as u64);
    let mut late: Vec<_> = late
        .into_iter()
        .map(|socket| {
            let socket = socket.unwrap();
            socket.connect(&group.addr.into()).unwrap();
            let stream = TcpStream::from(socket);
            patient(&stream);
            stream
        })
        .collect();
    let began = Instant::now();
    // The clients' own ends stay: each that leaves frees one here, and one with the reactor that served it.
    for mut next in late.drain(..) {
        drop(first.pop());
        who(&mut next);
        first.insert(0, next);
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn a_group_has_one_reactor_at_least_and_refuses_what_cannot_work() {
    for reactors in [0, 100_000] {
        assert!(Group::new(Config::default(), reactors).is_err());
    }
    let mut config = Config::default();
    config.total_write_buffer = 128 << 10;
    // Each would have less than high water.
    assert!(Group::new(config, 4).unwrap_err().to_string().contains("total_write_buffer"));
    let mut group = Group::new(Config::default(), 2).unwrap();
    group.net(1).unwrap().listen("127.0.0.1:0").unwrap();
    assert!(group.listen("127.0.0.1:0").unwrap_err().to_string().contains("listen with the group first"));
    assert!(group.net(2).is_none());
}
