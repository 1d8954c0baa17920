//! A turn is bounded by time: when its slice (10 ms by default) is spent, whoever is left goes on in the
//! next one, in fair order. So nobody's work delays anybody by more than a few slices.
//!
//! Work is a sleep here, which costs no processor and takes at least its time. Times are measured by
//! the clock, at their best of some rounds: an engine that makes everybody wait for everybody does so
//! every time, and by several times what is allowed.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Mutex};
use std::time::{Duration, Instant};

use unbroken::{Bytes, Config, ConnId, Net, Via};

use crate::stage::{at_best, millis};
use crate::util::{self, serve, Custom, Server, SOON};

/// What one callback works.
const WORK: Duration = Duration::from_millis(1);
/// Two slices, a callback, and as much again for a busy machine.
const SOON_ENOUGH: Duration = Duration::from_millis(45);
const ROUNDS: usize = 4;

fn work() {
    std::thread::sleep(WORK);
}

/// Clients that always have more to say; each byte of it is one callback's work.
struct Busy {
    server: Server,
    heard: Arc<Mutex<HashMap<ConnId, usize>>>,
    late: mpsc::Receiver<Duration>,
    _clients: Vec<TcpStream>,
}

fn busy(size: usize) -> Busy {
    const TICK: Duration = Duration::from_millis(20);
    let mut config = Config::default();
    config.read_size = 1;
    config.read_budget = 1;
    let heard: Arc<Mutex<HashMap<ConnId, usize>>> = Arc::default();
    let (sum, (tell, late)) = (heard.clone(), mpsc::channel());
    let mut due = None;
    let handler = Custom {
        open: Some(Box::new(|net: &mut Net, conn, _: Via| {
            let _ = net.send(conn, b"welcome");
        })),
        data: Some(Box::new(move |_, conn, data| {
            work();
            *sum.lock().unwrap().entry(conn).or_default() += 1;
            data.len()
        })),
        timer: Some(Box::new(move |net, _| {
            if let Some(due) = due {
                let _ = tell.send(Instant::now().saturating_duration_since(due));
            }
            due = Some(Instant::now() + TICK);
            net.set_timer(TICK);
        })),
        ..Custom::default()
    };
    let server = serve(config, handler);
    let mut clients: Vec<_> = (0..size).map(|_| server.client()).collect();
    server.wait_stats(|stats| stats.opened == size as u64);
    for client in &mut clients {
        client.write_all(&[1; 5000]).unwrap();
    }
    util::eventually("all are heard", || heard.lock().unwrap().len() == size);
    Busy { server, heard, late, _clients: clients }
}

/// Longer than many slices: one round of all of them.
const CROWD: usize = 150;

// D6
#[test]
fn a_timer_among_many_busy_connections_is_late_by_a_few_slices_at_most() {
    let busy = busy(CROWD);
    busy.server.ask(|net| net.set_timer(Duration::ZERO));
    at_best(ROUNDS, SOON_ENOUGH, "the latest of five timers", || {
        let late = (0..5).map(|_| busy.late.recv_timeout(SOON).unwrap());
        late.max().unwrap()
    });
}

// D6
#[test]
fn a_command_among_many_busy_connections_is_carried_out_within_a_few_slices() {
    let busy = busy(CROWD);
    at_best(ROUNDS, SOON_ENOUGH, "the latest of five commands", || {
        let ask = |_| {
            let begin = Instant::now();
            busy.server.ask(|_| ());
            begin.elapsed()
        };
        (0..5).map(ask).max().unwrap()
    });
}

// D6
#[test]
fn a_client_that_comes_while_many_are_busy_is_greeted_within_a_few_slices() {
    let busy = busy(CROWD);
    at_best(ROUNDS, SOON_ENOUGH, "the latest of five greetings", || {
        let come = |_| {
            let begin = Instant::now();
            busy.server.client().read_exact(&mut [0; 7]).unwrap();
            begin.elapsed()
        };
        (0..5).map(come).max().unwrap()
    });
}

// D6
#[test]
fn busy_connections_take_fair_turns_and_the_turns_are_short() {
    let busy = busy(CROWD);
    let snapshot = || busy.heard.lock().unwrap().clone();
    let (turns, begin, before) = (busy.server.stats().turns, Instant::now(), snapshot());
    let total = |heard: &HashMap<ConnId, usize>| heard.values().sum::<usize>();
    util::eventually("three rounds", || total(&snapshot()) >= total(&before) + 3 * CROWD);
    let (turns, lasted, after) = (busy.server.stats().turns - turns, begin.elapsed(), snapshot());
    let rounds = after.iter().map(|(conn, heard)| heard - before[conn]);
    let (least, most) = (rounds.clone().min().unwrap(), rounds.max().unwrap());
    assert!(most <= least + 2, "one was heard {least} times, another one {most} times");
    // Ten callbacks a turn; the questions above make a few more turns.
    let most = lasted.as_millis() / 36;
    assert!(u128::from(turns) >= most, "{turns} turns in {lasted:?}");
}

/// Keeps the reactor busy until what it returns is dropped.
fn hold(server: &Server) -> mpsc::Sender<()> {
    let ((begin, begun), (release, released)) = (mpsc::channel(), mpsc::channel());
    let wait = move |_: &mut Net| {
        begin.send(()).unwrap();
        let _ = released.recv_timeout(SOON);
    };
    server.handle.run(wait).unwrap();
    begun.recv_timeout(SOON).unwrap();
    release
}

/// How long a client waits for its echo when it asks while something else floods the reactor. `flood`
/// begins it, and calls what it is given in each of its callbacks; it has `size` of them.
fn ping_during(
    size: usize,
    config: Config,
    mut handler: Custom,
    done: Arc<AtomicUsize>,
    flood: impl FnOnce(&Server, &mut Vec<TcpStream>),
) -> Duration {
    handler.data = Some(Box::new(|net, conn, data| {
        let _ = net.send(conn, data);
        data.len()
    }));
    let server = serve(config, handler);
    let mut client = server.client();
    client.write_all(b"ping").unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    let base = done.load(Ordering::SeqCst);
    let mut others = Vec::new();
    flood(&server, &mut others);
    util::eventually("it has begun", || done.load(Ordering::SeqCst) > base);
    let begin = Instant::now();
    client.write_all(b"ping").unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    let took = begin.elapsed();
    let done = done.load(Ordering::SeqCst) - base;
    assert!(took > SOON_ENOUGH || done < size, "it was over before: {done}");
    took
}

fn working(done: &Arc<AtomicUsize>) -> impl FnMut() + Send + 'static {
    let done = done.clone();
    move || {
        done.fetch_add(1, Ordering::SeqCst);
        work();
    }
}

// D6
#[test]
fn many_timers_that_are_due_do_not_hold_up_a_client() {
    at_best(ROUNDS, SOON_ENOUGH, "an echo", || {
        let done = Arc::new(AtomicUsize::new(0));
        let mut step = working(&done);
        let handler = Custom { timer: Some(Box::new(move |_, _| step())), ..Custom::default() };
        ping_during(300, Config::default(), handler, done, |server, _| {
            server.ask(|net| (0..300).for_each(|_| drop(net.set_timer(Duration::ZERO).to_string())));
        })
    });
}

// D6
#[test]
fn many_commands_of_another_thread_do_not_hold_up_a_client() {
    at_best(ROUNDS, SOON_ENOUGH, "an echo", || {
        let done = Arc::new(AtomicUsize::new(0));
        let count = done.clone();
        ping_during(300, Config::default(), Custom::default(), done, move |server, _| {
            for _ in 0..300 {
                let mut step = working(&count);
                server.handle.run(move |_| step()).unwrap();
            }
        })
    });
}

// D6
#[test]
fn many_clients_that_come_at_once_do_not_hold_up_one_that_is_in() {
    at_best(ROUNDS, SOON_ENOUGH, "an echo", || {
        let done = Arc::new(AtomicUsize::new(0));
        let mut step = working(&done);
        let handler = Custom { open: Some(Box::new(move |_, _, _| step())), ..Custom::default() };
        let mut config = Config::default();
        config.accepts_per_turn = 1024;
        ping_during(300, config, handler, done, |server, others| {
            // They wait in the backlog, and come in in one go.
            let _held = hold(server);
            others.extend((0..300).map(|_| TcpStream::connect(server.addr).unwrap()));
        })
    });
}

// D6: the reports of a crowd that goes away at once are callbacks like others.
#[test]
fn many_that_go_away_at_once_do_not_hold_up_one_that_stays() {
    at_best(ROUNDS, SOON_ENOUGH, "an echo", || {
        let done = Arc::new(AtomicUsize::new(0));
        let mut step = working(&done);
        let handler = Custom { close: Some(Box::new(move |_, _, _| step())), ..Custom::default() };
        ping_during(300, Config::default(), handler, done, |server, _| {
            let others: Vec<_> = (0..300).map(|_| server.client()).collect();
            server.wait_stats(|stats| stats.opened == 301);
            server.ask(|net| {
                let mut all: Vec<_> = net.connections().collect();
                all.sort();
                all.into_iter().skip(1).for_each(|conn| net.abort(conn));
            });
            drop(others);
        })
    });
}

// D6: and so are the drains of a crowd that was sent to.
#[test]
fn many_that_are_drained_at_once_do_not_hold_up_another_one() {
    at_best(ROUNDS, SOON_ENOUGH, "an echo", || {
        let done = Arc::new(AtomicUsize::new(0));
        let mut step = working(&done);
        let handler = Custom { drain: Some(Box::new(move |_, _| step())), ..Custom::default() };
        let mut config = Config::default();
        (config.high_water, config.low_water) = (1000, 100);
        ping_during(300, config, handler, done, |server, others| {
            others.extend((0..300).map(|_| server.client()));
            server.wait_stats(|stats| stats.opened == 301);
            server.ask(|net| {
                let mut all: Vec<_> = net.connections().collect();
                all.sort();
                net.broadcast(all.into_iter().skip(1), Bytes::from_static(&[7; 2000]));
            });
        })
    });
}

/// Thirty-two times 5 ms of work, of which each ends with an answer to a client of its own: when
/// does the first one have it?
fn first_answer(begin_all: impl FnOnce(&Server, &mut [TcpStream], Vec<ConnId>), handler: Custom) -> Duration {
    const CLIENTS: usize = 32;
    let server = serve(Config::default(), handler);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.client()).collect();
    let conns: Vec<_> = clients.iter().map(|_| server.opened()).collect();
    let begin = Instant::now();
    begin_all(&server, &mut clients, conns);
    let (tell, told) = mpsc::channel();
    for mut client in clients {
        let tell = tell.clone();
        std::thread::spawn(move || {
            let answered = client.read_exact(&mut [0]).is_ok();
            let _ = tell.send((answered, begin.elapsed()));
        });
    }
    let (answered, after) = told.recv_timeout(SOON).unwrap();
    assert!(answered);
    // The others come as well.
    assert!(told.iter().take(CLIENTS - 1).all(|(answered, _)| answered));
    after
}

const FIRST: Duration = Duration::from_millis(25);

fn answer(net: &mut Net, conn: ConnId) {
    std::thread::sleep(millis(5));
    let _ = net.send(conn, b"a");
}

// D3
#[test]
fn the_first_of_many_requests_is_answered_while_the_others_are_worked_on() {
    at_best(ROUNDS, FIRST, "the first of 32 answers", || {
        let data = |net: &mut Net, conn, data: &[u8]| {
            answer(net, conn);
            data.len()
        };
        let ask = |server: &Server, clients: &mut [TcpStream], _: Vec<ConnId>| {
            // All of them wait when the reactor looks.
            let _held = hold(server);
            clients.iter_mut().for_each(|client| client.write_all(b"q").unwrap());
        };
        first_answer(ask, Custom { data: Some(Box::new(data)), ..Custom::default() })
    });
}

// D3
#[test]
fn the_first_of_many_timers_or_tasks_has_its_answer_sent_while_the_others_are_worked_on() {
    at_best(ROUNDS, FIRST, "the first of 32 answers by timers", || {
        let conns: Arc<Mutex<Vec<ConnId>>> = Arc::default();
        let left = conns.clone();
        let timer = move |net: &mut Net, _| answer(net, left.lock().unwrap().pop().unwrap());
        let begin = move |server: &Server, _: &mut [TcpStream], all: Vec<ConnId>| {
            *conns.lock().unwrap() = all;
            server.ask(|net| (0..32).for_each(|_| drop(net.set_timer(Duration::ZERO).to_string())));
        };
        first_answer(begin, Custom { timer: Some(Box::new(timer)), ..Custom::default() })
    });
    at_best(ROUNDS, FIRST, "the first of 32 answers by tasks", || {
        let begin = |server: &Server, _: &mut [TcpStream], all: Vec<ConnId>| {
            for conn in all {
                server.handle.run(move |net| answer(net, conn)).unwrap();
            }
        };
        first_answer(begin, Custom::default())
    });
}
