//! The web port: a page, metrics, health, and WebSockets that speak the lines of IRC
//! (<https://ircv3.net/specs/extensions/websocket>).

use std::fmt::Write as _;

use tungstenite::handshake::derive_accept_key;
use unbroken::{Bytes, ConnId, Net};

use crate::clients::Protocol;
use crate::pages::{page, Page};
use crate::request::{path_of, Handshake, Request};
use crate::server::Chat;
use crate::websocket::{Event, Socket};
use crate::wire::Form;

/// A request's head at most, in bytes.
const MAX_HEAD: usize = 8 << 10;
const MAX_HEADERS: usize = 64;

const PLAIN: &str = "text/plain; charset=utf-8";

/// What every answer carries: nothing from elsewhere, no frame around it, no guessing of types.
const SAFETY: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
    X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCache-Control: no-cache\r\n";

/// An answer.
struct Answer<'a> {
    status: &'a str,
    kind: &'a str,
    /// Further header lines, each with its end.
    headers: String,
    body: Bytes,
}

impl<'a> Answer<'a> {
    fn new(status: &'a str, kind: &'a str, body: impl Into<Bytes>) -> Self {
        Self { status, kind, headers: String::new(), body: body.into() }
    }

    /// A refusal, whose text is its status.
    fn refusal(status: &'static str, headers: &str) -> Self {
        Self { headers: headers.to_owned(), ..Self::new(status, PLAIN, format!("{status}\n")) }
    }

    /// A file of the page, or the word that the asker has it already.
    fn page(page: &'static Page, request: &Request<'_>) -> Self {
        let packed = request.takes_gzip();
        let etag = page.etag(packed);
        let mut headers = format!("ETag: {etag}\r\nVary: Accept-Encoding\r\n");
        if request.knows(&etag) {
            return Self { headers, ..Self::new("304 Not Modified", page.kind, Bytes::new()) };
        }
        if packed {
            headers.push_str("Content-Encoding: gzip\r\n");
        }
        Self { headers, ..Self::new("200 OK", page.kind, page.body(packed)) }
    }
}

impl Chat {
    /// Requests, one behind the other. Returns how many bytes of them were used.
    pub fn request(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let mut used = 0;
        while used < data.len() {
            // Who does not take its answers is not read from until it does: see `on_drain`.
            if net.queued(conn) >= self.options.high_water() {
                net.pause_reading(conn);
                return used;
            }
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut parsed = httparse::Request::new(&mut headers);
            let length = match parsed.parse(&data[used..]) {
                Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
                Ok(httparse::Status::Partial) if data.len() - used <= MAX_HEAD => return used,
                Ok(_) | Err(httparse::Error::TooManyHeaders) => {
                    let answer = Answer::refusal("431 Request Header Fields Too Large", "");
                    self.answer(net, conn, answer, false, false);
                    return data.len();
                }
                Err(_) => {
                    self.answer(net, conn, Answer::refusal("400 Bad Request", ""), false, false);
                    return data.len();
                }
            };
            used += length;
            let request = Request {
                method: parsed.method.unwrap_or_default(),
                path: path_of(parsed.path.unwrap_or_default()),
                modern: parsed.version == Some(1),
                headers: parsed.headers,
            };
            let head = request.method == "HEAD";
            if !request.is_sound() {
                self.answer(net, conn, Answer::refusal("400 Bad Request", ""), false, head);
                return data.len();
            }
            if request.path == "/irc" {
                return match request.handshake(&self.options) {
                    Ok(handshake) => {
                        self.upgrade(net, conn, handshake);
                        used + self.frames(net, conn, &data[used..])
                    }
                    Err((status, headers)) => {
                        if status.starts_with("421") {
                            log::warn!("{conn}: a WebSocket for a host that is not ours; --host names more");
                        }
                        self.answer(net, conn, Answer::refusal(status, headers), false, head);
                        data.len()
                    }
                };
            }
            let (answer, keep) = (self.route(net, &request), request.keeps_alive());
            self.answer(net, conn, answer, keep, head);
            if !keep {
                return data.len();
            }
        }
        used
    }

    fn route(&mut self, net: &mut Net, request: &Request<'_>) -> Answer<'static> {
        if !matches!(request.method, "GET" | "HEAD") {
            return Answer::refusal("405 Method Not Allowed", "Allow: GET, HEAD\r\n");
        }
        match request.path {
            "/metrics" => {
                Answer::new("200 OK", "text/plain; version=0.0.4; charset=utf-8", self.metrics(net))
            }
            "/health" => match self.draining {
                false => Answer::new("200 OK", PLAIN, "ok\n"),
                true => Answer::new("503 Service Unavailable", PLAIN, "shutting down\n"),
            },
            path => match page(path) {
                Some(page) => Answer::page(page, request),
                None => Answer::refusal("404 Not Found", ""),
            },
        }
    }

    /// Sends an answer, the last one of the connection unless it is kept.
    fn answer(&mut self, net: &mut Net, conn: ConnId, answer: Answer<'_>, keep: bool, head: bool) {
        let Answer { status, kind, headers, body } = answer;
        let connection = if keep { "keep-alive" } else { "close" };
        let text = format!(
            "HTTP/1.1 {status}\r\nDate: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
             Connection: {connection}\r\n{SAFETY}{headers}\r\n",
            httpdate::fmt_http_date((self.clock)()),
            body.len(),
        );
        let _ = net.send_bytes(conn, text.into());
        if !head && !body.is_empty() {
            let _ = net.send_bytes(conn, body);
        }
        net.set_deadline(conn, self.options.register_timeout);
        if !keep {
            net.close(conn);
        }
    }

    /// Makes a connection a WebSocket.
    fn upgrade(&mut self, net: &mut Net, conn: ConnId, (key, protocol): Handshake<'_>) {
        let mut text = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n",
            derive_accept_key(key.as_bytes())
        );
        if let Some((_, name)) = protocol {
            let _ = write!(text, "Sec-WebSocket-Protocol: {name}\r\n");
        }
        text.push_str("\r\n");
        let _ = net.send(conn, text.as_bytes());
        net.set_deadline(conn, self.options.register_timeout);
        if let Some(client) = self.clients.get_mut(conn) {
            let form = protocol.map_or(Form::Text, |(form, _)| form);
            client.protocol = Protocol::WebSocket(Box::new(Socket::new(form)));
        }
    }

    /// Frames of a WebSocket, as far as its rate allows. Returns how many bytes of them were used.
    pub fn frames(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let mut rest = data;
        while !rest.is_empty() {
            if self.clients.get(conn).is_none_or(|client| client.leaving) {
                return data.len();
            }
            if !self.may_speak(net, conn) {
                if self.is_flooded(rest.len(), 0) {
                    self.end(net, conn, "Excess flood");
                }
                break;
            }
            let Some(client) = self.clients.get_mut(conn) else { break };
            let Protocol::WebSocket(socket) = &mut client.protocol else { return data.len() };
            let Some(event) = socket.next_in(&mut rest) else { break };
            match event {
                Event::Message(message) => {
                    let line = message.strip_suffix(b"\n").unwrap_or(&message);
                    self.line(net, conn, line.strip_suffix(b"\r").unwrap_or(line));
                }
                Event::Ping(pong) => {
                    self.spoke(conn);
                    let _ = net.send_bytes(conn, pong);
                }
                Event::Close(answer) => {
                    let _ = net.send_bytes(conn, answer);
                    self.gone(net, conn, "Connection closed");
                }
                Event::Broken(why, last_word) => {
                    let _ = net.send_bytes(conn, last_word);
                    self.gone(net, conn, why);
                }
                Event::Nothing => {}
            }
        }
        if rest.is_empty() {
            self.caught_up(conn);
        }
        data.len() - rest.len()
    }
}
