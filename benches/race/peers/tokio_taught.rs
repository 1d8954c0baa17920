//! tokio on one thread, as its tutorial and its chat example teach it: a task for each connection,
//! `copy` for an echo, for each subscriber a channel and a write for each message.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::mpsc;

use super::frames::FRAME;
use super::Role;

type Message = [u8; FRAME];
type Subscribers = Arc<Mutex<HashMap<SocketAddr, mpsc::UnboundedSender<Message>>>>;

pub fn serve(role: Role) -> io::Result<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(accept(role))
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
        let subscribers = subscribers.clone();
        tokio::spawn(async move {
            // An error ends the one connection.
            let _ = match role {
                Role::Echo => echo(stream).await,
                Role::Fanout => member(stream, addr, subscribers).await,
                Role::Proxy(upstream) => relay(stream, upstream).await,
            };
        });
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    tokio::io::copy(&mut reader, &mut writer).await?;
    Ok(())
}

async fn relay(mut client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    let mut upstream = TcpStream::connect(upstream).await?;
    tokio::io::copy_bidirectional(&mut client, &mut upstream).await?;
    Ok(())
}

async fn member(stream: TcpStream, addr: SocketAddr, subscribers: Subscribers) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = tokio::io::BufReader::new(reader);
    let (sender, mut receiver) = mpsc::unbounded_channel::<Message>();
    let sending = tokio::spawn(async move {
        while let Some(message) = receiver.recv().await {
            if writer.write_all(&message).await.is_err() {
                break;
            }
        }
    });
    let mut frame = [0; FRAME];
    while reader.read_exact(&mut frame).await.is_ok() {
        let mut subscribers = subscribers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if frame[0] == b'S' {
            let _ = sender.send(frame);
            subscribers.insert(addr, sender.clone());
        } else {
            for subscriber in subscribers.values() {
                let _ = subscriber.send(frame);
            }
        }
    }
    subscribers.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&addr);
    sending.abort();
    Ok(())
}
