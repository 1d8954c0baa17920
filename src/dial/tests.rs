mod every_order;

use super::*;

const DELAY: Duration = Duration::from_millis(250);

fn at(millis: u64) -> Time {
    Time::from_duration(Duration::from_millis(millis))
}

fn addr(text: &str) -> SocketAddr {
    let ip = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    SocketAddr::new(ip, 80)
}

fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| addr(text)).collect()
}

fn v4(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

fn dial(texts: &[&str]) -> Dial {
    Dial::new(addrs(texts), Family::Both, DELAY).unwrap()
}

/// The order in which the addresses of an answer are tried.
fn order(answer: &[&str], family: Family) -> Vec<String> {
    let mut dial = Dial::new(addrs(answer), family, DELAY).unwrap();
    let mut order = Vec::new();
    while let Step::Start(attempt, addr) = dial.step(at(0)) {
        assert_eq!(attempt, order.len());
        order.push(addr.ip().to_string());
        dial.failed(attempt, libc::ECONNREFUSED);
    }
    order
}

// RFC 8305, section 4.
#[test]
fn families_take_turns_beginning_with_the_first_answers() {
    let both = |answer: &[&str]| order(answer, Family::Both);
    assert_eq!(
        both(&["::1", "::2", "::3", "1.0.0.1", "1.0.0.2"]),
        ["::1", "1.0.0.1", "::2", "1.0.0.2", "::3"]
    );
    assert_eq!(both(&["1.0.0.1", "1.0.0.2", "1.0.0.3", "::1"]), ["1.0.0.1", "::1", "1.0.0.2", "1.0.0.3"]);
    assert_eq!(both(&["1.0.0.1", "::1", "::2", "::3"]), ["1.0.0.1", "::1", "::2", "::3"]);
    assert_eq!(both(&["1.0.0.2", "1.0.0.1"]), ["1.0.0.2", "1.0.0.1"]);
    assert_eq!(both(&["::1"]), ["::1"]);
}

#[test]
fn duplicate_addresses_are_tried_once() {
    assert_eq!(
        order(&["1.0.0.1", "1.0.0.1", "::1", "1.0.0.2", "::1", "1.0.0.1"], Family::Both),
        ["1.0.0.1", "::1", "1.0.0.2"]
    );
    let port = |port| SocketAddr::new(addr("1.0.0.1").ip(), port);
    assert_eq!(distinct([port(1), port(2), port(1)]), [port(1), port(2)], "another port is another address");
}

#[test]
fn a_family_setting_leaves_out_the_other() {
    let answer = ["::1", "1.0.0.1", "::2", "1.0.0.2"];
    assert_eq!(order(&answer, Family::V4), ["1.0.0.1", "1.0.0.2"]);
    assert_eq!(order(&answer, Family::V6), ["::1", "::2"]);
}

// reqwest#3029: an address family left out in silence.
#[test]
fn an_empty_answer_or_one_of_the_wrong_family_fails_and_says_so() {
    let refusal = |answer: &[&str], family| {
        let error = Dial::new(addrs(answer), family, DELAY).unwrap_err();
        assert_eq!((error.kind(), error.raw_os_error()), (io::ErrorKind::AddrNotAvailable, None));
        error.to_string()
    };
    for family in [Family::Both, Family::V4, Family::V6] {
        assert_eq!(refusal(&[], family), "the lookup gave no address");
    }
    assert_eq!(
        refusal(&["::1", "::2"], Family::V4),
        "none of the 2 addresses is IPv4, and the settings allow no other"
    );
    assert!(refusal(&["1.0.0.1"], Family::V6).contains("none of the 1 addresses is IPv6"));
}

#[test]
fn an_answer_of_any_length_is_cut_to_64_addresses_of_both_families() {
    let v6 = |n: u16| SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, n], 80));
    let v4 = |n: u16| SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 80));
    let answer: Vec<_> = (0..1000).map(v6).chain((0..1000).map(v4)).collect();
    let dial = Dial::new(answer.clone(), Family::Both, DELAY).unwrap();
    assert_eq!(dial.addrs.len(), MAX_ADDRESSES);
    assert_eq!(dial.addrs.iter().filter(|addr| addr.is_ipv4()).count(), MAX_ADDRESSES / 2);
    assert_eq!(distinct(answer.clone()).len(), 2 * MAX_ADDRESSES);
    // What bounds an answer on its way changes nothing here.
    assert_eq!(Dial::new(distinct(answer.clone()), Family::Both, DELAY).unwrap(), dial);
    let only = Dial::new(distinct(answer), Family::V4, DELAY).unwrap();
    assert_eq!((only.addrs.len(), only.addr(63)), (MAX_ADDRESSES, Some(v4(63))));
}

// node#54359: there each attempt was aborted when the next was due.
#[test]
fn a_delay_starts_an_attempt_and_never_ends_one() {
    let mut dial = dial(&["::1", "1.0.0.1", "::2"]);
    assert_eq!(dial.step(at(0)), Step::Start(0, addr("::1")));
    assert_eq!(dial.step(at(0)), Step::Wait(at(250)));
    assert_eq!(dial.step(at(249)), Step::Wait(at(250)));
    assert_eq!(dial.step(at(250)), Step::Start(1, addr("1.0.0.1")));
    // Asked late, the next delay runs from the start and not from when it was due.
    assert_eq!(dial.step(at(620)), Step::Start(2, addr("::2")));
    assert_eq!(dial.step(at(620)), Step::Wait(Time::NEVER), "nothing is left to be started");
    assert_eq!(dial.in_flight().collect::<Vec<_>>(), [0, 1, 2]);
    assert!(dial.established(0), "the first, slowest of all, is still in the race");
    assert_eq!(dial.step(at(9999)), Step::Won(0));
}

// trio#632
#[test]
fn a_success_at_the_moment_of_the_delay_starts_nothing() {
    let mut dial = dial(&["::1", "1.0.0.1"]);
    dial.step(at(0));
    assert!(dial.established(0));
    assert_eq!(dial.step(at(250)), Step::Won(0));
}

// cpython#124309, aiohappyeyeballs#101, #142
#[test]
fn of_two_winners_in_one_turn_the_first_told_wins_and_the_other_is_to_be_closed() {
    let mut dial = dial(&["::1", "1.0.0.1", "::2"]);
    for now in [0, 250, 500] {
        assert!(matches!(dial.step(at(now)), Step::Start(..)));
    }
    assert!(dial.established(1));
    assert!(!dial.established(0));
    assert_eq!(dial.step(at(500)), Step::Won(1));
    assert_eq!(dial.in_flight().collect::<Vec<_>>(), [2], "and this one as well");
    assert!(!dial.established(2));
    assert!(dial.established(1), "told twice it is still the winner");
}

#[test]
fn a_losers_failure_after_the_win_changes_nothing() {
    let mut dial = dial(&["::1", "1.0.0.1", "::2"]);
    dial.step(at(0));
    dial.step(at(250));
    assert!(dial.established(0));
    dial.failed(1, libc::ECONNRESET);
    dial.failed(0, libc::ECONNRESET);
    assert_eq!(dial.step(at(999)), Step::Won(0));
    dial.time_out();
    assert_eq!(dial.step(at(999)), Step::Won(0));
}

#[test]
fn a_failure_of_the_newest_attempt_starts_the_next_at_once() {
    let mut dial = dial(&["::1", "1.0.0.1", "::2", "1.0.0.2"]);
    dial.step(at(0));
    dial.failed(0, libc::ENETUNREACH);
    assert_eq!(dial.step(at(0)), Step::Start(1, addr("1.0.0.1")));
    assert_eq!(dial.step(at(0)), Step::Wait(at(250)), "the delay runs from the start of that one");
    dial.failed(1, libc::ECONNREFUSED);
    assert_eq!(dial.step(at(7)), Step::Start(2, addr("::2")));
    assert_eq!(dial.step(at(7)), Step::Wait(at(257)));
}

// bun#11859: there a pair of attempts had to fail before the next pair was tried.
#[test]
fn nobody_waits_for_an_older_attempt_to_fail() {
    let mut dial = dial(&["::1", "1.0.0.1", "::2"]);
    dial.step(at(0));
    dial.step(at(250));
    dial.failed(1, libc::ECONNREFUSED);
    assert_eq!(dial.step(at(251)), Step::Start(2, addr("::2")));
}

#[test]
fn a_failure_of_an_older_attempt_leaves_the_newest_its_delay() {
    let mut dial = dial(&["::1", "1.0.0.1", "::2"]);
    dial.step(at(0));
    dial.step(at(250));
    dial.failed(0, libc::ECONNREFUSED);
    assert_eq!(dial.step(at(251)), Step::Wait(at(500)));
    dial.failed(1, libc::ECONNREFUSED);
    assert_eq!(dial.step(at(252)), Step::Start(2, addr("::2")));
}

// hyper#2450: one attempt of each family and no more.
#[test]
fn six_attempts_are_under_way_at_most_and_a_failure_makes_room() {
    let mut dial = Dial::new((1..=9).map(v4).collect(), Family::Both, DELAY).unwrap();
    for n in 0..6 {
        assert!(matches!(dial.step(at(n * 250)), Step::Start(..)));
    }
    assert_eq!(dial.step(at(5000)), Step::Wait(Time::NEVER));
    dial.failed(2, libc::EHOSTUNREACH);
    assert_eq!(dial.step(at(5001)), Step::Start(6, v4(7)), "its delay was over long ago");
    assert_eq!(dial.step(at(5001)), Step::Wait(Time::NEVER));
    dial.failed(3, libc::EHOSTUNREACH);
    assert_eq!(dial.step(at(5002)), Step::Wait(at(5251)), "there is room again, but no hurry");
}

// ureq (hew#162) stopped at the first of these.
#[test]
fn an_unreachable_network_ends_that_attempt_only() {
    let mut dial = dial(&["::1", "::2", "1.0.0.1"]);
    dial.step(at(0));
    dial.failed(0, libc::ENETUNREACH);
    assert_eq!(dial.step(at(0)), Step::Start(1, addr("1.0.0.1")));
    assert!(dial.established(1));
}

#[test]
fn the_deadline_reports_what_is_under_way_and_starts_nothing_more() {
    let mut dial = dial(&["::1", "1.0.0.1", "::2"]);
    dial.step(at(0));
    dial.failed(0, libc::ENETUNREACH);
    dial.step(at(0));
    let (first, second) = (addr("::1"), addr("1.0.0.1"));
    assert_eq!(dial.failures(), [(first, libc::ENETUNREACH), (second, libc::EINPROGRESS)]);
    assert_eq!(most_telling(&dial.failures()), Some(libc::ENETUNREACH));
    dial.time_out();
    assert_eq!(dial.step(at(9999)), Step::Failed);
    assert_eq!(dial.failures(), [(first, libc::ENETUNREACH), (second, libc::ETIMEDOUT)]);
    assert_eq!(most_telling(&dial.failures()), Some(libc::ETIMEDOUT));
    assert!(!dial.established(1), "too late");
}

#[test]
fn the_deadline_before_the_first_attempt_leaves_nothing_to_try() {
    let mut dial = dial(&["::1"]);
    dial.time_out();
    assert_eq!((dial.step(at(0)), dial.failures()), (Step::Failed, Vec::new()));
    assert_eq!(most_telling(&[]), None);
}

// reqwest#1318: the last error is the least telling as a rule.
#[test]
fn the_most_telling_errno_is_that_of_whoever_was_reached_best() {
    let order = [
        libc::ECONNREFUSED,
        libc::ECONNRESET,
        libc::ETIMEDOUT,
        libc::EHOSTUNREACH,
        libc::EPERM,
        libc::EMFILE,
        libc::ENETUNREACH,
        libc::EAFNOSUPPORT,
        libc::EINPROGRESS,
    ];
    for (place, better) in order.iter().enumerate() {
        for worse in &order[place..] {
            for pair in [[*better, *worse], [*worse, *better]] {
                assert_eq!(most_telling(&pair.map(|errno| (v4(1), errno))), Some(*better), "{pair:?}");
            }
        }
    }
}
