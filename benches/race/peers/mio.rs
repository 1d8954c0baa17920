//! Raw mio, as its documentation has it: reads go on until the kernel has no more.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::handwritten::{Poller, Ready};

pub struct Mio {
    poll: Poll,
    /// Where [`Poller::event`] looks: mio's own list cannot be asked by number.
    events: Vec<Ready>,
    raw: Events,
}

impl Poller for Mio {
    const SHORT_READ_IS_LAST: bool = false;

    fn new() -> io::Result<Self> {
        Ok(Self { poll: Poll::new()?, events: Vec::new(), raw: Events::with_capacity(1024) })
    }

    fn add(&mut self, fd: RawFd, token: usize) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut SourceFd(&fd), Token(token), interest)
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.events.clear();
        self.poll.poll(&mut self.raw, timeout)?;
        self.events.extend(self.raw.iter().map(|event| Ready {
            token: event.token().0,
            readable: event.is_readable() || event.is_read_closed() || event.is_error(),
            writable: event.is_writable(),
            closed: event.is_read_closed() || event.is_error(),
        }));
        Ok(())
    }

    fn event(&self, n: usize) -> Option<Ready> {
        let Ready { token, readable, writable, closed } = *self.events.get(n)?;
        Some(Ready { token, readable, writable, closed })
    }
}
