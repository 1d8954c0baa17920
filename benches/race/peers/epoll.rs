//! Raw epoll, edge-triggered, through `libc`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::handwritten::{Poller, Ready};

pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
    count: usize,
}

impl Poller for Epoll {
    const SHORT_READ_IS_LAST: bool = true;

    fn new() -> io::Result<Self> {
        // SAFETY: the descriptor it returns is ours alone.
        let fd = unsafe {
            match libc::epoll_create1(libc::EPOLL_CLOEXEC) {
                -1 => return Err(io::Error::last_os_error()),
                fd => OwnedFd::from_raw_fd(fd),
            }
        };
        Ok(Self { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; 1024], count: 0 })
    }

    fn add(&mut self, fd: RawFd, token: usize) -> io::Result<()> {
        let events = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
        let mut event = libc::epoll_event { events, u64: token as u64 };
        // SAFETY: the event lives for as long as the call.
        match unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.count = 0;
        let timeout = timeout.map_or(-1, |timeout| timeout.as_millis() as libc::c_int);
        let room = self.events.len() as libc::c_int;
        // SAFETY: the kernel writes no more events than there is room for.
        match unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), room, timeout) } {
            -1 => Err(io::Error::last_os_error()),
            count => {
                self.count = count as usize;
                Ok(())
            }
        }
    }

    fn event(&self, n: usize) -> Option<Ready> {
        let event = self.events[..self.count].get(n)?;
        let has = |flags: libc::c_int| event.events & flags as u32 != 0;
        Some(Ready {
            token: event.u64 as usize,
            readable: has(libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR),
            writable: has(libc::EPOLLOUT),
            closed: has(libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR),
        })
    }
}
