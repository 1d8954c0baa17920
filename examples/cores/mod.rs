//! Several cores and an upgrade without downtime, for the examples: `--threads N`, and SIGHUP.
//!
//! On SIGHUP the program that stands at our own path now is started with the listening socket, which both
//! processes then have: no client is refused at any moment. Once it says that it serves, we accept nobody
//! any more, answer those who are in, and end. If it does not say so, nothing has changed.

use std::io::{self, Error, IoSlice, IoSliceMut, Read, Result as IoResult, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use unbroken::{Config, Group, GroupHandle, Handler, ListenerId, Peers};

use super::tls::Front;

/// For what is queued or under way, when we are told to end.
const DRAIN_TIME: Duration = Duration::from_secs(10);
/// For a successor to say that it serves.
const START_TIME: Duration = Duration::from_secs(10);
/// It is there for a successor, whose standard input brings the listener.
const SUCCESSOR: &str = "UNBROKEN_SUCCESSOR";

static DRAINING: AtomicBool = AtomicBool::new(false);

/// Whether a successor serves those who come: whoever is still here is to come again, to that one.
#[allow(dead_code)]
pub fn is_draining() -> bool {
    DRAINING.load(Ordering::Relaxed)
}

/// Takes `--threads N` out of the arguments; one thread when it is not there.
pub fn take_threads(args: &mut Vec<String>) -> IoResult<usize> {
    let Some(at) = args.iter().position(|arg| arg == "--threads") else { return Ok(1) };
    let threads = args.get(at + 1).and_then(|text| text.parse().ok());
    let threads = threads.ok_or_else(|| Error::other("--threads wants a number"))?;
    args.drain(at..at + 2);
    Ok(threads)
}

/// A group with its one listener.
pub struct Service {
    group: Group,
    listener: ListenerId,
    signals: Signals,
    /// Waits to hear that we serve.
    predecessor: Option<UnixStream>,
}

impl Service {
    /// Listens, on the address or as somebody's successor, and says on standard output where.
    pub fn open(config: Config, threads: usize, front: &Front, addr: &str) -> IoResult<Self> {
        let mut group = Group::new(config, threads)?;
        let predecessor = std::env::var_os(SUCCESSOR).map(|_| io::stdin().as_fd().try_clone_to_owned());
        let predecessor = predecessor.transpose()?.map(UnixStream::from);
        let listener = match &predecessor {
            Some(predecessor) => group.listen_from(receive(predecessor)?)?,
            None => group.listen(addr)?,
        };
        front.secure(&mut group, listener);
        // Before anybody can know of us: a signal that came too early would end us.
        let signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
        if let Some(addr) = group.local_addr(listener) {
            // Nobody may be reading: that is no reason not to serve.
            let _ = writeln!(io::stdout(), "listening on {addr}");
        }
        Ok(Self { group, listener, signals, predecessor })
    }

    /// Serves until a signal says otherwise.
    pub fn run<H: Handler>(self, make: impl Fn(Peers) -> H + Send + Sync) -> IoResult<()> {
        let (handle, listener, mut signals) = (self.group.handle(), self.listener, self.signals);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                match signal {
                    SIGHUP => upgrade(&handle, listener),
                    _ => drop(handle.shutdown(DRAIN_TIME)),
                }
            }
        })?;
        if let Some(mut predecessor) = self.predecessor {
            predecessor.write_all(b"1")?;
        }
        self.group.run(make)
    }
}

fn upgrade(handle: &GroupHandle, listener: ListenerId) {
    if let Err(error) = start_successor(handle, listener) {
        return log::error!("no successor, and so we go on: {error}");
    }
    let _ = handle.run_on(0, move |net| net.close_listener(listener));
    DRAINING.store(true, Ordering::Relaxed);
    // Whoever came before that is counted among these.
    let (closed, is_closed) = channel::<()>();
    let _ = handle.run_on(0, move |_| drop(closed));
    let _ = is_closed.recv();
    let began = Instant::now();
    while handle.connections().iter().any(|count| *count > 0) && began.elapsed() < DRAIN_TIME {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = handle.shutdown(DRAIN_TIME);
}

fn start_successor(handle: &GroupHandle, listener: ListenerId) -> IoResult<()> {
    let (ask, asked) = channel();
    let _ = handle.run_on(0, move |net| {
        let _ = ask.send(net.listener_fd(listener).map(|fd| fd.try_clone_to_owned()));
    });
    let fd = asked.recv().ok().flatten().ok_or_else(|| Error::other("we do not listen any more"))??;
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut args = std::env::args_os();
    let program = args.next().ok_or_else(|| Error::other("we do not know our own name"))?;
    let mut child = Command::new(program)
        .args(args)
        .env(SUCCESSOR, "1")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    let served = send(&ours, &fd).and_then(|()| {
        ours.set_read_timeout(Some(START_TIME))?;
        ours.read_exact(&mut [0])
    });
    if served.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    served
}

/// Passes a descriptor on, with one byte to carry it (unix(7), SCM_RIGHTS).
fn send(channel: &UnixStream, fd: &OwnedFd) -> IoResult<()> {
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(channel, &[IoSlice::new(b"l")], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(channel: &UnixStream) -> IoResult<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(channel, &mut [IoSliceMut::new(&mut [0])], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let fds = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fds.ok_or_else(|| Error::other("the predecessor passed no listener on"))
}
