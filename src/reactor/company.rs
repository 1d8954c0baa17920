//! What a turn does for others than its connections: what other threads and reactors ask for, children that
//! have ended, descriptors that are ready.

use super::accepting::admit;
use super::Reactor;
use crate::handler::Handler;
use crate::net::{Client, Errand, Stopping};

impl Reactor {
    /// Those that are due when the phase begins, each once.
    pub(super) fn tell_of_others<H: Handler + ?Sized>(&mut self, handler: &mut H) {
        for _ in 0..self.net.children.due() {
            let net = &mut self.net;
            let Some((child, status)) = net.children.next(&net.system.registry) else { break };
            handler.on_exit(net, child, status);
            net.tick_over();
        }
        for _ in 0..self.net.watches.due() {
            let net = &mut self.net;
            let Some((watch, ready)) = net.watches.next(&net.system.registry) else { break };
            handler.on_ready(net, watch, ready);
            net.tick_over();
        }
    }

    /// Something that another thread asks for.
    pub(super) fn run_errand<H: Handler + ?Sized>(&mut self, handler: &mut H, errand: Errand) {
        let net = &mut self.net;
        match errand {
            Errand::Task(task) => {
                // It may take long, and others may post meanwhile.
                net.make_room_for_commands();
                task(net);
            }
            Errand::Arrival(arrival) => {
                net.take_in(*arrival);
            }
            Errand::Client(client) => {
                let client = client.arrive_at(&net.system);
                let Client { listener, stream, peer } = client;
                net.expect_counted();
                let conn = admit(net, handler, listener, stream, peer, false);
                // As one from the backlog: taken in, and closed in good order.
                if net.stopping == Stopping::Draining {
                    net.close(conn);
                }
            }
            Errand::Freed => {
                for id in net.listeners.ids().collect::<Vec<_>>() {
                    net.listener_may_go_on(id);
                }
            }
            Errand::Exited(child) => net.children.has_ended(child),
        }
    }
}
