//! A simulated kernel: sockets, listeners, a poll and a clock, with no system call anywhere.
//!
//! It stands where the operating system's stand, below the same reactor. All that happens in it
//! follows from a seed.

mod acting;
mod calls;
mod faults;
mod names;
mod peer;
mod piping;
mod rng;
mod sealed;
#[cfg(feature = "tls")]
mod securing;
mod socket;
mod tcp;
mod witness;
mod world;

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config::Config;
use crate::connection::Telling;
use crate::id::WAKER_TOKEN;
use crate::timers::Time;
use crate::transport::{LastHeard, Transport};

pub(crate) use calls::NOBODY;
pub use faults::Faults;
pub(crate) use names::Name;
pub(crate) use peer::PeerState;
pub use peer::{End, Reading, Remote, Script};
pub(crate) use rng::Rng;
pub(crate) use socket::{Bits, Phase, Sock, SockId};
pub(crate) use witness::{Attempt, Death, Other, View, Witness};
pub(crate) use world::{Knock, Ready, World, MICRO, MILLI};

/// Where outbound connections come from.
const OUR_HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// A simulated kernel, shared by everything that lives in it.
#[derive(Clone)]
pub(crate) struct Kernel {
    world: Arc<Mutex<World>>,
    /// Which of the reactors in this world it is that polls and makes calls.
    engine: usize,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").finish_non_exhaustive()
    }
}

impl Kernel {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Self { world: Arc::new(Mutex::new(World::new(seed, faults))), engine: 0 }
    }

    /// The same kernel, as another reactor has it.
    pub(crate) fn of_engine(&self, engine: usize) -> Self {
        Self { world: self.world.clone(), engine }
    }

    /// A handler that panics does so outside: a poisoned lock is as good as any.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Time {
        Time::from_nanos(self.world().now)
    }

    /// What the waker does.
    pub(crate) fn wake(&self) {
        self.world().woken.insert(self.engine);
    }

    /// Waits for events, `timeout` at most, while virtual time passes. With nothing to wait for it
    /// returns at once, and nothing has happened.
    pub(crate) fn poll(
        &self,
        events: &mut Vec<(usize, Bits)>,
        most: usize,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        events.clear();
        let mut guard = self.world();
        let mut world = &mut *guard;
        let pause = world.faults.pause;
        world.stop_outside(pause);
        if world.dice.chance(world.faults.interrupt) {
            world.work.events += 1;
            return Err(io::Error::from_raw_os_error(libc::EINTR));
        }
        let nanos = |timeout: Duration| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let until = timeout.map(|timeout| world.now.saturating_add(nanos(timeout)));
        world.now += MICRO;
        let stop =
            world.dice.chance(pause).then(|| world.now + world.dice.between(0, 500_000) as u64 * MICRO);
        loop {
            world.settle();
            if !world.answers.is_empty() {
                drop(guard);
                self.send_answers();
                guard = self.world();
                world = &mut *guard;
            }
            if world.woken.remove(&self.engine) {
                events.push((WAKER_TOKEN, Bits { input: true, ..Bits::default() }));
            }
            world.sys_take_events(self.engine, most, events);
            // At the end of its time it looks once more.
            let over = until.is_some_and(|until| world.now >= until);
            if over || !events.is_empty() {
                break;
            }
            let next = match (world.next_event(), until) {
                (Some(next), Some(until)) => next.min(until),
                (None, None) => break,
                (next, until) => next.or(until).unwrap_or_default(),
            };
            if let Some(stop) = stop.filter(|stop| *stop < next) {
                world.now = world.now.max(stop);
                world.stop_outside(1000);
                world.work.events += 1;
                return Err(io::Error::from_raw_os_error(libc::EINTR));
            }
            world.now = world.now.max(next);
        }
        if !events.is_empty() {
            world.note(|_| format!("the poll gives {} events", events.len()));
        }
        // What comes from here on is not among the events.
        world.witness.asked = world.now;
        world.stop_outside(pause);
        (world.witness.began, world.witness.polled) = (world.now, true);
        world.work.events += events.len();
        Ok(())
    }

    pub(crate) fn listen(&self, addr: SocketAddr, config: &Config) -> io::Result<SimListener> {
        let id = self.world().sys_listen(addr, config)?;
        Ok(SimListener { kernel: self.clone(), id })
    }

    pub(crate) fn connect(&self, addr: SocketAddr, config: &Config) -> io::Result<SimStream> {
        let sock = self.world().sys_connect(addr, config)?;
        let port = 32_768 + (sock % 28_000) as u16;
        Ok(SimStream { kernel: self.clone(), sock, local: (OUR_HOST, port).into() })
    }

    /// Our end of two pipes, and whose the other is.
    pub(crate) fn pipe(&self, script: Script) -> (SimStream, usize) {
        let (sock, peer) = self.world().add_pipe(script);
        (SimStream { kernel: self.clone(), sock, local: (OUR_HOST, 0).into() }, peer)
    }

    /// A descriptor that does nothing but count.
    pub(crate) fn descriptor(&self) -> io::Result<SimDescriptor> {
        self.world().sys_descriptor()?;
        Ok(SimDescriptor(self.clone()))
    }
}

/// The engine's end of a connection.
#[derive(Debug)]
pub(crate) struct SimStream {
    kernel: Kernel,
    pub(crate) sock: SockId,
    local: SocketAddr,
}

impl SimStream {
    pub(crate) fn register(&self, token: usize) {
        self.kernel.world().sys_register(self.sock, self.kernel.engine, token);
    }

    pub(crate) fn is_pipe(&self) -> bool {
        self.kernel.world().is_pipe(self.sock)
    }

    /// How the poll tells of a pipe's input from here on.
    pub(crate) fn tell_of_input(&self, telling: Telling) {
        self.kernel.world().sys_tell_of_input(self.sock, telling);
    }

    /// Whether the connection is established.
    pub(crate) fn is_connected(&self) -> bool {
        self.kernel.world().sys_is_connected(self.sock)
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Another reactor has it from here on.
    pub(crate) fn move_to(&mut self, kernel: &Kernel) {
        self.kernel = kernel.clone();
    }

    /// Notes that a session stands above it from here on.
    #[cfg(feature = "tls")]
    pub(crate) fn seal(&self, clear: usize, is_toy: bool, is_lenient: bool) {
        if let Some(sock) = self.kernel.world().socks.get_mut(&self.sock) {
            sock.seal(clear, is_toy, is_lenient);
        }
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.kernel.world().sys_close(self.sock);
    }
}

impl Transport for SimStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.kernel.world().sys_read(self.sock, buf)
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.kernel.world().sys_write(self.sock, slices)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.kernel.world().sys_shutdown(self.sock)
    }

    fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        self.kernel.world().sys_take_error(self.sock)
    }

    fn unacknowledged(&self) -> Option<u64> {
        let mut world = self.kernel.world();
        let sock = world.socks.get_mut(&self.sock)?;
        sock.looks += 1;
        sock.untaken().or(Some(sock.unacknowledged()))
    }

    fn last_heard(&self) -> Option<LastHeard> {
        let world = self.kernel.world();
        let sock = world.socks.get(&self.sock).filter(|sock| sock.pipe.is_none())?;
        // In whole milliseconds, as Linux counts.
        let ago = |at: u64| Duration::from_millis(world.now.saturating_sub(at) / MILLI);
        Some(LastHeard {
            data: ago(sock.times.data),
            ack: ago(sock.times.ack),
            round_trip: Duration::from_millis(1),
        })
    }

    fn unread(&self) -> Option<usize> {
        self.kernel.world().socks.get(&self.sock).map(|sock| sock.input.len())
    }

    fn short_read_empties(&self) -> bool {
        let world = self.kernel.world();
        match world.socks.get(&self.sock) {
            // They do not, but what is left is told of. A session reads until nothing is left.
            Some(sock) if sock.pipe.is_some() => !sock.sealed && sock.toy.is_none(),
            _ => world.faults.short_read == 0,
        }
    }

    fn reset_on_close(&mut self) {
        if let Some(sock) = self.kernel.world().socks.get_mut(&self.sock) {
            sock.linger_zero = true;
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct SimListener {
    kernel: Kernel,
    id: usize,
}

impl SimListener {
    pub(crate) fn accept(&self) -> io::Result<(SimStream, SocketAddr)> {
        let (sock, addr) = self.kernel.world().sys_accept(self.id)?;
        let local = self.local_addr()?;
        Ok((SimStream { kernel: self.kernel.clone(), sock, local }, addr))
    }

    pub(crate) fn register(&self, token: usize) {
        if let Some(listener) = self.kernel.world().listeners.get_mut(&self.id) {
            listener.token = Some(token);
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        let world = self.kernel.world();
        let listener = world.listeners.get(&self.id);
        listener.map(|listener| listener.addr).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.kernel.world().sys_close_listener(self.id);
    }
}

/// A descriptor that does nothing but count.
#[derive(Debug)]
pub(crate) struct SimDescriptor(Kernel);

impl Drop for SimDescriptor {
    fn drop(&mut self) {
        let mut world = self.0.world();
        world.descriptors = world.descriptors.saturating_sub(1);
    }
}
