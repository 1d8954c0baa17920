use std::time::Duration;
use unbroken::sim::{End, Faults, Reading, Script, Sim};
use unbroken::{CloseReason, Config, ConnId, Handler, Net, Timeout, Via};

const HERE: &str = "10.0.0.1:7";

/// Sends back what it gets.
struct Echo;

impl Handler for Echo {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        net.send(conn, data).map_or(0, |_| data.len())
    }
}

/// Answers the first bytes with so many of its own, and closes.
struct Page(usize);

impl Handler for Page {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, _: &[u8]) -> usize {
        let _ = net.send(conn, &vec![b'x'; self.0]);
        net.close(conn);
        1
    }
}

/// A world with `handler` listening in it.
fn world<H: Handler>(handler: H) -> Result<Sim<H>, Box<dyn std::error::Error>> {
    let mut sim = Sim::new(7, Config::default(), handler)?;
    sim.net().listen(HERE)?;
    Ok(sim)
}
