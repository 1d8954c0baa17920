//! tokio with tokio-rustls on one thread: as its examples teach it, and as an expert tunes it. The
//! servers are those of `tokio_taught` and `tokio_tuned`, over a session.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{poll_fn, Future};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{ready, Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, Notify};
use tokio::task::{spawn_local, LocalSet};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tokio_rustls::TlsAcceptor;

use super::frames::{runs, Rest, Run, FRAME};
use super::{Role, SUBSCRIBER_CAP};

pub fn serve(role: Role, tls: Arc<ServerConfig>, tuned: bool) -> io::Result<()> {
    if matches!(role, Role::Proxy(_)) {
        return Err(super::no_such_role());
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    match tuned {
        false => runtime.block_on(accept(tls, |stream, addr, shared: &Taught| {
            let shared = shared.clone();
            tokio::spawn(async move {
                let _ = match role {
                    Role::Echo => taught_echo(stream.await?).await,
                    _ => taught_member(stream.await?, addr, shared).await,
                };
                io::Result::Ok(())
            });
        })),
        true => runtime.block_on(LocalSet::new().run_until(accept(tls, |stream, addr, shared: &Tuned| {
            let shared = shared.clone();
            spawn_local(async move {
                let _ = match role {
                    Role::Echo => tuned_echo(stream.await?).await,
                    _ => tuned_member(stream.await?, addr, shared).await,
                };
                io::Result::Ok(())
            });
        }))),
    }
}

async fn accept<S: Default>(
    tls: Arc<ServerConfig>,
    serve: impl Fn(tokio_rustls::Accept<TcpStream>, SocketAddr, &S),
) -> io::Result<()> {
    let listener = TcpListener::from_std(super::listen()?)?;
    super::announce(listener.local_addr()?)?;
    let (acceptor, shared) = (TlsAcceptor::from(tls), S::default());
    loop {
        match listener.accept().await {
            Ok((stream, addr)) => serve(acceptor.accept(stream), addr, &shared),
            // Out of descriptors.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

type Taught = Arc<Mutex<HashMap<SocketAddr, mpsc::UnboundedSender<[u8; FRAME]>>>>;

async fn taught_echo(stream: TlsStream<TcpStream>) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    tokio::io::copy(&mut reader, &mut writer).await?;
    writer.shutdown().await
}

async fn taught_member(stream: TlsStream<TcpStream>, addr: SocketAddr, members: Taught) -> io::Result<()> {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = tokio::io::BufReader::new(reader);
    let (sender, mut receiver) = mpsc::unbounded_channel::<[u8; FRAME]>();
    let sending = tokio::spawn(async move {
        while let Some(message) = receiver.recv().await {
            if writer.write_all(&message).await.is_err() || writer.flush().await.is_err() {
                break;
            }
        }
    });
    let mut frame = [0; FRAME];
    while reader.read_exact(&mut frame).await.is_ok() {
        let mut members = members.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if frame[0] == b'S' {
            let _ = sender.send(frame);
            members.insert(addr, sender.clone());
        } else {
            for member in members.values() {
                let _ = member.send(frame);
            }
        }
    }
    members.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&addr);
    sending.abort();
    Ok(())
}

/// What is read at once. A session gives a record at a time: several are written together.
const READ_SIZE: usize = 64 << 10;

thread_local! {
    /// Nothing is awaited while it is borrowed.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}

/// Reads what there is into the common buffer and has `then` look at it. `false` at the end.
fn poll_read(
    stream: &mut TlsStream<TcpStream>,
    cx: &mut Context<'_>,
    then: impl FnOnce(&mut TlsStream<TcpStream>, &mut Context<'_>, &[u8]) -> io::Result<()>,
) -> Poll<io::Result<bool>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buf = ReadBuf::new(scratch);
        while buf.remaining() > 0 {
            let before = buf.filled().len();
            match Pin::new(&mut *stream).poll_read(cx, &mut buf)? {
                Poll::Ready(()) if buf.filled().len() > before => {}
                _ if before > 0 => break,
                Poll::Ready(()) => return Poll::Ready(Ok(false)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(then(stream, cx, buf.filled()).map(|()| true))
    })
}

async fn tuned_echo(mut stream: TlsStream<TcpStream>) -> io::Result<()> {
    loop {
        let mut rest = Vec::new();
        let goes_on = poll_fn(|cx| {
            poll_read(&mut stream, cx, |stream, cx, data| {
                // What the session and the kernel take at once; the rest waits.
                let mut left = data;
                while !left.is_empty() {
                    match Pin::new(&mut *stream).poll_write(cx, left)? {
                        Poll::Ready(count) => left = &left[count..],
                        Poll::Pending => break,
                    }
                }
                rest = left.to_vec();
                Ok(())
            })
        });
        if !goes_on.await? {
            return stream.shutdown().await;
        }
        if !rest.is_empty() {
            stream.write_all(&rest).await?;
        }
        stream.flush().await?;
    }
}

type Tuned = Rc<RefCell<HashMap<SocketAddr, Rc<Member>>>>;

/// A subscriber: its session, of use to the task that reads and the one that writes, and what waits.
struct Member {
    stream: RefCell<TlsStream<TcpStream>>,
    queue: RefCell<Vec<u8>>,
    filled: Notify,
}

impl Member {
    /// Returns whether what waits is still short enough.
    fn push(&self, data: &[u8]) -> bool {
        let mut queue = self.queue.borrow_mut();
        queue.extend_from_slice(data);
        self.filled.notify_one();
        queue.len() <= SUBSCRIBER_CAP
    }

    async fn write(&self) -> io::Result<()> {
        let mut data = Vec::new();
        loop {
            self.filled.notified().await;
            std::mem::swap(&mut data, &mut self.queue.borrow_mut());
            let mut rest = data.as_slice();
            poll_fn(|cx| {
                let mut stream = self.stream.borrow_mut();
                while !rest.is_empty() {
                    let count = ready!(Pin::new(&mut *stream).poll_write(cx, rest))?;
                    rest = &rest[count..];
                }
                Pin::new(&mut *stream).poll_flush(cx)
            })
            .await?;
            data.clear();
        }
    }
}

fn tuned_member(
    stream: TlsStream<TcpStream>,
    addr: SocketAddr,
    members: Tuned,
) -> impl Future<Output = io::Result<()>> {
    let (stream, queue) = (RefCell::new(stream), RefCell::default());
    let member = Rc::new(Member { stream, queue, filled: Notify::new() });
    async move {
        let own = member.clone();
        let writer = spawn_local(async move { own.write().await });
        let (mut rest, mut joined) = (Rest::default(), Vec::new());
        let mut take = |data: &[u8]| {
            for run in runs(rest.complete(data, &mut joined)) {
                match run {
                    Run::Subscribe(frame) => {
                        member.push(frame);
                        members.borrow_mut().insert(addr, member.clone());
                    }
                    Run::Publish(frames) => members.borrow_mut().retain(|_, member| member.push(frames)),
                }
            }
        };
        let mut read = |cx: &mut Context<'_>| {
            poll_read(&mut member.stream.borrow_mut(), cx, |_, _, data| {
                take(data);
                Ok(())
            })
        };
        while let Ok(true) = poll_fn(&mut read).await {}
        members.borrow_mut().remove(&addr);
        writer.abort();
        Ok(())
    }
}
