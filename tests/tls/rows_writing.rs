//! Partial writes, over TLS: nothing is lost, repeated or reordered.

use std::sync::mpsc;
use std::time::Duration;

use unbroken::{Bytes, CloseReason, Config, Net, Sent};

use crate::peer::{client_config, configured, serve_tls, Client};
use crate::util::{narrow_client, pattern, thread_cpu, Custom, Event, Sink, SOON};

// P1
#[test]
fn a_reply_far_larger_than_the_kernel_buffers_arrives_whole_and_in_order() {
    let config = configured(|config| {
        config.send_buffer = Some(4096);
        config.recv_buffer = Some(4096);
    });
    let open = |net: &mut Net, conn, _| {
        net.send(conn, &pattern(2 << 20)).expect("queued");
        net.close(conn);
    };
    let server = serve_tls(config, Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = Client::on(narrow_client(server.addr), client_config());
    client.shake_hands();
    let (got, ended) = client.receive_all();
    assert!(ended && got == pattern(2 << 20));
    client.end();
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::Finished);
    assert_eq!((report.handed, report.unsent, report.unacked), (2 << 20, 0, Some(0)));
    assert!(server.stats().resumed_writes >= 50, "{:?}", server.stats());
}

// P2
#[test]
fn a_thousand_messages_of_any_size_arrive_as_one_stream() {
    let config = configured(|config| {
        config.send_buffer = Some(64 << 10);
        config.max_write_buffer = 64 << 20;
    });
    let mut size = 1usize;
    let lengths: Vec<usize> = (0..1000)
        .map(|n| {
            size = size * 31_337 % 70_001;
            // Some are empty: they must be neither a record nor an end.
            if n % 10 == 0 {
                0
            } else {
                size / 4
            }
        })
        .collect();
    let whole: Vec<u8> = lengths.iter().flat_map(|len| pattern(*len)).collect();
    let open = move |net: &mut Net, conn, _| {
        for (n, len) in lengths.iter().enumerate() {
            let message = pattern(*len);
            let result = match n % 2 {
                0 => net.send(conn, &message),
                _ => net.send_bytes(conn, message.into()),
            };
            assert!(result.is_ok());
        }
        net.close(conn);
    };
    let server = serve_tls(config, Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = Client::ready(&server);
    let (got, ended) = client.receive_all();
    assert!(ended && got == whole);
    client.end();
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.handed), (CloseReason::Finished, whole.len() as u64));
}

// The records were sealed for one offer of the queue; the next one is smaller: 64 slices, or what is left
// of a budget.
#[test]
fn a_record_that_stopped_in_its_middle_goes_on_under_any_budget() {
    for budget in [1, 100, 5_000, 20_000] {
        let config = configured(|config| {
            config.send_buffer = Some(4096);
            config.write_budget = budget;
            config.max_write_buffer = 4 << 20;
        });
        let len = (budget * 200).clamp(3_000, 600_000);
        let open = move |net: &mut Net, conn, _| {
            for piece in pattern(len).chunks(700) {
                // Kept by reference, each a slice of its own.
                net.send_bytes(conn, Bytes::copy_from_slice(piece)).expect("queued");
            }
            net.close(conn);
        };
        let server = serve_tls(config, Custom { open: Some(Box::new(open)), ..Custom::default() });
        let mut client = Client::on(narrow_client(server.addr), client_config());
        client.shake_hands();
        let (got, ended) = client.receive_all();
        assert!(ended && got == pattern(len), "{budget}: {} of {len}", got.len());
        client.end();
        let (_, report) = server.closed();
        assert_eq!((report.reason, report.handed), (CloseReason::Finished, len as u64), "{budget}");
    }
}

// P3
#[test]
fn a_client_that_pauses_costs_no_processor_and_then_gets_everything() {
    const LEN: usize = 15_000_000;
    let server = serve_tls(Config::default(), Sink);
    let mut client = Client::ready(&server);
    let conn = server.opened();
    server.ask(move |net| net.send_bytes(conn, Bytes::from(pattern(LEN)))).expect("queued");
    server.wait_stats(|stats| stats.write_eagains > 0);
    std::thread::sleep(Duration::from_millis(50));
    let (turns, cpu) = server.ask(|net| (net.stats().turns, thread_cpu()));
    std::thread::sleep(Duration::from_millis(700));
    let (turns_after, cpu_after) = server.ask(|net| (net.stats().turns, thread_cpu()));
    assert!(turns_after - turns <= 3, "{} turns", turns_after - turns);
    assert!(cpu_after - cpu < Duration::from_millis(20), "{:?}", cpu_after - cpu);
    assert!(client.receive(LEN) == pattern(LEN));
}

// P5
#[test]
fn sends_from_any_callback_leave_in_the_order_of_the_calls() {
    let config = configured(|config| {
        config.high_water = 1000;
        config.low_water = 100;
    });
    let mut next = 0u8;
    let mut number = move |net: &mut Net, conn, count: usize| {
        for _ in 0..count {
            let _ = net.send(conn, &[next]);
            next = next.wrapping_add(1);
        }
    };
    let (ask, asked) = mpsc::channel();
    let data = move |net: &mut Net, conn, data: &[u8]| {
        ask.send(1200).expect("it is there");
        asked.try_iter().for_each(|count| number(net, conn, count));
        data.len()
    };
    let server = serve_tls(config, Custom { data: Some(Box::new(data)), ..Custom::default() });
    let mut client = Client::ready(&server);
    let mut got = Vec::new();
    for _ in 0..3 {
        client.send(b"go");
        server.wait_for(SOON, |event| matches!(event, Event::Drain(..)));
        got.extend(client.receive(1200));
    }
    assert!(got.iter().enumerate().all(|(i, byte)| *byte == i as u8));
}

// P6
#[test]
fn a_message_larger_than_high_water_is_taken_whole() {
    let server = serve_tls(Config::default(), Sink);
    let mut client = Client::on(narrow_client(server.addr), client_config());
    client.shake_hands();
    let conn = server.opened();
    let sent = server.ask(move |net| net.send_bytes(conn, Bytes::from(pattern(1 << 20))));
    assert_eq!(sent, Ok(Sent::Congested));
    assert!(client.receive(1 << 20) == pattern(1 << 20));
}
