//! smol on one thread: a task for each connection, for each subscriber a channel.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::lock::Mutex;
use smol::net::{TcpListener, TcpStream};
use smol::{channel, Async, LocalExecutor, Timer};

use super::frames::FRAME;
use super::Role;

type Message = [u8; FRAME];
type Subscribers = Rc<Mutex<HashMap<SocketAddr, channel::Sender<Message>>>>;

pub fn serve(role: Role) -> io::Result<()> {
    let executor = Rc::new(LocalExecutor::new());
    smol::block_on(executor.run(accept(executor.clone(), role)))
}

async fn accept(executor: Rc<LocalExecutor<'static>>, role: Role) -> io::Result<()> {
    let listener = TcpListener::from(Async::new(super::listen()?)?);
    super::announce(listener.local_addr()?)?;
    let subscribers = Subscribers::default();
    loop {
        let (stream, addr) = match listener.accept().await {
            Ok(client) => client,
            Err(_) => {
                // Out of descriptors.
                Timer::after(Duration::from_millis(50)).await;
                continue;
            }
        };
        let task = match role {
            Role::Echo => executor.spawn(echo(stream)),
            Role::Fanout => executor.spawn(member(executor.clone(), stream, addr, subscribers.clone())),
            Role::Proxy(upstream) => executor.spawn(relay(stream, upstream)),
        };
        task.detach();
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count]).await?,
        }
    }
}

async fn relay(client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    let upstream = TcpStream::connect(upstream).await?;
    smol::future::try_zip(copy(client.clone(), upstream.clone()), copy(upstream, client)).await?;
    Ok(())
}

async fn copy(from: TcpStream, mut to: TcpStream) -> io::Result<()> {
    smol::io::copy(from, &mut to).await?;
    to.close().await
}

async fn member(
    executor: Rc<LocalExecutor<'static>>,
    stream: TcpStream,
    addr: SocketAddr,
    subscribers: Subscribers,
) -> io::Result<()> {
    let (sender, receiver) = channel::unbounded::<Message>();
    let mut writer = stream.clone();
    let writing = executor.spawn(async move {
        while let Ok(message) = receiver.recv().await {
            if writer.write_all(&message).await.is_err() {
                break;
            }
        }
    });
    let mut reader = smol::io::BufReader::new(stream);
    let mut frame = [0; FRAME];
    while reader.read_exact(&mut frame).await.is_ok() {
        if frame[0] == b'S' {
            let _ = sender.send(frame).await;
            subscribers.lock().await.insert(addr, sender.clone());
        } else {
            for subscriber in subscribers.lock().await.values() {
                // Never full: it has no bound.
                let _ = subscriber.try_send(frame);
            }
        }
    }
    subscribers.lock().await.remove(&addr);
    writing.cancel().await;
    Ok(())
}
