//! A proxy built from `pause_reading` and `on_drain` keeps its memory flat, and when one side
//! breaks the other learns it.

mod util;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use unbroken::{CloseReason, CloseReport, Config, ConnId, Handler, Net, Sent, Via};
use util::serve;

/// Pairs each client with a connection of its own to `upstream`.
struct Pair {
    upstream: SocketAddr,
    partners: HashMap<ConnId, ConnId>,
}

impl Handler for Pair {
    fn on_open(&mut self, net: &mut Net, client: ConnId, via: Via) {
        if via != Via::Connect {
            let upstream = net.connect(self.upstream).unwrap();
            self.partners.insert(client, upstream);
            self.partners.insert(upstream, client);
        }
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        if net.send(self.partners[&conn], data) == Ok(Sent::Congested) {
            net.pause_reading(conn);
        }
        data.len()
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        net.resume_reading(self.partners[&conn]);
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        net.close_write(self.partners[&conn]);
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        if !report.reason.is_clean() {
            net.abort(self.partners[&conn]);
        }
    }
}

// B7
#[test]
fn a_slow_sink_holds_its_source_up_and_its_death_ends_it() {
    let sink = TcpListener::bind("127.0.0.1:0").unwrap();
    let pair = Pair { upstream: sink.local_addr().unwrap(), partners: HashMap::new() };
    let server = serve(Config::default(), pair);
    let mut source: TcpStream = server.client();
    let (mut slow, _) = sink.accept().unwrap();
    util::patient(&slow);
    source.set_nonblocking(true).unwrap();
    let (mut sent, mut refused) = (0u64, 0);
    while refused < 20 {
        match source.write(&[1; 64 << 10]) {
            Ok(count) => sent += count as u64,
            Err(_) => {
                refused += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    let stats = server.stats();
    assert!(sent > 1 << 20, "the kernels took only {sent}");
    assert!(stats.queued_peak <= 128 << 10, "{}", stats.queued_peak);
    slow.read_exact(&mut vec![0; 1 << 20]).unwrap();
    // It dies with input unread: a reset.
    drop(slow);
    let (_, first) = server.closed();
    let (_, second) = server.closed();
    assert_eq!((first.reason, second.reason), (CloseReason::Reset, CloseReason::Aborted));
    assert!(first.lost_bytes());
    // What came in the turn in which the sink died was refused, and is in neither account.
    assert!(second.received <= sent && first.handed + first.unsent <= second.received);
}
