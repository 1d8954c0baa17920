//! Who runs on which reactor: the state on the first, with the clients that it serves itself; the protocols of
//! the others' clients with them.
//!
//! What a chat does for a line is little, what it does for its thousand receivers is much: so it is the
//! sending, the sealing and the splitting that are spread, and the state needs no locks.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use unbroken::{CloseReport, ConnId, Handler, ListenerId, Net, Peers, TimerId, Via};

use crate::clients::STATE;
use crate::front::Front;
use crate::mail::Mail;
use crate::ports::Ports;
use crate::server::Chat;

/// What the reactors are made of.
pub struct Crew {
    state: Mutex<Option<Box<Chat>>>,
    fronts: Box<dyn Fn() -> Ports + Send + Sync>,
    mail: Arc<Mail>,
}

impl Crew {
    pub fn new(chat: Chat, reactors: usize) -> Self {
        let (options, clock, irc) = (chat.options.clone(), chat.clock, chat.ports.irc.clone());
        let fronts = move || {
            let mut ports = Ports::new(options.clone(), clock);
            ports.irc.clone_from(&irc);
            ports
        };
        let state = Mutex::new(Some(Box::new(chat)));
        Self { state, fronts: Box::new(fronts), mail: Arc::new(Mail::new(reactors)) }
    }

    /// What runs on one of them.
    pub fn part(&self, peers: Peers) -> Part {
        let state =
            self.state.lock().unwrap_or_else(PoisonError::into_inner).take_if(|_| peers.index() == STATE);
        match state {
            Some(mut chat) => {
                if peers.len() > 1 {
                    chat.join_reactors(peers, self.mail.clone());
                }
                Part::State(chat)
            }
            None => Part::Front(Box::new(Front::new((self.fronts)(), peers, self.mail.clone()))),
        }
    }
}

/// What runs on one reactor.
pub enum Part {
    State(Box<Chat>),
    Front(Box<Front>),
}

impl Part {
    fn handler(&mut self) -> &mut dyn Handler {
        match self {
            Self::State(chat) => &mut **chat,
            Self::Front(front) => &mut **front,
        }
    }

    /// Has it do something, and posts what comes of that.
    fn act<T>(&mut self, act: impl FnOnce(&mut dyn Handler) -> T) -> T {
        let result = act(self.handler());
        match self {
            Self::State(chat) => chat.post(),
            Self::Front(front) => front.post(),
        }
        result
    }
}

impl Handler for Part {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, via: Via) {
        self.act(|handler| handler.on_open(net, conn, via));
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        self.act(|handler| handler.on_data(net, conn, data))
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        self.act(|handler| handler.on_eof(net, conn));
    }

    fn on_drain(&mut self, net: &mut Net, conn: ConnId) {
        self.act(|handler| handler.on_drain(net, conn));
    }

    fn on_timer(&mut self, net: &mut Net, timer: TimerId) {
        self.act(|handler| handler.on_timer(net, timer));
    }

    fn on_deadline(&mut self, net: &mut Net, conn: ConnId) {
        self.act(|handler| handler.on_deadline(net, conn));
    }

    fn on_wake(&mut self, net: &mut Net) {
        self.act(|handler| handler.on_wake(net));
    }

    fn on_shutdown(&mut self, net: &mut Net) {
        self.act(|handler| handler.on_shutdown(net));
    }

    fn on_close(&mut self, net: &mut Net, conn: ConnId, report: &CloseReport) {
        self.act(|handler| handler.on_close(net, conn, report));
    }

    fn on_listener_error(&mut self, net: &mut Net, listener: ListenerId, error: &io::Error) {
        self.act(|handler| handler.on_listener_error(net, listener, error));
    }
}
