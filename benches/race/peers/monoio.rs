//! monoio: io_uring, one thread, a task for each connection whose buffers go to the kernel and back.

use std::io;
use std::net::SocketAddr;

use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, Splitable};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};

use super::Role;

pub fn serve(role: Role) -> io::Result<()> {
    if role == Role::Fanout {
        return Err(super::no_such_role());
    }
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new().with_entries(4096).enable_timer().build()?;
    runtime.block_on(accept(role))
}

async fn accept(role: Role) -> io::Result<()> {
    let listener = TcpListener::from_std(super::listen()?)?;
    super::announce(listener.local_addr()?)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match role {
                Role::Echo => drop(monoio::spawn(echo(stream))),
                Role::Proxy(upstream) => drop(monoio::spawn(relay(stream, upstream))),
                Role::Fanout => return Err(super::no_such_role()),
            },
            // Out of descriptors.
            Err(_) => monoio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(16 << 10);
    loop {
        let (result, read) = stream.read(buffer).await;
        if result? == 0 {
            return Ok(());
        }
        let (result, written) = stream.write_all(read).await;
        result?;
        buffer = written;
        buffer.clear();
    }
}

async fn relay(client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    let upstream = TcpStream::connect(upstream).await?;
    upstream.set_nodelay(true)?;
    let (client_read, client_write) = client.into_split();
    let (upstream_read, upstream_write) = upstream.into_split();
    let back = monoio::spawn(copy(upstream_read, client_write));
    copy(client_read, upstream_write).await?;
    back.await
}

async fn copy(mut from: impl AsyncReadRent, mut to: impl AsyncWriteRent) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(64 << 10);
    loop {
        let (result, read) = from.read(buffer).await;
        if result? == 0 {
            return to.shutdown().await;
        }
        let (result, written) = to.write_all(read).await;
        result?;
        buffer = written;
        buffer.clear();
    }
}
