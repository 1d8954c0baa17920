//! A group whose handlers write down what they are told.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::util::patient;
use unbroken::{
    Bytes, CloseReport, Config, ConnId, Group, GroupHandle, Handler, ListenOptions, ListenerId, Net, Peers,
    Via,
};

/// What all handlers of a group write down.
#[derive(Default)]
pub struct Book {
    pub opened: AtomicUsize,
    pub reports: Mutex<Vec<(usize, CloseReport)>>,
    pub messages: Mutex<Vec<(usize, Option<usize>, Bytes)>>,
    pub doors: Mutex<BTreeSet<(usize, ListenerId)>>,
    pub threads: Mutex<BTreeSet<(usize, String)>>,
}

/// Answers each message with the number of the reactor that serves it; some words are orders.
pub struct Number {
    pub peers: Peers,
    pub book: Arc<Book>,
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

pub struct Running {
    pub addr: SocketAddr,
    pub handle: GroupHandle,
    pub book: Arc<Book>,
    pub thread: Option<JoinHandle<std::io::Result<()>>>,
}

pub fn run(config: Config, reactors: usize, options: &ListenOptions) -> Running {
    let mut group = Group::new(config, reactors).unwrap();
    let listener = group.listen_with("127.0.0.1:0", options).unwrap();
    let addr = group.local_addr(listener).and_then(|addr| addr.as_tcp()).unwrap();
    start(group, addr)
}

pub fn start(group: Group, addr: SocketAddr) -> Running {
    let (handle, book) = (group.handle(), Arc::new(Book::default()));
    let theirs = book.clone();
    let thread = thread::spawn(move || group.run(|peers| Number { peers, book: theirs.clone() }));
    Running { addr, handle, book, thread: Some(thread) }
}

pub fn plain(reactors: usize) -> Running {
    run(Config::default(), reactors, &ListenOptions::default())
}

impl Running {
    pub fn client(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        patient(&stream);
        stream
    }

    pub fn join(mut self) -> thread::Result<std::io::Result<()>> {
        self.thread.take().unwrap().join()
    }

    pub fn reports(&self) -> usize {
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
pub fn who(stream: &mut (impl Read + Write)) -> usize {
    stream.write_all(b"who?").unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    usize::from(answer[0] - b'0')
}
