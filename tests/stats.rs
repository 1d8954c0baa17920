//! The counters agree with what happened.

mod util;

use std::io::{Read, Write};
use std::time::Duration;

use unbroken::{CloseReason, Config, Stats};
use util::{reset, serve, Echo, Sink};

#[test]
fn the_counters_tell_what_a_scripted_day_was_like() {
    let server = serve(Config::default(), Echo);
    let mut polite = server.client();
    for _ in 0..10 {
        polite.write_all(&[1; 100]).unwrap();
        polite.read_exact(&mut [0; 100]).unwrap();
    }
    let mut rude = server.client();
    rude.write_all(&[2; 50]).unwrap();
    rude.read_exact(&mut [0; 50]).unwrap();
    drop(polite);
    reset(rude);
    let stats = server.wait_stats(|stats| stats.closed == 2);
    assert_eq!((stats.accepted, stats.opened, stats.connects), (2, 2, 0));
    assert_eq!(stats.closed_by(CloseReason::PeerClosed), 1);
    assert_eq!(stats.closed_by(CloseReason::Reset), 1);
    let by_reason: u64 = CloseReason::ALL.iter().map(|reason| stats.closed_by(*reason)).sum();
    assert_eq!(by_reason, stats.closed);
    assert_eq!((stats.bytes_in, stats.bytes_out), (1050, 1050));
    assert_eq!((stats.writes, stats.partial_writes, stats.write_eagains), (11, 0, 0));
    assert_eq!((stats.connections, stats.queued, stats.stale_events), (0, 0, 0));
    assert!(stats.queued_peak >= 100);
    assert!(stats.turns >= 12 && stats.longest_turn > Duration::ZERO);
    assert!(stats.commands >= 1);
}

#[test]
fn congestion_partial_writes_and_their_resumption_are_counted() {
    let mut config = Config::default();
    config.send_buffer = Some(4096);
    let server = serve(config, Sink);
    let mut client = util::narrow_client(server.addr);
    let conn = server.opened();
    server.ask(move |net| net.send(conn, &vec![3; 300_000])).unwrap();
    let stats = server.stats();
    assert_eq!(stats.congested, 1);
    assert!(stats.queued > 200_000 && stats.queued_peak <= 300_000);
    assert!(stats.partial_writes >= 1 && stats.write_eagains >= 1);
    assert_eq!(stats.resumed_writes, 0);
    client.read_exact(&mut vec![0; 300_000]).unwrap();
    let stats = server.wait_stats(|stats| stats.queued == 0);
    assert!(stats.resumed_writes >= 1);
    assert_eq!((stats.congested, stats.bytes_out), (0, 300_000));
}

#[test]
fn sixteen_sends_in_one_callback_are_one_write() {
    let data = |net: &mut unbroken::Net, conn, data: &[u8]| {
        for _ in 0..16 {
            let _ = net.send(conn, &[4; 64]);
        }
        data.len()
    };
    let server = serve(Config::default(), util::Custom { data: Some(Box::new(data)), ..Default::default() });
    let mut client = server.client();
    for round in 1..=5 {
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0; 1024]).unwrap();
        let Stats { writes, reads, read_eagains, .. } = server.stats();
        // And one read each: a short one proves that nothing is left.
        assert_eq!((writes, reads, read_eagains), (round, round, 0));
    }
}
