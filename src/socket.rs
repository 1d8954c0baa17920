//! Sockets: this file and those below it are the only ones that call the operating system's socket
//! functions.

mod acceptor;
mod address;
mod adopted;
mod credentials;
mod unix_path;

use std::io::{self, ErrorKind, IoSlice, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use socket2::{SockAddr, SockRef, Socket, TcpKeepalive, Type};

use crate::addr::Addr;
use crate::config::Config;
#[cfg(feature = "sim")]
use crate::simnet::SimStream;
use crate::transport::{LastHeard, Transport};

use self::address::{addr_of, sock_addr};

pub(crate) use acceptor::{Accept, Acceptor, Held, Reserve, Shed};
pub use credentials::Credentials;

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
    pub(crate) fn connect(addr: &Addr, from: Option<SocketAddr>, config: &Config) -> io::Result<Connect> {
        let name = sock_addr(addr)?;
        let socket = Socket::new(name.domain(), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let tcp = addr.as_tcp().is_some();
        apply_options(&socket, config, tcp)?;
        if !tcp {
            return Self::Dialing(Box::new(Dialing { socket, addr: name })).redial();
        }
        if let Some(from) = from {
            bind_to_connect(&socket, from)?;
        }
        match socket.connect(&name) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        Ok(Connect::Started(Self::Tcp(TcpStream::from_std(socket.into()))))
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
    pub(crate) fn finish_connect(&mut self) -> io::Result<bool> {
        if let Some(error) = self.take_error()? {
            return Err(error);
        }
        let peer = match self {
            Self::Tcp(stream) => match stream.peer_addr() {
                // An ephemeral port that happens to be the one asked for: the socket has
                // connected to itself, and would hear its own echo.
                Ok(peer) if stream.local_addr().is_ok_and(|local| local == peer) => {
                    // Closed in good order it would keep its port for a minute (TIME-WAIT) from the
                    // very server that is awaited there.
                    self.reset_on_close();
                    return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
                }
                peer => peer.map(drop),
            },
            Self::Unix(stream) => SockRef::from(&*stream).peer_addr().map(drop),
            #[cfg(feature = "sim")]
            Self::Sim(stream) => return Ok(stream.is_connected()),
            Self::Dialing(_) | Self::None => return Ok(false),
        };
        match peer {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The address of our end.
    pub(crate) fn local_addr(&self) -> Option<Addr> {
        #[cfg(feature = "sim")]
        if let Self::Sim(stream) = self {
            return Some(Addr::Tcp(stream.local_addr()));
        }
        addr_of(&self.socket()?.local_addr().ok()?)
    }

    /// Who is at the other end of a Unix-domain connection.
    pub(crate) fn peer_credentials(&self) -> Option<Credentials> {
        match self {
            Self::Unix(stream) => credentials::of_peer(stream.as_fd()),
            _ => None,
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

    /// Has the poll tell of it under another token: what is ready already is told once more.
    pub(crate) fn reregister(&mut self, registry: &Registry, token: usize) -> io::Result<()> {
        #[cfg(feature = "sim")]
        if let Self::Sim(stream) = self {
            stream.register(token);
        }
        match self.source() {
            Some(source) => registry.reregister(source, Token(token), stream_interest()),
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
    #[inline]
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Unix(stream) => stream.read(buf),
            #[cfg(feature = "sim")]
            Self::Sim(stream) => stream.read(buf),
            Self::Dialing(_) | Self::None => not_connected(),
        }
    }

    #[inline]
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // `send` for one slice: the kernel is spared the copy of a message header.
        let send = |socket: SockRef<'_>| match slices {
            [one] => socket.send_with_flags(one, SEND_FLAGS),
            _ => socket.send_vectored_with_flags(slices, SEND_FLAGS),
        };
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

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn last_heard(&self) -> Option<LastHeard> {
        match self {
            Self::Tcp(stream) => tcp_info(stream.as_fd()),
            #[cfg(feature = "sim")]
            Self::Sim(stream) => stream.last_heard(),
            _ => None,
        }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn last_heard(&self) -> Option<LastHeard> {
        None
    }

    fn unread(&self) -> Option<usize> {
        match self {
            Self::Tcp(stream) => input_queue(stream.as_fd()),
            Self::Unix(stream) => input_queue(stream.as_fd()),
            #[cfg(feature = "sim")]
            Self::Sim(stream) => stream.unread(),
            Self::Dialing(_) | Self::None => None,
        }
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
fn send_queue(socket: BorrowedFd<'_>) -> Option<u64> {
    // The value of TIOCOUTQ.
    ioctl_int(socket, libc::TIOCOUTQ).map(|bytes| u64::try_from(bytes).unwrap_or(0))
}

/// `FIONREAD`: bytes that wait to be read.
fn input_queue(socket: BorrowedFd<'_>) -> Option<usize> {
    ioctl_int(socket, libc::FIONREAD).map(|bytes| usize::try_from(bytes).unwrap_or(0))
}

/// Asks a socket for a number.
#[allow(unsafe_code)]
fn ioctl_int(socket: BorrowedFd<'_>, request: libc::Ioctl) -> Option<libc::c_int> {
    use std::os::fd::AsRawFd;

    let mut number: libc::c_int = 0;
    // SAFETY: the requests above write one int through the pointer, which is valid for that write
    // and lives longer than the call; the descriptor is borrowed, hence open.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), request, &mut number) };
    (status == 0).then_some(number)
}

/// `TCP_INFO`: when the peer was last heard of (tcp(7)).
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
fn tcp_info(socket: BorrowedFd<'_>) -> Option<LastHeard> {
    use std::mem::MaybeUninit;
    use std::os::fd::AsRawFd;

    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of what the pointer points
    // to; both pointers live longer than the call; the descriptor is borrowed, hence open.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if status != 0 {
        return None;
    }
    // SAFETY: it is made of integers, for which all bytes are valid, and was zero before the call.
    let info = unsafe { info.assume_init() };
    Some(LastHeard {
        data: Duration::from_millis(info.tcpi_last_data_recv.into()),
        ack: Duration::from_millis(info.tcpi_last_ack_recv.into()),
        round_trip: Duration::from_micros(info.tcpi_rtt.into()),
    })
}

/// Binds a socket that will connect. With port 0 the system chooses one when it knows where to: until
/// then no port is taken, and one may serve several connections to different places.
fn bind_to_connect(socket: &Socket, from: SocketAddr) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if from.port() == 0 {
        set_int(socket.as_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    }
    socket.bind(&SockAddr::from(from))
}

/// Sets an option of a socket that is a number.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
fn set_int(socket: BorrowedFd<'_>, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes, the size of what the pointer points to, which lives
    // longer than the call; the descriptor is borrowed, hence open.
    let status = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(&value).cast(), length)
    };
    match status {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets what the configuration asks for, either way: a socket that was made by somebody else may have
/// any of it. TCP sockets that a listener accepts inherit all of it on Linux, so that an accept costs
/// no further call.
fn apply_options(socket: &Socket, config: &Config, tcp: bool) -> io::Result<()> {
    if let Some(size) = config.send_buffer {
        socket.set_send_buffer_size(size)?;
    }
    if let Some(size) = config.recv_buffer {
        socket.set_recv_buffer_size(size)?;
    }
    // Without it an urgent byte vanishes from the stream, a Unix-domain socket's as well.
    socket.set_out_of_band_inline(true)?;
    if !tcp {
        return Ok(());
    }
    socket.set_tcp_nodelay(config.nodelay)?;
    match config.keepalive {
        Some(keepalive) => {
            let keepalive = TcpKeepalive::new()
                .with_time(keepalive.idle)
                .with_interval(keepalive.interval)
                .with_retries(keepalive.count);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        None => socket.set_keepalive(false)?,
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(config.effective_user_timeout())?;
    Ok(())
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
    fn a_connection_to_itself_is_refused_and_leaves_its_port_to_the_server_that_is_awaited_there() {
        for ip in ["127.0.0.1:0", "[::1]:0"] {
            let anywhere = SockAddr::from(ip.parse::<net::SocketAddr>().unwrap());
            let socket = Socket::new(anywhere.domain(), Type::STREAM, None).unwrap();
            if socket.bind(&anywhere).is_err() {
                continue; // No IPv6 here.
            }
            let addr = socket.local_addr().unwrap();
            socket.connect(&addr).expect("Linux lets it");
            let mut stream = Stream::Tcp(TcpStream::from_std(socket.into()));
            let error = stream.finish_connect().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
            drop(stream);
            net::TcpListener::bind(addr.as_socket().unwrap()).expect("nothing waits on the port");
        }
    }

    #[test]
    fn the_kernel_tells_what_waits_and_when_it_came() {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        while input_queue(server.as_fd()) != Some(5) {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(60));
        let heard = tcp_info(server.as_fd()).unwrap();
        assert!(heard.data >= Duration::from_millis(40), "{heard:?}");
        client.write_all(b"again").unwrap();
        while input_queue(server.as_fd()) != Some(10) {
            std::thread::yield_now();
        }
        let again = tcp_info(server.as_fd()).unwrap();
        assert!(again.data < heard.data, "{again:?} after {heard:?}");
        assert!(again.round_trip < Duration::from_secs(1), "{again:?}");
    }

    #[test]
    fn what_is_no_tcp_socket_has_nothing_to_ask_for() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(send_queue(file.as_fd()), None);
        assert_eq!(tcp_info(file.as_fd()), None);
        assert_eq!(Stream::None.unacknowledged(), None);
        assert_eq!((Stream::None.last_heard(), Stream::None.unread()), (None, None));
    }
}
