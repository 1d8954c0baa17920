//! A configuration that cannot work is refused, by name; whatever is not refused works.

use std::io::{Read, Write};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::Duration;

use unbroken::{Config, Keepalive, Reactor, SoftLimit, Turn, UserTimeout};

use crate::stage::{connect, end, is_close, millis, until, Probe};
use crate::util::SOON;

type Change = (&'static str, fn(&mut Config));

/// What no system could be asked for.
const IMPOSSIBLE: [Change; 13] = [
    // EP_MAX_EVENTS is 178,956,970: epoll_wait refuses every call from there on.
    ("events_per_turn", |c| c.events_per_turn = 178_956_971),
    ("events_per_turn", |c| c.events_per_turn = 1 << 40),
    ("events_per_turn", |c| c.events_per_turn = usize::MAX),
    ("read_size", |c| c.read_size = 1 << 40),
    ("read_size", |c| c.read_size = isize::MAX as usize),
    ("read_size", |c| c.read_size = usize::MAX),
    ("backlog", |c| c.backlog = u32::MAX),
    ("send_buffer", |c| c.send_buffer = Some(usize::MAX)),
    ("recv_buffer", |c| c.recv_buffer = Some(usize::MAX)),
    ("soft_limit", |c| c.soft_limit = Some(SoftLimit { bytes: usize::MAX, duration: Duration::MAX })),
    ("keepalive", |c| c.keepalive.as_mut().unwrap().idle = Duration::MAX),
    ("keepalive", |c| c.keepalive.as_mut().unwrap().count = u32::MAX),
    ("user_timeout", |c| c.user_timeout = UserTimeout::After(Duration::MAX)),
];

// D4
#[test]
fn what_no_system_could_be_asked_for_is_refused_by_name() {
    for (name, change) in IMPOSSIBLE {
        let mut config = Config::default();
        change(&mut config);
        let refused = catch_unwind(|| config.validate().map_err(|error| error.to_string()));
        let refused = refused.unwrap_or_else(|_| panic!("{name}: a panic"));
        assert!(refused.as_ref().is_err_and(|text| text.contains(name)), "{name}: {refused:?}");
        // A reactor says the same, and does not try.
        let made = catch_unwind(|| Reactor::new(config).map(|_| ()).map_err(|error| error.kind()));
        assert!(matches!(made, Ok(Err(std::io::ErrorKind::InvalidInput))), "{name}: {made:?}");
    }
}

/// Every size and every number at its most, every time at its longest.
const ABSURD: [Change; 32] = [
    ("high_water", |c| c.high_water = usize::MAX),
    ("low_water", |c| c.low_water = usize::MAX),
    ("max_write_buffer", |c| c.max_write_buffer = usize::MAX),
    ("total_write_buffer", |c| c.total_write_buffer = usize::MAX),
    ("soft_limit", |c| c.soft_limit = Some(SoftLimit { bytes: 1, duration: Duration::MAX })),
    ("max_read_buffer", |c| c.max_read_buffer = usize::MAX),
    ("connect_timeout", |c| c.connect_timeout = Duration::MAX),
    ("idle_timeout", |c| c.idle_timeout = Some(Duration::MAX)),
    ("half_close_timeout", |c| c.half_close_timeout = Some(Duration::MAX)),
    ("write_stall", |c| c.write_stall = Some(Duration::MAX)),
    ("linger_idle", |c| c.linger_idle = Duration::MAX),
    ("linger_total", |c| c.linger_total = Duration::MAX),
    ("linger_bytes", |c| c.linger_bytes = u64::MAX),
    ("max_lingering", |c| c.max_lingering = usize::MAX),
    ("keepalive", |c| {
        c.keepalive = Some(Keepalive { idle: Duration::MAX, interval: Duration::MAX, count: 127 })
    }),
    ("user_timeout", |c| c.user_timeout = UserTimeout::After(Duration::from_millis(i32::MAX as u64))),
    ("send_buffer", |c| c.send_buffer = Some(i32::MAX as usize)),
    ("recv_buffer", |c| c.recv_buffer = Some(i32::MAX as usize)),
    ("backlog", |c| c.backlog = i32::MAX as u32),
    ("accepts_per_turn", |c| c.accepts_per_turn = usize::MAX),
    ("max_connections", |c| c.max_connections = Some(usize::MAX)),
    ("read_size", |c| c.read_size = usize::MAX),
    ("read_budget", |c| c.read_budget = usize::MAX),
    ("write_budget", |c| c.write_budget = usize::MAX),
    ("events_per_turn", |c| c.events_per_turn = usize::MAX),
    ("commands_per_turn", |c| c.commands_per_turn = usize::MAX),
    ("max_commands", |c| c.max_commands = usize::MAX),
    ("max_command_bytes", |c| c.max_command_bytes = usize::MAX),
    ("idle_timeout", |c| c.idle_timeout = Some(Duration::from_nanos(1))),
    ("connect_timeout", |c| c.connect_timeout = Duration::from_nanos(1)),
    ("linger_idle", |c| c.linger_idle = Duration::from_nanos(1)),
    ("write_stall", |c| c.write_stall = Some(Duration::from_nanos(1))),
];

/// Serves a client that asks, is answered, and ends; everybody reads at once.
fn serve_one(config: Config) -> Result<(), String> {
    let mut r = Reactor::new(config).map_err(|error| format!("validate let it through: {error}"))?;
    let listener = r.net().listen("127.0.0.1:0").map_err(|error| format!("listen: {error}"))?;
    let addr = r.net().local_addr(listener).and_then(|addr| addr.as_tcp()).ok_or("no address")?;
    let mut h = Probe::default();
    h.data = Some(Box::new(|net, conn, data| {
        let _ = net.send(conn, data);
        data.len()
    }));
    r.net().set_timer(Duration::MAX);
    r.net().connect(addr).map_err(|error| format!("connect: {error}"))?;
    let mut client = connect(addr);
    client.write_all(b"question").unwrap();
    end(&client);
    let ended = |log: &[crate::stage::Seen]| log.iter().any(is_close);
    if !until(&mut r, &mut h, SOON, ended) {
        return Err("nobody ended".to_owned());
    }
    let mut answer = Vec::new();
    // A deadline that passes at once ends it at once, and may do so with a reset.
    let _ = client.read_to_end(&mut answer);
    r.net().shutdown(millis(100));
    let handle = r.net().handle();
    let _ = handle.run(|_| ());
    for _ in 0..100 {
        if r.turn(&mut h, Some(millis(10))).map_err(|error| format!("turn: {error}"))? == Turn::Stopped {
            return Ok(());
        }
    }
    Err("it does not stop".to_owned())
}

// D4
#[test]
fn whatever_is_not_refused_works_and_nothing_panics() {
    let mut faults = Vec::new();
    for (name, change) in ABSURD {
        let mut config = Config::default();
        change(&mut config);
        match catch_unwind(|| config.validate().map_err(|error| error.to_string())) {
            Ok(Err(refused)) if refused.contains(name) => continue,
            Ok(Err(refused)) => faults.push(format!("{name}: refused without its name: {refused}")),
            Ok(Ok(())) => match catch_unwind(AssertUnwindSafe(|| serve_one(config))) {
                Ok(Ok(())) => {}
                Ok(Err(fault)) => faults.push(format!("{name}: {fault}")),
                Err(_) => faults.push(format!("{name}: a panic in use")),
            },
            Err(_) => faults.push(format!("{name}: a panic in validate")),
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

// D4
#[test]
fn everything_at_its_most_is_refused_or_works() {
    let mut config = Config::default();
    for (_, change) in ABSURD.into_iter().take(28) {
        let before = config.clone();
        change(&mut config);
        if config.validate().is_err() {
            config = before;
        }
    }
    assert_eq!(catch_unwind(AssertUnwindSafe(|| serve_one(config))).map_err(|_| "a panic"), Ok(Ok(())));
}
