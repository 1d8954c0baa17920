//! Pipes, terminals and files as connections.

use std::io;
use std::os::fd::OwnedFd;

use super::Net;
use crate::connection::{Connection, Halves, Input, State, Telling, Via};
use crate::id::ConnId;
#[cfg(feature = "sim")]
use crate::simnet::SimStream;
use crate::socket::{Pipe, Stream};

impl Net {
    /// Makes a connection of a descriptor to read from and one to write to, or of only one of them: pipes,
    /// FIFOs, terminals, a standard input or output of whatever kind. It has a queue, caps, deadlines and a
    /// report like any other; `on_open` comes for it in a later callback, with [`Via::Pipe`].
    ///
    /// What is different:
    ///
    /// * The two directions are two things. A reader that has gone breaks the write half (EPIPE, and no
    ///   SIGPIPE whatever the host does about that signal), and what comes in is delivered until its own end.
    /// * Without a descriptor to write to, a send is refused with
    ///   [`WriteClosed`](crate::SendError::WriteClosed). Without one to read from, the end of the reader is the
    ///   end of the stream: `on_eof` when it has taken everything, a broken pipe when it has not.
    /// * Of a pipe or FIFO [`unacked`](crate::CloseReport::unacked) is exactly what nobody has read, as long as
    ///   nobody else writes there: also after the reader has gone. A close waits for the reader as it waits
    ///   for acknowledgements elsewhere, and the end of the stream comes behind the last byte that was read,
    ///   some milliseconds later. (pipe(7); FIONREAD of the write end.)
    /// * Nothing can make a pipe end in an error: its reader sees a cut stream end like a whole one.
    /// * Files, `/dev/null` among them, are always ready; reading from a slow disk holds up the reactor.
    ///
    /// `O_NONBLOCK` belongs to the open file, which a standard input shares with the shell that started us.
    /// So pipes and terminals are opened once more, through `/proc/self/fd`; where that cannot be, the flag is
    /// put back when the connection or the reactor goes, after a panic too. (Not when the process is killed,
    /// or ends by `std::process::exit` meanwhile.) To take standard input itself, pass a duplicate:
    /// `io::stdin().as_fd().try_clone_to_owned()`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` without any descriptor and for a directory; `ConnectionAborted` during a shutdown;
    /// `Unsupported` in a simulation; errors of the system's calls.
    pub fn pipe(&mut self, read: Option<OwnedFd>, write: Option<OwnedFd>) -> io::Result<ConnId> {
        self.refuse_while_stopping()?;
        self.system.takes_descriptors()?;
        let pipe = Box::new(Pipe::new(read, write)?);
        self.add_pipe(pipe.halves(), Stream::Pipe(pipe))
    }

    /// The same, of simulated ones.
    #[cfg(feature = "sim")]
    pub(crate) fn add_simulated_pipe(&mut self, stream: SimStream) -> io::Result<ConnId> {
        self.refuse_while_stopping()?;
        self.add_pipe(Halves::Both, Stream::Sim(Box::new(stream)))
    }

    fn add_pipe(&mut self, halves: Halves, stream: Stream) -> io::Result<ConnId> {
        let now = self.tick();
        let mut conn = Connection::new(State::Connecting, Via::Pipe, None, now);
        conn.be_pipe(halves, Input::Watched);
        let id = self.add(conn, stream);
        self.stats.adopted += 1;
        let registry = &self.system.registry;
        if let Some(entry) = self.conns.get_mut(id) {
            let registered = entry.stream.register(registry, id.token());
            entry.conn.be_pipe(halves, entry.stream.input());
            if let Err(error) = registered {
                self.touch(id, |conn, stream, cx| conn.fail(&error, stream, cx));
            }
        }
        self.list_ready(id);
        Ok(id)
    }

    /// Has the poll tell of a pipe's input in another way.
    #[cold]
    pub(super) fn tell_of_input(&mut self, id: ConnId, telling: Telling) {
        let Some(entry) = self.conns.get_mut(id) else { return };
        if let Err(error) = entry.stream.tell_of_input(&self.system.registry, id.token(), telling) {
            // Nobody would hear of it any more, or everybody for ever.
            self.touch(id, |conn, stream, cx| conn.fail(&error, stream, cx));
        }
    }
}
