//! The engine, with its defaults.

use std::io::{self, Write};
use std::net::SocketAddr;

use unbroken::{
    Addr, Bytes, CloseReport, Config, ConnId, Handler, ListenerId, Net, PerConn, Reactor, Sent, Via,
};

use super::frames::{runs, Run, FRAME};
use super::{Role, SUBSCRIBER_CAP};

pub fn serve(role: Role) -> io::Result<()> {
    serve_on(role, |net| net.listen("127.0.0.1:0"))
}

/// The fan-out, every message of which is sent on by itself, whatever came with it: so many sends as
/// a server makes that looks at each.
#[allow(dead_code)]
pub fn pieces() -> io::Result<()> {
    fanout(true, |net| net.listen("127.0.0.1:0"))
}

/// With a listener of whatever kind.
pub fn serve_on(role: Role, listen: impl FnOnce(&mut Net) -> io::Result<ListenerId>) -> io::Result<()> {
    match role {
        Role::Echo => run(Config::default(), listen, &mut Echo),
        Role::Fanout => fanout(false, listen),
        Role::Proxy(upstream) => {
            run(Config::default(), listen, &mut Proxy { upstream, partners: PerConn::new() })
        }
    }
}

fn fanout(pieces: bool, listen: impl FnOnce(&mut Net) -> io::Result<ListenerId>) -> io::Result<()> {
    let mut config = Config::default();
    config.max_write_buffer = SUBSCRIBER_CAP;
    run(config, listen, &mut Fanout { subscribers: PerConn::new(), pieces })
}

fn run(
    config: Config,
    listen: impl FnOnce(&mut Net) -> io::Result<ListenerId>,
    handler: &mut dyn Handler,
) -> io::Result<()> {
    let mut reactor = Reactor::new(config)?;
    let listener = listen(reactor.net())?;
    let addr = reactor.net().local_addr(listener).as_ref().and_then(Addr::as_tcp);
    super::announce(addr.ok_or_else(|| io::Error::other("the listener has no address"))?)?;
    reactor.run(handler)
}

struct Echo;

impl Handler for Echo {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let _ = net.send(conn, data);
        data.len()
    }
}

struct Fanout {
    subscribers: PerConn<()>,
    pieces: bool,
}

impl Handler for Fanout {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        if data.first() == Some(&b'T') {
            return tell_longest_turn(net, conn, data);
        }
        let whole = data.len() - data.len() % FRAME;
        for run in runs(&data[..whole]) {
            match run {
                Run::Subscribe(frame) => {
                    self.subscribers.insert(conn, ());
                    let _ = net.send(conn, frame);
                }
                Run::Publish(frames) => {
                    let piece = if self.pieces { FRAME } else { frames.len() };
                    for piece in frames.chunks(piece) {
                        // Who cannot take it is closed, and comes to `on_close`.
                        net.broadcast(self.subscribers.ids(), Bytes::copy_from_slice(piece));
                    }
                }
            }
        }
        whole
    }

    fn on_close(&mut self, _: &mut Net, conn: ConnId, _: &CloseReport) {
        self.subscribers.remove(conn);
    }
}

/// Answers a frame that begins with `T` and comes alone with a frame that holds the longest turn so
/// far, in nanoseconds: no other server knows its own.
#[cold]
fn tell_longest_turn(net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
    let mut answer = [b' '; FRAME];
    let nanos = net.stats().longest_turn.as_nanos();
    let _ = write!(&mut answer[..], "{nanos}");
    let _ = net.send(conn, &answer);
    data.len()
}

struct Proxy {
    upstream: SocketAddr,
    partners: PerConn<ConnId>,
}

impl Handler for Proxy {
    fn on_open(&mut self, net: &mut Net, client: ConnId, via: Via) {
        if via == Via::Connect {
            return;
        }
        match net.connect(self.upstream) {
            Ok(upstream) => {
                self.partners.insert(client, upstream);
                self.partners.insert(upstream, client);
            }
            Err(_) => net.abort(client),
        }
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        if let Some(&partner) = self.partners.get(conn) {
            if let Ok(Sent::Congested) = net.send(partner, data) {
                net.pause_reading(conn);
            }
        }
        data.len()
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        if let Some(&partner) = self.partners.get(conn) {
            net.resume_reading(partner);
        }
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        match self.partners.get(conn) {
            Some(&partner) => net.close_write(partner),
            None => net.close(conn),
        }
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        if let Some(partner) = self.partners.remove(conn) {
            self.partners.remove(partner);
            if !report.reason.is_clean() {
                net.abort(partner);
            }
        }
    }
}
