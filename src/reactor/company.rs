//! What a turn tells of things that are no connections: children that have ended, descriptors that are ready.

use super::Reactor;
use crate::handler::Handler;

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
}
