//! What connections cost. Each measurement runs in a child process of its own that only serves;
//! the clients are in the parent.

mod util;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use rustix::process::{getrlimit, setrlimit, Resource};
use unbroken::{Config, ConnId, Handler, Net, Via};

/// Echoes, or sends for ever, and answers `?` with the memory of this process.
struct Measured {
    flood: bool,
}

impl Handler for Measured {
    fn on_open(&mut self, net: &mut Net, conn: ConnId, _: Via) {
        // Regardless of what it is told: the cap has to hold.
        while self.flood && net.stats().opened > 1 && net.send(conn, &[1; 1000]).is_ok() {}
    }

    fn on_data(&mut self, net: &mut Net, conn: ConnId, data: &[u8]) -> usize {
        match data {
            b"?" => {
                let answer = format!("{} {}\n", util::rss(), net.stats().connections);
                let _ = net.send(conn, answer.as_bytes());
                1
            }
            // Nothing is used before its end: it all waits.
            [b'L', .., last] if *last != b'\n' => 0,
            _ => {
                let _ = net.send(conn, data);
                data.len()
            }
        }
    }
}

fn raise_nofile() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

fn child(role: &str) {
    raise_nofile();
    let mut config = Config::default();
    if role == "flood" {
        config.max_write_buffer = 64 << 10;
        config.high_water = 48 << 10;
        config.overflow = unbroken::Overflow::Refuse;
        config.send_buffer = Some(4096);
    }
    config.max_read_buffer = 8 << 20;
    util::serve_as_child(config, Measured { flood: role == "flood" });
}

struct Server {
    addr: SocketAddr,
    control: TcpStream,
    _process: util::ServingChild,
}

impl Server {
    fn start(test: &str, role: &str) -> Self {
        raise_nofile();
        let child = util::serving_child(test, role);
        let control = TcpStream::connect(child.addr).unwrap();
        util::patient(&control);
        Self { addr: child.addr, control, _process: child }
    }

    /// Resident bytes, once so many connections are open.
    fn rss_with(&mut self, connections: usize) -> usize {
        let mut rss = 0;
        util::eventually("the connections", || {
            self.control.write_all(b"?").unwrap();
            let mut line = String::new();
            BufReader::with_capacity(1, &mut self.control).read_line(&mut line).unwrap();
            let numbers: Vec<usize> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
            rss = numbers[0];
            numbers[1] == connections + 1
        });
        rss
    }
}

// N2
#[test]
fn an_idle_connection_costs_a_few_hundred_bytes_before_and_after_use() {
    if let Some(role) = util::role() {
        return child(&role);
    }
    const COUNT: usize = 8000;
    let name = "an_idle_connection_costs_a_few_hundred_bytes_before_and_after_use";
    let mut server = Server::start(name, "echo");
    let mut warm: Vec<_> = (0..50).map(|_| TcpStream::connect(server.addr).unwrap()).collect();
    for client in &mut warm {
        client.write_all(&[b'w'; 1000]).unwrap();
        client.read_exact(&mut [0; 1000]).unwrap();
    }
    let before = server.rss_with(50);
    let mut clients: Vec<_> = (0..COUNT).map(|_| TcpStream::connect(server.addr).unwrap()).collect();
    let idle = server.rss_with(50 + COUNT);
    for client in &mut clients {
        client.write_all(&[b'u'; 3000]).unwrap();
        client.read_exact(&mut [0; 3000]).unwrap();
    }
    let used = server.rss_with(50 + COUNT);
    let each = |rss: usize| rss.saturating_sub(before) / COUNT;
    assert!(each(idle) <= 512 && each(used) <= 512, "{} and {} bytes", each(idle), each(used));
}

// N1
#[test]
fn a_thousand_clients_that_never_read_cost_no_more_than_their_caps() {
    if let Some(role) = util::role() {
        return child(&role);
    }
    const COUNT: usize = 1000;
    let name = "a_thousand_clients_that_never_read_cost_no_more_than_their_caps";
    let mut server = Server::start(name, "flood");
    let before = server.rss_with(0);
    let clients: Vec<_> = (0..COUNT).map(|_| util::narrow_client(server.addr)).collect();
    let growth = server.rss_with(COUNT) - before;
    let cap = COUNT * ((64 << 10) + 8192);
    assert!(growth > COUNT * (16 << 10), "{growth}: nothing was queued");
    assert!(growth <= cap, "{growth} of {cap}");
    drop(clients);
}

// N4
#[test]
fn the_memory_of_a_large_frame_is_given_back() {
    if let Some(role) = util::role() {
        return child(&role);
    }
    const FRAME: usize = 6 << 20;
    let mut server = Server::start("the_memory_of_a_large_frame_is_given_back", "echo");
    let mut clients: Vec<_> = (0..10).map(|_| TcpStream::connect(server.addr).unwrap()).collect();
    let before = server.rss_with(10);
    for client in &mut clients {
        util::patient(client);
        let mut writer = client.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            let mut frame = vec![b'L'; FRAME - 1];
            frame.push(b'\n');
            writer.write_all(&frame).unwrap();
        });
        client.read_exact(&mut vec![0; FRAME]).unwrap();
        thread.join().unwrap();
    }
    let after = server.rss_with(10);
    // Ten frames came and went; what the allocator still holds is not theirs.
    assert!(after.saturating_sub(before) < 3 * FRAME, "{} bytes", after - before);
}
