//! The system calls of the engine under test: each takes a little time, in which the network goes
//! on, and each may meet a fault.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::socket::{Bits, Phase, Side, Sock, SockId};
use super::world::{Knock, ListenerState, Ready, World, MICRO, MILLI};
use crate::config::Config;

fn error<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

fn timeouts(config: &Config) -> (Option<u64>, Option<u64>) {
    let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4);
    let keepalive = config.keepalive.map(|k| nanos(k.idle) + nanos(k.interval) * u64::from(k.count));
    (keepalive, config.effective_user_timeout().map(nanos))
}

/// The address of a client that was gone when it was accepted.
pub(crate) const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9)), 9);

/// System calls of one turn after which it is taken to go on for ever.
const MOST_CALLS: usize = 200_000;

/// Of so many system calls one is as likely to be where the process is stopped as a callback is.
const STOPS_IN_CALLS: usize = 8;

/// There is no other way out of a turn that does not end.
#[allow(clippy::panic)]
fn give_up() -> ! {
    panic!("a turn that does not end");
}

impl World {
    /// A call costs from 1 to 5 µs, and the world does not stand still.
    pub(super) fn call(&mut self) {
        self.work.calls += 1;
        if self.work.calls > MOST_CALLS {
            self.accuse(|| "the reactor spins: a turn that does not end".to_owned());
            if !std::thread::panicking() {
                give_up();
            }
        }
        self.now += self.dice.between(1, 5) as u64 * MICRO;
        self.settle();
        if self.witness.in_turn {
            self.stop_in_turn(STOPS_IN_CALLS);
        }
    }

    /// A fault that the call meets before it does anything.
    fn struck(&mut self, id: SockId) -> Option<i32> {
        let faults = self.faults.clone();
        if self.dice.chance(faults.interrupt) {
            return Some(libc::EINTR);
        }
        if self.dice.chance(faults.reset) && !self.is_pipe(id) {
            self.cut(id);
        }
        // A socket that was reset never says that there may be more to come.
        let alive = self.socks.get(&id).is_some_and(|sock| sock.phase != Phase::Closed);
        if alive && self.dice.chance(faults.would_block) {
            // Whoever was told "nothing" wrongly is told otherwise later.
            let at = self.now + self.dice.between(1, 3000) as u64 * MICRO;
            self.schedule_event(Ready::Sock(id), at);
            self.held_back(id, at);
            self.work.socks.entry(id).or_default().would_block += 1;
            return Some(libc::EAGAIN);
        }
        None
    }

    /// The kernel does not tell before `at` what it should.
    fn held_back(&mut self, id: SockId, at: u64) {
        if let Some(sock) = self.socks.get_mut(&id) {
            sock.times.lie = sock.times.lie.max(at);
        }
    }

    pub(crate) fn sys_read(&mut self, id: SockId, buf: &mut [u8]) -> io::Result<usize> {
        self.call();
        let struck = self.struck(id);
        if let Some(sock) = self.socks.get_mut(&id) {
            sock.look(self.now, struck);
            if let Some(pipe) = &mut sock.pipe {
                pipe.told = 0;
            }
        }
        if let Some(errno) = struck {
            self.note(|world| format!("{}: read is made to fail with errno {errno}", world.name(id)));
            return error(errno);
        }
        let most = match self.dice.chance(self.faults.short_read) {
            true => self.dice.between(1, buf.len().min(64)),
            false => buf.len(),
        };
        let Some(sock) = self.socks.get_mut(&id) else { return error(libc::EBADF) };
        let result = sock.read(buf.get_mut(..most).unwrap_or_default());
        if result == Err(libc::EAGAIN) {
            self.work.socks.entry(id).or_default().would_block += 1;
        }
        if let Ok(count) = result {
            sock.times.read = self.now;
            sock.looks = 0;
            self.work.socks.entry(id).or_default().read += count;
            self.after_read(id);
        }
        self.note(|world| format!("{}: read {}", world.name(id), show(result)));
        result.or_else(error)
    }

    pub(crate) fn sys_write(&mut self, id: SockId, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.call();
        let struck = self.struck(id);
        if let (Some(sock), false) = (self.socks.get_mut(&id), struck == Some(libc::EINTR)) {
            sock.times.tried = self.now;
        }
        if let Some(errno) = struck {
            self.note(|world| format!("{}: write is made to fail with errno {errno}", world.name(id)));
            return error(errno);
        }
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let most = match self.dice.chance(self.faults.short_write) {
            true => self.dice.between(1, offered.clamp(1, 300)),
            false => usize::MAX,
        };
        let Some(sock) = self.socks.get_mut(&id) else { return error(libc::EBADF) };
        let before = sock.written;
        let bytes = slices.iter().flat_map(|slice| slice.iter());
        let result = sock.write(bytes, offered, most);
        if let Ok(taken) = result {
            sock.times.written = self.now;
            sock.looks = 0;
            let right = sock.note_output(taken);
            let queued = sock.promised.len().saturating_sub(sock.handed() as usize);
            if sock.soft_bytes.is_some_and(|soft| queued < soft) {
                sock.times.soft = None;
            }
            if !right {
                let name = self.name(id);
                self.accuse(|| format!("{name}: the {taken} bytes written at offset {before} are not the ones that were sent"));
            }
            self.work.socks.entry(id).or_default().written += taken;
            self.pump(id);
            self.start_watch(id);
        }
        match result {
            Err(libc::EAGAIN) => self.work.socks.entry(id).or_default().would_block += 1,
            Err(_) => self.write_failed(id),
            Ok(_) => {}
        }
        self.note(|world| format!("{}: write of {offered} {}", world.name(id), show(result)));
        result.or_else(error)
    }

    fn write_failed(&mut self, id: SockId) {
        if let Some(sock) = self.socks.get_mut(&id) {
            sock.read_when_acked = sock.read;
        }
    }

    pub(crate) fn sys_shutdown(&mut self, id: SockId) -> io::Result<()> {
        self.call();
        let Some(sock) = self.socks.get_mut(&id) else { return error(libc::EBADF) };
        if sock.phase != Phase::Open {
            return error(libc::ENOTCONN);
        }
        match sock.untaken() {
            Some(1..) if sock.is_deserted() => return error(libc::EPIPE),
            Some(1..) => return error(libc::EAGAIN),
            _ => {}
        }
        sock.shut = true;
        sock.times.shut = self.now;
        sock.read_when_acked = sock.read;
        self.note(|world| format!("{}: ends its stream", world.name(id)));
        self.pump(id);
        // As Linux does, for nothing.
        self.list(Ready::Sock(id));
        Ok(())
    }

    pub(crate) fn sys_take_error(&mut self, id: SockId) -> io::Result<Option<io::Error>> {
        self.call();
        let Some(sock) = self.socks.get_mut(&id) else { return error(libc::EBADF) };
        if sock.is_deserted() && sock.untaken() > Some(0) {
            return Ok(Some(io::Error::from_raw_os_error(libc::EPIPE)));
        }
        Ok(sock.error.take().map(io::Error::from_raw_os_error))
    }

    pub(crate) fn sys_close(&mut self, id: SockId) {
        self.call();
        self.descriptors = self.descriptors.saturating_sub(1);
        self.work.sockets += 1;
        self.note(|world| format!("{}: close", world.name(id)));
        if let Some(sock) = self.socks.get(&id) {
            let lost = sock.promised.len() as u64 > sock.arrived();
            if lost && sock.phase == Phase::Open && !sock.linger_zero && !sock.sealed && sock.pipe.is_none() {
                let name = self.name(id);
                self.accuse(|| format!("{name}: a stream that was cut ends without a reset"));
            }
        }
        if let Some(token) = self.socks.get_mut(&id).and_then(|sock| sock.token.take()) {
            self.gone.push(token);
        }
        self.close(id);
    }

    /// Adds a socket to the poll: what is ready already is an event at once.
    pub(crate) fn sys_register(&mut self, id: SockId, engine: usize, token: usize) {
        self.call();
        let Some(sock) = self.socks.get_mut(&id) else { return };
        (sock.engine, sock.token) = (engine, Some(token));
        sock.times.known = self.now;
        if sock.level().any() {
            self.list(Ready::Sock(id));
        }
    }

    /// Whether another descriptor is to be had; now and then none is, for a while.
    fn take_descriptor(&mut self) -> io::Result<()> {
        // Not before anything is open: a server that cannot start shows nothing.
        let serves = self.descriptors > 1 && self.descriptor_limit.is_none();
        if serves && self.dice.chance(self.faults.exhaustion) {
            self.descriptor_limit = Some(self.descriptors);
            let at = self.now + self.dice.between(1, 500) as u64 * MILLI;
            self.schedule_descriptor_limit(None, at);
            self.note(|_| "file descriptors run out".to_owned());
        }
        if self.descriptor_limit.is_some_and(|limit| self.descriptors >= limit) {
            return error(libc::EMFILE);
        }
        self.descriptors += 1;
        Ok(())
    }

    pub(crate) fn sys_descriptor(&mut self) -> io::Result<()> {
        self.call();
        self.take_descriptor()
    }

    pub(crate) fn sys_listen(&mut self, mut addr: SocketAddr, config: &Config) -> io::Result<usize> {
        self.call();
        if addr.port() == 0 {
            addr.set_port(49152 + self.listeners.len() as u16);
        }
        if self.listeners.values().any(|listener| listener.addr == addr) {
            return error(libc::EADDRINUSE);
        }
        self.take_descriptor()?;
        let id = self.listeners.last_key_value().map_or(0, |(id, _)| id + 1);
        let (keepalive, user_timeout) = timeouts(config);
        let listener = ListenerState {
            addr,
            backlog: config.backlog as usize,
            queue: Default::default(),
            token: None,
            listed: false,
            empty_at: None,
            keepalive,
            user_timeout,
        };
        self.listeners.insert(id, listener);
        Ok(id)
    }

    pub(crate) fn sys_close_listener(&mut self, id: usize) {
        self.call();
        self.descriptors = self.descriptors.saturating_sub(1);
        let Some(listener) = self.listeners.remove(&id) else { return };
        self.note(|_| format!("listener closed, {} clients in its queue", listener.queue.len()));
        // Who came since it last found nobody, with nothing else done in between, could not be known of.
        let unknown = listener.empty_at.is_some_and(|at| at > self.witness.called);
        if !self.witness.shutdowns.is_empty() && !self.witness.by_hand && !unknown {
            self.witness.abandoned += listener.queue.len();
        }
        for waiting in listener.queue {
            self.reset_and_free(waiting);
        }
    }

    pub(crate) fn sys_accept(&mut self, id: usize) -> io::Result<(SockId, SocketAddr)> {
        self.call();
        let faults = self.faults.clone();
        if self.dice.chance(faults.interrupt) {
            return error(libc::EINTR);
        }
        let Some(listener) = self.listeners.get_mut(&id) else { return error(libc::EBADF) };
        if listener.queue.is_empty() {
            listener.empty_at = Some(self.now);
            return error(libc::EAGAIN);
        }
        if self.dice.chance(faults.accept_error) {
            let errors = [libc::ECONNABORTED, libc::EPROTO, libc::ENETDOWN, libc::ENOBUFS];
            let errno = errors.get(self.dice.below(errors.len())).copied().unwrap_or(libc::EPROTO);
            self.note(|_| format!("accept: errno {errno}"));
            return error(errno);
        }
        self.take_descriptor()?;
        let sock = self.listeners.get_mut(&id).and_then(|listener| listener.queue.pop_front());
        let Some(sock) = sock else { return error(libc::EAGAIN) };
        self.work.accepts += 1;
        self.note(|world| format!("{}: accepted", world.name(sock)));
        let other = self.socks.get(&sock).and_then(|sock| self.socks.get(&sock.other?)).map(|sock| sock.side);
        let addr = match other {
            Some(Side::Peer(peer)) => self.peers.get(peer).map(|peer| peer.addr),
            _ => None,
        };
        // Somebody who reset in the queue left no other end: accept succeeds all the same.
        Ok((sock, addr.unwrap_or(NOBODY)))
    }

    pub(crate) fn sys_connect(&mut self, addr: SocketAddr, config: &Config) -> io::Result<SockId> {
        self.call();
        if self.dice.chance(self.faults.connect_error) {
            let errno = if self.dice.chance(500) { libc::ENETUNREACH } else { libc::EADDRNOTAVAIL };
            return error(errno);
        }
        self.take_descriptor()?;
        let id = self.add_sock(Side::Engine, Phase::Connecting);
        let (keepalive, user_timeout) = timeouts(config);
        if let Some(sock) = self.socks.get_mut(&id) {
            (sock.keepalive, sock.user_timeout) = (keepalive, user_timeout);
        }
        let at = self.now + self.latency();
        self.schedule_knock(Knock::Engine(id, addr), at);
        Ok(id)
    }

    /// What has become of a connect: whether it is established.
    pub(crate) fn sys_is_connected(&mut self, id: SockId) -> bool {
        self.call();
        let Some(sock) = self.socks.get_mut(&id) else { return false };
        sock.times.looked = self.now;
        sock.phase == Phase::Open
    }

    /// Takes a reactor's events off the list, `most` at most.
    pub(crate) fn sys_take_events(&mut self, engine: usize, most: usize, events: &mut Vec<(usize, Bits)>) {
        let faults = self.faults.clone();
        if self.dice.chance(faults.event_shuffle) && self.ready.len() > 1 {
            for place in (1..self.ready.len()).rev() {
                let other = self.dice.below(place + 1);
                self.ready.swap(place, other);
            }
        }
        for _ in 0..self.ready.len() {
            if events.len() >= most {
                break;
            }
            let Some(ready) = self.ready.pop_front() else { break };
            if self.engine_of(ready) != engine {
                self.ready.push_back(ready);
                continue;
            }
            let late = self.dice.chance(faults.event_delay);
            if let Some(event) = self.event(ready) {
                if late {
                    let at = self.now + self.dice.between(1, 5000) as u64 * MICRO;
                    self.schedule_event(ready, at);
                    if let Ready::Sock(id) | Ready::Again(id) = ready {
                        self.held_back(id, at);
                    }
                } else {
                    events.push(event);
                }
            }
        }
        if self.dice.chance(faults.event_spurious) {
            self.spurious_event(engine, events);
        }
    }

    /// Whose poll tells of it. The first reactor accepts.
    fn engine_of(&self, ready: Ready) -> usize {
        match ready {
            Ready::Sock(id) | Ready::Again(id) => self.socks.get(&id).map_or(0, |sock| sock.engine),
            Ready::Listener(_) => 0,
        }
    }

    /// What the poll says of one that is on its list: epoll looks at it anew.
    fn event(&mut self, ready: Ready) -> Option<(usize, Bits)> {
        match ready {
            Ready::Sock(id) => {
                let sock = self.socks.get_mut(&id)?;
                sock.listed = false;
                let (token, bits) = (sock.token?, sock.level());
                self.list_again(id);
                bits.any().then_some((token, bits))
            }
            Ready::Again(id) => self.event_again(id),
            Ready::Listener(id) => {
                let listener = self.listeners.get_mut(&id)?;
                listener.listed = false;
                let waits = !listener.queue.is_empty();
                waits.then_some((listener.token?, Bits { input: true, ..Bits::default() }))
            }
        }
    }

    /// An event that nothing called for: of somebody alive, or of somebody gone.
    fn spurious_event(&mut self, engine: usize, events: &mut Vec<(usize, Bits)>) {
        let all = Bits { input: true, output: true, ..Bits::default() };
        if self.dice.chance(500) {
            let place = self.dice.below(self.gone.len());
            events.extend(self.gone.get(place).map(|token| (*token, all)));
            return;
        }
        let ours = |sock: &Sock| sock.token.is_some() && sock.engine == engine;
        let alive: Vec<SockId> =
            self.socks.iter().filter(|(_, sock)| ours(sock)).map(|(id, _)| *id).collect();
        let chosen = alive.get(self.dice.below(alive.len())).and_then(|id| self.socks.get_mut(id));
        if let Some((token, sock)) = chosen.and_then(|sock| Some((sock.token?, sock))) {
            // Whoever is told of an event looks: that is not of the engine's own accord.
            sock.looks = sock.looks.saturating_sub(1);
            events.push((token, sock.level()));
        }
    }
}

fn show(result: Result<usize, i32>) -> String {
    match result {
        Ok(count) => format!("gives {count}"),
        Err(errno) => format!("fails with errno {errno}"),
    }
}
