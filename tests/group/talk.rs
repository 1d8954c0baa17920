//! What reaches the reactors: messages, questions, names.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::util;
use unbroken::{Config, Group};

use crate::stage::*;

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
