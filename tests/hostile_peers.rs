//! A hostile peer costs bounded memory, bounded time, and its own connection only.

mod util;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use unbroken::{CloseReason, Config, Net, Timeout, Via};
use util::{pattern, reset, serve, Custom, Echo, Sink};

/// Uses whole lines only.
fn lines() -> Custom {
    let data =
        |_: &mut Net, _, data: &[u8]| data.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    Custom { data: Some(Box::new(data)), ..Custom::default() }
}

// E4
#[test]
fn a_line_without_end_meets_the_limit() {
    let server = serve(Config::default(), lines());
    let mut client = server.client();
    let mut sent = 0usize;
    while client.write_all(&[b'a'; 10_000]).is_ok() {
        sent += 10_000;
        assert!(sent < 1 << 30);
    }
    let (_, report) = server.closed();
    assert_eq!(report.reason, CloseReason::InputOverflow);
    assert!(report.received > 64 << 10 && report.received <= 128 << 10, "{report}");
}

#[test]
fn a_line_as_long_as_the_limit_passes_whatever_its_pieces() {
    let server = serve(Config::default(), lines());
    let mut client = server.client();
    let mut line = vec![b'a'; 64 << 10];
    line.push(b'\n');
    for piece in line.chunks(777) {
        client.write_all(piece).unwrap();
    }
    client.write_all(&line).unwrap();
    drop(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, 2 * line.len() as u64));
}

// E6
#[test]
fn resets_in_the_middle_of_the_input_harm_nobody() {
    let server = serve(Config::default(), lines());
    for round in 0..500 {
        let mut client = server.client();
        client.write_all(&[b'a'; 100][..round % 100]).unwrap();
        reset(client);
    }
    let stats = server.wait_stats(|stats| stats.closed == 500);
    assert_eq!(stats.closed_by(CloseReason::Reset), 500);
}

// E7: reads stop at the urgent mark, and without SO_OOBINLINE the byte would vanish.
#[test]
fn an_urgent_byte_stays_in_the_stream() {
    let server = serve(Config::default(), Echo);
    let mut client = server.client();
    client.write_all(b"ab").unwrap();
    socket2::SockRef::from(&client).send_out_of_band(b"!").unwrap();
    client.write_all(b"cd").unwrap();
    let mut got = [0; 5];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"ab!cd");
}

// E7
#[test]
fn urgent_bytes_at_any_place_stall_nothing() {
    let server = serve(Config::default(), Echo);
    let mut client = server.client();
    let all = pattern(20_000);
    for (round, piece) in all.chunks(97).enumerate() {
        match round % 3 {
            0 => {
                let (last, rest) = piece.split_last().unwrap();
                client.write_all(rest).unwrap();
                socket2::SockRef::from(&client).send_out_of_band(&[*last]).unwrap();
            }
            1 => assert_eq!(socket2::SockRef::from(&client).send_out_of_band(piece).unwrap(), piece.len()),
            _ => client.write_all(piece).unwrap(),
        }
        let mut got = vec![0; piece.len()];
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, piece, "round {round}");
    }
}

// E8
#[test]
fn five_hundred_peers_with_a_closed_window_are_all_freed() {
    let mut config = Config::default();
    config.write_stall = Some(Duration::from_millis(500));
    config.send_buffer = Some(4096);
    let open = |net: &mut Net, conn, _: Via| {
        let _ = net.send(conn, &[1; 60_000]);
    };
    let server = serve(config, Custom { open: Some(Box::new(open)), ..Custom::default() });
    let clients: Vec<_> = (0..500).map(|_| util::narrow_client(server.addr)).collect();
    let stats = server.wait_stats(|stats| stats.closed == 500);
    assert_eq!(stats.closed_by(CloseReason::TimedOut(Timeout::WriteStall)), 500);
    assert_eq!((stats.queued, stats.connections), (0, 0));
    drop(clients);
}

// E9
#[test]
fn clients_that_connect_and_say_nothing_are_ended() {
    let mut config = Config::default();
    config.idle_timeout = Some(Duration::from_millis(300));
    let server = serve(config, Echo);
    let silent: Vec<_> = (0..100).map(|_| server.client()).collect();
    let mut alive = server.client();
    for _ in 0..8 {
        alive.write_all(b"x").unwrap();
        alive.read_exact(&mut [0]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    let stats = server.stats();
    assert_eq!(stats.closed_by(CloseReason::TimedOut(Timeout::Idle)), 100);
    assert_eq!(stats.connections, 1);
    drop(silent);
}

// E2 without framing: a byte at a time is no special case.
#[test]
fn a_byte_at_a_time_is_the_same_stream() {
    let server = serve(Config::default(), lines());
    let mut client: TcpStream = server.client();
    client.set_nodelay(true).unwrap();
    for byte in b"one\ntwo\n" {
        client.write_all(&[*byte]).unwrap();
    }
    drop(client);
    let (_, report) = server.closed();
    assert_eq!((report.reason, report.received), (CloseReason::PeerClosed, 8));
}

#[test]
fn a_handler_may_end_a_connection_for_a_reason_of_its_own() {
    let data = |net: &mut Net, conn, data: &[u8]| {
        net.abort_as(conn, CloseReason::TimedOut(Timeout::Idle));
        data.len()
    };
    let server = serve(Config::default(), Custom { data: Some(Box::new(data)), ..Custom::default() });
    let mut client = server.client();
    client.write_all(b"x").unwrap();
    assert_eq!(server.closed().1.reason, CloseReason::TimedOut(Timeout::Idle));
    let quiet = serve(Config::default(), Sink);
    drop(quiet.client());
    assert_eq!(quiet.closed().1.reason, CloseReason::PeerClosed);
}
