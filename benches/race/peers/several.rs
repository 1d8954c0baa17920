//! Servers on several cores, and an echo between two pipes.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::thread;

use unbroken::{Addr, Bytes, CloseReport, Config, ConnId, Group, Handler, Net, Peers, PerConn, Reactor};

use super::frames::{runs, Run, FRAME};
use super::{handwritten, no_such_role, Role};

pub fn serve(peer: &str, role: &str, threads: &str) -> io::Result<()> {
    let threads: usize = threads.parse().map_err(io::Error::other)?;
    match (peer, role) {
        ("several-unbroken", "echo") => group(threads, |_| Echo),
        ("several-unbroken", "fanout") => {
            group(threads, |peers| Fanout { peers, subscribers: PerConn::new() })
        }
        ("several-tokio", "echo") => tokio(threads),
        #[cfg(target_os = "linux")]
        ("several-epoll", "echo") => epoll(threads),
        _ => Err(no_such_role()),
    }
}

fn group<H: Handler>(threads: usize, make: impl Fn(Peers) -> H + Send + Sync) -> io::Result<()> {
    let mut group = Group::new(Config::default(), threads)?;
    let listener = group.listen("127.0.0.1:0")?;
    let addr = group.local_addr(listener).as_ref().and_then(Addr::as_tcp);
    super::announce(addr.ok_or_else(|| io::Error::other("the listener has no address"))?)?;
    group.run(make)
}

struct Echo;

impl Handler for Echo {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let _ = net.send(conn, data);
        data.len()
    }
}

/// Every reactor has its own subscribers. What is published goes to the others once, whoever subscribed there.
struct Fanout {
    peers: Peers,
    subscribers: PerConn<()>,
}

impl Handler for Fanout {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let whole = data.len() - data.len() % FRAME;
        for run in runs(&data[..whole]) {
            match run {
                Run::Subscribe(frame) => {
                    self.subscribers.insert(conn, ());
                    let _ = net.send(conn, frame);
                }
                Run::Publish(frames) => {
                    let frames = Bytes::copy_from_slice(frames);
                    self.peers.broadcast(frames.clone());
                    net.broadcast(self.subscribers.ids(), frames);
                }
            }
        }
        whole
    }

    fn on_message(&mut self, net: &mut Net, _: Option<usize>, frames: Bytes) {
        net.broadcast(self.subscribers.ids(), frames);
    }

    fn on_close(&mut self, _: &mut Net, conn: ConnId, _: &CloseReport) {
        self.subscribers.remove(conn);
    }
}

/// The multi-thread runtime as its documentation has it: a task for each client.
fn tokio(threads: usize) -> io::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(super::listen()?)?;
        super::announce(listener.local_addr()?)?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                let mut buf = vec![0; 4096];
                loop {
                    match stream.read(&mut buf).await {
                        Ok(count) if count > 0 => stream.write_all(&buf[..count]).await?,
                        _ => return Ok::<_, io::Error>(()),
                    }
                }
            });
        }
    })
}

/// A loop on each thread, with a listener of its own: nobody can do it with less.
#[cfg(target_os = "linux")]
fn epoll(threads: usize) -> io::Result<()> {
    let first = super::listen_beside(([127, 0, 0, 1], 0).into())?;
    let addr = first.local_addr()?;
    let rest = (1..threads).map(|_| super::listen_beside(addr)).collect::<io::Result<Vec<_>>>()?;
    super::announce(addr)?;
    let serve = |listener| handwritten::serve_from::<super::epoll::Epoll>(Role::Echo, listener);
    thread::scope(|scope| {
        rest.into_iter().for_each(|listener| drop(scope.spawn(move || serve(listener))));
        serve(first)
    })
}

/// Sends back on standard output what comes on standard input.
pub fn pipe(peer: &str) -> io::Result<()> {
    match peer {
        "unbroken" => {
            let stdin = io::stdin().as_fd().try_clone_to_owned()?;
            let stdout = io::stdout().as_fd().try_clone_to_owned()?;
            let mut reactor = Reactor::new(Config::default())?;
            reactor.net().pipe(Some(stdin), Some(stdout))?;
            reactor.run(&mut Echo)
        }
        _ => {
            let (mut input, mut output) = (
                std::fs::File::from(io::stdin().as_fd().try_clone_to_owned()?),
                std::fs::File::from(io::stdout().as_fd().try_clone_to_owned()?),
            );
            let mut buf = vec![0; 64 << 10];
            loop {
                let mut fds = [rustix::event::PollFd::new(&input, rustix::event::PollFlags::IN)];
                rustix::event::poll(&mut fds, None)?;
                let count = input.read(&mut buf)?;
                if count == 0 {
                    return Ok(());
                }
                let written = output.write_vectored(&[IoSlice::new(&buf[..count])])?;
                output.write_all(&buf[written..count])?;
            }
        }
    }
}
