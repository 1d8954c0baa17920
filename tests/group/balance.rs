//! Whom a client goes to.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use crate::util;
use crate::util::{read_all, reset};
use unbroken::{Config, Group, ListenOptions};

use crate::stage::*;

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
    // All have been accepted, and all ends been seen: before that nobody can be sent where they made room.
    let rest = |came: u64, left: usize| {
        util::eventually("rest", || {
            let is_in = group.handle.stats().is_ok_and(|stats| stats.total.accepted == came);
            is_in && group.handle.connections().iter().sum::<usize>() == left
        });
    };
    for n in 1..=10_000 {
        clients.push(group.client());
        if n % 20 == 0 {
            rest(n, clients.len());
        }
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        if clients.len() > 200 {
            let leaver = clients.swap_remove((random >> 33) as usize % clients.len());
            match random & (1 << 20) {
                0 => drop(leaver),
                _ => reset(leaver),
            }
        }
    }
    rest(10_000, clients.len());
    // Ends alone can leave any picture: those who come next make it even.
    clients.extend((0..24).map(|_| group.client()));
    rest(10_024, clients.len());
    let counts = group.handle.connections();
    let mean = clients.len() / 4;
    assert!(counts.iter().all(|count| *count <= mean + 2), "{counts:?}, mean {mean}");
    let stats = group.handle.stats().unwrap();
    assert_eq!(stats.total.opened, 10_024);
    assert!(stats.each.iter().skip(1).all(|each| each.accepted == 0 && each.opened > 1000));
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
