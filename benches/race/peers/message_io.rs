//! message-io: one callback for everything, which sends at once.

use std::collections::{HashMap, HashSet};
use std::io;

use message_io::network::{Endpoint, NetEvent, Transport};
use message_io::node;

use super::frames::{runs, Rest, Run};
use super::Role;

pub fn serve(role: Role) -> io::Result<()> {
    if let Role::Proxy(_) = role {
        return Err(super::no_such_role());
    }
    let (handler, listener) = node::split::<()>();
    let (_, addr) = handler.network().listen(Transport::Tcp, "127.0.0.1:0")?;
    super::announce(addr)?;
    let mut rests: HashMap<Endpoint, Rest> = HashMap::new();
    let mut subscribers: HashSet<Endpoint> = HashSet::new();
    let mut joined = Vec::new();
    listener.for_each(move |event| match event.network() {
        NetEvent::Connected(..) => {}
        NetEvent::Accepted(endpoint, _) => {
            if role == Role::Fanout {
                rests.insert(endpoint, Rest::default());
            }
        }
        NetEvent::Message(endpoint, data) => {
            let Some(rest) = rests.get_mut(&endpoint) else {
                handler.network().send(endpoint, data);
                return;
            };
            for run in runs(rest.complete(data, &mut joined)) {
                match run {
                    Run::Subscribe(frame) => {
                        subscribers.insert(endpoint);
                        handler.network().send(endpoint, frame);
                    }
                    Run::Publish(frames) => {
                        for subscriber in &subscribers {
                            handler.network().send(*subscriber, frames);
                        }
                    }
                }
            }
        }
        NetEvent::Disconnected(endpoint) => {
            rests.remove(&endpoint);
            subscribers.remove(&endpoint);
        }
    });
    Ok(())
}
