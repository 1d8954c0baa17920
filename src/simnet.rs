//! A simulated kernel: sockets, listeners, a poll and a clock, with no system call anywhere.
//!
//! It stands where the operating system's stand, below the same reactor. All that happens in it
//! follows from a seed.

mod acting;
mod calls;
mod faults;
mod names;
mod peer;
mod rng;
mod socket;
mod tcp;
mod world;

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config::Config;
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
pub(crate) use world::{Knock, World, MICRO, MILLI};

/// Where outbound connections come from.
const OUR_HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// A simulated kernel, shared by everything that lives in it.
#[derive(Clone)]
pub(crate) struct Kernel(Arc<Mutex<World>>);

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").finish_non_exhaustive()
    }
}

impl Kernel {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Self(Arc::new(Mutex::new(World::new(seed, faults))))
    }

    /// A handler that panics does so outside: a poisoned lock is as good as any.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Time {
        Time::from_duration(Duration::from_nanos(self.world().now))
    }

    /// What the waker does.
    pub(crate) fn wake(&self) {
        self.world().woken = true;
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
        if world.dice.chance(world.faults.pause) {
            let longest = u64::try_from(world.faults.longest_pause.as_micros()).unwrap_or(u64::MAX >> 20);
            let pause = world.dice.between(1, usize::try_from(longest).unwrap_or(usize::MAX >> 1));
            world.note(|_| format!("the process sleeps for {pause} µs"));
            world.now += pause as u64 * MICRO;
            world.back = world.now;
        }
        if world.dice.chance(world.faults.interrupt) {
            world.work.events += 1;
            return Err(io::Error::from_raw_os_error(libc::EINTR));
        }
        let nanos = |timeout: Duration| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let until = timeout.map(|timeout| world.now.saturating_add(nanos(timeout)));
        world.now += MICRO;
        loop {
            world.settle();
            if !world.answers.is_empty() {
                drop(guard);
                self.send_answers();
                guard = self.world();
                world = &mut *guard;
            }
            if std::mem::take(&mut world.woken) {
                events.push((WAKER_TOKEN, Bits { input: true, ..Bits::default() }));
            }
            world.sys_take_events(most, events);
            if !events.is_empty() {
                break;
            }
            let next = world.next_event();
            match (next, until) {
                (Some(next), None) => world.now = next,
                (Some(next), Some(until)) if next < until => world.now = next,
                (_, Some(until)) => {
                    world.now = world.now.max(until);
                    break;
                }
                (None, None) => break,
            }
        }
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
        self.kernel.world().sys_register(self.sock, token);
    }

    /// Whether the connection is established.
    pub(crate) fn is_connected(&self) -> bool {
        self.kernel.world().sys_is_connected(self.sock)
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Notes what the program was told that it sent.
    pub(crate) fn promise(&self, data: &[u8]) {
        if let Some(sock) = self.kernel.world().socks.get_mut(&self.sock) {
            sock.promised.extend_from_slice(data);
        }
    }

    /// Notes that a session stands above it from here on.
    #[cfg(feature = "tls")]
    pub(crate) fn seal(&self) {
        if let Some(sock) = self.kernel.world().socks.get_mut(&self.sock) {
            sock.sealed = true;
        }
    }

    /// Notes that the program asked for no input, or for input again.
    pub(crate) fn pause(&self, paused: bool) {
        if let Some(sock) = self.kernel.world().socks.get_mut(&self.sock) {
            sock.resumed = !paused && (sock.paused || sock.resumed);
            sock.paused = paused;
        }
    }

    /// Notes that the queue passed high water, and whether the connection says that it did.
    pub(crate) fn crossed(&self, congested: bool) {
        let mut world = self.kernel.world();
        if let Some(sock) = world.socks.get_mut(&self.sock) {
            sock.crossings += 1;
        }
        if !congested {
            let name = world.name(self.sock);
            world.accuse(|| format!("{name}: a send said congested, the connection does not"));
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
        self.kernel.world().socks.get(&self.sock).map(|sock| sock.unacknowledged())
    }

    fn last_heard(&self) -> Option<LastHeard> {
        let world = self.kernel.world();
        let sock = world.socks.get(&self.sock)?;
        // In whole milliseconds, as Linux counts.
        let ago = |at: u64| Duration::from_millis(world.now.saturating_sub(at) / MILLI);
        Some(LastHeard {
            data: ago(sock.data_at),
            ack: ago(sock.ack_at),
            round_trip: Duration::from_millis(1),
        })
    }

    fn unread(&self) -> Option<usize> {
        self.kernel.world().socks.get(&self.sock).map(|sock| sock.input.len())
    }

    fn short_read_empties(&self) -> bool {
        self.kernel.world().faults.short_read == 0
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
