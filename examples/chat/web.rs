//! The web port: a page, metrics, health, and WebSockets that speak the lines of IRC
//! (<https://ircv3.net/specs/extensions/websocket>).

use std::fmt::Write as _;

use tungstenite::handshake::derive_accept_key;
use unbroken::{ConnId, Net};

use crate::clients::Protocol;
use crate::server::Chat;
use crate::websocket::{Event, Socket};
use crate::wire::Form;

/// A request's head at most, in bytes.
const MAX_HEAD: usize = 8 << 10;
const MAX_HEADERS: usize = 64;

const PAGE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/chat.css");
const SCRIPT: &str = include_str!("page/chat.js");

const HTML: &str = "text/html; charset=utf-8";
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
    headers: &'a str,
    body: &'a str,
}

impl<'a> Answer<'a> {
    fn new(status: &'a str, kind: &'a str, body: &'a str) -> Self {
        Self { status, kind, headers: "", body }
    }

    /// A refusal, whose text is its status.
    fn refusal(status: &'a str) -> Self {
        Self::new(status, PLAIN, status)
    }
}

/// What a request wants, as far as it matters here.
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    keep_alive: bool,
    headers: &'a [httparse::Header<'a>],
}

impl<'a> Request<'a> {
    fn values<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'a [u8]> + 'b {
        let named = self.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value)
    }

    fn header(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.values(name).next()?).ok()
    }

    /// Whether it is clear where it ends and for whom it is: no body, and one host.
    fn is_sound(&self) -> bool {
        let no_body = self.values("Content-Length").all(|length| length == b"0");
        let hosts = self.values("Host").count();
        let one_host = hosts == 1 || (hosts == 0 && !self.keep_alive);
        no_body && self.values("Transfer-Encoding").count() == 0 && one_host
    }

    /// Whether a header's list holds a word.
    fn has(&self, name: &str, word: &str) -> bool {
        let mut words = self.header(name).unwrap_or_default().split(',');
        words.any(|each| each.trim().eq_ignore_ascii_case(word))
    }
}

/// The path of a request's target, which may be a whole address (RFC 9112, 3.2.2).
fn path_of(target: &str) -> &str {
    let path = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').map_or("/", |slash| &rest[slash..]),
        _ => target,
    };
    path.split('?').next().unwrap_or_default()
}

impl Chat {
    /// Requests, one behind the other. Returns how many bytes of them were used.
    pub fn request(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        let mut used = 0;
        while used < data.len() {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut parsed = httparse::Request::new(&mut headers);
            let length = match parsed.parse(&data[used..]) {
                Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
                Ok(httparse::Status::Partial) if data.len() - used <= MAX_HEAD => return used,
                Ok(_) | Err(httparse::Error::TooManyHeaders) => {
                    self.refuse(net, conn, &Answer::refusal("431 Request Header Fields Too Large"), false);
                    return data.len();
                }
                Err(_) => {
                    self.refuse(net, conn, &Answer::refusal("400 Bad Request"), false);
                    return data.len();
                }
            };
            used += length;
            let request = Request {
                method: parsed.method.unwrap_or_default(),
                path: path_of(parsed.path.unwrap_or_default()),
                keep_alive: parsed.version == Some(1),
                headers: parsed.headers,
            };
            if !request.is_sound() {
                self.refuse(net, conn, &Answer::refusal("400 Bad Request"), request.method == "HEAD");
                return data.len();
            }
            if request.path == "/irc" {
                if self.upgrade(net, conn, &request) {
                    return used + self.frames(net, conn, &data[used..]);
                }
                continue;
            }
            let keep = request.keep_alive && !request.has("Connection", "close");
            self.route(net, conn, &request, keep);
            if !keep {
                net.close(conn);
                return data.len();
            }
        }
        used
    }

    /// The last answer of a connection.
    fn refuse(&mut self, net: &mut Net, conn: ConnId, answer: &Answer<'_>, head: bool) {
        self.answer(net, conn, answer, false, head);
        net.close(conn);
    }

    fn route(&mut self, net: &mut Net, conn: ConnId, request: &Request<'_>, keep: bool) {
        let head = request.method == "HEAD";
        let text;
        let answer = match request.path {
            _ if !head && request.method != "GET" => {
                Answer { headers: "Allow: GET, HEAD\r\n", ..Answer::refusal("405 Method Not Allowed") }
            }
            "/" | "/index.html" => Answer::new("200 OK", HTML, PAGE),
            "/chat.css" => Answer::new("200 OK", "text/css; charset=utf-8", STYLE),
            "/chat.js" => Answer::new("200 OK", "text/javascript; charset=utf-8", SCRIPT),
            "/metrics" => {
                text = self.metrics(net);
                Answer::new("200 OK", "text/plain; version=0.0.4; charset=utf-8", &text)
            }
            "/health" => match self.draining {
                false => Answer::new("200 OK", PLAIN, "ok\n"),
                true => Answer::new("503 Service Unavailable", PLAIN, "shutting down\n"),
            },
            _ => Answer::refusal("404 Not Found"),
        };
        self.answer(net, conn, &answer, keep, head);
    }

    fn answer(&mut self, net: &mut Net, conn: ConnId, answer: &Answer<'_>, keep: bool, head: bool) {
        let Answer { status, kind, headers, body } = answer;
        let connection = if keep { "keep-alive" } else { "close" };
        let mut text = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\
             {SAFETY}{headers}\r\n",
            body.len(),
        );
        if !head {
            text.push_str(body);
        }
        let _ = net.send_bytes(conn, text.into());
        net.set_deadline(conn, self.options.register_timeout);
    }

    /// Makes a connection a WebSocket. Returns whether it is one now.
    fn upgrade(&mut self, net: &mut Net, conn: ConnId, request: &Request<'_>) -> bool {
        let own = request.header("Host").unwrap_or_default();
        let origin = request.header("Origin");
        let foreign = origin.is_some_and(|origin| {
            let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
            !authority.eq_ignore_ascii_case(own) && !self.options.origins.iter().any(|known| known == origin)
        });
        let refusal = if request.method != "GET" {
            Some(Answer { headers: "Allow: GET\r\n", ..Answer::refusal("405 Method Not Allowed") })
        } else if !request.has("Upgrade", "websocket") || !request.has("Connection", "upgrade") {
            Some(Answer { headers: "Upgrade: websocket\r\n", ..Answer::refusal("426 Upgrade Required") })
        } else if request.header("Sec-WebSocket-Version") != Some("13") {
            Some(Answer {
                headers: "Sec-WebSocket-Version: 13\r\n",
                ..Answer::refusal("426 Upgrade Required")
            })
        } else if foreign {
            Some(Answer::refusal("403 Forbidden"))
        } else {
            None
        };
        let key = request.header("Sec-WebSocket-Key").filter(|key| key.trim().len() == 24);
        let (Some(key), None) = (key, &refusal) else {
            let refusal = refusal.unwrap_or(Answer::refusal("400 Bad Request"));
            self.refuse(net, conn, &refusal, request.method == "HEAD");
            return false;
        };
        let offers = request.header("Sec-WebSocket-Protocol");
        let chosen = offers.and_then(|offers| {
            offers.split(',').map(str::trim).find_map(|offer| match offer {
                "text.ircv3.net" => Some((Form::Text, "text.ircv3.net")),
                "binary.ircv3.net" => Some((Form::Binary, "binary.ircv3.net")),
                _ => None,
            })
        });
        let mut text = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n",
            derive_accept_key(key.trim().as_bytes())
        );
        if let Some((_, name)) = chosen {
            let _ = write!(text, "Sec-WebSocket-Protocol: {name}\r\n");
        }
        text.push_str("\r\n");
        let _ = net.send(conn, text.as_bytes());
        net.set_deadline(conn, self.options.register_timeout);
        if let Some(client) = self.clients.get_mut(conn) {
            let form = chosen.map_or(Form::Text, |(form, _)| form);
            client.protocol = Protocol::WebSocket(Box::new(Socket::new(form)));
        }
        true
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
        data.len() - rest.len()
    }
}
