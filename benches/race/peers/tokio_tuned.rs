//! tokio on one thread, as an expert tunes it: one read buffer for all connections, reads and writes
//! tried before anything is awaited, and for each subscriber a task that writes all that has come
//! together by the time it runs in one call.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::task::{spawn_local, LocalSet};

use super::frames::{runs, Rest, Run};
use super::{Role, SUBSCRIBER_CAP};

const READ_SIZE: usize = 64 << 10;

thread_local! {
    /// Nothing is awaited while it is borrowed.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}

pub fn serve(role: Role) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(accept(role)))
}

async fn accept(role: Role) -> io::Result<()> {
    let listener = TcpListener::from_std(super::listen()?)?;
    super::announce(listener.local_addr()?)?;
    let subscribers = Subscribers::default();
    loop {
        let (stream, addr) = match listener.accept().await {
            Ok(client) => client,
            Err(_) => {
                // Out of descriptors.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        match role {
            Role::Echo => drop(spawn_local(echo(stream))),
            Role::Fanout => drop(spawn_local(member(stream, addr, subscribers.clone()))),
            Role::Proxy(upstream) => drop(spawn_local(relay(stream, upstream))),
        }
    }
}

/// Reads what there is into the common buffer and has `then` look at it, which returns what could
/// not be dealt with at once.
async fn read<R>(stream: &TcpStream, mut then: impl FnMut(&[u8]) -> R) -> io::Result<Option<R>> {
    loop {
        stream.readable().await?;
        let result = SCRATCH.with_borrow_mut(|scratch| match stream.try_read(scratch) {
            Ok(0) => Ok(None),
            Ok(count) => Ok(Some(then(&scratch[..count]))),
            Err(error) => Err(error),
        });
        match result {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    loop {
        let Some(rest) = read(&stream, |data| write_now(&stream, data)).await? else { return Ok(()) };
        let rest = rest?;
        if !rest.is_empty() {
            stream.write_all(&rest).await?;
        }
    }
}

/// Writes what the kernel takes at once, and returns the rest.
fn write_now(stream: &TcpStream, mut data: &[u8]) -> io::Result<Vec<u8>> {
    while !data.is_empty() {
        match stream.try_write(data) {
            Ok(count) => data = &data[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(data.to_vec())
}

async fn relay(mut client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    let mut upstream = TcpStream::connect(upstream).await?;
    upstream.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut upstream, READ_SIZE, READ_SIZE).await?;
    Ok(())
}

type Subscribers = Rc<RefCell<HashMap<SocketAddr, Rc<Queue>>>>;

/// What waits for one subscriber.
#[derive(Default)]
struct Queue {
    bytes: RefCell<Vec<u8>>,
    filled: Notify,
}

impl Queue {
    /// Returns whether it is still short enough.
    fn push(&self, data: &[u8]) -> bool {
        let mut bytes = self.bytes.borrow_mut();
        bytes.extend_from_slice(data);
        self.filled.notify_one();
        bytes.len() <= SUBSCRIBER_CAP
    }
}

async fn member(stream: TcpStream, addr: SocketAddr, subscribers: Subscribers) -> io::Result<()> {
    let stream = Rc::new(stream);
    let queue = Rc::new(Queue::default());
    let writer = spawn_local(write(stream.clone(), queue.clone()));
    let (mut rest, mut joined) = (Rest::default(), Vec::new());
    let mut take = |data: &[u8]| {
        for run in runs(rest.complete(data, &mut joined)) {
            match run {
                Run::Subscribe(frame) => {
                    queue.push(frame);
                    subscribers.borrow_mut().insert(addr, queue.clone());
                }
                Run::Publish(frames) => {
                    subscribers.borrow_mut().retain(|_, queue| {
                        let short = queue.push(frames);
                        if !short {
                            queue.bytes.borrow_mut().clear();
                        }
                        short
                    });
                }
            }
        }
    };
    while let Ok(Some(())) = read(&stream, &mut take).await {}
    subscribers.borrow_mut().remove(&addr);
    writer.abort();
    Ok(())
}

async fn write(stream: Rc<TcpStream>, queue: Rc<Queue>) -> io::Result<()> {
    let mut data = Vec::new();
    loop {
        queue.filled.notified().await;
        std::mem::swap(&mut data, &mut queue.bytes.borrow_mut());
        let mut rest = data.as_slice();
        while !rest.is_empty() {
            match stream.try_write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => stream.writable().await?,
                Err(error) => return Err(error),
            }
        }
        data.clear();
    }
}
