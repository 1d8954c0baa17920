//! The engine, with its defaults.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use unbroken::{Addr, Bytes, CloseReport, Config, ConnId, Handler, Net, PerConn, Reactor, Sent, Via};

use super::frames::{runs, Run, FRAME};
use super::{Role, SUBSCRIBER_CAP};

pub fn serve(role: Role, tls: Option<Arc<ServerConfig>>) -> io::Result<()> {
    match role {
        Role::Echo => run(Config::default(), tls, &mut Echo),
        Role::Fanout => {
            let mut config = Config::default();
            config.max_write_buffer = SUBSCRIBER_CAP;
            run(config, tls, &mut Fanout::default())
        }
        Role::Proxy(upstream) => {
            run(Config::default(), tls, &mut Proxy { upstream, partners: PerConn::new() })
        }
    }
}

fn run(config: Config, tls: Option<Arc<ServerConfig>>, handler: &mut dyn Handler) -> io::Result<()> {
    let mut reactor = Reactor::new(config)?;
    let listener = match tls {
        Some(tls) => reactor.net().listen_tls("127.0.0.1:0", tls)?,
        None => reactor.net().listen("127.0.0.1:0")?,
    };
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

#[derive(Default)]
struct Fanout {
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
                    // Who cannot take it is closed, and comes to `on_close`.
                    net.broadcast(self.subscribers.ids(), Bytes::copy_from_slice(frames));
                }
            }
        }
        whole
    }

    fn on_close(&mut self, _: &mut Net, conn: ConnId, _: &CloseReport) {
        self.subscribers.remove(conn);
    }
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
