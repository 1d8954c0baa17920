//! Where sockets, events and time come from: the operating system, or a simulation of one.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll, Registry, Token, Waker};

use crate::addr::Addr;
use crate::config::Config;
use crate::id::WAKER_TOKEN;
use crate::listen_options::ListenOptions;
use crate::names::{system_resolver, Resolve};
#[cfg(feature = "sim")]
use crate::simnet::{Bits, Kernel};
use crate::socket::{Acceptor, Clock, Connect, Held, Reserve, Stream};
use crate::timers::Time;
use crate::transport::Hints;

/// What wakes a reactor from another thread.
pub(crate) type Wake = Box<dyn Fn() -> io::Result<()> + Send + Sync>;

/// Makes sockets and tells the time.
#[derive(Debug)]
pub(crate) struct System {
    pub(crate) registry: Registry,
    clock: Clock,
    #[cfg(feature = "sim")]
    pub(crate) sim: Option<Kernel>,
}

/// Waits for events.
#[derive(Debug)]
pub(crate) struct Poller {
    poll: Poll,
    events: Events,
    #[cfg(feature = "sim")]
    sim: Option<(Kernel, Vec<(usize, Bits)>)>,
}

/// The operating system.
pub(crate) fn operating_system(config: &Config) -> io::Result<(System, Poller, Wake)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), Token(WAKER_TOKEN))?;
    let system = System {
        registry: poll.registry().try_clone()?,
        clock: Clock::new(),
        #[cfg(feature = "sim")]
        sim: None,
    };
    let poller = Poller {
        events: Events::with_capacity(config.events_per_turn),
        poll,
        #[cfg(feature = "sim")]
        sim: None,
    };
    Ok((system, poller, Box::new(move || waker.wake())))
}

/// A simulated one. (A poll of the real one stands by, for the file descriptor that a reactor has.)
#[cfg(feature = "sim")]
pub(crate) fn simulated(kernel: Kernel) -> io::Result<(System, Poller, Wake)> {
    let poll = Poll::new()?;
    let system =
        System { registry: poll.registry().try_clone()?, clock: Clock::new(), sim: Some(kernel.clone()) };
    let poller = Poller { events: Events::with_capacity(1), poll, sim: Some((kernel.clone(), Vec::new())) };
    let wake = move || {
        kernel.wake();
        Ok(())
    };
    Ok((system, poller, Box::new(wake)))
}

impl System {
    /// The present moment.
    #[inline]
    pub(crate) fn clock(&self) -> Time {
        #[cfg(feature = "sim")]
        if let Some(kernel) = &self.sim {
            return kernel.now();
        }
        self.clock.now()
    }

    /// Whether a few milliseconds may have passed since this was last asked.
    #[inline]
    pub(crate) fn has_time_moved(&self) -> bool {
        #[cfg(feature = "sim")]
        if self.sim.is_some() {
            return true;
        }
        self.clock.has_moved()
    }

    pub(crate) fn bind(&self, addr: &Addr, options: &ListenOptions, config: &Config) -> io::Result<Acceptor> {
        #[cfg(feature = "sim")]
        if let Some(kernel) = &self.sim {
            return kernel.listen(tcp_only(addr)?, config).map(Acceptor::Sim);
        }
        Acceptor::bind(addr, options, config)
    }

    /// Takes over a socket that is listening already.
    pub(crate) fn adopt(&self, fd: OwnedFd, config: &Config) -> io::Result<Acceptor> {
        #[cfg(feature = "sim")]
        if self.sim.is_some() {
            return Err(io::Error::new(ErrorKind::Unsupported, "a real socket is of no use in a simulation"));
        }
        Acceptor::from_fd(fd, config)
    }

    /// Whether descriptors of the program's can be taken in.
    pub(crate) fn takes_descriptors(&self) -> io::Result<()> {
        #[cfg(feature = "sim")]
        if self.sim.is_some() {
            return Err(io::Error::new(
                ErrorKind::Unsupported,
                "a real descriptor is of no use in a simulation",
            ));
        }
        Ok(())
    }

    /// Begins to connect, from an address of this machine if one is given.
    pub(crate) fn connect(
        &self,
        addr: &Addr,
        from: Option<SocketAddr>,
        config: &Config,
    ) -> io::Result<Connect> {
        #[cfg(feature = "sim")]
        if let Some(kernel) = &self.sim {
            let stream = kernel.connect(tcp_only(addr)?, config)?;
            return Ok(Connect::Started(Stream::Sim(Box::new(stream))));
        }
        Stream::connect(addr, from, config)
    }

    /// Who finds the addresses of hosts, unless the program brings another.
    pub(crate) fn resolver(&self) -> Box<dyn Resolve> {
        #[cfg(feature = "sim")]
        if let Some(kernel) = &self.sim {
            return Box::new(kernel.clone());
        }
        Box::new(system_resolver())
    }

    /// A file descriptor held back for when there are no others.
    pub(crate) fn reserve(&self) -> io::Result<Reserve> {
        #[cfg(feature = "sim")]
        if let Some(kernel) = self.sim.clone() {
            return Reserve::new(Box::new(move || kernel.descriptor().map(Held::Sim)));
        }
        Reserve::new(Box::new(|| File::open("/dev/null").map(Held::File)))
    }
}

#[cfg(feature = "sim")]
fn tcp_only(addr: &Addr) -> io::Result<std::net::SocketAddr> {
    addr.as_tcp().ok_or_else(|| io::Error::new(ErrorKind::Unsupported, "only TCP is simulated"))
}

impl Poller {
    /// Waits for events, for `timeout` at most. To be interrupted is no error, and ends the wait; but
    /// what the kernel knows by then is still asked for. Returns whether that was so.
    pub(crate) fn poll(&mut self, config: &Config, timeout: Option<Duration>) -> io::Result<bool> {
        let (mut result, mut interrupted) = (self.poll_once(config, timeout), false);
        while result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Interrupted) {
            self.events.clear();
            interrupted = true;
            result = self.poll_once(config, Some(Duration::ZERO));
        }
        result.map(|()| interrupted)
    }

    #[cfg(feature = "sim")]
    fn poll_once(&mut self, config: &Config, timeout: Option<Duration>) -> io::Result<()> {
        match &mut self.sim {
            Some((kernel, events)) => kernel.poll(events, config.events_per_turn, timeout),
            None => self.poll.poll(&mut self.events, timeout),
        }
    }

    #[cfg(not(feature = "sim"))]
    fn poll_once(&mut self, _: &Config, timeout: Option<Duration>) -> io::Result<()> {
        self.poll.poll(&mut self.events, timeout)
    }

    /// Passes on what came, by token.
    #[inline]
    pub(crate) fn for_each_event(&self, mut tell: impl FnMut(usize, Hints)) {
        for event in &self.events {
            let mut hints =
                Hints { readable: event.is_readable(), writable: event.is_writable(), ..Hints::default() };
            if event.is_error() || event.is_priority() || event.is_read_closed() || event.is_write_closed() {
                add_rare_hints(&mut hints, event);
            }
            tell(event.token().0, hints);
        }
        #[cfg(feature = "sim")]
        for (token, bits) in self.sim.iter().flat_map(|(_, events)| events) {
            let hints = Hints {
                readable: bits.input || bits.read_closed(),
                writable: bits.output || bits.write_closed(),
                error: bits.error,
                more: bits.read_closed(),
            };
            tell(*token, hints);
        }
    }
}

/// An error, urgent data, or an end.
#[cold]
fn add_rare_hints(hints: &mut Hints, event: &Event) {
    hints.error = event.is_error();
    hints.more = event.is_priority() || event.is_read_closed();
    hints.readable |= event.is_read_closed();
    hints.writable |= event.is_write_closed();
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}

impl AsRawFd for Poller {
    fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}
