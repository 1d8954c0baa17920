//! Where one can listen, with which settings, and what is said of an address that is none.

mod util;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use unbroken::{Addr, Config, ListenOptions, Net, Reactor, State, Via};
use util::{serve, serve_with, Custom, Echo, Event, Sink};

/// Whether there is IPv6 here; a line says so when not.
fn has_v6() -> bool {
    let result = std::net::TcpListener::bind("[::1]:0");
    if let Err(error) = &result {
        util::skip("IPv6", &error.to_string());
    }
    result.is_ok()
}

fn options(change: impl FnOnce(&mut ListenOptions)) -> ListenOptions {
    let mut options = ListenOptions::default();
    change(&mut options);
    options
}

/// A client of an echo server that has had its answer.
fn answered(addr: impl Into<SocketAddr>) -> TcpStream {
    let addr = addr.into();
    let mut client = TcpStream::connect(addr).unwrap_or_else(|error| panic!("{addr}: {error}"));
    util::patient(&client);
    client.write_all(b"ping").unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    client
}

#[test]
fn all_addresses_of_both_families_can_be_listened_on_side_by_side() {
    if !has_v6() {
        return;
    }
    let server = serve(Config::default(), Echo);
    let only = options(|options| options.only_v6 = Some(true));
    let port = server.ask(move |net| {
        // A port that is free in one family may be taken in the other.
        (0..100).find_map(|_| {
            let v6 = net.listen_with("[::]:0", &only).unwrap();
            let port = net.local_addr(v6)?.as_tcp()?.port();
            let v4 = net.listen(([0, 0, 0, 0], port));
            if v4.is_err() {
                net.close_listener(v6);
            }
            v4.ok().map(|_| port)
        })
    });
    let port = port.expect("a port that is free in both");
    let ours = [format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
    for addr in ours {
        let _client = answered(addr.parse::<SocketAddr>().unwrap());
        let conn = server.opened();
        let local = server.ask(move |net| net.local_addr_of(conn)).unwrap();
        assert_eq!(local.to_string(), addr);
    }
}

#[test]
fn an_address_of_both_families_hears_both() {
    if !has_v6() {
        return;
    }
    let server = serve(Config::default(), Echo);
    let both = options(|options| options.only_v6 = Some(false));
    let port = server.ask(move |net| {
        let listener = net.listen_with("[::]:0", &both).unwrap();
        net.local_addr(listener).unwrap().as_tcp().unwrap().port()
    });
    answered(([127, 0, 0, 1], port));
    answered(SocketAddr::new("::1".parse().unwrap(), port));
}

#[test]
fn listeners_that_all_ask_for_it_share_a_port_and_each_gets_clients() {
    let share = options(|options| options.reuse_port = true);
    let mut reactors: Vec<_> = (0..2).map(|_| Reactor::new(Config::default()).unwrap()).collect();
    let first = reactors[0].net().listen_with("127.0.0.1:0", &share).unwrap();
    let addr = reactors[0].net().local_addr(first).unwrap();
    reactors[1].net().listen_with(&addr, &share).unwrap();
    // Whoever does not ask for it is not let in.
    let mut third = Reactor::new(Config::default()).unwrap();
    assert_eq!(third.net().listen(&addr).unwrap_err().kind(), ErrorKind::AddrInUse);
    if cfg!(target_os = "linux") {
        let _clients: Vec<_> =
            (0..200).map(|_| TcpStream::connect(addr.as_tcp().unwrap()).unwrap()).collect();
        util::eventually("all are in", || {
            for reactor in &mut reactors {
                reactor.turn(&mut Sink, Some(Duration::ZERO)).unwrap();
            }
            reactors.iter_mut().map(|reactor| reactor.net().stats().accepted).sum::<u64>() == 200
        });
        assert!(reactors.iter_mut().all(|reactor| reactor.net().stats().accepted > 20));
    }
}

#[test]
fn a_setting_that_does_not_fit_the_address_is_refused_and_nothing_listens() {
    let path = std::env::temp_dir().join(format!("unbroken-unfit-{}", std::process::id()));
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let unix = Addr::Unix(path.clone());
    let tcp: Addr = "127.0.0.1:0".parse().unwrap();
    for (addr, options, name) in [
        (&tcp, options(|options| options.only_v6 = Some(true)), "only_v6"),
        (&unix, options(|options| options.only_v6 = Some(true)), "only_v6"),
        (&unix, options(|options| options.reuse_port = true), "reuse_port"),
        (&tcp, options(|options| options.mode = Some(0o600)), "mode"),
    ] {
        let error = reactor.net().listen_with(addr, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(name) && error.to_string().contains(&addr.to_string()), "{error}");
    }
    assert!(!path.exists());
}

#[test]
fn what_is_no_address_is_refused_alike_by_listening_and_connecting() {
    let mut reactor = Reactor::new(Config::default()).unwrap();
    let named = reactor.net().listen("localhost:7007").unwrap_err();
    assert_eq!(named.kind(), ErrorKind::InvalidInput);
    assert!(named.to_string().contains("127.0.0.1:7007 or [::1]:7007"), "{named}");
    for (text, advice) in
        [(":7007", "0.0.0.0:7007"), ("7007", "127.0.0.1:7007"), ("unix:", "empty"), ("unix:@", "empty")]
    {
        let listening = reactor.net().listen(text).unwrap_err();
        let connecting = reactor.net().connect(text).unwrap_err();
        for error in [listening, connecting] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}: {error}");
            assert!(error.to_string().contains(advice), "{text}: {error}");
        }
    }
    for path in ["", "a\0b", "\0abstract", &"long".repeat(50)] {
        let listening = reactor.net().listen(PathBuf::from(path)).unwrap_err();
        let connecting = reactor.net().connect(Path::new(path)).unwrap_err();
        let given = reactor.net().connect(Addr::Unix(path.into())).unwrap_err();
        for error in [listening, connecting, given] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{path:?}: {error}");
        }
    }
    let error = reactor.net().listen(PathBuf::from("\0abstract")).unwrap_err();
    assert!(error.to_string().contains("unix:@abstract"), "{error}");
    assert_eq!(reactor.net().stats().connects, 0, "there was nothing to report");
}

#[test]
fn a_connection_knows_the_address_of_its_own_end() {
    let server = serve(Config::default(), Echo);
    let client = server.client();
    let conn = server.opened();
    assert_eq!(server.ask(move |net| net.local_addr_of(conn)), Some(Addr::Tcp(server.addr)));
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = elsewhere.local_addr().unwrap();
    let out = server.ask(move |net| net.connect(to).unwrap());
    let (peer, from) = elsewhere.accept().unwrap();
    server.wait_for(util::SOON, |event| *event == Event::Open(out, Via::Connect));
    assert_eq!(server.ask(move |net| net.local_addr_of(out)), Some(Addr::Tcp(from)));
    drop((client, peer));
    server.wait_stats(|stats| stats.connections == 0);
    assert_eq!(server.ask(move |net| (net.local_addr_of(conn), net.local_addr_of(out))), (None, None));
    // In its last callback it still does.
    let (told, tells) = std::sync::mpsc::channel();
    let close =
        move |net: &mut Net, conn, _: &_| told.send((net.state(conn), net.local_addr_of(conn))).unwrap();
    let server =
        serve_with(Config::default(), Custom { close: Some(Box::new(close)), ..Custom::default() }, |_| {});
    util::reset(server.client());
    let (state, local) = tells.recv_timeout(util::SOON).unwrap();
    assert_eq!((state, local), (Some(State::Dead), Some(Addr::Tcp(server.addr))));
}
