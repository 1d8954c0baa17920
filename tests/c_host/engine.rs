//! The engine as a C program would link it: a static library with four functions. `main.c` beside
//! this file is that program, and leaves SIGPIPE as every C program finds it.

use std::cell::RefCell;
use std::time::Duration;

use unbroken::{Bytes, CloseReport, Config, ConnId, Handler, Net, Reactor};

/// Answers the first byte of a connection: `p` with small sends, `g` with pieces that are gathered,
/// again and again until the pipe breaks.
#[derive(Default)]
struct Host {
    gathered: bool,
    errno: i32,
    reports: i32,
}

impl Host {
    fn send(&self, net: &mut Net, conn: ConnId) {
        for _ in 0..20 {
            let _ = match self.gathered {
                true => net.send_bytes(conn, Bytes::from(vec![b'x'; 4096])),
                false => net.send(conn, b"a small answer"),
            };
        }
    }
}

impl Handler for Host {
    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        self.gathered = data.first() == Some(&b'g');
        self.send(net, conn);
        data.len()
    }

    fn on_eof(&mut self, net: &mut Net, conn: ConnId) {
        // The peer has closed, and we go on all the same: the first of these is reset, the next meet a broken pipe.
        self.send(net, conn);
        net.set_timer(Duration::from_millis(10));
    }

    fn on_timer(&mut self, net: &mut Net, _: unbroken::TimerId) {
        for conn in net.connections().collect::<Vec<_>>() {
            self.send(net, conn);
        }
    }

    fn on_close(&mut self, _: &mut Net, _: ConnId, report: &CloseReport) {
        self.errno = report.errno.unwrap_or(0);
        self.reports += 1;
    }
}

thread_local! {
    static ENGINE: RefCell<Option<(Reactor, Host)>> = const { RefCell::new(None) };
}

/// Starts to listen on a free port of the loopback interface; the port, or -1.
#[no_mangle]
pub extern "C" fn engine_start() -> i32 {
    let start = || {
        let mut reactor = Reactor::new(Config::default())?;
        let listener = reactor.net().listen("127.0.0.1:0")?;
        let addr = reactor.net().local_addr(listener).and_then(|addr| addr.as_tcp());
        ENGINE.with_borrow_mut(|engine| *engine = Some((reactor, Host::default())));
        Ok::<_, std::io::Error>(addr.map_or(-1, |addr| i32::from(addr.port())))
    };
    start().unwrap_or(-1)
}

/// One turn, of so many milliseconds at most; 0, or -1 when it failed.
#[no_mangle]
pub extern "C" fn engine_turn(millis: u32) -> i32 {
    ENGINE.with_borrow_mut(|engine| match engine {
        Some((reactor, host)) => {
            let turn = reactor.turn(host, Some(Duration::from_millis(millis.into())));
            turn.map_or(-1, |_| 0)
        }
        None => -1,
    })
}

/// How many connections have ended so far.
#[no_mangle]
pub extern "C" fn engine_reports() -> i32 {
    ENGINE.with_borrow(|engine| engine.as_ref().map_or(-1, |(_, host)| host.reports))
}

/// The errno of the last that ended.
#[no_mangle]
pub extern "C" fn engine_errno() -> i32 {
    ENGINE.with_borrow(|engine| engine.as_ref().map_or(-1, |(_, host)| host.errno))
}
