//! A kernel, real or simulated, with both ends of a connection, and what was seen of it.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{SockRef, Socket};

use crate::addr::Addr;
use crate::config::Config;
use crate::listen_options::ListenOptions;
use crate::simnet::{Faults, Kernel, Knock, PeerState, Reading, Script, SockId, MILLI};
use crate::socket::{Accept, Acceptor, Connect, Stream};
use crate::system::{self, Poller, System};
use crate::transport::{Hints, Transport};

const LISTENER: usize = 5;
const STREAM: usize = 6;

/// A connection's other end.
pub(super) enum Other {
    Real(Socket),
    Simulated(SockId),
    Gone,
}

/// One kernel with a listener, our end of a connection and the other end, and what was seen.
pub(super) struct Lab {
    pub(super) kernel: Option<Kernel>,
    pub(super) system: System,
    pub(super) poller: Poller,
    pub(super) acceptor: Option<Acceptor>,
    pub(super) addr: SocketAddr,
    pub(super) ours: Stream,
    pub(super) other: Other,
    pub(super) seen: Vec<String>,
}

pub(super) fn show<T: ToString>(result: io::Result<T>) -> String {
    match result {
        Ok(value) => value.to_string(),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN) => "EAGAIN".to_owned(),
            Some(libc::EPIPE) => "EPIPE".to_owned(),
            Some(libc::ECONNRESET) => "ECONNRESET".to_owned(),
            Some(libc::ECONNREFUSED) => "ECONNREFUSED".to_owned(),
            Some(libc::ENOTCONN) => "ENOTCONN".to_owned(),
            Some(libc::EMFILE) => "EMFILE".to_owned(),
            other => format!("{other:?}"),
        },
    }
}

impl Lab {
    pub(super) fn new(real: bool) -> Self {
        let config = Config::default();
        let kernel = (!real).then(|| Kernel::new(1, Faults::none()));
        let parts = match &kernel {
            Some(kernel) => system::simulated(kernel.clone()),
            None => system::operating_system(&config),
        };
        let (system, poller, _) = parts.unwrap();
        let mut acceptor = system
            .bind(&Addr::Tcp("127.0.0.1:0".parse().unwrap()), &ListenOptions::default(), &config)
            .unwrap();
        acceptor.register(&system.registry, LISTENER).unwrap();
        let addr = acceptor.local_addr().unwrap().as_tcp().unwrap();
        let (acceptor, ours, seen) = (Some(acceptor), Stream::None, Vec::new());
        Self { kernel, system, poller, acceptor, addr, ours, other: Other::Gone, seen }
    }

    pub(super) fn connected(real: bool) -> Self {
        let mut lab = Self::new(real);
        lab.other_connects();
        lab.accept();
        lab.settle();
        lab.events();
        lab.seen.clear();
        lab
    }

    pub(super) fn say(&mut self, what: &str, result: String) {
        self.seen.push(format!("{what}: {result}"));
    }

    /// Lets arrive what is under way.
    pub(super) fn settle(&mut self) {
        match &self.kernel {
            None => std::thread::sleep(Duration::from_millis(40)),
            Some(kernel) => {
                let mut world = kernel.world();
                let until = world.now + 40 * MILLI;
                while let Some(at) = world.next_event().filter(|at| *at < until) {
                    world.now = world.now.max(at);
                    world.settle();
                }
                world.now = until;
            }
        }
    }

    pub(super) fn other_connects(&mut self) {
        match &self.kernel {
            None => self.other = Other::Real(TcpStream::connect(self.addr).unwrap().into()),
            Some(kernel) => {
                let mut world = kernel.world();
                let peer = world.peers.len();
                let script = Script::new().read(Reading::Never);
                let addr = SocketAddr::from(([10, 0, 0, 2], 2));
                world.peers.push(PeerState::new(addr, Some(self.addr), script));
                let at = world.now;
                world.schedule_knock(Knock::Peer(peer), at);
                world.settle();
                self.other = Other::Simulated(world.peers[peer].sock.unwrap());
            }
        }
        self.settle();
    }

    /// Connects to the listener itself, or to a port where nobody listens.
    pub(super) fn connect(&mut self, addr: SocketAddr) {
        match self.system.connect(&Addr::Tcp(addr), None, &Config::default()) {
            Ok(Connect::Started(mut stream)) => {
                stream.register(&self.system.registry, STREAM).unwrap();
                self.ours = stream;
                self.settle();
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn accept(&mut self) {
        let accepted = self.acceptor.as_mut().unwrap().accept().map(|(mut stream, _)| {
            stream.register(&self.system.registry, STREAM).unwrap();
            self.ours = stream;
            "a client"
        });
        self.say("accept", show(accepted));
    }

    /// What the poll tells of our end, of all that came together.
    pub(super) fn events(&mut self) {
        let config = Config { events_per_turn: 16, ..Config::default() };
        self.poller.poll(&config, Some(Duration::ZERO)).unwrap();
        let mut told = String::new();
        self.poller.for_each_event(|token, hints| {
            let Hints { readable, writable, error, more } = hints;
            let flags = [('R', readable), ('W', writable), ('E', error), ('M', more)];
            let flags = flags.iter().filter(|(_, set)| *set).map(|(flag, _)| *flag);
            match token {
                LISTENER => told.push_str("listener "),
                _ => told.extend(flags),
            }
        });
        self.say("events", told);
    }

    pub(super) fn read(&mut self, room: usize) {
        let mut buf = vec![0; room];
        let result = self.ours.read(&mut buf);
        self.say("read", show(result));
    }

    pub(super) fn write(&mut self, len: usize) {
        let data = vec![7; len];
        self.promise(&data);
        let result = self.ours.write(&[IoSlice::new(&data)]);
        self.say("write", show(result));
    }

    pub(super) fn promise(&self, data: &[u8]) {
        let (Stream::Sim(stream), Some(kernel)) = (&self.ours, &self.kernel) else { return };
        let world = &mut *kernel.world();
        if let Some(sock) = world.socks.get_mut(&stream.sock) {
            sock.promise(data, world.now);
        }
    }

    /// Writes until the kernel takes no more; the count.
    pub(super) fn fill(&mut self) -> usize {
        let piece = vec![7; 50_000];
        let (mut total, mut last) = (0, 0);
        loop {
            // What a write did not take stays promised for the next.
            if let Stream::Sim(stream) = &self.ours {
                let kernel = self.kernel.as_ref().unwrap();
                kernel.world().socks.get_mut(&stream.sock).unwrap().promised.truncate(total);
            }
            self.promise(&piece);
            match self.ours.write(&[IoSlice::new(&piece)]) {
                Ok(count) => {
                    total += count;
                    last = total;
                }
                // On its way to the other end it makes room once more.
                Err(_) if last == total => {
                    last = 0;
                    self.settle();
                }
                Err(error) => {
                    self.say("filled, then", show::<usize>(Err(error)));
                    return total;
                }
            }
        }
    }

    pub(super) fn take_error(&mut self) {
        let result = self.ours.take_error().map(|error| match error {
            Some(error) => show::<usize>(Err(error)),
            None => "none".to_owned(),
        });
        self.say("take_error", show(result));
    }

    pub(super) fn shutdown(&mut self) {
        let result = self.ours.shutdown_write().map(|()| "done");
        self.say("shutdown", show(result));
    }

    pub(super) fn unacknowledged(&mut self) -> u64 {
        self.ours.unacknowledged().unwrap()
    }

    pub(super) fn close(&mut self) {
        let mut stream = std::mem::replace(&mut self.ours, Stream::None);
        stream.deregister(&self.system.registry);
        drop(stream);
        self.settle();
    }

    pub(super) fn other_sends(&mut self, len: usize) {
        let data = vec![9; len];
        let result = match (&mut self.other, &self.kernel) {
            (Other::Real(socket), _) => socket.write(&data),
            (Other::Simulated(id), Some(kernel)) => {
                let mut world = kernel.world();
                let sock = world.socks.get_mut(id).unwrap();
                let result = sock.write(data.iter(), len, usize::MAX);
                world.pump(*id);
                result.map_err(io::Error::from_raw_os_error)
            }
            _ => panic!("the other end is gone"),
        };
        self.say("other sends", show(result));
        self.settle();
    }

    /// All that the other end can read, and how that ends.
    pub(super) fn other_reads(&mut self) -> (usize, String) {
        let mut total = 0;
        let end = loop {
            self.settle();
            let mut buf = vec![0; 1 << 20];
            let result = match (&mut self.other, &self.kernel) {
                (Other::Real(socket), _) => {
                    socket.set_nonblocking(true).unwrap();
                    socket.read(&mut buf)
                }
                (Other::Simulated(id), Some(kernel)) => {
                    let mut world = kernel.world();
                    let result = world.socks.get_mut(id).unwrap().read(&mut buf);
                    world.after_read(*id);
                    result.map_err(io::Error::from_raw_os_error)
                }
                _ => panic!("the other end is gone"),
            };
            match result {
                Ok(0) => break "end of stream".to_owned(),
                Ok(count) => total += count,
                other => break show(other),
            }
        };
        (total, end)
    }

    pub(super) fn other_ends(&mut self, how: &str) {
        match (std::mem::replace(&mut self.other, Other::Gone), &self.kernel) {
            (Other::Real(socket), _) => match how {
                "fin" => {
                    socket.shutdown(Shutdown::Write).unwrap();
                    self.other = Other::Real(socket);
                }
                "reset" => SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap(),
                _ => {}
            },
            (Other::Simulated(id), Some(kernel)) => {
                let mut world = kernel.world();
                match how {
                    "fin" => {
                        world.socks.get_mut(&id).unwrap().shut = true;
                        world.pump(id);
                        self.other = Other::Simulated(id);
                    }
                    "reset" => world.reset_and_free(id),
                    _ => world.close(id),
                }
            }
            _ => panic!("the other end is gone"),
        }
        self.settle();
    }
}
