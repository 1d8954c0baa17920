//! With `--threads 2` the chat promises what it does on one reactor.

use crate::chat::{connect, on_two_reactors, Chat, Irc};
use crate::util::eventually;
use crate::{peers, secured, service};

#[test]
fn on_two_who_stops_reading_is_dropped_and_nobody_else_waits() {
    on_two_reactors(peers::who_stops_reading_is_dropped_as_a_slow_consumer_and_nobody_else_waits);
}

#[test]
fn on_two_a_departure_shows_its_cause() {
    on_two_reactors(peers::a_departure_shows_its_cause);
}

#[test]
fn on_two_a_frozen_client_times_out() {
    on_two_reactors(peers::a_frozen_client_times_out_and_one_that_answers_does_not);
}

#[test]
fn on_two_sigterm_delivers_what_is_queued() {
    on_two_reactors(service::sigterm_delivers_what_is_queued_and_tells_everybody);
}

#[test]
fn on_two_a_service_managers_sockets_are_served() {
    on_two_reactors(service::a_service_managers_sockets_are_served_with_those_who_wait_already);
}

#[test]
fn on_two_certificates_are_read_anew_at_sighup() {
    on_two_reactors(secured::certificates_are_read_anew_at_sighup_and_who_is_in_stays);
}

#[test]
fn members_of_different_reactors_hear_all_that_is_said_in_one_order() {
    let chat = Chat::start(&["--threads", "3", "--rate", "100000", "--burst", "100000"]);
    let mut members: Vec<Irc> = (0..6).map(|n| chat.member(&format!("m{n}"), "#c")).collect();
    let mut hearers: Vec<Irc> = (0..3).map(|n| chat.member(&format!("h{n}"), "#c")).collect();
    // More than may wait for the state, or for a reactor, at a time.
    const EACH: usize = 2000;
    let heard = std::thread::scope(|scope| {
        for member in &mut members {
            let lines: Vec<String> =
                (0..EACH).map(|n| format!("PRIVMSG #c :{} {n}\r\n", member.nick)).collect();
            let mut out = member.stream().try_clone().expect("a clone");
            scope.spawn(move || {
                std::io::Write::write_all(&mut out, lines.concat().as_bytes()).expect("a write")
            });
            // What the others say is to be read, or it would be dropped.
            scope.spawn(move || (0..5 * EACH).for_each(|_| drop(member.hear(" PRIVMSG #c :"))));
        }
        let listen = |hearer: &mut Irc| -> Vec<String> {
            (0..6 * EACH).map(|_| hearer.hear(" PRIVMSG #c :")).collect()
        };
        let threads: Vec<_> = hearers.iter_mut().map(|hearer| scope.spawn(move || listen(hearer))).collect();
        threads.into_iter().map(|thread| thread.join().expect("all is heard")).collect::<Vec<_>>()
    });
    assert!(heard.windows(2).all(|pair| pair[0] == pair[1]), "they heard it in different orders");
    for n in 0..6 {
        let prefix = format!(" PRIVMSG #c :m{n} ");
        let said = heard[0].iter().filter_map(|line| line.split_once(&prefix)?.1.parse::<usize>().ok());
        assert!(said.eq(0..EACH), "m{n} was not heard in its order");
    }
    // What each of eight others was sent, and no reactor is left out of the sum.
    assert!(chat.metric("chat_deliveries_total") >= (8 * 6 * EACH) as f64);
}

#[test]
fn limits_hold_for_all_reactors_together() {
    let chat = Chat::start(&["--threads", "2", "--max-clients-per-address", "5"]);
    let clients: Vec<Irc> = (0..5).map(|n| chat.client(&format!("c{n}"))).collect();
    for _ in 0..4 {
        Irc::new(connect(chat.irc), "refused").is_told("Too many connections from your address");
    }
    drop(clients);
    eventually("there is room again", || {
        let mut page = connect(chat.web);
        let asked = std::io::Write::write_all(&mut page, b"GET /health HTTP/1.0\r\n\r\n");
        asked.is_ok() && crate::util::read_all(&mut page).0.starts_with(b"HTTP/1.1 200")
    });
    assert!(chat.metric("chat_refused_total") >= 4.0);
    assert_eq!(chat.metric("chat_users"), 0.0);
}
