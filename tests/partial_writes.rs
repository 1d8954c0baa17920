//! A send that the kernel takes in parts loses, repeats and reorders nothing.

mod util;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use unbroken::{Bytes, CloseReason, Config, ConnId, Handler, Net, Reactor, Sent, Via};
use util::{pattern, serve, Custom, Event, Sink};

// P1
#[test]
fn a_reply_far_larger_than_the_kernel_buffers_arrives_whole_and_in_order() {
    let mut config = Config::default();
    config.send_buffer = Some(4096);
    config.recv_buffer = Some(4096);
    let open = |net: &mut unbroken::Net, conn, _| {
        assert!(net.send(conn, &pattern(8 << 20)).is_ok());
        net.close(conn);
    };
    let server = util::serve(config, Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = util::narrow_client(server.addr);
    let mut got = Vec::new();
    let mut buf = [0; 1024];
    loop {
        match client.read(&mut buf).unwrap() {
            0 => break,
            n => got.extend_from_slice(&buf[..n]),
        }
    }
    drop(client);
    assert!(got == pattern(8 << 20));
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::Finished);
    assert_eq!((report.handed, report.unsent, report.unacked), (8 << 20, 0, Some(0)));
    assert!(server.stats().resumed_writes >= 100, "{:?}", server.stats());
}

// P2
#[test]
fn a_thousand_messages_of_any_size_arrive_as_one_stream() {
    let mut config = Config::default();
    config.send_buffer = Some(64 << 10);
    config.max_write_buffer = 64 << 20;
    let mut whole = Vec::new();
    let mut size = 1usize;
    let lengths: Vec<usize> = (0..1000)
        .map(|n| {
            size = size * 31_337 % 70_001;
            // Some are empty: they must be neither a system call nor an end.
            if n % 10 == 0 {
                0
            } else {
                size
            }
        })
        .collect();
    lengths.iter().for_each(|len| whole.extend(pattern(*len)));
    let total = whole.len();
    let sent = lengths.clone();
    let open = move |net: &mut Net, conn, _| {
        for (n, len) in sent.iter().enumerate() {
            let message = pattern(*len);
            let result = match n % 2 {
                0 => net.send(conn, &message),
                _ => net.send_bytes(conn, message.into()),
            };
            assert!(result.is_ok());
        }
        net.close(conn);
    };
    let server = serve(config, Custom { open: Some(Box::new(open)), ..Custom::default() });
    let mut client = server.client();
    let (got, error) = util::read_all(&mut client);
    assert!(error.is_none() && got == whole);
    drop(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.handed), (CloseReason::Finished, total as u64));
}

// P3
#[test]
fn a_client_that_pauses_costs_no_processor_and_then_gets_everything() {
    const LEN: usize = 15_000_000;
    let server = serve(Config::default(), Sink);
    let mut client = server.client();
    let conn = server.opened();
    server.ask(move |net| assert!(net.send_bytes(conn, Bytes::from(pattern(LEN))).is_ok()));
    server.wait_stats(|stats| stats.write_eagains > 0);
    let (turns, cpu) = server.ask(|net| (net.stats().turns, util::thread_cpu()));
    std::thread::sleep(Duration::from_millis(1000));
    let (turns_after, cpu_after) = server.ask(|net| (net.stats().turns, util::thread_cpu()));
    assert!(turns_after - turns <= 3, "{} turns", turns_after - turns);
    assert!(cpu_after - cpu < Duration::from_millis(20), "{:?}", cpu_after - cpu);
    let mut got = vec![0; LEN];
    client.read_exact(&mut got).unwrap();
    assert!(got == pattern(LEN));
}

// P5
#[test]
fn sends_from_any_callback_leave_in_the_order_of_the_calls() {
    let mut config = Config::default();
    config.high_water = 1000;
    config.low_water = 100;
    let mut next = 0u8;
    let mut number = move |net: &mut Net, conn, count: usize| {
        for _ in 0..count {
            let _ = net.send(conn, &[next]);
            next = next.wrapping_add(1);
        }
    };
    let (sender, sends) = std::sync::mpsc::channel();
    let (from_drain, from_eof) = (sender.clone(), sender.clone());
    // Each callback asks for a number of bytes; they are sent where the asking happens.
    let mut drained = false;
    let data = move |net: &mut Net, conn, data: &[u8]| {
        sender.send(1200).unwrap();
        sends.try_iter().for_each(|count| number(net, conn, count));
        data.len()
    };
    let drain = move |_: &mut Net, _| {
        if !std::mem::replace(&mut drained, true) {
            from_drain.send(300).unwrap();
        }
    };
    let eof = move |net: &mut Net, conn| {
        from_eof.send(0).unwrap();
        net.close(conn);
    };
    let handler = Custom {
        data: Some(Box::new(data)),
        drain: Some(Box::new(drain)),
        eof: Some(Box::new(eof)),
        ..Custom::default()
    };
    let server = serve(config, handler);
    let mut client = server.client();
    for round in 0..3 {
        client.write_all(b"go").unwrap();
        server.wait_for(util::SOON, |event| matches!(event, Event::Drain(..)));
        assert!(round < 3);
    }
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let (got, error) = util::read_all(&mut client);
    assert!(error.is_none() && got.len() == 3 * 1200 + 300, "{}", got.len());
    assert!(got.iter().enumerate().all(|(i, byte)| *byte == i as u8));
}

// P6
#[test]
fn a_message_larger_than_high_water_is_taken_whole() {
    let server = serve(Config::default(), Sink);
    let mut client = util::narrow_client(server.addr);
    let conn = server.opened();
    let sent = server.ask(move |net| net.send_bytes(conn, Bytes::from(pattern(1 << 20))));
    assert_eq!(sent, Ok(Sent::Congested));
    let mut got = vec![0; 1 << 20];
    client.read_exact(&mut got).unwrap();
    assert!(got == pattern(1 << 20));
}

struct Greeter;

impl Handler for Greeter {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, _: Via) {
        net.send_bytes(conn, Bytes::from(vec![7; 12 << 10])).unwrap();
    }

    fn on_data(&mut self, _: &mut Net, _: ConnId, data: &[u8]) -> usize {
        data.len()
    }
}

#[test]
fn a_flush_hands_over_no_more_than_its_budget() {
    let mut config = Config::default();
    config.write_budget = 4096;
    let mut reactor = Reactor::new(config).unwrap();
    let listener = reactor.net().listen("127.0.0.1:0").unwrap();
    let addr = reactor.net().local_addr(listener).unwrap().as_tcp().unwrap();
    let _client = TcpStream::connect(addr).unwrap();
    reactor.turn(&mut Greeter, Some(Duration::from_secs(5))).unwrap();
    assert_eq!(reactor.net().stats().bytes_out, 4096);
}
