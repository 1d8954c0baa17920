//! The connections of one reactor, with what each speaks. What comes in at them is `Heard`, what the state
//! wants of them is `Told`; nothing here knows of users and channels.

use std::cell::Cell;
use std::time::SystemTime;

use unbroken::frame::Lines;
use unbroken::{Addr, Bytes, CloseReason, CloseReport, ConnId, ListenerId, Net, PerConn, Timeout};

use crate::between::{Goodbye, Heard, Told};
use crate::clients::host;
use crate::options::Options;
use crate::pace::Pace;
use crate::web::Asked;
use crate::websocket::Socket;
use crate::wire::{encode, Form};

/// Bytes of tags that a client may send before a line, with their mark and blank (IRCv3 message tags).
pub const MAX_TAGS: usize = 4096;

/// What a connection speaks.
pub enum Protocol {
    Irc,
    /// With the question for figures that is being answered.
    Http(Option<Asked>),
    WebSocket(Box<Socket>),
}

/// A connection of a client.
pub struct Port {
    pub protocol: Protocol,
    /// Finds the lines of a bare connection.
    pub lines: Lines,
    pub pace: Pace,
    pub registered: bool,
    /// It was asked for a sign of life, and none has come.
    asked: bool,
    /// What it says is heard no more.
    pub leaving: bool,
    /// It was closed, with whatever had to be said.
    closed: bool,
    /// What it said is with the state, and what it says next waits for that.
    pub busy: bool,
    /// It is not read from because of that, or of a question that is being answered.
    waiting: bool,
    /// Bytes of answers that it asked for itself and has not taken yet: they do not count against it.
    pub asked_for: Cell<usize>,
}

/// All of them.
pub struct Ports {
    pub ports: PerConn<Port>,
    pub options: Options,
    pub clock: fn() -> SystemTime,
    /// Listeners whose clients speak IRC; those of the other speak HTTP.
    pub irc: Vec<ListenerId>,
    pub tick: u64,
    /// Clients that are faster than they may be. They are not read from until the next tick.
    pub held: Vec<ConnId>,
    /// Clients to whom the state gives no more answers until they have taken what waits for them.
    pub sated: Vec<ConnId>,
    pub draining: bool,
    /// Lines of others that were sent to clients.
    pub deliveries: u64,
}

impl Ports {
    pub fn new(options: Options, clock: fn() -> SystemTime) -> Self {
        Self {
            ports: PerConn::new(),
            options,
            clock,
            irc: Vec::new(),
            tick: 0,
            held: Vec::new(),
            sated: Vec::new(),
            draining: false,
            deliveries: 0,
        }
    }

    /// A client has come.
    pub fn came(&mut self, net: &mut Net, conn: ConnId, listener: ListenerId) -> Heard<'static> {
        let form = self.irc.contains(&listener).then_some(Form::Irc);
        let port = Port {
            protocol: form.map_or(Protocol::Http(None), |_| Protocol::Irc),
            lines: Lines::new().max(MAX_TAGS + self.options.max_line as usize),
            pace: Pace::new(self.tick, &self.options),
            registered: false,
            asked: false,
            leaving: false,
            closed: false,
            busy: false,
            waiting: false,
            asked_for: Cell::new(0),
        };
        self.ports.insert(conn, port);
        net.set_deadline(conn, self.options.register_timeout);
        let addr = net.peer_addr(conn).as_ref().and_then(Addr::as_tcp).map(|addr| addr.ip());
        Heard::Came(addr, form)
    }

    /// Something has come in: its client is alive.
    pub fn heard(&mut self, net: &mut Net, conn: ConnId) {
        let Some(port) = self.ports.get_mut(conn) else { return };
        port.asked = false;
        // The time to register runs whatever is said.
        if port.registered && !port.leaving {
            net.set_deadline(conn, self.options.ping_interval);
        }
    }

    /// What comes next of this input. `None` when nothing does, for now: what is left of it is to be shown again.
    pub fn next_in<'a>(&mut self, net: &mut Net, conn: ConnId, rest: &mut &'a [u8]) -> Option<Heard<'a>> {
        match self.ports.get(conn) {
            Some(port) if !port.leaving => match port.protocol {
                Protocol::Irc => self.next_line(net, conn, rest),
                Protocol::Http(_) => self.next_request(net, conn, rest),
                Protocol::WebSocket(_) => self.next_frame(net, conn, rest),
            },
            _ => {
                *rest = &[];
                None
            }
        }
    }

    /// A client has ended its stream: it has left, however long it takes to bring it what is queued.
    pub fn ended(&mut self, conn: ConnId) -> Option<Heard<'static>> {
        self.ports.get_mut(conn)?.leaving = true;
        Some(Heard::Over(Bytes::new(), "Connection closed"))
    }

    /// A client has not registered in time, nor asked for a page, or was silent for too long.
    pub fn late(&mut self, net: &mut Net, conn: ConnId) -> Option<Heard<'static>> {
        let port = self.ports.get_mut(conn).filter(|port| !port.closed)?;
        if !port.registered {
            port.leaving = true;
            return Some(Heard::Ended("Registration timed out".into()));
        }
        if std::mem::replace(&mut port.asked, true) {
            port.leaving = true;
            let silence = self.options.ping_interval + self.options.ping_timeout;
            return Some(Heard::Ended(format!("Ping timeout: {} seconds", silence.as_secs()).into()));
        }
        net.set_deadline(conn, self.options.ping_timeout);
        Some(Heard::Silent)
    }

    /// A connection is gone.
    pub fn gone(&mut self, net: &Net, conn: ConnId, report: &CloseReport) -> Option<Heard<'static>> {
        self.ports.remove(conn)?;
        log::info!("{conn} {}: {report}", host_of(net, conn));
        Some(Heard::Left(cause(report)))
    }

    /// What a client asked for has been taken.
    pub fn drained(&mut self, net: &mut Net, conn: ConnId) {
        let Some(port) = self.ports.get(conn) else { return };
        port.asked_for.set(0);
        if matches!(port.protocol, Protocol::Http(_)) {
            net.resume_reading(conn);
        }
    }

    /// Those who sated themselves, and have taken that.
    pub fn hungry(&mut self, net: &Net) -> Vec<ConnId> {
        let high_water = self.options.high_water();
        let (hungry, sated) =
            std::mem::take(&mut self.sated).into_iter().partition(|conn| net.queued(*conn) <= high_water);
        self.sated = sated;
        hungry
    }

    /// Carries out what the state wants.
    pub fn told(&mut self, net: &mut Net, conn: ConnId, told: Told) {
        match told {
            Told::Answer(bytes) => self.answer(net, conn, bytes),
            Told::News(bytes) => self.news(net, conn, bytes),
            Told::Registered => {
                if let Some(port) = self.ports.get_mut(conn) {
                    port.registered = true;
                }
                self.heard(net, conn);
            }
            Told::Metrics(text) => self.figures(net, conn, text),
            Told::Refused(why) => self.refuse(net, conn, why),
            Told::Close(goodbye) => self.close(net, conn, goodbye),
            Told::Next => {
                if let Some(port) = self.ports.get_mut(conn) {
                    port.busy = false;
                }
                self.go_on(net, conn);
            }
            Told::Enough => self.sated.push(conn),
        }
    }

    /// Sends a client what it asked for: that is never too much.
    pub fn answer(&self, net: &mut Net, conn: ConnId, bytes: Bytes) {
        // What cannot be taken any more stands in the report.
        let _ = net.send_bytes(conn, bytes);
        let queued = net.queued(conn);
        if queued > self.options.high_water() {
            if let Some(port) = self.ports.get(conn) {
                port.asked_for.set(queued);
            }
        }
    }

    /// Sends a client what others said. One for whom too much waits already does not read.
    pub fn news(&mut self, net: &mut Net, conn: ConnId, bytes: Bytes) {
        let _ = net.send_bytes(conn, bytes);
        self.deliveries += 1;
        self.drop_if_slow(net, conn);
    }

    /// Sends many clients the same, but for two at most.
    pub fn news_for(&mut self, net: &mut Net, conns: &[ConnId], but: [Option<ConnId>; 2], bytes: Bytes) {
        let receivers = conns.iter().copied().filter(|conn| !but.contains(&Some(*conn)));
        let outcome = net.broadcast(receivers, bytes);
        self.deliveries += outcome.queued as u64;
        if outcome.congested > 0 {
            conns.iter().for_each(|conn| self.drop_if_slow(net, *conn));
        }
    }

    /// Ends a connection for which more waits than is allowed.
    fn drop_if_slow(&self, net: &mut Net, conn: ConnId) {
        let asked_for = self.ports.get(conn).map_or(0, |port| port.asked_for.get());
        if net.queued(conn) > self.options.send_queue as usize + asked_for {
            net.abort_as(conn, CloseReason::SlowConsumer);
        }
    }

    /// Turns a client away.
    pub fn refuse(&mut self, net: &mut Net, conn: ConnId, why: &str) {
        let irc = self.ports.get(conn).is_some_and(|port| matches!(port.protocol, Protocol::Irc));
        let text = match irc {
            true => format!("ERROR :Closing link: ({why})\r\n"),
            false => format!(
                "HTTP/1.1 503 Service Unavailable\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{why}\n",
                why.len() + 1
            ),
        };
        let _ = net.send(conn, text.as_bytes());
        self.close(net, conn, None);
    }

    /// Closes a connection, after its protocol's goodbye perhaps.
    pub fn close(&mut self, net: &mut Net, conn: ConnId, goodbye: Option<Goodbye>) {
        let Some(port) = self.ports.get_mut(conn) else { return };
        (port.leaving, port.closed) = (true, true);
        if let (Protocol::WebSocket(socket), Some(goodbye)) = (&mut port.protocol, goodbye) {
            let _ = net.send_bytes(conn, socket.goodbye(goodbye == Goodbye::Away));
        }
        net.close(conn);
    }

    /// Tells those who were not closed yet that the server shuts down: the state does not know of them, or
    /// is gone.
    pub fn close_the_rest(&mut self, net: &mut Net) {
        let rest: Vec<_> = self.ports.iter().filter(|(_, port)| !port.closed).map(|(conn, _)| conn).collect();
        for conn in rest {
            let form = self.ports.get(conn).and_then(Port::form);
            if let Some(form) = form {
                let host = host_of(net, conn);
                let line = format!("ERROR :Closing link: {host} (Server shutting down)");
                let _ = net.send_bytes(conn, encode(form, &line));
            }
            self.close(net, conn, Some(Goodbye::Away));
        }
    }

    /// Has a connection wait until what it said has been answered.
    pub fn wait(&mut self, net: &mut Net, conn: ConnId) {
        if let Some(port) = self.ports.get_mut(conn) {
            port.waiting = true;
            net.pause_reading(conn);
        }
    }

    /// It goes on where it was made to wait, unless something else is still to be waited for.
    pub fn go_on(&mut self, net: &mut Net, conn: ConnId) {
        let Some(port) = self.ports.get_mut(conn) else { return };
        let asked = matches!(port.protocol, Protocol::Http(Some(_)));
        if port.waiting && !port.busy && !asked {
            port.waiting = false;
            show_again(net, conn);
        }
    }
}

impl Port {
    /// How it takes lines; `None` while it speaks HTTP.
    fn form(&self) -> Option<Form> {
        match &self.protocol {
            Protocol::Irc => Some(Form::Irc),
            Protocol::WebSocket(socket) => Some(socket.form),
            Protocol::Http(_) => None,
        }
    }
}

/// What waits is shown by the end of a pause alone.
pub fn show_again(net: &mut Net, conn: ConnId) {
    net.pause_reading(conn);
    net.resume_reading(conn);
}

fn host_of(net: &Net, conn: ConnId) -> String {
    host(net.peer_addr(conn).as_ref().and_then(Addr::as_tcp).map(|addr| addr.ip()))
}

/// Why somebody left, in the words of chat.
fn cause(report: &CloseReport) -> String {
    match report.reason {
        CloseReason::PeerClosed | CloseReason::Finished => "Connection closed".to_owned(),
        CloseReason::Reset | CloseReason::ResetAfterFin => "Connection reset by peer".to_owned(),
        CloseReason::BrokenPipe => "Broken pipe".to_owned(),
        CloseReason::SlowConsumer => "Slow consumer".to_owned(),
        CloseReason::InputOverflow => "Excess flood".to_owned(),
        CloseReason::TimedOut(Timeout::WriteStall) => "Write timeout".to_owned(),
        CloseReason::TimedOut(_) => "Connection timed out".to_owned(),
        CloseReason::Shutdown => "Server shutting down".to_owned(),
        reason => reason.to_string(),
    }
}
