//! Bodies and files: they pass through, held up by whoever is slow, and what is cut never looks whole.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::server::{chunked, get, post, read_answer, Answer, Client, Server};
use crate::util::{self, eventually, pattern};

const MIB: usize = 1 << 20;

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

/// Sends a request from a thread of its own, and reads the answer meanwhile. What cannot be sent any more
/// is not missed.
fn exchange(server: &Server, request: Vec<u8>) -> Answer {
    let mut client = server.client();
    let mut writer = client.stream.get_ref().try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        let _ = writer.write_all(&request);
    });
    let answer = client.answer().expect("an answer");
    client.stream.get_mut().shutdown(Shutdown::Both).unwrap();
    writing.join().unwrap();
    answer
}

fn request(line: &str, head: &str, body: &[u8]) -> Vec<u8> {
    [format!("{line} HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n").as_bytes(), body].concat()
}

fn upload(head: &str, body: &[u8]) -> Vec<u8> {
    request("POST /echo", head, body)
}

fn in_chunks(body: &[u8], size: usize) -> Vec<u8> {
    let chunks = body.chunks(size).map(|chunk| {
        let (head, end) = (format!("{:X};n=v\r\n", chunk.len()), b"\r\n".as_slice());
        [head.as_bytes(), chunk, end].concat()
    });
    chunks.chain([b"0\r\nSum: 1\r\nMore: 2\r\n\r\n".to_vec()]).flatten().collect()
}

#[test]
fn a_body_of_ten_megabytes_comes_back_while_it_is_sent_and_memory_stays_flat() {
    let server = Server::start();
    let body = pattern(10 * MIB);
    let before = server.rss();
    let echoed = exchange(&server, upload(&format!("Content-Length: {}", body.len()), &body));
    assert!(echoed.status == 200 && echoed.body == body);
    assert_eq!(echoed.header("content-length"), Some(body.len().to_string().as_str()));
    // Chunks of all sizes, one of them the whole body.
    for size in [1000, 65_521, 10 * MIB] {
        let echoed = exchange(&server, upload("Transfer-Encoding: chunked", &in_chunks(&body, size)));
        assert!(echoed.status == 200 && echoed.body == body, "{size}");
    }
    let grown = server.rss().saturating_sub(before);
    assert!(grown < 2 * MIB, "grew by {grown}");
}

/// Nobody reads what comes back: the sender is held up, and the others are served.
#[test]
fn an_echo_that_is_not_read_holds_its_sender_up() {
    let server = Server::start();
    let before = server.rss();
    let mut deaf: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for stream in &mut deaf {
        stream.set_nonblocking(true).unwrap();
        let _ = stream.write(&upload(&format!("Content-Length: {}", 16 * MIB), b""));
    }
    let (piece, mut news) = (pattern(256 << 10), Instant::now());
    while news.elapsed() < Duration::from_millis(200) {
        if deaf.iter_mut().filter_map(|stream| stream.write(&piece).ok()).count() > 0 {
            news = Instant::now();
        }
    }
    assert_eq!(server.client().get("/").status, 200);
    let grown = server.rss().saturating_sub(before);
    // Of 160 MiB: each a queue at high water, what was read beyond it, and what the allocator makes of that, some 400 KiB.
    assert!(grown < 10 * MIB, "grew by {grown}");
}

#[test]
fn a_refusal_arrives_although_the_client_goes_on_uploading() {
    let server = Server::start();
    let body = vec![b'x'; 20 * MIB];
    let length = format!("Content-Length: {}", body.len());
    let first_chunk = [format!("{:x}\r\n", body.len()).as_bytes(), &body].concat();
    for (upload, status) in [
        (upload(&length, &body), 413),
        (upload("Transfer-Encoding: chunked", &first_chunk), 413),
        (request("POST /", &length, &body), 405),
        (request("PUT /echo", &length, &body), 501),
    ] {
        let mut client = server.client();
        // It reads nothing before it has sent everything.
        client.send(&upload);
        let answers = client.rest();
        assert_eq!(statuses(&answers), [status]);
        assert!(answers[0].is_last());
    }
}

#[test]
fn a_body_that_grows_beyond_the_limit_is_cut() {
    let server = Server::start();
    let mut client = server.client();
    let mut writer = client.stream.get_ref().try_clone().unwrap();
    let body = in_chunks(&vec![b'x'; 20 * MIB], MIB);
    let writing = std::thread::spawn(move || writer.write_all(&upload("Transfer-Encoding: chunked", &body)));
    let mut first = [0; 15];
    client.stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    let (rest, reset) = client.cut();
    // The kernel tells an error once: to the reader, or to the writer.
    let broken = writing.join().unwrap().is_err();
    assert!((reset || broken) && rest <= 17 * MIB, "{rest}");
}

#[test]
fn who_expects_100_continue_gets_it_before_the_body_and_only_if_it_is_wanted() {
    let server = Server::start();
    let expect = |length: &str| format!("{length}\r\nExpect: 100-Continue");
    for (head, body) in
        [("Content-Length: 5", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n")]
    {
        let mut client = server.client();
        client.send(upload(&expect(head), b""));
        assert_eq!(client.answer().unwrap().status, 100);
        client.send(body);
        assert_eq!(client.answer().unwrap().body, b"hello");
        // Whoever does not wait for it needs none.
        client.send(upload(&expect(head), body.as_bytes()));
        assert_eq!(client.answer().unwrap().body, b"hello");
        assert_eq!(client.get("/").status, 200);
    }
    let mut client = server.client();
    client.send(upload(&expect("Content-Length: 0"), b""));
    assert_eq!(client.answer().unwrap().status, 200);
    client.send(upload(&expect("Content-Length: 20000000"), b""));
    assert_eq!(statuses(&client.rest()), [413]);
    let mut client = server.client();
    client.send("POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    client.send("hi");
    assert_eq!(statuses(&client.rest()), [200]);
}

#[test]
fn a_body_that_ends_early_is_refused_or_if_its_answer_has_begun_cut() {
    let server = Server::start();
    for unfinished in [
        post("").replace(": 0", ": 5"),
        chunked(""),
        chunked("5"),
        chunked("5\r\n"),
        chunked("0\r\n"),
        chunked("0\r\nTrailer: x"),
        "GET / HTTP/1.1\r\nHost: a\r\n".to_owned(),
    ] {
        let mut client = server.client();
        client.send(format!("{}{unfinished}", get("/")));
        client.half_close();
        assert_eq!(statuses(&client.rest()), [200, 400], "{unfinished:?}");
    }
    for begun in [post("hel").replace(": 3", ": 5"), chunked("5\r\nhel"), chunked("5\r\nhello\r\n")] {
        let mut client = server.client();
        client.send(&begun);
        client.half_close();
        assert!(client.cut().1, "{begun:?}");
    }
}

#[test]
fn five_hundred_requests_whose_answers_are_not_read_cost_no_more_than_one() {
    let server = Server::start();
    server.folder.write("big.bin", &pattern(MIB));
    let before = server.rss();
    let mut clients: Vec<Client> = (0..4).map(|_| server.client()).collect();
    for client in &mut clients {
        client.send(get("/big.bin").repeat(500));
    }
    eventually("the kernel's buffers to be full", || {
        let full = clients.iter().filter(|client| {
            let unread = rustix::io::ioctl_fionread(client.stream.get_ref()).unwrap();
            unread > 0
        });
        full.count() == clients.len()
    });
    std::thread::sleep(Duration::from_millis(100));
    let grown = server.rss().saturating_sub(before);
    assert!(grown < 4 * (256 << 10) + MIB, "grew by {grown}");
    assert!(server.descriptors() < 30, "one file is open for each");
    // They are all answered once they are read.
    for _ in 0..20 {
        assert!(clients[0].answer().unwrap().body == pattern(MIB));
    }
}

#[test]
fn a_client_that_is_sent_a_gigabyte_slowly_costs_a_few_pieces_and_holds_nobody_up() {
    let server = Server::start();
    let sparse = std::fs::File::create(server.folder.0.join("sparse.bin")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    let before = server.rss();
    let mut slow = server.client();
    slow.send(get("/sparse.bin"));
    let mut healthy = server.client();
    let (begun, mut piece, mut slowest) = (Instant::now(), vec![0; 64 << 10], Duration::ZERO);
    while begun.elapsed() < Duration::from_millis(600) {
        slow.stream.read_exact(&mut piece).unwrap();
        let asked = Instant::now();
        assert_eq!(healthy.get("/").status, 200);
        slowest = slowest.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    let grown = server.rss().saturating_sub(before);
    assert!(grown < MIB, "grew by {grown}");
    // A fast one does not keep the others from their turn either.
    let fast = std::thread::spawn({
        let mut client = server.client();
        move || {
            client.send(get("/sparse.bin"));
            let mut left = client.stream.by_ref().take(300 << 20);
            std::io::copy(&mut left, &mut std::io::sink()).unwrap()
        }
    });
    let mut asked = 0;
    while !fast.is_finished() {
        assert_eq!(healthy.get("/").status, 200);
        asked += 1;
    }
    assert_eq!(fast.join().unwrap(), 300 << 20);
    assert!(asked > 10, "{asked}");
}

#[test]
fn a_large_file_arrives_whole_and_the_next_answer_behind_it() {
    let server = Server::start();
    for size in [0, 1, 65_535, 65_536, 65_537, 131_072, 5_000_001] {
        server.folder.write("file.bin", &pattern(size));
        let mut client = server.client();
        client.send(get("/file.bin") + &get("/"));
        assert!(client.answer().unwrap().body == pattern(size), "{size}");
        client.half_close();
        assert_eq!(statuses(&client.rest()), [200], "{size}");
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_sent_ends_in_a_reset() {
    let server = Server::start();
    server.folder.write("file.bin", &pattern(32 * MIB));
    let mut client = server.client();
    client.send(get("/file.bin"));
    client.stream.read_exact(&mut [0; 1000]).unwrap();
    let file = std::fs::File::options().write(true).open(server.folder.0.join("file.bin")).unwrap();
    file.set_len(1000).unwrap();
    let (rest, reset) = client.cut();
    assert!(reset && rest < 32 * MIB, "{rest}");
}

#[test]
fn whoever_breaks_off_in_the_middle_of_a_file_leaves_nothing_behind() {
    let server = Server::start();
    server.folder.write("file.bin", &pattern(32 * MIB));
    let before = server.descriptors();
    for round in 0..20 {
        let mut client = server.client();
        client.send(get("/file.bin"));
        client.stream.read_exact(&mut [0; 1000]).unwrap();
        let stream = client.stream.into_inner();
        if round % 2 == 0 {
            util::reset(stream);
        }
    }
    eventually("the files to be closed", || server.descriptors() <= before);
}

/// It has finished sending, and reads on.
#[test]
fn a_file_goes_on_behind_a_half_close() {
    let server = Server::start();
    server.folder.write("file.bin", &pattern(20 * MIB));
    let mut client = server.client();
    client.send(get("/") + &get("/file.bin") + &get("/"));
    client.half_close();
    std::thread::sleep(Duration::from_millis(50));
    let answers = client.rest();
    assert_eq!(statuses(&answers), [200, 200, 200]);
    assert!(answers[1].body == pattern(20 * MIB));
}

#[test]
fn answers_read_by_somebody_else_are_the_same() {
    let server = Server::start();
    let mut stream = server.connect();
    stream.write_all(get("/").as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let (bytes, error) = util::read_all(&mut stream);
    assert!(error.is_none(), "{error:?}");
    let mut rest = bytes.as_slice();
    assert_eq!(read_answer(&mut rest, false).unwrap().status, 200);
    assert!(rest.is_empty());
}
