//! Deadlines, and networks at their worst, in virtual time: the same handler on a simulated kernel.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use unbroken::sim::{End, Faults, PeerId, Reading, Script, Sim};
use unbroken::{CloseReason, Config, PerConn, Timeout};

use crate::requests::{check_conversation, conversation};
use crate::server::{chunked, get, post, read_answer, Answer, Folder, INDEX};

#[allow(dead_code)]
#[path = "../../examples/http.rs"]
mod http;

const ADDR: &str = "10.0.0.1:80";
const SECOND: Duration = Duration::from_secs(1);

fn http(folder: &Folder) -> http::Http {
    http::Http { root: Arc::new(File::open(&folder.0).unwrap()), clients: PerConn::new() }
}

fn sim(folder: &Folder) -> Sim<http::Http> {
    let mut sim = Sim::new(1, Config::default(), http(folder)).unwrap();
    sim.net().listen(ADDR).unwrap();
    sim
}

/// The answers that a peer has read, the fourth of which may be to a HEAD.
fn answers(sim: &Sim<http::Http>, peer: PeerId, fourth_is_head: bool) -> Vec<Answer> {
    let received = sim.received(peer);
    let mut rest = received.as_slice();
    let mut answers: Vec<Answer> = Vec::new();
    while let Some(answer) = read_answer(&mut rest, fourth_is_head && answers.len() == 3) {
        answers.push(answer);
    }
    answers
}

fn statuses(sim: &Sim<http::Http>, peer: PeerId) -> Vec<u16> {
    answers(sim, peer, false).iter().map(|answer| answer.status).collect()
}

/// How long the connection with a peer lived, in whole seconds.
fn lived(sim: &Sim<http::Http>, peer: PeerId) -> u64 {
    sim.report_of(peer).expect("a report").duration.as_secs()
}

#[test]
fn a_head_that_trickles_in_is_ended_by_an_absolute_deadline() {
    let folder = Folder::new();
    let mut sim = sim(&folder);
    let head = format!("GET / HTTP/1.1\r\n{}", "X-Slow: loris\r\n".repeat(20));
    let slow = sim.client(ADDR, Script::new().wait(SECOND).send_slowly(head.clone(), 1, SECOND));
    let later = Script::new().send(get("/")).wait(SECOND * 5).send_slowly(head, 1, SECOND);
    let later = sim.client(ADDR, later);
    sim.run_for(SECOND * 10).unwrap();
    assert!(sim.received(slow).is_empty());
    sim.run_for(SECOND * 2).unwrap();
    assert_eq!((statuses(&sim, slow), sim.end(slow)), (vec![408], Some(End::Eof)));
    assert_eq!((statuses(&sim, later), sim.end(later)), (vec![200], None));
    sim.run_for(SECOND * 4).unwrap();
    assert_eq!((statuses(&sim, later), sim.end(later)), (vec![200, 408], Some(End::Eof)));
    // They go on sending, for as long as a close bears it.
    sim.run_for(SECOND * 31).unwrap();
    assert_eq!(sim.net().connections().count(), 0);
}

#[test]
fn a_kept_connection_is_ended_silently_when_no_request_comes() {
    let folder = Folder::new();
    let mut sim = sim(&folder);
    let silent = sim.client(ADDR, Script::new().await_end().close());
    let served = Script::new().send(get("/")).wait(SECOND * 20).send(post("x")).await_end().close();
    let served = sim.client(ADDR, served);
    sim.run().unwrap();
    assert_eq!((sim.received(silent).len(), lived(&sim, silent)), (0, 30));
    assert_eq!((statuses(&sim, served), lived(&sim, served)), (vec![200, 200], 50));
    assert_eq!(sim.end(served), Some(End::Eof));
}

#[test]
fn a_body_that_never_comes_is_answered_and_one_that_stops_is_cut() {
    let folder = Folder::new();
    let mut sim = sim(&folder);
    let expects = post("hello").replace("hello", "").replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    let never = sim.client(ADDR, Script::new().send(expects).await_end().close());
    let stops = sim.client(ADDR, Script::new().send(post("hello").replace("lo", "")).await_end());
    let chunk = sim.client(ADDR, Script::new().send(chunked("5\r\nhello\r\n")).await_end());
    sim.run().unwrap();
    assert_eq!((statuses(&sim, never), lived(&sim, never)), (vec![100, 408], 30));
    for peer in [stops, chunk] {
        assert_eq!((sim.end(peer), lived(&sim, peer)), (Some(End::Error(libc::ECONNRESET)), 30));
    }
}

#[test]
fn a_body_may_take_its_time_as_long_as_it_comes() {
    let folder = Folder::new();
    let mut sim = sim(&folder);
    let (head, body) = (post(&"x".repeat(10)).replace('x', ""), "0123456789");
    let script = Script::new().send(head).wait(SECOND * 20).send_slowly(body, 1, SECOND * 20);
    let peer = sim.client(ADDR, script.half_close());
    sim.run().unwrap();
    assert_eq!(answers(&sim, peer, false)[0].body, body.as_bytes());
    assert!(lived(&sim, peer) > 190);
}

#[test]
fn a_file_goes_on_as_long_as_somebody_reads_and_no_longer() {
    let folder = Folder::new();
    folder.write("big.bin", &vec![b'x'; 1_000_000]);
    let mut sim = sim(&folder);
    let slowly = Reading::Slow { bytes: 5_000, every: SECOND };
    let slow = sim.client(ADDR, Script::new().read(slowly).send(get("/big.bin") + &get("/")));
    let never = Script::new().read(Reading::Never).send(get("/big.bin").repeat(300));
    let never = sim.client(ADDR, never);
    sim.run_for(SECOND).unwrap();
    assert!(sim.net().stats().queued <= 2 * 150_000, "{:?}", sim.net().stats());
    sim.run_for(SECOND * 300).unwrap();
    let read = answers(&sim, slow, false);
    assert_eq!((read[0].body.len(), read[1].body.as_slice()), (1_000_000, INDEX.as_bytes()));
    assert_eq!(sim.report_of(never).unwrap().reason, CloseReason::TimedOut(Timeout::WriteStall));
    assert!(lived(&sim, slow) > 150, "{}", lived(&sim, slow));
    sim.finish().unwrap();
}

#[test]
fn a_conversation_cut_at_any_byte_gets_the_same_answers() {
    let folder = Folder::new();
    let all = conversation();
    for place in 0..=all.len() {
        let mut sim = sim(&folder);
        let (first, second) = (all[..place].to_owned(), all[place..].to_owned());
        let peer = sim.client(ADDR, Script::new().send(first).wait(SECOND).send(second).await_end().close());
        sim.run().unwrap();
        check_conversation(&answers(&sim, peer, true));
        assert_eq!(sim.end(peer), Some(End::Eof), "{place}");
        sim.finish().unwrap();
    }
}

/// Whatever the kernel does: short reads and writes, interruptions, late, shuffled and spurious events.
#[test]
fn a_conversation_gets_the_same_answers_on_a_kernel_at_its_worst() {
    let folder = Folder::new();
    folder.write("big.bin", &vec![b'x'; 300_000]);
    for seed in 0..60 {
        let mut faults = Faults::from_seed(seed);
        (faults.reset, faults.accept_error, faults.exhaustion, faults.pause) = (0, 0, 0, 0);
        let mut sim = Sim::with_faults(seed, faults, Config::default(), http(&folder)).unwrap();
        sim.buffers(1_000, 100_000);
        sim.net().listen(ADDR).unwrap();
        let quickly = Script::new().send(conversation()).await_end().close();
        let slowly = Reading::Slow { bytes: 20_000, every: SECOND / 100 };
        let requests = get("/big.bin").repeat(3) + &post("between") + &get("/big.bin");
        let quick: Vec<_> = (0..3).map(|_| sim.client(ADDR, quickly.clone())).collect();
        let slow = sim.client(ADDR, Script::new().read(slowly).send(requests).half_close());
        sim.run().unwrap_or_else(|violation| panic!("{violation:?}"));
        quick.iter().for_each(|peer| check_conversation(&answers(&sim, *peer, true)));
        let lengths: Vec<_> = answers(&sim, slow, false).iter().map(|answer| answer.body.len()).collect();
        assert_eq!(lengths, [300_000, 300_000, 300_000, 7, 300_000], "seed {seed}");
        sim.finish().unwrap_or_else(|violation| panic!("{violation:?}"));
    }
}

/// With resets, exhaustion and peers that do anything: no promise of the engine is broken, nothing panics,
/// and nobody stays for ever.
#[test]
fn anything_that_peers_do_ends() {
    let folder = Folder::new();
    for seed in 0..150 {
        let mut sim =
            Sim::with_faults(seed, Faults::from_seed(seed), Config::default(), http(&folder)).unwrap();
        sim.net().listen(ADDR).unwrap();
        for client in 0..6 {
            let length = (seed as usize * 7 + client * 97) % conversation().len();
            let script = Script::new().send(conversation()[..length].to_owned());
            sim.client(ADDR, script);
            sim.client(ADDR, Script::random(seed * 6 + client as u64));
        }
        sim.run_for(SECOND * 600).unwrap_or_else(|violation| panic!("{violation:?}"));
        assert_eq!(sim.net().connections().count(), 0, "seed {seed}");
        sim.finish().unwrap_or_else(|violation| panic!("{violation:?}"));
    }
}
