//! Clients in a crowd, clients that misbehave, and what the others see of them.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::chat::{Chat, Irc};
use crate::crowd;
use crate::util::{self, narrow_client};

#[test]
fn in_a_crowd_every_healthy_client_hears_every_line_once_and_in_order() {
    let long = std::env::var_os("UNBROKEN_LONG").is_some_and(|value| value == "1");
    let time = Duration::from_secs(if long { 30 } else { 5 });
    let limits = ["--rate", "1000", "--burst", "1000", "--max-clients-per-address", "1000"];
    let chat = Chat::start(&[&limits[..], &["--send-queue", "65536"]].concat());
    let outcome = crowd::run(chat.irc, time);
    for read in &outcome.slow {
        assert!(read.len() > 1000, "a slow reader got {} bytes", read.len());
        crowd::assert_without_gaps(read);
    }
    let left = |nick: &str, why: &str| {
        let seen: Vec<_> = outcome.departures.iter().filter(|(who, _)| who == nick).collect();
        assert!(seen.iter().all(|(_, words)| words == why), "{seen:?}");
        seen.len()
    };
    for n in 0..10 {
        // In one channel, with ten healthy members.
        assert_eq!(left(&format!("reset{n}"), "Connection reset by peer"), 10);
        // In all channels.
        assert_eq!(left(&format!("never{n}"), "Slow consumer"), 200);
        // It may have kept up with the queue.
        let seen = left(&format!("slow{n}"), "Slow consumer");
        assert!(seen == 10 || seen == 0, "slow{n} was seen to leave by {seen} of 10");
    }
    assert!(outcome.departures.iter().all(|(who, _)| !who.starts_with('h')), "{:?}", outcome.departures);
    assert!(chat.metric("chat_deliveries_total") >= outcome.delivered as f64);
}

/// Lines in a row before the speaker waits for somebody to have heard them.
pub(crate) const BATCH: usize = 50;

/// Says a batch of long lines, and has a friend hear them all, in order.
pub(crate) fn flood(talker: &mut Irc, friend: &mut Irc, batch: usize) -> Vec<String> {
    let mut others = Vec::new();
    let padding = "~".repeat(400);
    let lines: Vec<String> =
        (0..BATCH).map(|n| format!("PRIVMSG #flood :{} {padding}", batch * BATCH + n)).collect();
    talker.say(&lines.join("\r\n"));
    for line in lines {
        loop {
            let heard = friend.line();
            match heard.split_once(" PRIVMSG ") {
                Some((_, said)) => {
                    assert_eq!(said, line.trim_start_matches("PRIVMSG "));
                    break;
                }
                None => others.push(heard),
            }
        }
    }
    others
}

#[test]
pub(crate) fn who_stops_reading_is_dropped_as_a_slow_consumer_and_nobody_else_waits() {
    let chat = Chat::start(&["--send-queue", "65536", "--rate", "1000000", "--burst", "1000000"]);
    let mut talker = chat.member("talker", "#flood");
    let mut friend = chat.member("friend", "#flood");
    let mut stalled = Irc::register(narrow_client(chat.irc), "stalled");
    stalled.join("#flood");
    friend.hear(":stalled!");
    let (mut dropped, mut slowest) = (None, Duration::ZERO);
    for batch in 0..2000 {
        let begin = Instant::now();
        let others = flood(&mut talker, &mut friend, batch);
        slowest = slowest.max(begin.elapsed());
        if let Some(line) = others.first() {
            assert_eq!(line, ":stalled!~stalled@127.0.0.1 QUIT :Slow consumer");
            dropped = Some(batch);
        }
        // It goes on after that, too.
        if dropped.is_some_and(|at| batch >= at + 5) {
            break;
        }
    }
    let dropped = dropped.expect("it was dropped");
    assert!((dropped + 1) * BATCH * 400 >= 65536, "dropped after {dropped} batches, before its cap");
    assert!(slowest < Duration::from_secs(2), "a batch took {slowest:?} to be delivered");
    talker.hear(":stalled!~stalled@127.0.0.1 JOIN");
    assert_eq!(talker.departure_of("stalled"), "Slow consumer");
    talker.say("NAMES #flood");
    assert!(!talker.hear(" 353 ").contains("stalled"));
    assert_eq!(chat.metric(r#"chat_closes_total{reason="slow_consumer"}"#), 1.0);
    assert_eq!(chat.metric("chat_queued_bytes"), 0.0);
}

#[test]
pub(crate) fn a_departure_shows_its_cause() {
    let chat = Chat::start(&[]);
    let mut witness = chat.member("witness", "#c");
    let leave = |nick: &str| chat.member(nick, "#c");

    util::reset(leave("a").into_stream());
    assert_eq!(witness.departure_of_joined("a"), "Connection reset by peer");

    let mut half_a_line = leave("b");
    half_a_line.write(b"PRIVMSG #c :half a li");
    util::reset(half_a_line.into_stream());
    assert_eq!(witness.departure_of_joined("b"), "Connection reset by peer");

    drop(leave("c"));
    assert_eq!(witness.departure_of_joined("c"), "Connection closed");

    let mut half_closed = leave("d");
    half_closed.write(b"PRIVMSG #c :half a li");
    half_closed.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(witness.departure_of_joined("d"), "Connection closed");
    assert_eq!(half_closed.rest(), [""; 0]);

    let mut polite = leave("e");
    polite.say("QUIT :off to the sea: bye :)");
    assert_eq!(witness.departure_of_joined("e"), "Quit: off to the sea: bye :)");
    polite.is_told("Quit: off to the sea: bye :)");

    // Words that are on their way count, whatever comes right behind them.
    let mut hasty = leave("f");
    hasty.say("PRIVMSG #c :one word more\r\nQUIT :in a hurry");
    hasty.stream().shutdown(Shutdown::Both).unwrap();
    drop(hasty);
    witness.hear(":f!~f@127.0.0.1 PRIVMSG #c :one word more");
    assert_eq!(witness.departure_of("f"), "Quit: in a hurry");

    // Nobody can pass their words off as the server's.
    let mut liar = leave("l");
    liar.say("QUIT :Ping timeout: 120 seconds");
    assert_eq!(witness.departure_of_joined("l"), "Quit: Ping timeout: 120 seconds");

    // One who is not in any of the witness's channels is nobody's departure.
    drop(chat.client("g"));
    drop(leave("h"));
    assert_eq!(witness.departure_of_joined("h"), "Connection closed");
}

#[test]
fn a_reset_shows_behind_what_the_rate_still_holds_back() {
    let chat = Chat::start(&["--rate", "20", "--burst", "8"]);
    let mut witness = chat.member("witness", "#c");
    let mut flooder = chat.member("flooder", "#c");
    flooder.write("PRIVMSG #c :more\r\n".repeat(20).as_bytes());
    witness.hear("PRIVMSG #c :more");
    util::reset(flooder.into_stream());
    for _ in 1..20 {
        assert!(witness.line().ends_with(" PRIVMSG #c :more"));
    }
    assert_eq!(witness.departure_of("flooder"), "Connection reset by peer");
}

impl Irc {
    /// As `departure_of`, for one whose coming is still to be heard.
    fn departure_of_joined(&mut self, nick: &str) -> String {
        let joined = self.line();
        assert_eq!(joined, format!(":{nick}!~{nick}@127.0.0.1 JOIN #c"));
        let line = self.line();
        let words = line.strip_prefix(&format!(":{nick}!~{nick}@127.0.0.1 QUIT :"));
        words.unwrap_or_else(|| panic!("not a departure: {line}")).to_owned()
    }
}

#[test]
pub(crate) fn a_frozen_client_times_out_and_one_that_answers_does_not() {
    let chat = Chat::start(&["--ping-interval", "1", "--ping-timeout", "1"]);
    let mut witness = chat.member("witness", "#c");
    let mut frozen = chat.member("frozen", "#c");
    let begin = Instant::now();
    // The witness answers what it is asked, as it reads.
    let words = witness.departure_of_joined("frozen");
    assert!(words.starts_with("Ping timeout"), "{words}");
    assert!(begin.elapsed() > Duration::from_millis(1500), "after {:?}", begin.elapsed());
    frozen.is_told("Ping timeout");
    // It stays for as long again. It may have been asked behind the last line that it read.
    witness.say("PONG :here");
    let end = Instant::now() + Duration::from_secs(3);
    witness.stream().set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut chunk = [0; 512];
    while Instant::now() < end {
        let asked = std::io::Read::read(&mut witness.stream(), &mut chunk);
        match asked {
            Ok(length) => {
                assert!(
                    chunk[..length].starts_with(b"PING "),
                    "{}",
                    String::from_utf8_lossy(&chunk[..length])
                );
                witness.say("PONG :here");
            }
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}"),
        }
    }
}

#[test]
fn a_refusal_repeats_no_word_that_could_be_taken_for_several() {
    let chat = Chat::start(&[]);
    let mut client = chat.client("ann");
    for (line, answer) in [
        ("CAP :no such", "410 ann * :Invalid CAP command"),
        ("CAP ::end", "410 ann * :Invalid CAP command"),
        ("WHOIS :a b", "401 ann * :No such nick"),
        ("PART :#a b", "403 ann * :No such channel"),
    ] {
        client.say(line);
        assert_eq!(client.line(), format!(":chat.local {answer}"), "{line}");
        if line.starts_with("WHOIS") {
            client.hear(" 318 ");
        }
    }
}

#[test]
fn whois_tells_how_long_somebody_has_been_silent() {
    let chat = Chat::start(&[]);
    let mut anna = chat.client("anna");
    let mut bert = chat.client("bert");
    let mut idle = |speaks: bool| {
        if speaks {
            anna.say("PRIVMSG bert :still here");
            bert.hear("still here");
        }
        bert.say("WHOIS anna");
        let line = bert.hear(" 317 bert anna ");
        line.split(' ').nth(4).expect("seconds").parse::<u64>().expect("a number")
    };
    util::eventually("a second of silence", || idle(false) >= 1);
    assert_eq!(idle(true), 0);
}

#[test]
fn one_address_cannot_use_up_all_channels() {
    let chat = Chat::start(&["--max-channels-per-address", "3"]);
    let mut first = chat.client("first");
    first.say("JOIN #a,#b");
    first.hear(" 366 first #b ");
    let mut second = chat.client("second");
    second.say("JOIN #c,#d,#a");
    second.hear(" 366 second #c ");
    assert!(second.line().starts_with(":chat.local 405 second #d "), "the fourth of one address");
    // What is there already is open to everybody, and what ends makes room.
    second.hear(" 366 second #a ");
    first.say("PART #b");
    second.join("#d");
}
