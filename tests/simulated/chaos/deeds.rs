//! What the handler does besides what it was called for: one thing, or several.

use std::sync::atomic::Ordering;
use std::time::Duration;

use unbroken::{Bytes, ConnId, Net, SendError, Sent, Tls};

use super::{Chaos, PANIC};

/// Where it listens besides.
const ADDRS: [&str; 2] = ["10.0.0.1:8", "10.0.0.1:9"];
/// What it connects to.
const REMOTES: [&str; 4] = ["10.0.1.1:1", "10.0.1.1:2", "10.0.1.1:3", "10.0.1.1:4"];
/// What speaks TLS, by address and by name.
const SECURED: [&str; 2] = ["10.0.1.1:5", "one:5"];
/// By name: one address, one behind others, unknown, never answered.
const HOSTS: [&str; 6] = ["one:1", "one:2", "many:1", "many:4", "unknown:1", "silent:1"];

impl Chaos {
    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let (len, first) = (self.dice.between(1, most), self.dice.below(251));
        (0..len).map(|place| ((first + place) % 251) as u8).collect()
    }

    pub(super) fn any(&mut self, conn: ConnId) -> ConnId {
        match self.known.len() {
            0 => conn,
            count if self.dice.chance(300) => self.known[self.dice.below(count)],
            _ => conn,
        }
    }

    pub(super) fn meddle(&mut self, net: &mut Net, conn: ConnId) {
        let rounds = match self.feels_like("several_at_once") {
            true => self.dice.between(2, 5),
            false => 1,
        };
        for _ in 0..rounds {
            self.dawdle();
            self.talk(net, conn);
            self.handle_input(net, conn);
            self.look_around(net, conn);
            self.wish(net, conn);
            self.go_roundabout(conn);
            self.end_something(net, conn);
        }
        if self.feels_like("panic") {
            std::panic::panic_any(PANIC);
        }
    }

    /// Takes its time: mostly a little, now and then a second.
    fn dawdle(&mut self) {
        if self.naps > 0 && self.feels_like("dawdle") {
            self.naps -= 1;
            let most = [2_000, 2_000, 40_000, 1_500_000][self.dice.below(4)];
            let time = Duration::from_micros(self.dice.between(1, most) as u64);
            if let Some(clock) = &self.clock {
                clock.advance(time);
            }
        }
    }

    /// Sends this and that.
    fn talk(&mut self, net: &mut Net, conn: ConnId) {
        if self.feels_like("send") {
            let (to, data) = (self.any(conn), self.bytes(2000));
            let _ = net.send(to, &data);
        }
        if self.feels_like("send_large") {
            let (to, data) = (self.any(conn), self.bytes(100_000));
            let _ = match self.dice.chance(500) {
                true => net.send_bytes(to, data.into()),
                false => net.send(to, &data),
            };
        }
        if self.feels_like("oversize") {
            // More than anybody could hold: that is nobody's fault but ours.
            let to = self.any(conn);
            let (before, queued) = (net.state(to), net.queued(to));
            let data = vec![7; net.config().max_write_buffer + 1];
            let sent = net.send_bytes(to, data.into());
            assert!(matches!(sent, Err(SendError::Full | SendError::Closed | SendError::WriteClosed)));
            assert_eq!((net.state(to), net.queued(to)), (before, queued), "a message that nobody could hold");
        }
        if self.feels_like("reserve") {
            let (to, data) = (self.any(conn), self.bytes(20_000));
            if net.try_reserve(to, data.len()).is_ok() {
                assert!(net.send(to, &data).is_ok(), "what was reserved is taken");
            }
        }
        if self.feels_like("broadcast") {
            let data = Bytes::from(self.bytes(1500));
            let everybody: Vec<_> = net.connections().collect();
            net.broadcast(everybody, data);
        }
        if self.feels_like("stale") && !self.closed.is_empty() {
            let gone = self.closed[self.dice.below(self.closed.len())];
            assert_eq!(net.send(gone, b"for somebody who is gone"), Err(SendError::Closed));
            net.close(gone);
            net.abort(gone);
            net.resume_reading(gone);
        }
    }

    fn handle_input(&mut self, net: &mut Net, conn: ConnId) {
        if self.feels_like("pause") {
            let whom = self.any(conn);
            match self.dice.chance(600) {
                true => {
                    net.pause_reading(whom);
                    let after = Duration::from_millis(self.dice.below(500) as u64);
                    self.resumes.push((net.set_timer(after), whom));
                }
                false => net.resume_reading(whom),
            }
        }
        if self.feels_like("resume_at_once") {
            let whom = self.any(conn);
            net.pause_reading(whom);
            if self.dice.chance(300) {
                self.talk(net, whom);
            }
            net.resume_reading(whom);
        }
    }

    /// Sets the deadline of a connection, or asks for more input at once.
    fn wish(&mut self, net: &mut Net, conn: ConnId) {
        if self.feels_like("deadlines") {
            let whom = self.any(conn);
            let most = [1_000, 30_000, 2_000_000][self.dice.below(3)];
            match self.dice.chance(800) {
                true => net.set_deadline(whom, Duration::from_micros(self.dice.below(most) as u64)),
                false => net.clear_deadline(whom),
            }
        }
        if self.feels_like("want") {
            let (whom, most) = (self.any(conn), [20, 20_000][self.dice.below(2)]);
            let bytes = self.dice.between(0, most.min(net.config().max_read_buffer));
            assert!(net.want(whom, bytes).is_ok());
        }
    }

    /// Sets timers, connects, listens.
    fn look_around(&mut self, net: &mut Net, conn: ConnId) {
        if self.feels_like("timers") && self.ticks > 0 {
            self.ticks -= 1;
            let most = [1_000, 30_000, 3_000_000][self.dice.below(3)];
            let after = Duration::from_micros(self.dice.below(most) as u64);
            self.timers.push(net.set_timer(after));
            if self.dice.chance(200) {
                let timer = self.timers[self.dice.below(self.timers.len())];
                net.cancel_timer(timer);
                self.cancelled.push(timer);
            }
        }
        if self.feels_like("connect") && self.connects > 0 {
            self.connects -= 1;
            let addr = match self.feels_like("names") {
                true => HOSTS[self.dice.below(HOSTS.len())],
                false => REMOTES[self.dice.below(4)],
            };
            let secured = self.secured && self.trust.chance(300);
            let addr = if secured { SECURED[self.trust.below(2)] } else { addr };
            if let Ok(conn) = net.connect(addr) {
                self.known.push(conn);
                if secured {
                    // It may have failed already.
                    let _ = net.start_tls(conn, Tls::SimClient);
                }
                if self.dice.chance(500) {
                    let data = self.bytes(3000);
                    let _ = net.send(conn, &data);
                }
                if self.dice.chance(100) {
                    net.close_write(conn);
                }
            }
        }
        if self.feels_like("listeners") {
            match self.listeners.pop().filter(|_| self.dice.chance(500)) {
                Some(listener) => net.close_listener(listener),
                None => self.listeners.extend(net.listen(ADDRS[self.dice.below(2)])),
            }
        }
        let _ = conn;
    }

    /// What another thread might ask for.
    pub fn go_roundabout(&mut self, conn: ConnId) {
        let Some(handle) = self.handle.clone() else { return };
        if self.feels_like("handle") {
            let whom = self.any(conn);
            match self.dice.below(12) {
                0 => drop(handle.close(whom)),
                1 => drop(handle.abort(whom)),
                2 => drop(handle.wake()),
                _ => {
                    let most = [50, 3000][self.dice.below(2)];
                    let data = Bytes::from(self.bytes(most));
                    if handle.send(whom, data.clone()).is_ok() {
                        self.posted.entry(whom).or_default().push(data);
                    }
                }
            }
        }
        if self.feels_like("tasks") {
            let (whom, deed, ran) = (self.any(conn), self.dice.below(6), self.ran.clone());
            let (clock, data) = (self.clock.clone(), Bytes::from(self.bytes(800)));
            let task = move |net: &mut Net| {
                ran.fetch_add(1, Ordering::Relaxed);
                match deed {
                    0 => drop(net.send_bytes(whom, data)),
                    1 => drop(net.broadcast(net.connections().collect::<Vec<_>>(), data)),
                    2 => net.resume_reading(whom),
                    3 => net.close_write(whom),
                    4 => clock.iter().for_each(|clock| clock.advance(Duration::from_millis(5))),
                    _ => std::panic::panic_any(PANIC),
                }
            };
            self.tasks += usize::from(handle.run(task).is_ok());
        }
    }

    fn end_something(&mut self, net: &mut Net, conn: ConnId) {
        if self.feels_like("close_write") {
            let whom = self.any(conn);
            if self.dice.chance(200) {
                net.pause_reading(whom);
                self.resumes.push((net.set_timer(Duration::from_millis(3)), whom));
            }
            net.close_write(whom);
            assert!(matches!(net.send(whom, b"?"), Err(SendError::WriteClosed | SendError::Closed)));
        }
        if self.feels_like("close") {
            let whom = self.any(conn);
            if self.dice.chance(300) {
                let data = self.bytes(5000);
                let _: Result<Sent, _> = net.send(whom, &data);
            }
            net.close(whom);
        }
        if self.feels_like("abort") {
            let whom = self.any(conn);
            net.abort(whom);
        }
        if self.feels_like("close_everybody") {
            for conn in net.connections().collect::<Vec<_>>() {
                net.close(conn);
            }
        }
        if self.feels_like("shutdown") {
            if self.dice.chance(700) {
                let goodbye = Bytes::from(self.bytes(1500));
                let everybody: Vec<_> = net.connections().collect();
                net.broadcast(everybody, goodbye);
            }
            let deadline = [0, 50, 2000][self.dice.below(3)];
            net.shutdown(Duration::from_millis(self.dice.between(0, deadline) as u64));
        }
    }
}
