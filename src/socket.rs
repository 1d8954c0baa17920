//! The only file that calls the operating system's socket functions.

use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSlice, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use crate::addr::Addr;
use crate::config::Config;
#[cfg(feature = "sim")]
use crate::simnet::{SimDescriptor, SimListener, SimStream};
use crate::transport::Transport;

/// Every send carries it: without it a write to a broken connection kills a host process that
/// has left SIGPIPE alone. Apple's systems have a socket option instead, which mio sets.
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL;
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: i32 = 0;

/// What a connection is registered for, once and for life. Urgent data is among it where the
/// kernel tells of it, because a read stops short at the urgent mark.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn stream_interest() -> Interest {
    Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY
}
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn stream_interest() -> Interest {
    Interest::READABLE | Interest::WRITABLE
}

/// A connected or connecting stream socket.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// A Unix-domain socket whose listener's backlog is full: to be tried again.
    Dialing(Box<Dialing>),
    /// No socket: it could not be made, or is closed.
    None,
    #[cfg(feature = "sim")]
    Sim(Box<SimStream>),
}

#[derive(Debug)]
pub(crate) struct Dialing {
    socket: Socket,
    addr: SockAddr,
}

/// What came of a try to connect.
#[derive(Debug)]
pub(crate) enum Connect {
    /// Under way, or done: an event will tell.
    Started(Stream),
    /// The backlog of a Unix-domain socket is full, and no event will tell when it is not.
    TryAgain(Stream),
}

impl Stream {
    /// Begins to connect.
    pub(crate) fn connect(addr: &Addr, config: &Config) -> io::Result<Connect> {
        match addr {
            Addr::Tcp(addr) => {
                let socket = Socket::new(Domain::for_address(*addr), Type::STREAM, None)?;
                socket.set_nonblocking(true)?;
                apply_options(&socket, config, true)?;
                match socket.connect(&SockAddr::from(*addr)) {
                    Ok(()) => {}
                    Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
                    Err(error) => return Err(error),
                }
                Ok(Connect::Started(Self::Tcp(TcpStream::from_std(socket.into()))))
            }
            Addr::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                socket.set_nonblocking(true)?;
                apply_options(&socket, config, false)?;
                let addr = SockAddr::unix(path)?;
                Self::Dialing(Box::new(Dialing { socket, addr })).redial()
            }
        }
    }

    /// Tries again to connect a Unix-domain socket whose listener was too busy.
    pub(crate) fn redial(self) -> io::Result<Connect> {
        let Self::Dialing(dialing) = self else {
            return Ok(Connect::Started(self));
        };
        match dialing.socket.connect(&dialing.addr) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(Connect::TryAgain(Self::Dialing(dialing)));
            }
            Err(error) => return Err(error),
        }
        Ok(Connect::Started(Self::Unix(UnixStream::from_std(dialing.socket.into()))))
    }

    pub(crate) fn is_dialing(&self) -> bool {
        matches!(self, Self::Dialing(_))
    }

    /// Whether a connection under way is established. The pending error comes first: asking for
    /// the peer's name proves nothing while one is pending.
    pub(crate) fn finish_connect(&mut self) -> io::Result<Option<Addr>> {
        if let Some(error) = self.take_error()? {
            return Err(error);
        }
        match self {
            Self::Tcp(stream) => match stream.peer_addr() {
                // An ephemeral port that happens to be the one asked for: the socket has
                // connected to itself, and would hear its own echo.
                Ok(peer) if stream.local_addr().is_ok_and(|local| local == peer) => {
                    Err(io::Error::from_raw_os_error(libc::ECONNREFUSED))
                }
                Ok(peer) => Ok(Some(Addr::Tcp(peer))),
                Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => Ok(None),
                Err(error) => Err(error),
            },
            Self::Unix(stream) => match stream.peer_addr() {
                Ok(peer) => Ok(Some(unix_addr(peer.as_pathname()))),
                Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => Ok(None),
                Err(error) => Err(error),
            },
            #[cfg(feature = "sim")]
            Self::Sim(stream) => Ok(stream.connected().map(Addr::Tcp)),
            Self::Dialing(_) | Self::None => Ok(None),
        }
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: usize) -> io::Result<()> {
        #[cfg(feature = "sim")]
        if let Self::Sim(stream) = self {
            stream.register(token);
        }
        match self.source() {
            Some(source) => registry.register(source, Token(token), stream_interest()),
            None => Ok(()),
        }
    }

    /// Takes the socket out of the poll before it is closed: a duplicate of its descriptor, in
    /// this process or a child, would keep its events coming.
    pub(crate) fn deregister(&mut self, registry: &Registry) {
        if let Some(source) = self.source() {
            if let Err(error) = registry.deregister(source) {
                log::debug!("deregister: {error}");
            }
        }
    }

    fn source(&mut self) -> Option<&mut dyn Source> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Unix(stream) => Some(stream),
            Self::Dialing(_) | Self::None => None,
            #[cfg(feature = "sim")]
            Self::Sim(_) => None,
        }
    }

    fn socket(&self) -> Option<SockRef<'_>> {
        match self {
            Self::Tcp(stream) => Some(SockRef::from(stream)),
            Self::Unix(stream) => Some(SockRef::from(stream)),
            Self::Dialing(_) | Self::None => None,
            #[cfg(feature = "sim")]
            Self::Sim(_) => None,
        }
    }
}

fn not_connected<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(libc::ENOTCONN))
}

impl Transport for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Unix(stream) => stream.read(buf),
            #[cfg(feature = "sim")]
            Self::Sim(stream) => stream.read(buf),
            Self::Dialing(_) | Self::None => not_connected(),
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let send = |socket: SockRef<'_>| socket.send_vectored_with_flags(slices, SEND_FLAGS);
        match self {
            Self::Tcp(stream) => stream.try_io(|| send(SockRef::from(&*stream))),
            Self::Unix(stream) => stream.try_io(|| send(SockRef::from(&*stream))),
            #[cfg(feature = "sim")]
            Self::Sim(stream) => stream.write(slices),
            Self::Dialing(_) | Self::None => not_connected(),
        }
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        #[cfg(feature = "sim")]
        if let Self::Sim(stream) = self {
            return stream.shutdown_write();
        }
        match self.socket() {
            Some(socket) => socket.shutdown(std::net::Shutdown::Write),
            None => not_connected(),
        }
    }

    fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        #[cfg(feature = "sim")]
        if let Self::Sim(stream) = self {
            return stream.take_error();
        }
        self.socket().map_or(Ok(None), |socket| socket.take_error())
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn unacknowledged(&self) -> Option<u64> {
        match self {
            Self::Tcp(stream) => send_queue(stream.as_fd()),
            #[cfg(feature = "sim")]
            Self::Sim(stream) => stream.unacknowledged(),
            _ => None,
        }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn unacknowledged(&self) -> Option<u64> {
        None
    }

    /// On Linux a TCP socket that filled only part of the buffer was empty at that moment, and
    /// what comes later brings an event. A Unix-domain socket also stops at a message that
    /// carries file descriptors; elsewhere nothing is promised.
    fn short_read_empties(&self) -> bool {
        #[cfg(feature = "sim")]
        if let Self::Sim(stream) = self {
            return stream.short_read_empties();
        }
        cfg!(target_os = "linux") && matches!(self, Self::Tcp(_))
    }

    /// `SO_LINGER` with a time of zero: close sends a reset. Any other time would block the loop.
    fn reset_on_close(&mut self) {
        #[cfg(feature = "sim")]
        if let Self::Sim(stream) = self {
            return stream.reset_on_close();
        }
        if let Some(socket) = self.socket() {
            if let Err(error) = socket.set_linger(Some(Duration::ZERO)) {
                log::debug!("SO_LINGER: {error}");
            }
        }
    }
}

/// `SIOCOUTQ`: bytes in the send queue that the peer has not acknowledged (tcp(7)). It can still
/// be asked after a reset.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
fn send_queue(socket: BorrowedFd<'_>) -> Option<u64> {
    use std::os::fd::AsRawFd;

    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the value of TIOCOUTQ) writes one int through the pointer, which is valid
    // for that write and lives longer than the call; the descriptor is borrowed, hence open.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
    (status == 0).then(|| u64::try_from(bytes).unwrap_or(0))
}

fn unix_addr(path: Option<&Path>) -> Addr {
    Addr::Unix(path.map(Path::to_owned).unwrap_or_default())
}

/// Sets what the configuration asks for. Sockets that a listener accepts inherit all of it on
/// Linux, so that an accept costs no further call.
fn apply_options(socket: &Socket, config: &Config, tcp: bool) -> io::Result<()> {
    if let Some(size) = config.send_buffer {
        socket.set_send_buffer_size(size)?;
    }
    if let Some(size) = config.recv_buffer {
        socket.set_recv_buffer_size(size)?;
    }
    if !tcp {
        return Ok(());
    }
    socket.set_tcp_nodelay(config.nodelay)?;
    // Without it an urgent byte vanishes from the stream.
    socket.set_out_of_band_inline(true)?;
    if let Some(keepalive) = config.keepalive {
        let keepalive = TcpKeepalive::new()
            .with_time(keepalive.idle)
            .with_interval(keepalive.interval)
            .with_retries(keepalive.count);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(config.effective_user_timeout())?;
    Ok(())
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Acceptor {
    Tcp(TcpListener),
    /// With the path it bound, which goes when it goes.
    Unix(UnixListener, #[allow(dead_code)] Option<OwnedPath>),
    #[cfg(feature = "sim")]
    Sim(SimListener),
}

/// What can be accepted from: a listening socket, or a script in a test.
pub(crate) trait Accept {
    /// The next connection that waits, with its address when the system gave one.
    fn accept(&mut self) -> io::Result<(Stream, Option<Addr>)>;
}

impl Acceptor {
    pub(crate) fn bind(addr: &Addr, config: &Config) -> io::Result<Self> {
        let backlog = i32::try_from(config.backlog).unwrap_or(i32::MAX);
        match addr {
            Addr::Tcp(addr) => {
                let socket = Socket::new(Domain::for_address(*addr), Type::STREAM, None)?;
                socket.set_nonblocking(true)?;
                socket.set_reuse_address(true)?;
                apply_options(&socket, config, true)?;
                socket.bind(&SockAddr::from(*addr))?;
                socket.listen(backlog)?;
                Ok(Self::Tcp(TcpListener::from_std(socket.into())))
            }
            Addr::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                socket.set_nonblocking(true)?;
                apply_options(&socket, config, false)?;
                let addr = SockAddr::unix(path)?;
                match socket.bind(&addr) {
                    Err(error) if error.kind() == ErrorKind::AddrInUse && is_stale(path, &addr) => {
                        fs::remove_file(path)?;
                        socket.bind(&addr)?;
                    }
                    bound => bound?,
                }
                let owned = OwnedPath::new(path);
                socket.listen(backlog)?;
                Ok(Self::Unix(UnixListener::from_std(socket.into()), owned))
            }
        }
    }

    /// Takes over a listening socket: inherited, or handed over by another process.
    pub(crate) fn from_fd(fd: OwnedFd, config: &Config) -> io::Result<Self> {
        let socket = Socket::from(fd);
        let local = socket.local_addr()?;
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
        if !socket.is_listener()? {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the socket is not listening"));
        }
        socket.set_nonblocking(true)?;
        let tcp = !local.is_unix();
        apply_options(&socket, config, tcp)?;
        Ok(match tcp {
            true => Self::Tcp(TcpListener::from_std(socket.into())),
            false => Self::Unix(UnixListener::from_std(socket.into()), None),
        })
    }

    /// The file descriptor, where there is one.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tcp(listener) => Some(listener.as_fd()),
            Self::Unix(listener, _) => Some(listener.as_fd()),
            #[cfg(feature = "sim")]
            Self::Sim(_) => None,
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Addr::Tcp),
            Self::Unix(listener, _) => listener.local_addr().map(|addr| unix_addr(addr.as_pathname())),
            #[cfg(feature = "sim")]
            Self::Sim(listener) => listener.local_addr().map(Addr::Tcp),
        }
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: usize) -> io::Result<()> {
        let token = Token(token);
        match self {
            Self::Tcp(listener) => registry.register(listener, token, Interest::READABLE),
            Self::Unix(listener, _) => registry.register(listener, token, Interest::READABLE),
            #[cfg(feature = "sim")]
            Self::Sim(listener) => {
                listener.register(token.0);
                Ok(())
            }
        }
    }

    pub(crate) fn deregister(&mut self, registry: &Registry) {
        let result = match self {
            Self::Tcp(listener) => registry.deregister(listener),
            Self::Unix(listener, _) => registry.deregister(listener),
            #[cfg(feature = "sim")]
            Self::Sim(_) => Ok(()),
        };
        if let Err(error) = result {
            log::debug!("deregister: {error}");
        }
    }

    /// Sets on an accepted socket what it did not inherit. A connection that was reset while it
    /// waited may refuse options: its first read will tell.
    pub(crate) fn finish_accept(&self, stream: &Stream, config: &Config) {
        if cfg!(target_os = "linux") {
            return;
        }
        let tcp = matches!(self, Self::Tcp(_));
        if let Some(Err(error)) = stream.socket().map(|socket| apply_options(&socket, config, tcp)) {
            log::debug!("options of an accepted socket: {error}");
        }
    }
}

impl Accept for Acceptor {
    fn accept(&mut self) -> io::Result<(Stream, Option<Addr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                Ok((Stream::Tcp(stream), Some(Addr::Tcp(peer))))
            }
            Self::Unix(listener, _) => {
                let (stream, peer) = listener.accept()?;
                Ok((Stream::Unix(stream), peer.as_pathname().map(|path| unix_addr(Some(path)))))
            }
            #[cfg(feature = "sim")]
            Self::Sim(listener) => {
                let (stream, peer) = listener.accept()?;
                Ok((Stream::Sim(Box::new(stream)), Some(Addr::Tcp(peer))))
            }
        }
    }
}

/// Whether `path` is a socket that nobody listens on any more.
fn is_stale(path: &Path, addr: &SockAddr) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    let refused = || {
        let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        probe.set_nonblocking(true)?;
        probe.connect(addr)
    };
    is_socket && refused().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// The path of a Unix-domain listener, removed with it unless somebody else has taken it over.
#[derive(Debug)]
pub(crate) struct OwnedPath {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl OwnedPath {
    fn new(path: &Path) -> Option<Self> {
        // An absolute path stays right when the process changes its directory.
        let path = fs::canonicalize(path).ok()?;
        let meta = fs::symlink_metadata(&path).ok()?;
        Some(Self { path, device: meta.dev(), inode: meta.ino() })
    }
}

impl Drop for OwnedPath {
    fn drop(&mut self) {
        let same = fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| meta.dev() == self.device && meta.ino() == self.inode);
        if same {
            if let Err(error) = fs::remove_file(&self.path) {
                log::warn!("could not remove {}: {error}", self.path.display());
            }
        }
    }
}

/// A file descriptor that is held for its own sake.
#[derive(Debug)]
pub(crate) enum Held {
    File(#[allow(dead_code)] File),
    #[cfg(feature = "sim")]
    Sim(#[allow(dead_code)] SimDescriptor),
}

/// A file descriptor held back, so that there is one left to turn clients away with when there
/// are no others.
pub(crate) struct Reserve {
    held: Option<Held>,
    take: Box<dyn Fn() -> io::Result<Held> + Send>,
}

impl Reserve {
    pub(crate) fn new(take: Box<dyn Fn() -> io::Result<Held> + Send>) -> io::Result<Self> {
        Ok(Self { held: Some(take()?), take })
    }

    /// Accepts one waiting client with the reserved descriptor and resets it. False when there
    /// was none to be shed, or the reserve is gone.
    pub(crate) fn shed_one(&mut self, acceptor: &mut impl Accept) -> bool {
        if self.held.take().is_none() {
            self.refill();
            return false;
        }
        let shed = match acceptor.accept() {
            Ok((mut stream, _)) => {
                // Reset rather than closed: what it sent will not be read.
                stream.reset_on_close();
                true
            }
            Err(_) => false,
        };
        self.refill();
        shed
    }

    fn refill(&mut self) {
        self.held = (self.take)().ok();
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net;

    #[test]
    fn the_send_queue_counts_what_the_peer_has_not_acknowledged() {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_server, _) = listener.accept().unwrap();
        client.set_nonblocking(true).unwrap();
        assert_eq!(send_queue(client.as_fd()), Some(0));
        let mut written = 0;
        while let Ok(count) = client.write(&[0; 65536]) {
            written += count as u64;
        }
        let pending = send_queue(client.as_fd()).unwrap();
        assert!(pending > 0 && pending < written, "{pending} of {written}");
    }

    #[test]
    fn what_is_no_tcp_socket_has_no_send_queue_to_ask_for() {
        let file = File::open("/dev/null").unwrap();
        assert_eq!(send_queue(file.as_fd()), None);
        assert_eq!(Stream::None.unacknowledged(), None);
    }

    #[test]
    fn a_path_that_is_no_socket_is_never_removed() {
        let path = std::env::temp_dir().join(format!("unbroken-file-{}", std::process::id()));
        fs::write(&path, "precious").unwrap();
        let error = Acceptor::bind(&Addr::Unix(path.clone()), &Config::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
    }
}
