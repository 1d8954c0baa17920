//! How many threads, calls and waiters there are, whatever is asked for.

use super::*;

#[test]
fn a_pool_that_is_never_asked_has_no_thread() {
    let (pool, _calls) = default_pool();
    assert_eq!(pool.counts(), (0, 0, 0));
    assert_eq!(system_resolver().counts(), (0, 0, 0));
}

#[test]
fn threads_are_started_as_they_are_needed_and_four_at_most() {
    let (pool, calls) = default_pool();
    let asker = Asker::new();
    let mut waiting = Vec::new();
    // One after the other: one thread does for all.
    for number in 0..20 {
        waiting.push(asker.ask(&pool, number, "one"));
        next_call(&calls).finds([10, 0, 0, 1]);
        assert_eq!(asker.next().0, number);
        eventually("the thread has nothing to do", || pool.counts() == (1, 1, 0));
    }
    // Those that come at once have a thread each.
    for burst in 2..=4 {
        waiting.extend((0..burst).map(|number| asker.ask(&pool, number, &format!("name-{number}"))));
        let begun: Vec<_> = (0..burst).map(|_| next_call(&calls)).collect();
        begun.into_iter().for_each(|call| call.finds([10, 0, 0, 1]));
        (0..burst).for_each(|_| assert!(asker.next().1.is_ok()));
        eventually("all have nothing to do", || pool.counts() == (burst, burst, 0));
    }
    // Ten at a time: four do them.
    for number in 0..10 {
        waiting.push(asker.ask(&pool, number, &format!("name-{number}")));
    }
    let begun: Vec<_> = (0..4).map(|_| next_call(&calls)).collect();
    assert!(no_call(&calls));
    assert_eq!(pool.counts(), (4, 0, 10));
    let threads: HashSet<_> = begun.iter().map(|call| call.thread.clone()).collect();
    assert_eq!(threads, (1..=4).map(|n| format!("unbroken-name-{n}")).collect());
    begun.into_iter().for_each(|call| call.finds([10, 0, 0, 1]));
    for _ in 4..10 {
        next_call(&calls).finds([10, 0, 0, 1]);
    }
    (0..10).for_each(|_| assert!(asker.next().1.is_ok()));
    eventually("all have nothing to do", || pool.counts() == (4, 4, 0));
}

#[test]
fn a_hundred_lookups_of_one_name_are_one_call_and_each_gets_its_port() {
    let (pool, calls) = default_pool();
    let asker = Asker::new();
    let waiting: Vec<_> = (0..100).map(|number| asker.ask(&pool, number, "db")).collect();
    let call = next_call(&calls);
    assert_eq!((&*call.name, pool.counts()), ("db", (1, 0, 100)));
    call.finds([10, 0, 0, 7]);
    let mut numbers = HashSet::new();
    for _ in &waiting {
        let (number, addrs) = asker.next();
        let port = u16::try_from(number).unwrap();
        assert_eq!(addrs.unwrap(), [SocketAddr::from(([10, 0, 0, 7], port))]);
        numbers.insert(number);
    }
    assert_eq!(numbers.len(), 100);
    assert!(no_call(&calls));
}

#[test]
fn nothing_is_kept_after_the_call() {
    let (pool, calls) = default_pool();
    let asker = Asker::new();
    for last in [1, 2] {
        let _waiting = asker.ask(&pool, 80, "db");
        next_call(&calls).finds([10, 0, 0, last]);
        assert_eq!(asker.next().1.unwrap(), [SocketAddr::from(([10, 0, 0, last], 80))]);
    }
}

#[test]
fn the_1025th_lookup_does_not_wait_but_fails() {
    let (pool, calls) = default_pool();
    let asker = Asker::new();
    let waiting: Vec<_> = (0..1024).map(|number| asker.ask(&pool, number, "db")).collect();
    let call = next_call(&calls);
    for name in ["db", "another"] {
        let _refused = asker.ask(&pool, 9999, name);
        assert_eq!(asker.failure(), (9999, "1024 lookups of host names are waiting already".to_owned()));
    }
    assert!(asker.has_none());
    call.finds([10, 0, 0, 1]);
    waiting.iter().for_each(|_| assert!(asker.next().1.is_ok()));
    let _waiting = asker.ask(&pool, 1, "another");
    next_call(&calls).finds([10, 0, 0, 2]);
    assert!(asker.next().1.is_ok());
}

#[test]
fn a_lookup_that_hangs_holds_up_no_other_while_a_thread_is_left() {
    let (pool, calls) = default_pool();
    let asker = Asker::new();
    let mut waiting = Vec::new();
    let mut hang = Vec::new();
    for number in 0..3 {
        waiting.push(asker.ask(&pool, number, &format!("hangs-{number}")));
        hang.push(next_call(&calls));
    }
    for number in 10..30 {
        waiting.push(asker.ask(&pool, number, "alive"));
        next_call(&calls).finds([10, 0, 0, 1]);
        assert_eq!(asker.next().0, number);
    }
    waiting.push(asker.ask(&pool, 3, "hangs-3"));
    hang.push(next_call(&calls));
    waiting.push(asker.ask(&pool, 30, "alive"));
    assert!(no_call(&calls), "no thread is left");
    // A thread that comes back goes on with what waits.
    hang.pop().unwrap().finds([10, 0, 0, 3]);
    assert_eq!(asker.next().0, 3);
    next_call(&calls).finds([10, 0, 0, 1]);
    assert_eq!(asker.next().0, 30);
}

#[test]
fn ten_thousand_lookups_of_a_name_that_hangs_cost_bounded_memory_and_one_thread() {
    let (pool, calls) = default_pool();
    let asker = Asker::new();
    let mut waiting = std::collections::VecDeque::new();
    let mut refused = 0;
    for number in 0..10_000 {
        waiting.push_back(asker.ask(&pool, number, "hangs"));
        // Those before have timed out meanwhile.
        if waiting.len() > 100 {
            waiting.pop_front();
        }
        refused += usize::from(!asker.has_none());
        assert!(pool.counts().2 <= 1024);
    }
    assert_eq!((refused, pool.counts().0), (0, 1));
    let call = next_call(&calls);
    assert!(no_call(&calls));
    call.finds([10, 0, 0, 1]);
    // Only those who still wait are told.
    let told: HashSet<_> = (0..100).map(|_| asker.next().0).collect();
    assert_eq!(told, (9900..10_000).collect());
    eventually("nobody waits", || pool.counts().2 == 0);
    assert!(asker.has_none());
}

#[test]
fn a_call_that_hangs_is_not_made_again_when_nobody_waits_for_it_any_more() {
    let (pool, calls) = pool(4, 8);
    let asker = Asker::new();
    let first = asker.ask(&pool, 0, "hangs");
    let call = next_call(&calls);
    drop(first);
    // The eight are looked through when the ninth comes.
    for number in 1..9 {
        drop(asker.ask(&pool, number, "hangs"));
    }
    assert!(no_call(&calls));
    assert_eq!(pool.counts(), (1, 0, 1));
    let _waiting = asker.ask(&pool, 10, "hangs");
    call.finds([10, 0, 0, 1]);
    assert_eq!(asker.next().0, 10);
}

#[test]
fn a_name_that_was_given_up_before_its_call_can_be_asked_for_again() {
    let (pool, calls) = pool(1, 8);
    let asker = Asker::new();
    let _first = asker.ask(&pool, 1, "first");
    let call = next_call(&calls);
    drop(asker.ask(&pool, 2, "db"));
    call.finds([10, 0, 0, 1]);
    assert_eq!(asker.next().0, 1);
    eventually("the thread has nothing to do", || pool.counts() == (1, 1, 0));
    let _again = asker.ask(&pool, 3, "db");
    next_call(&calls).finds([10, 0, 0, 2]);
    assert_eq!(asker.next().0, 3);
}

#[test]
fn ten_thousand_names_that_nobody_waits_for_any_more_are_never_looked_up() {
    let (pool, calls) = pool(1, 64);
    let asker = Asker::new();
    let hangs = asker.ask(&pool, 0, "hangs");
    let call = next_call(&calls);
    for number in 1..10_000 {
        drop(asker.ask(&pool, number, &format!("name-{number}")));
        assert!(pool.counts().2 <= 64);
    }
    let _last = asker.ask(&pool, 20_000, "last");
    assert!(asker.has_none(), "none was refused");
    drop(hangs);
    call.finds([10, 0, 0, 1]);
    let call = next_call(&calls);
    assert_eq!(call.name, "last");
    call.finds([10, 0, 0, 2]);
    assert_eq!(asker.next().0, 20_000);
    assert!(no_call(&calls));
}

#[test]
fn where_all_wait_a_place_that_is_given_up_is_found_soon() {
    let (pool, calls) = pool(1, 8);
    let asker = Asker::new();
    let mut waiting: Vec<_> = (0..8).map(|number| asker.ask(&pool, number, "hangs")).collect();
    let call = next_call(&calls);
    let _refused = asker.ask(&pool, 8, "more");
    assert_eq!(asker.failure().0, 8);
    waiting.pop();
    let mut tries = 0;
    loop {
        let place = asker.ask(&pool, 9, "more");
        if asker.has_none() {
            waiting.push(place);
            break;
        }
        tries += 1;
        assert!(tries <= 32, "{tries} tries");
    }
    call.finds([10, 0, 0, 1]);
    assert_eq!(next_call(&calls).name, "more");
}

#[test]
fn the_memory_of_a_rush_refuses_nobody_later() {
    let (pool, calls) = pool(1, 8);
    let asker = Asker::new();
    let ask_8 = || -> Vec<_> { (0..8).map(|number| asker.ask(&pool, number, "db")).collect() };
    let waiting = ask_8();
    let _refused = asker.ask(&pool, 8, "more");
    assert_eq!(asker.failure().0, 8);
    next_call(&calls).finds([10, 0, 0, 1]);
    waiting.iter().for_each(|_| assert!(asker.next().1.is_ok()));
    // All of these give up.
    drop(ask_8());
    let _waiting = asker.ask(&pool, 9, "db");
    next_call(&calls).finds([10, 0, 0, 2]);
    assert_eq!(asker.next().1.unwrap(), [SocketAddr::from(([10, 0, 0, 2], 9))]);
}

#[test]
fn where_no_thread_can_be_started_nobody_is_left_waiting() {
    let (pool, calls) = pool(1, 100);
    let asker = Asker::new();
    // As if the system were about to refuse the only one.
    pool.pretend_a_thread();
    let waiting = [asker.ask(&pool, 1, "db"), asker.ask(&pool, 2, "other"), asker.ask(&pool, 3, "db")];
    pool.pretend_it_failed(&io::Error::from_raw_os_error(libc::EAGAIN));
    let mut failed: Vec<_> = waiting.iter().map(|_| asker.next()).collect();
    failed.sort_by_key(|(number, _)| *number);
    for ((number, result), expected) in failed.into_iter().zip(1..) {
        assert_eq!((number, result.unwrap_err().raw_os_error()), (expected, Some(libc::EAGAIN)));
    }
    assert_eq!(pool.counts(), (0, 0, 0));
    let _again = asker.ask(&pool, 4, "db");
    next_call(&calls).finds([10, 0, 0, 1]);
    assert_eq!(asker.next().0, 4);
}

#[test]
fn a_pool_is_dropped_at_once_while_lookups_hang_and_what_is_wanted_is_still_answered() {
    let (pool, calls) = pool(2, 100);
    let asker = Asker::new();
    let names = ["hangs-1", "hangs-2", "queued", "nobody-waits"];
    let [_first, _second, _third, gone] = [0, 1, 2, 3].map(|number| asker.ask(&pool, number, names[number]));
    let begun = [next_call(&calls), next_call(&calls)];
    drop(gone);
    let begin = Instant::now();
    drop(pool);
    assert!(begin.elapsed() < SOON / 2, "{:?}", begin.elapsed());
    begun.into_iter().for_each(|call| call.finds([10, 0, 0, 1]));
    let call = next_call(&calls);
    assert_eq!(call.name, "queued");
    call.finds([10, 0, 0, 1]);
    assert_eq!((0..3).map(|_| asker.next().0).collect::<HashSet<_>>(), [0, 1, 2].into());
    // The threads end, and with them whatever shows the calls.
    assert!(matches!(calls.recv_timeout(SOON), Err(mpsc::RecvTimeoutError::Disconnected)));
}

#[test]
fn threads_with_nothing_to_do_end_with_the_pool() {
    let (pool, calls) = default_pool();
    let asker = Asker::new();
    let _waiting = [asker.ask(&pool, 1, "db"), asker.ask(&pool, 2, "other")];
    for _ in 0..2 {
        next_call(&calls).finds([10, 0, 0, 1]);
    }
    eventually("both have nothing to do", || pool.counts() == (2, 2, 0));
    drop(pool);
    assert!(matches!(calls.recv_timeout(SOON), Err(mpsc::RecvTimeoutError::Disconnected)));
}

#[test]
fn an_answer_is_bounded_and_keeps_the_scope_of_a_link_local_address() {
    let (pool, calls) = default_pool();
    let asker = Asker::new();
    let _waiting = asker.ask(&pool, 80, "db");
    let scoped = SocketAddr::V6(std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 0, 5, 7));
    let many = (0..10_000u32).map(|n| SocketAddr::new(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), 0));
    next_call(&calls).end.send(Ok([scoped, scoped].into_iter().chain(many).collect())).unwrap();
    let addrs = asker.next().1.unwrap();
    assert_eq!(addrs.len(), 65);
    assert_eq!(addrs[0], SocketAddr::V6(std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 80, 5, 7)));
    assert!(addrs.iter().all(|addr| addr.port() == 80));
}
