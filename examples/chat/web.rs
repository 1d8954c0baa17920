//! The web port: a page, metrics, health, and WebSockets that speak the lines of IRC
//! (<https://ircv3.net/specs/extensions/websocket>).

use std::fmt::Write as _;

use tungstenite::handshake::derive_accept_key;
use unbroken::{Bytes, ConnId, Net};

use crate::between::Heard;
use crate::pages::{page, Page};
use crate::ports::{Ports, Protocol};
use crate::request::{path_of, Handshake, Request};
use crate::websocket::Socket;
use crate::wire::Form;

/// A request's head at most, in bytes.
const MAX_HEAD: usize = 8 << 10;
const MAX_HEADERS: usize = 64;

const PLAIN: &str = "text/plain; charset=utf-8";

/// What every answer carries: nothing from elsewhere, no frame around it, no guessing of types.
const SAFETY: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
    X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCache-Control: no-cache\r\n";

/// A question for the figures of all reactors, whose answer is awaited.
#[derive(Clone, Copy)]
pub struct Asked {
    keep: bool,
    head: bool,
}

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

impl Ports {
    /// Answers requests, one behind the other, up to one that others have to know of.
    pub fn next_request(&mut self, net: &mut Net, conn: ConnId, rest: &mut &[u8]) -> Option<Heard<'static>> {
        // Not even the end of its stream is heard before it has its answer.
        if matches!(self.ports.get(conn)?.protocol, Protocol::Http(Some(_))) {
            self.wait(net, conn);
            return None;
        }
        while !rest.is_empty() {
            // Who does not take its answers is not read from until it does: see `drained`.
            if net.queued(conn) >= self.options.high_water() {
                net.pause_reading(conn);
                return None;
            }
            let data = *rest;
            // Unless it goes on, what follows is not looked at.
            *rest = &[];
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut parsed = httparse::Request::new(&mut headers);
            let length = match parsed.parse(data) {
                Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
                Ok(httparse::Status::Partial) if data.len() <= MAX_HEAD => {
                    *rest = data;
                    return None;
                }
                Ok(_) | Err(httparse::Error::TooManyHeaders) => {
                    let answer = Answer::refusal("431 Request Header Fields Too Large", "");
                    self.reply(net, conn, answer, false, false);
                    return None;
                }
                Err(_) => {
                    self.reply(net, conn, Answer::refusal("400 Bad Request", ""), false, false);
                    return None;
                }
            };
            let request = Request {
                method: parsed.method.unwrap_or_default(),
                path: path_of(parsed.path.unwrap_or_default()),
                modern: parsed.version == Some(1),
                headers: parsed.headers,
            };
            let head = request.method == "HEAD";
            if !request.is_sound() {
                self.reply(net, conn, Answer::refusal("400 Bad Request", ""), false, head);
                return None;
            }
            if request.path == "/irc" {
                match request.handshake(&self.options) {
                    Ok(handshake) => {
                        *rest = &data[length..];
                        return Some(self.upgrade(net, conn, handshake));
                    }
                    Err((status, headers)) => {
                        if status.starts_with("421") {
                            log::warn!("{conn}: a WebSocket for a host that is not ours; --host names more");
                        }
                        self.reply(net, conn, Answer::refusal(status, headers), false, head);
                        return None;
                    }
                }
            }
            let keep = request.keeps_alive();
            if keep {
                *rest = &data[length..];
            }
            match self.route(&request) {
                Some(answer) => self.reply(net, conn, answer, keep, head),
                None => {
                    self.ports.get_mut(conn)?.protocol = Protocol::Http(Some(Asked { keep, head }));
                    return Some(Heard::Metrics);
                }
            }
        }
        None
    }

    /// What answers a request; `None` when that takes the figures of all reactors.
    fn route(&self, request: &Request<'_>) -> Option<Answer<'static>> {
        if !matches!(request.method, "GET" | "HEAD") {
            return Some(Answer::refusal("405 Method Not Allowed", "Allow: GET, HEAD\r\n"));
        }
        Some(match request.path {
            "/metrics" => return None,
            "/health" => match self.draining {
                false => Answer::new("200 OK", PLAIN, "ok\n"),
                true => Answer::new("503 Service Unavailable", PLAIN, "shutting down\n"),
            },
            path => match page(path) {
                Some(page) => Answer::page(page, request),
                None => Answer::refusal("404 Not Found", ""),
            },
        })
    }

    /// The figures have come that were asked for.
    pub fn figures(&mut self, net: &mut Net, conn: ConnId, text: String) {
        let Some(port) = self.ports.get_mut(conn) else { return };
        let Protocol::Http(Some(Asked { keep, head })) = port.protocol else { return };
        port.protocol = Protocol::Http(None);
        let answer = Answer::new("200 OK", "text/plain; version=0.0.4; charset=utf-8", text);
        self.reply(net, conn, answer, keep, head);
        self.go_on(net, conn);
    }

    /// Sends an answer, the last one of the connection unless it is kept.
    fn reply(&mut self, net: &mut Net, conn: ConnId, answer: Answer<'_>, keep: bool, head: bool) {
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
    fn upgrade(&mut self, net: &mut Net, conn: ConnId, (key, protocol): Handshake<'_>) -> Heard<'static> {
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
        let form = protocol.map_or(Form::Text, |(form, _)| form);
        if let Some(port) = self.ports.get_mut(conn) {
            port.protocol = Protocol::WebSocket(Box::new(Socket::new(form)));
        }
        Heard::Upgraded(form)
    }
}
