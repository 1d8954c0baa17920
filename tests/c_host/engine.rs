//! The engine as a C program would link it: a static library with seven functions. `main.c` beside
//! this file is that program, and leaves SIGPIPE as every C program finds it.

use std::cell::RefCell;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use unbroken::{Bytes, CloseReason, CloseReport, Config, ConnId, Handler, Net, Reactor, TimerId, Via};

/// Reads nothing until it has written: so it is a write that finds the pipe broken.
#[derive(Default)]
struct Host {
    gathered: bool,
    opened: i32,
    last: Option<CloseReport>,
    closed: i32,
}

impl Handler for Host {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, _: Via) {
        net.pause_reading(conn);
        self.opened += 1;
    }

    fn on_data(&mut self, _: &mut Net, _: ConnId, data: &[u8]) -> usize {
        data.len()
    }

    fn on_timer(&mut self, net: &mut Net, _: TimerId) {
        for conn in net.connections().collect::<Vec<_>>() {
            for _ in 0..20 {
                // A refusal is as good an end as any; the report tells.
                let _ = match self.gathered {
                    // Large enough to be queued by reference, each a slice of its own.
                    true => net.send_bytes(conn, Bytes::from(vec![b'x'; 1024])),
                    // Small enough to be copied together into one.
                    false => net.send(conn, b"a small answer"),
                };
            }
        }
    }

    fn on_close(&mut self, _: &mut Net, _: ConnId, report: &CloseReport) {
        self.last = Some(report.clone());
        self.closed += 1;
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

/// Makes a connection of the end of a pipe to write to, which is the engine's from here on; 0, or -1.
#[no_mangle]
pub extern "C" fn engine_pipe(fd: i32) -> i32 {
    // SAFETY: whoever calls this gives the descriptor away.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    ENGINE.with_borrow_mut(|engine| match engine {
        Some((reactor, _)) => reactor.net().pipe(None, Some(fd)).map_or(-1, |_| 0),
        None => -1,
    })
}

/// Has the handler send in the next turn: one slice, or many that are gathered.
#[no_mangle]
pub extern "C" fn engine_send(gathered: i32) {
    ENGINE.with_borrow_mut(|engine| {
        if let Some((reactor, host)) = engine {
            host.gathered = gathered != 0;
            reactor.net().set_timer(Duration::ZERO);
        }
    });
}

/// Reads on: a connection whose write has failed is reported once its input is at its end.
#[no_mangle]
pub extern "C" fn engine_read() {
    ENGINE.with_borrow_mut(|engine| {
        if let Some((reactor, _)) = engine {
            let net = reactor.net();
            for conn in net.connections().collect::<Vec<_>>() {
                net.resume_reading(conn);
            }
        }
    });
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

/// How many connections have opened so far; how many have ended, when asked for those.
#[no_mangle]
pub extern "C" fn engine_count(ended: i32) -> i32 {
    ENGINE.with_borrow(|engine| match engine {
        Some((_, host)) if ended != 0 => host.closed,
        Some((_, host)) => host.opened,
        None => -1,
    })
}

/// The errno of the connection that ended last, negative where the reason does not go with it.
#[no_mangle]
pub extern "C" fn engine_errno() -> i32 {
    let last = ENGINE.with_borrow(|engine| engine.as_ref().and_then(|(_, host)| host.last.clone()));
    match last.map(|report| (report.reason, report.errno, report.unsent)) {
        // What was written last was not taken, not even in part: the write itself failed.
        Some((CloseReason::BrokenPipe, Some(libc::EPIPE), 280 | 20_480)) => libc::EPIPE,
        Some((CloseReason::Reset, Some(libc::ECONNRESET), 280 | 20_480)) => libc::ECONNRESET,
        Some((_, errno, _)) => -errno.unwrap_or(1),
        None => -1,
    }
}
