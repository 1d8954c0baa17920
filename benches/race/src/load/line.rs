//! A client's stream: plain, or with TLS on it, which is rustls' own and nothing of the engine's.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::{connect, read_some, wrong, BLOCK};

/// What a client speaks: plain when there is none.
pub type Tls = Option<Arc<ClientConfig>>;

/// Raw bytes read at once.
const RAW: usize = 64 << 10;

/// How long a client waits that can do nothing else.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Line {
    stream: TcpStream,
    session: Option<Box<ClientConnection>>,
}

impl From<TcpStream> for Line {
    fn from(stream: TcpStream) -> Self {
        Self { stream, session: None }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Line {
    /// Client number `n`, ready to send.
    pub fn open(addr: SocketAddr, n: usize, receive_buffer: Option<usize>, tls: &Tls) -> io::Result<Self> {
        let mut line = Self::begin(connect(addr, n, receive_buffer)?, tls)?;
        line.waiting(|line| match &mut line.session {
            Some(session) => session.complete_io(&mut line.stream).map(drop),
            None => Ok(()),
        })?;
        Ok(line)
    }

    /// One whose handshake goes on as it reads and writes. Nothing of it is sent yet.
    pub fn begin(stream: TcpStream, tls: &Tls) -> io::Result<Self> {
        let session = match tls {
            None => None,
            Some(config) => {
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                let session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
                Some(Box::new(session))
            }
        };
        Ok(Self { stream, session })
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether a short read has emptied it.
    pub fn is_plain(&self) -> bool {
        self.session.is_none()
    }

    /// Reads what there is. `None` when there is nothing; an end is an error. Under TLS `scratch` has to
    /// be as long as [`BLOCK`], and what it returns may be less than there is.
    pub fn read(&mut self, scratch: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(session) = &mut self.session else { return read_some(&self.stream, scratch) };
        let (plain, raw) = scratch.split_at_mut(scratch.len() - RAW);
        let mut filled = 0;
        // What comes out is shorter than what goes in, a record that was in already apart.
        while plain.len() - filled > 2 * RAW {
            let Some(count) = read_some(&self.stream, raw)? else { break };
            let mut rest = &raw[..count];
            while !rest.is_empty() {
                session.read_tls(&mut rest)?;
                session
                    .process_new_packets()
                    .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
                loop {
                    match session.reader().read(&mut plain[filled..]) {
                        Ok(0) => return Err(wrong("the server ended a session")),
                        Ok(count) => filled += count,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    }
                }
            }
            if count < RAW {
                break;
            }
        }
        self.flush()?;
        Ok((filled > 0).then_some(filled))
    }

    /// Sends the front of `data`, or `WouldBlock`.
    pub fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let Some(session) = &mut self.session else { return self.stream.write(data) };
        if session.wants_write() && !session.is_handshaking() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = session.writer().write(&data[..data.len().min(RAW)])?;
        self.flush()?;
        Ok(count)
    }

    /// Sends what the session has ready, as far as there is room.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(session) = &mut self.session else { return Ok(()) };
        while session.wants_write() {
            match session.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says that nothing more will come, as a session should end.
    pub fn end(&mut self) -> io::Result<()> {
        if let Some(session) = &mut self.session {
            session.send_close_notify();
        }
        self.flush()
    }

    /// Sends `message` and waits until the same has come back.
    pub fn ask(&mut self, message: &[u8]) -> io::Result<()> {
        let mut answer = vec![0; message.len()];
        self.waiting(|line| match &mut line.session {
            Some(session) => {
                let mut stream = rustls::Stream::new(session.as_mut(), &mut line.stream);
                stream.write_all(message)?;
                stream.read_exact(&mut answer)
            }
            None => {
                line.stream.write_all(message)?;
                line.stream.read_exact(&mut answer)
            }
        })?;
        match answer == message {
            true => Ok(()),
            false => Err(wrong("an answer differs from what was sent")),
        }
    }

    fn waiting<R>(&mut self, act: impl FnOnce(&mut Self) -> io::Result<R>) -> io::Result<R> {
        self.stream.set_nonblocking(false)?;
        self.stream.set_read_timeout(Some(PATIENCE))?;
        let result = act(self)?;
        self.stream.set_nonblocking(true)?;
        Ok(result)
    }
}

/// The room that a read needs.
pub fn scratch() -> Vec<u8> {
    vec![0; BLOCK]
}
