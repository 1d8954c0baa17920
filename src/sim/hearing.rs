//! Who is to be heard, and when: input comes before the timers that fall due behind it, and timers come
//! in time.

use std::collections::BTreeMap;

use super::nanos;
use super::watch::Book;
use crate::config::Config;
use crate::connection::{Connection, State};
use crate::id::{ConnId, TimerId};
use crate::net::{Entry, Net};
use crate::simnet::{Phase, Sock, World, MICRO, MILLI};
use crate::socket::Stream;

/// Whether the engine has to read what waits for this connection, as far as the program and the kernel
/// can tell: not what the engine makes of it.
pub(super) fn is_wanted(conn: &Connection, sock: &Sock, book: Option<&Book>, config: &Config) -> bool {
    if conn.is_closing() || conn.state() == State::Handshaking {
        return true;
    }
    // Behind the end of a session comes nothing that anybody wants to hear.
    if !conn.is_delivering() || sock.paused || (sock.toy.is_some() && sock.is_ended()) {
        return false;
    }
    if !conn.is_congested() || config.read_while_congested {
        return true;
    }
    // A session reads ahead: which of its reads were granted is not known.
    if sock.toy.is_some() {
        return false;
    }
    // It is heard on as long as its queue does not grow by it, once after each crossing and drain, and
    // up to what may be left unused.
    let grew = sock.promised.len() > sock.promised_at_look;
    let unused = book.map_or(0, Book::unused);
    (sock.granted || !grew) && unused <= config.max_read_buffer
}

/// The timer is due, and whoever had something to say by then has been heard: within a slice of time,
/// from when the process was there.
pub(super) fn timer_fires(
    net: &Net,
    world: &mut World,
    books: &BTreeMap<ConnId, Book>,
    timer: TimerId,
) -> Result<(), String> {
    world.witness.fired += 1;
    let Some(due) = world.witness.timers.remove(&timer) else {
        return Err("it fires, and is not set".to_owned());
    };
    let now = world.now;
    if now < due {
        return Err(format!("it fires {} µs early", (due - now) / MICRO));
    }
    // One absence is made up for, not any number.
    let (absences, away) = world.witness.absences_since(due);
    if now - due >= nanos(net.config().turn_slice) + away || absences > 1 {
        return Ok(());
    }
    for (id, Entry { conn, stream }) in net.conns.iter() {
        let Stream::Sim(below) = stream.bottom() else { continue };
        let Some(sock) = world.socks.get(&below.sock).filter(|sock| !sock.sealed) else { continue };
        let told_late = sock.times.lie > due || sock.times.freed.max(sock.times.known) >= due;
        if !conn.is_delivering() || told_late || sock.times.looked >= due {
            continue;
        }
        // A session had something to say, which comes before what the kernel has.
        if sock.toy.is_some() && books.get(&id).is_some_and(|book| book.kept(sock) > 0) {
            continue;
        }
        let unread = sock.arrivals.front().map(|(at, _)| *at);
        let ended = (sock.fin_in && !sock.is_ended()).then_some(sock.times.fin);
        let waits = unread.or(ended).filter(|at| *at < due);
        let open = sock.phase == Phase::Open;
        if let (Some(at), true) = (waits, open && is_wanted(conn, sock, books.get(&id), &net.config_of(id))) {
            let before = (due - at) / MICRO;
            return Err(format!(
                "it fires before {id} is heard, whose input came {before} µs before it was due"
            ));
        }
    }
    Ok(())
}

/// The connection's own deadline has passed, and it was heard since.
pub(super) fn deadline_passes(net: &Net, world: &mut World, book: &Book, conn: ConnId) -> Result<(), String> {
    world.witness.fired += 1;
    let Some(due) = world.witness.alarms.remove(&conn) else {
        return Err("on_deadline, and none is set".to_owned());
    };
    if world.now < due {
        return Err(format!("on_deadline {} µs early", (due - world.now) / MICRO));
    }
    let Some(Entry { conn: state, .. }) = net.conns.get(conn) else { return Ok(()) };
    let Some(sock) = book.sock.and_then(|sock| world.socks.get(&sock)) else { return Ok(()) };
    let told_late = sock.times.lie > due || sock.times.freed >= due;
    let wanted = sock.has_unread() && is_wanted(state, sock, Some(book), &net.config_of(conn));
    match wanted && !told_late && sock.times.looked < due {
        true => Err("on_deadline before it was read from".to_owned()),
        false => Ok(()),
    }
}

/// How long turns may be, of those that a timer has to wait for: a slice, and what is begun in it.
const SLACK: u64 = 5 * MILLI;

/// Whether a timer that was due long before this turn is still set.
pub(super) fn overdue(net: &Net, world: &World) -> Option<String> {
    // With a handler that takes long they come one after the other.
    if world.witness.fired > 0 {
        return None;
    }
    let most = nanos(net.config().turn_slice) + SLACK;
    let late =
        |due: u64| world.witness.began.checked_sub(due.max(world.witness.back)).filter(|late| *late > most);
    let timer = world.witness.timers.iter().min_by_key(|(_, due)| **due);
    if let Some((timer, late)) = timer.and_then(|(timer, due)| Some((timer, late(*due)?))) {
        return Some(format!("timer {timer} is {} ms late", late / MILLI));
    }
    let told = |id: &ConnId| {
        let conn = net.conns.get(*id).map(|entry| &entry.conn);
        conn.is_some_and(|conn| conn.is_delivering() || conn.state() == State::Connecting)
    };
    let alarms = world.witness.alarms.iter().filter(|(id, _)| told(id));
    let (conn, due) = alarms.min_by_key(|(_, due)| **due)?;
    late(*due).map(|late| format!("the deadline of {conn} is {} ms late", late / MILLI))
}
