//! The engine under custom network servers: a single-threaded [mio](https://docs.rs/mio) reactor
//! that owns its connections, resumes partial sends, closes without losing what is on its way, and
//! tells exactly what became of every byte.
//!
//! A program built on it never dies of a broken pipe, never loses a byte silently, and never lets
//! one peer hurt another.
//!
//! # A first server
//!
//! Write a [`Handler`], make a [`Reactor`], listen, run. This one answers every line in capitals:
//!
//! ```no_run
//! use unbroken::{CloseReport, Config, ConnId, Handler, Net, Reactor};
//!
//! struct Shout;
//!
//! impl Handler for Shout {
//!     fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
//!         let Some(end) = data.iter().rposition(|byte| *byte == b'\n') else {
//!             return 0; // No whole line yet: what is not used is kept and shown again.
//!         };
//!         let _ = net.send(conn, &data[..=end].to_ascii_uppercase());
//!         end + 1
//!     }
//!
//!     fn on_close(&mut self, _: &mut Net, conn: ConnId, report: &CloseReport) {
//!         println!("{conn}: {report}");
//!     }
//! }
//!
//! fn main() -> std::io::Result<()> {
//!     let mut reactor = Reactor::new(Config::default())?;
//!     reactor.net().listen("127.0.0.1:7007")?;
//!     reactor.run(&mut Shout)
//! }
//! ```
//!
//! There is no error to handle in it. When a client goes away in the middle of an answer the
//! connection ends, alone, and `on_close` gets a [`CloseReport`]: why, which errno came first,
//! how many bytes were received, handed to the kernel, never handed over, and never acknowledged.
//!
//! # What happens by itself
//!
//! * **Sending.** [`Net::send`] takes all of the bytes or none and never blocks. What one callback
//!   sends to a connection leaves in one system call; what the kernel does not take is kept and
//!   sent when it has room. [`Bytes`] are shared, so [`Net::broadcast`] makes one buffer for any
//!   number of receivers.
//! * **Backpressure.** At high water a send says [`Sent::Congested`]; at low water comes
//!   [`Handler::on_drain`]. Meanwhile the connection is not read from, so that a client which sends
//!   but never reads costs bounded memory. Beyond a cap it ends as
//!   [`SlowConsumer`](CloseReason::SlowConsumer).
//! * **Closing.** [`Net::close`] sends what is queued, ends our stream, discards input until the
//!   peer ends its own, and waits for the last acknowledgement, all within caps: closing a socket
//!   with unread input would make the kernel throw the answer away (RFC 1122, 4.2.2.13).
//! * **Broken pipes.** An error of a write ends the write half only. What the peer had sent before
//!   is still delivered, and the end of stream that the kernel shows behind an error is not
//!   mistaken for a clean one. Every send carries `MSG_NOSIGNAL`: no SIGPIPE, in any host.
//! * **Dead peers.** Keepalive and `TCP_USER_TIMEOUT` are on and agree with each other; a queue
//!   whose bytes nobody acknowledges ends as a [write stall](Timeout::WriteStall).
//! * **Accepting.** Running out of file descriptors neither spins nor forgets the clients that wait.
//!
//! All numbers are in [`Config`], with their reasons.
//!
//! # Reaching further
//!
//! The [`guide`] is twelve short chapters to be read in order, from a first server to every cause of a
//! broken pipe, each with the lines that bring it about in the simulation. Beside it:
//!
//! * [`frame`] finds lines, delimited parts and length prefixes in what `on_data` shows, and
//!   [`PerConn`] holds what a program knows of each connection.
//! * [`Net::connect`] opens outbound connections, to addresses or to hosts by name;
//!   [`Net::set_deadline`] gives each connection a time-out of the program's own, [`Net::set_timer`]
//!   sets timers; [`Settings`] are what one connection, or all of one listener, may have apart
//!   from the others.
//! * [`Net::handle`] gives a [`Handle`] for other threads, [`Net::shutdown`] ends everything in good
//!   order. To run a reactor inside another event loop see [`Reactor`].
//! * With the feature `sim` a handler runs on a simulated network and clock:
//!   [testing](guide::testing).
//!
//! # Platforms
//!
//! Linux is what the promises are proven on. macOS and FreeBSD compile; there
//! [`CloseReport::unacked`] is `None`, write stalls are measured by what the kernel accepts instead
//! of what the peer acknowledges, and there is no `TCP_USER_TIMEOUT`.

#![deny(missing_docs, missing_debug_implementations, unreachable_pub, unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

mod addr;
mod close;
mod config;
mod connect_options;
mod connection;
mod dial;
mod fifo;
pub mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
mod group;
pub mod guide;
mod handle;
mod handler;
mod host;
mod id;
mod lapses;
mod listen_options;
mod listener;
mod loads;
mod mailbox;
mod names;
mod net;
mod per_conn;
mod reactor;
mod read_buffer;
mod send;
mod settings;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "sim")]
mod simnet;
mod socket;
mod stats;
mod system;
mod table;
mod timers;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod write_buffer;

pub use crate::addr::{Addr, IntoAddr};
pub use crate::close::{Alert, Attempt, CloseReason, CloseReport, Side, Timeout};
pub use crate::config::{AtLimit, Config, Keepalive, UserTimeout};
pub use crate::connect_options::ConnectOptions;
pub use crate::connection::{State, Via};
pub use crate::dial::Family;
pub use crate::group::{Group, GroupHandle, GroupStats, Peers};
pub use crate::handle::{Handle, HandleError};
pub use crate::handler::Handler;
pub use crate::host::Host;
pub use crate::id::{ChildId, ConnId, ListenerId, TimerId, WatchId};
pub use crate::listen_options::ListenOptions;
pub use crate::names::{Answer, Resolve};
pub use crate::net::{Detached, Interest, Net, NotAdopted, Ready};
pub use crate::per_conn::{Id, PerConn, PerId, PerListener, PerTimer};
pub use crate::reactor::{Reactor, Turn};
pub use crate::send::{Broadcast, SendError, Sent};
pub use crate::settings::{ConfigError, Overflow, Settings, SoftLimit};
pub use crate::socket::Credentials;
pub use crate::stats::Stats;
#[cfg(feature = "tls")]
pub use crate::tls::{Tls, TlsInfo};
/// A cheaply shared buffer, from the [`bytes`](https://docs.rs/bytes) crate.
pub use bytes::Bytes;
/// The crate that configurations for TLS are made with: <https://docs.rs/rustls>.
#[cfg(feature = "tls")]
pub use rustls;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
