//! A reactor that has connections and no state: what comes in is split into lines here, and posted to the
//! state, one piece of each client at a time; what the state wants is carried out.

use std::collections::VecDeque;
use std::sync::Arc;

use unbroken::{CloseReport, ConnId, Handler, Net, Peers, TimerId, Via};

use crate::between::{Heard, Told};
use crate::clients::{ClientId, STATE};
use crate::mail::{Mail, Order, Report};
use crate::pace::TICK;
use crate::ports::Ports;

/// Bytes for one client, and sends, at most before what was sent is written.
const MOST_BYTES: usize = 32 << 10;
const MOST_SENDS: usize = 4096;

pub struct Front {
    pub ports: Ports,
    peers: Peers,
    mail: Arc<Mail>,
    /// Reports that are to be posted.
    out: Vec<Report>,
    inbox: VecDeque<Order>,
}

impl Front {
    pub fn new(ports: Ports, peers: Peers, mail: Arc<Mail>) -> Self {
        Self { ports, peers, mail, out: Vec::new(), inbox: VecDeque::new() }
    }

    /// Posts what was collected.
    pub fn post(&mut self) {
        self.mail.reports.put(&mut self.out, self.peers.handle(STATE));
    }

    fn client(&self, conn: ConnId) -> ClientId {
        ClientId { reactor: self.peers.index(), conn }
    }

    fn report(&mut self, conn: ConnId, heard: Vec<Heard<'static>>) {
        if !heard.is_empty() {
            self.out.push(Report::Heard(self.client(conn), heard));
        }
    }

    /// Reports what came from a client, who says nothing more until all of that has been taken.
    fn report_and_wait(&mut self, conn: ConnId, mut heard: Vec<Heard<'static>>) {
        if heard.is_empty() {
            return;
        }
        if let Some(port) = self.ports.ports.get_mut(conn) {
            port.busy = true;
            heard.push(Heard::Next);
        }
        self.report(conn, heard);
    }

    /// The orders that wait. Returns whether they were a crowd.
    fn fetch(&mut self) -> bool {
        let (orders, crowded) = self.mail.orders[self.peers.index()].take();
        self.inbox.extend(orders);
        crowded
    }

    /// Carries out an order. Returns how many bytes and sends it was at most.
    fn carry_out(&mut self, net: &mut Net, order: Order) -> (usize, usize) {
        match order {
            Order::Tell(conn, told) => {
                let bytes = match &told {
                    Told::Answer(bytes) | Told::News(bytes) => bytes.len(),
                    _ => 0,
                };
                self.ports.told(net, conn, told);
                (bytes, 1)
            }
            Order::NewsFor(conns, but, bytes) => {
                let cost = (bytes.len(), conns.len());
                self.ports.news_for(net, &conns, but, bytes);
                cost
            }
            Order::Count(number) => {
                self.out.push(Report::Counted(number, Box::new(self.ports.count(net))));
                (0, 0)
            }
        }
    }
}

impl Handler for Front {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, via: Via) {
        let Via::Listener(listener) = via else { return net.close(conn) };
        let came = self.ports.came(net, conn, listener);
        match self.ports.draining {
            true => self.ports.refuse(net, conn, "The server is shutting down"),
            false => self.report_and_wait(conn, vec![came]),
        }
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        self.ports.heard(net, conn);
        if self.ports.ports.get(conn).is_some_and(|port| port.busy && !port.leaving) {
            self.ports.wait(net, conn);
            return 0;
        }
        let (mut rest, mut heard) = (data, Vec::new());
        while let Some(next) = self.ports.next_in(net, conn, &mut rest) {
            heard.push(next.into_owned());
        }
        self.report_and_wait(conn, heard);
        data.len() - rest.len()
    }

    fn on_eof(&mut self, _: &mut Net, conn: ConnId) {
        let over = self.ports.ended(conn);
        self.report(conn, over.into_iter().collect());
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        self.ports.drained(net, conn);
    }

    fn on_timer(&mut self, net: &mut Net, _: TimerId) {
        net.set_timer(TICK);
        self.ports.tick(net);
        for conn in self.ports.hungry(net) {
            self.out.push(Report::Hungry(self.client(conn)));
        }
    }

    fn on_deadline(&mut self, net: &mut Net, conn: ConnId) {
        let late = self.ports.late(net, conn);
        self.report(conn, late.into_iter().collect());
    }

    fn on_wake(&mut self, net: &mut Net) {
        let (mut bytes, mut sends) = (0, 0);
        while bytes < MOST_BYTES && sends < MOST_SENDS {
            // What came while older orders waited was told of by this same wake-up.
            if self.inbox.is_empty() && self.fetch() {
                // The state waits for that.
                let _ = self.peers.handle(STATE).map(|state| state.wake());
            }
            let Some(order) = self.inbox.pop_front() else { return };
            let cost = self.carry_out(net, order);
            (bytes, sends) = (bytes + cost.0, sends + cost.1);
        }
        // The rest follows when our clients have had their turn, and what was sent is written.
        let _ = self.peers.handle(self.peers.index()).map(|own| own.wake());
    }

    fn on_shutdown(&mut self, net: &mut Net) {
        // What the state said before still holds.
        self.fetch();
        while let Some(order) = self.inbox.pop_front() {
            self.carry_out(net, order);
        }
        self.ports.draining = true;
        self.ports.close_the_rest(net);
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        let left = self.ports.gone(net, conn, report);
        self.report(conn, left.into_iter().collect());
    }
}
