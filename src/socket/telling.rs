//! How often the poll tells of a descriptor: mio asks epoll to tell once, and only that.

use std::io;
use std::os::fd::BorrowedFd;

use mio::{Registry, Token};

use super::Stream;
use crate::connection::{Input, Telling};

impl Stream {
    /// How the poll tells of a pipe's input.
    pub(crate) fn input(&self) -> Input {
        match self {
            Self::Pipe(pipe) => pipe.input(),
            #[cfg(feature = "sim")]
            Self::Sim(stream) if stream.is_pipe() => Input::Retold,
            _ => Input::Watched,
        }
    }

    /// Has the poll tell of it otherwise.
    pub(crate) fn tell_of_input(
        &mut self,
        registry: &Registry,
        token: usize,
        telling: Telling,
    ) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.tell_of_input(registry, Token(token), telling),
            #[cfg(feature = "tls")]
            Self::Tls(secured) => secured.below_mut().tell_of_input(registry, token, telling),
            #[cfg(feature = "sim")]
            Self::Sim(stream) => {
                stream.tell_of_input(telling);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Whether the poll can be asked at all.
pub(super) const IS_THERE: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// Has the poll tell of the input of a descriptor that is registered for that already: again and again as long as
/// any is there, or once for all of it. What is there at this moment is told of in either case.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
pub(super) fn tell(registry: &Registry, fd: BorrowedFd<'_>, token: Token, always: bool) -> io::Result<()> {
    use std::os::fd::{AsFd, AsRawFd};

    let once = if always { 0 } else { libc::EPOLLET };
    // The bits of a mask, of which the last is the sign of a C integer.
    let events = (libc::EPOLLIN | libc::EPOLLRDHUP | once) as u32;
    let mut event = libc::epoll_event { events, u64: token.0 as u64 };
    let poll = registry.as_fd();
    // SAFETY: one structure is passed, which outlives the call and is only read; both descriptors are borrowed,
    // hence open. What it carries is what mio puts there, an event's token.
    let status =
        unsafe { libc::epoll_ctl(poll.as_raw_fd(), libc::EPOLL_CTL_MOD, fd.as_raw_fd(), &mut event) };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn tell(_: &Registry, _: BorrowedFd<'_>, _: Token, _: bool) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;
    use mio::{Events, Interest, Poll};
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::time::Duration;

    /// How many of three polls told of it.
    fn told(poll: &mut Poll) -> usize {
        let mut events = Events::with_capacity(4);
        let mut told = 0;
        for _ in 0..3 {
            poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            assert!(events.iter().all(|event| event.token() == Token(7) && event.is_readable()));
            told += events.iter().count();
        }
        told
    }

    #[test]
    fn what_is_there_is_told_of_again_and_again_or_once_and_anew_with_each_change() {
        let mut poll = Poll::new().unwrap();
        let (mut writer, mut reader) = mio::unix::pipe::new().unwrap();
        poll.registry().register(&mut reader, Token(7), Interest::READABLE).unwrap();
        writer.write_all(b"input").unwrap();
        assert_eq!(told(&mut poll), 1);
        for _ in 0..2 {
            tell(poll.registry(), reader.as_fd(), Token(7), true).unwrap();
            assert_eq!(told(&mut poll), 3);
            tell(poll.registry(), reader.as_fd(), Token(7), false).unwrap();
            assert_eq!(told(&mut poll), 1);
        }
        reader.read_exact(&mut [0; 5]).unwrap();
        tell(poll.registry(), reader.as_fd(), Token(7), true).unwrap();
        assert_eq!(told(&mut poll), 0);
    }
}
