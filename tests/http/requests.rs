//! Heads: what is asked for, in which order, how it was cut, and what must not be understood.

use std::io::Write;

use crate::server::{chunked, get, post, Answer, Server, INDEX};

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

/// Requests of every kind, the last one of which ends the connection.
pub fn conversation() -> String {
    let mut all = get("/") + &post("twelve bytes") + &get("/sub/page.html?query");
    all += "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    all += &chunked("5;name=value\r\nhello\r\n1\r\n \r\n00A\r\n0123456789\r\n0\r\nTrailer: one\r\n\r\n");
    all += "\r\nGET /none HTTP/1.1\r\nhost:a\r\nX-Empty:\r\n\r\n";
    all += &chunked("0\r\n\r\n");
    all += "GET http://a/sub/page.html HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n";
    all
}

/// What it is answered. The HEAD is the fourth.
pub fn check_conversation(answers: &[Answer]) {
    let bodies: Vec<_> =
        answers.iter().map(|answer| String::from_utf8(answer.body.clone()).unwrap()).collect();
    let echoed = "hello 0123456789";
    assert_eq!(bodies, [INDEX, "twelve bytes", "a page", "", echoed, "", "", "a page"]);
    assert_eq!(statuses(answers), [200, 200, 200, 200, 200, 404, 200, 200]);
    assert_eq!(answers[3].header("content-length"), Some(INDEX.len().to_string().as_str()));
    let last: Vec<_> = answers.iter().map(Answer::is_last).collect();
    assert_eq!(last, [false, false, false, false, false, false, false, true]);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start();
    let mut client = server.client();
    client.send(conversation());
    let mut answers: Vec<_> = (0..3).map_while(|_| client.answer()).collect();
    answers.push(client.head());
    answers.extend(client.rest());
    check_conversation(&answers);
}

#[test]
fn bytes_that_come_one_by_one_get_the_same_answers() {
    let server = Server::start();
    let mut client = server.client();
    for byte in conversation().as_bytes() {
        client.stream.get_mut().write_all(&[*byte]).unwrap();
    }
    let mut answers: Vec<_> = (0..3).map_while(|_| client.answer()).collect();
    answers.push(client.head());
    answers.extend(client.rest());
    check_conversation(&answers);
}

/// Behind each of these stands a request that must not be found.
#[test]
fn what_others_may_take_to_end_elsewhere_is_refused_and_ends_the_connection() {
    let server = Server::start();
    let head = |lines: &str| format!("POST /echo HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n0\r\n\r\n");
    let body = |chunks: &str| chunked(chunks);
    let cases: Vec<(u16, String)> = vec![
        (400, head("Content-Length: 5\r\nTransfer-Encoding: chunked")),
        (400, head("Transfer-Encoding: chunked\r\nContent-Length: 0")),
        (400, head("Content-Length: 5\r\nContent-Length: 6")),
        (400, head("Content-Length: 5\r\nContent-Length: 5")),
        (400, head("Content-Length: 5, 5")),
        (400, head("Content-Length: +5")),
        (400, head("Content-Length: -5")),
        (400, head("Content-Length: 5 5")),
        (400, head("Content-Length: 0x5")),
        (400, head("Content-Length: 5a")),
        (400, head("Content-Length:")),
        (400, head("Content-Length: 18446744073709551621")),
        (400, head("Content-Length : 5")),
        (400, head("Content-Length\t: 5")),
        (400, head("X: y\r\n Content-Length: 5")),
        (400, head("X: y\r\n\tfolded")),
        (400, head(" X: y")),
        (400, head("X y")),
        (400, head(": y")),
        (400, head("X: a\0b")),
        (400, head("X: a\rb")),
        (400, head("X: a\nContent-Length: 5")),
        (400, head("Transfer-Encoding: chunked\nX: y")),
        (400, head("Transfer-Encoding: \x0bchunked")),
        (501, head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked")),
        (501, head("Transfer-Encoding: chunked, identity")),
        (501, head("Transfer-Encoding: xchunked")),
        (501, head("Transfer-Encoding: identity")),
        (501, head("Transfer-Encoding: gzip")),
        (501, head("Transfer-Encoding: \"chunked\"")),
        (501, head("Transfer-Encoding:")),
        (400, head("Content-Length: 1").replace("Host: a\r\n", "")),
        (400, head("Content-Length: 1\r\nHost: b")),
        (400, head("Content-Length: 1").replace("Host: a", "Host: a, b")),
        (400, head("Transfer-Encoding: chunked").replace("HTTP/1.1", "HTTP/1.0")),
        (400, "GET /\r\n".to_owned()),
        (400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (400, "G@T / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\nHost: a\n\n".to_owned()),
        (400, "\r\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (400, "\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03".to_owned()),
        (505, "GET / index HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned()),
        (505, "GET / HTTP/1.2\r\nHost: a\r\n\r\n".to_owned()),
        (505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        (400, body("\r\n\r\n")),
        (400, body(";x\r\n\r\n")),
        (400, body("g\r\n\r\n")),
        (400, body("-1\r\n\r\n")),
        (400, body("+1\r\nx\r\n0\r\n\r\n")),
        (400, body("0x1\r\nx\r\n0\r\n\r\n")),
        (400, body(" 1\r\nx\r\n0\r\n\r\n")),
        (400, body("1 1\r\nx\r\n0\r\n\r\n")),
        (400, body("1\nx\r\n0\r\n\r\n")),
        (400, body("1;a\nb\r\nx\r\n0\r\n\r\n")),
        (400, body("1;a\rb\r\nx\r\n0\r\n\r\n")),
        (400, body("10000000000000001\r\nx\r\n0\r\n\r\n")),
        (413, body("ffffffffffffffff\r\nx\r\n0\r\n\r\n")),
        (413, body("1000001\r\nx\r\n0\r\n\r\n")),
        (400, body(&format!("1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(2000)))),
        (400, body(&format!("0\r\n{}\r\n", "X: y\r\n".repeat(100)))),
        (400, body("0\r\nTrailer: a\nGET / HTTP/1.1\r\n\r\n")),
    ];
    for (status, request) in cases {
        let answers = server.ask(format!("{request}{}", get("/")).as_bytes());
        assert_eq!(statuses(&answers), [status], "{request:?}");
        assert!(answers[0].is_last(), "{request:?}: {answers:?}");
    }
    assert_eq!(server.client().get("/").status, 200, "others are served");
}

/// The answer has begun: it is cut, and does not look whole.
#[test]
fn a_body_that_goes_wrong_behind_its_first_chunk_is_cut() {
    let server = Server::start();
    for chunks in [
        "1\r\nx1\r\ny\r\n0\r\n\r\n",
        "1\r\nxy\r\n0\r\n\r\n",
        "1\r\nx\n0\r\n\r\n",
        "1\r\nx\r\r\n0\r\n\r\n",
        "1\r\nx\r\nz\r\n\r\n",
        "1\r\nx\r\n1000000\r\n",
    ] {
        let mut client = server.client();
        client.send(chunked(chunks));
        let (_, reset) = client.cut();
        assert!(reset, "{chunks:?}");
    }
}

#[test]
fn a_head_beyond_the_limits_is_refused_however_it_comes() {
    let server = Server::start();
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(20_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100));
    let endless = "x".repeat(100_000);
    for request in [&long, &target, &many, &endless] {
        assert_eq!(statuses(&server.ask(request.as_bytes())), [431]);
        let mut client = server.client();
        // What comes behind the refusal is thrown away.
        request.as_bytes().chunks(700).for_each(|piece| client.send(piece));
        assert_eq!(statuses(&client.rest()), [431]);
    }
    let fits = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(60));
    let mut client = server.client();
    client.send(fits);
    assert_eq!(client.answer().unwrap().status, 200);
}

#[test]
fn each_method_and_target_gets_its_status() {
    let server = Server::start();
    server.folder.write("a b.txt", b"blank");
    server.folder.write("style.css", b"");
    server.folder.write(".hidden", b"");
    let mut client = server.client();
    for (path, status, kind) in [
        ("/", 200, "text/html; charset=utf-8"),
        ("/a%20b.txt", 200, "text/plain; charset=utf-8"),
        ("/style.css?v=1", 200, "text/css; charset=utf-8"),
        ("/%73ub/pag%65.html", 200, "text/html; charset=utf-8"),
        ("/sub/", 404, "text/plain"),
        ("/sub", 404, "text/plain"),
        ("/index.html/", 404, "text/plain"),
        ("/none", 404, "text/plain"),
        ("/.hidden", 404, "text/plain"),
        ("/./index.html", 404, "text/plain"),
        ("/%", 404, "text/plain"),
        ("/%zz", 404, "text/plain"),
        ("*", 404, "text/plain"),
        ("x/index.html", 404, "text/plain"),
        ("/echo", 405, "text/plain"),
    ] {
        let answer = client.get(path);
        assert_eq!((answer.status, answer.header("content-type")), (status, Some(kind)), "{path}");
        assert!(!answer.is_last());
    }
    client.send("POST / HTTP/1.1\r\nHost: a\r\n\r\nPOST /echo HTTP/1.1\r\nHost: a\r\n\r\n");
    let refused = client.answer().unwrap();
    assert_eq!((refused.status, refused.header("allow")), (405, Some("get, head")));
    assert_eq!(client.answer().unwrap().status, 200, "a body of no bytes");
    client.send("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(statuses(&client.rest()), [501]);
}

/// A body that nobody wants may be long: its sender is told, and not waited for.
#[test]
fn a_body_where_none_is_wanted_ends_the_connection_behind_the_answer() {
    let server = Server::start();
    for (request, status) in [("GET / HTTP/1.1", 200), ("HEAD / HTTP/1.1", 200), ("POST / HTTP/1.1", 405)] {
        for body in
            ["Content-Length: 5\r\n\r\nGET /", "Transfer-Encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n"]
        {
            let mut client = server.client();
            client.send(format!("{request}\r\nHost: a\r\n{body}{}", get("/")));
            let answer = if request.starts_with("HEAD") { client.head() } else { client.answer().unwrap() };
            assert_eq!((answer.status, answer.is_last()), (status, true), "{request} {body}");
            assert_eq!(client.answer(), None);
        }
    }
}

#[test]
fn head_has_the_headers_of_get_and_no_body() {
    let server = Server::start();
    let mut client = server.client();
    let whole = client.get("/");
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\nHEAD /none HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head(), Answer { body: Vec::new(), ..whole });
    assert_eq!(client.head().status, 404);
    assert_eq!(client.get("/sub/page.html").body, b"a page");
}

#[test]
fn http_1_0_ends_behind_its_answer_unless_it_asks_to_be_kept() {
    let server = Server::start();
    let answers = server.ask(format!("GET / HTTP/1.0\r\n\r\n{}", get("/")).as_bytes());
    assert_eq!(statuses(&answers), [200]);
    assert!(answers[0].is_last());
    let kept = "GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n";
    let post = "POST /echo HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi";
    let answers = server.ask(format!("{kept}{kept}{post}").as_bytes());
    assert_eq!(statuses(&answers), [200, 200, 200]);
    assert_eq!(answers[0].header("connection"), Some("keep-alive"));
    assert_eq!((answers[2].body.as_slice(), answers[2].is_last()), (b"hi".as_slice(), true));
}

#[test]
fn nothing_outside_of_the_directory_can_be_had() {
    let server = Server::start();
    let (folder, secret) = (&server.folder.0, server.folder.0.with_extension("secret"));
    std::fs::create_dir_all(&secret).unwrap();
    std::fs::write(secret.join("index.html"), "secret").unwrap();
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, folder.join(name)).unwrap();
    link("/etc/passwd", "passwd");
    link(secret.to_str().unwrap(), "away");
    link("../", "up");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let name = secret.file_name().unwrap().to_str().unwrap();
    let mut client = server.client();
    for path in [
        "/../etc/passwd".to_owned(),
        format!("/../{name}/index.html"),
        format!("/sub/../../{name}/index.html"),
        format!("/%2e%2e/{name}/index.html"),
        format!("/%2E./{name}/index.html"),
        format!("/..%2f{name}%2findex.html"),
        format!("/sub%2f..%2f..%2f{name}%2findex.html"),
        format!("/..%00/{name}/index.html"),
        format!("/..%5c{name}/index.html"),
        format!("/{}/index.html", secret.display()),
        format!("//{}/index.html", secret.display()),
        format!("/%2f{}/index.html", secret.display()),
        format!("http://a/../{name}/index.html"),
        "//etc/passwd".to_owned(),
        "/passwd".to_owned(),
        "/away/".to_owned(),
        "/away/index.html".to_owned(),
        format!("/up/{name}/index.html"),
        "/index.html%00.txt".to_owned(),
        "/fifo".to_owned(),
        "/sub%2fpage.html".to_owned(),
    ] {
        let answer = client.get(&path);
        assert_eq!((answer.status, answer.body.len()), (404, 0), "{path}");
    }
    assert_eq!(client.get("/").status, 200);
    std::fs::remove_dir_all(&secret).unwrap();
}
