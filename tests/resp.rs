//! The example `resp`, which speaks Redis' protocol: answers in order however the input comes, a
//! clear end for what is no protocol, and a subscriber that does not read hurts nobody else.

mod util;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use util::{have, patient, read_all};

struct Resp {
    child: Child,
    addr: SocketAddr,
}

impl Resp {
    fn start() -> Self {
        let mut command = Command::new(util::example("resp"));
        command.arg("127.0.0.1:0").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
        Self { child, addr }
    }

    fn client(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        patient(&stream);
        stream
    }
}

impl Drop for Resp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The answers to `input`, asked for with a QUIT behind it.
fn ask(mut stream: TcpStream, input: &[u8]) -> String {
    stream.write_all(input).unwrap();
    stream.write_all(b"QUIT\r\n").unwrap();
    let (answer, end) = read_all(&mut stream);
    assert!(end.is_none(), "{end:?}");
    String::from_utf8(answer).unwrap()
}

const TALK: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\na\r\nb!\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\nGET none\r\nINCR n\r\nINCR n\r\n\
    INCR k\r\nPING\r\nPING hi\r\nECHO there\r\nEXISTS k n none\r\nDEL k none\r\nNONSENSE 1\r\nGET\r\n";
const ANSWERS: &str =
    "+OK\r\n$5\r\na\r\nb!\r\n$-1\r\n:1\r\n:2\r\n-ERR value is not an integer or out of range\r\n\
    +PONG\r\n$2\r\nhi\r\n$5\r\nthere\r\n:2\r\n:1\r\n-ERR unknown command 'NONSENSE'\r\n\
    -ERR wrong number of arguments for 'GET' command\r\n+OK\r\n";

#[test]
fn the_answers_are_the_same_however_the_input_is_cut() {
    assert_eq!(ask(Resp::start().client(), TALK), ANSWERS);
    let resp = Resp::start();
    let mut stream = resp.client();
    stream.set_nodelay(true).unwrap();
    for byte in TALK {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(ask(stream, b""), ANSWERS);
}

#[test]
fn a_large_value_comes_back_whole() {
    let resp = Resp::start();
    let value = "v".repeat(3_000_000);
    let set = format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${}\r\n{value}\r\nGET big\r\nPING\r\n", value.len());
    let expected = format!("+OK\r\n${}\r\n{value}\r\n+PONG\r\n+OK\r\n", value.len());
    assert!(ask(resp.client(), set.as_bytes()) == expected);
}

#[test]
fn a_value_may_be_set_again_to_any_length_and_counted_up_as_far_as_a_number_goes() {
    let (short, long) = ("s".repeat(100), "l".repeat(20_000));
    let set = |value: &str| format!("*3\r\n$3\r\nset\r\n$1\r\nv\r\n${}\r\n{value}\r\nGET v\r\n", value.len());
    let input = [set(&short), set(&long), set(&short), set("x"), set(""), set(&long)].concat();
    let got = |value: &str| format!("+OK\r\n${}\r\n{value}\r\n", value.len());
    let expected = [got(&short), got(&long), got(&short), got("x"), got(""), got(&long)].concat();
    assert!(ask(Resp::start().client(), input.as_bytes()) == expected + "+OK\r\n");
    let input = "SET n -1\r\nINCR n\r\nGET n\r\nSET n -9223372036854775808\r\nINCR n\r\nSET n 9223372036854775806\r\n\
        INCR n\r\nINCR n\r\nSET n +5\r\nINCR n\r\nSET n -\r\nINCR n\r\nSET n 9223372036854775808\r\nINCR n\r\n";
    let refused = "-ERR value is not an integer or out of range\r\n";
    let expected = format!(
        "+OK\r\n:0\r\n$1\r\n0\r\n+OK\r\n:-9223372036854775807\r\n+OK\r\n:9223372036854775807\r\n{refused}\
         +OK\r\n{refused}+OK\r\n{refused}+OK\r\n{refused}+OK\r\n"
    );
    assert_eq!(ask(Resp::start().client(), input.as_bytes()), expected);
}

#[test]
fn a_command_may_have_many_words_and_a_long_name() {
    let input = "SET a 1\r\nSET f 1\r\nEXISTS a b c d e f\r\nDEL a b c d e f g\r\nABCDEFGHIJKLMNOP x\r\n\
        ABCDEFGHIJKLMNOPQ x\r\n";
    let expected = "+OK\r\n+OK\r\n:2\r\n:2\r\n-ERR unknown command 'ABCDEFGHIJKLMNOP'\r\n\
        -ERR unknown command 'ABCDEFGHIJKLMNOPQ'\r\n+OK\r\n";
    assert_eq!(ask(Resp::start().client(), input.as_bytes()), expected);
}

#[test]
fn what_is_no_protocol_gets_an_error_and_an_end() {
    let resp = Resp::start();
    for (wrong, why) in [
        ("*x\r\n", "invalid multibulk length"),
        ("*1000000000\r\n", "invalid multibulk length"),
        ("*1\r\n:1\r\n", "expected '$'"),
        ("*1\r\n$-5\r\n", "invalid bulk length"),
        ("*1\r\n$99999999999\r\n", "invalid bulk length"),
    ] {
        let mut stream = resp.client();
        stream.write_all(wrong.as_bytes()).unwrap();
        let (answer, end) = read_all(&mut stream);
        assert_eq!(String::from_utf8_lossy(&answer), format!("-ERR Protocol error: {why}\r\n"));
        assert!(end.is_none(), "{end:?}");
    }
    let mut stream = resp.client();
    stream.write_all(&vec![b'x'; 100_000]).unwrap();
    assert!(read_all(&mut stream).0.starts_with(b"-ERR Protocol error: too big inline request"));
    assert_eq!(ask(resp.client(), b"PING\r\n"), "+PONG\r\n+OK\r\n", "the others are served");
}

#[test]
fn every_subscriber_hears_every_message_although_one_does_not_read() {
    let resp = Resp::start();
    let subscribe = || {
        let mut stream = resp.client();
        stream.write_all(b"SUBSCRIBE news\r\n").unwrap();
        let mut answer = [0; 33];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
        stream
    };
    let (first, second, _deaf) = (subscribe(), subscribe(), subscribe());
    const MESSAGES: usize = 600;
    let text = "m".repeat(50_000);
    let expected = format!("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n${}\r\n{text}\r\n", text.len());
    let readers: Vec<_> = [first, second]
        .into_iter()
        .map(|mut stream| {
            let expected = expected.clone();
            std::thread::spawn(move || {
                let mut message = vec![0; expected.len()];
                for _ in 0..MESSAGES {
                    stream.read_exact(&mut message).unwrap();
                    assert!(message == expected.as_bytes());
                }
            })
        })
        .collect();
    let mut publisher = BufReader::new(resp.client());
    for _ in 0..MESSAGES {
        let publish = format!("*3\r\n$7\r\nPUBLISH\r\n$4\r\nnews\r\n${}\r\n{text}\r\n", text.len());
        publisher.get_mut().write_all(publish.as_bytes()).unwrap();
        let mut answer = String::new();
        publisher.read_line(&mut answer).unwrap();
        assert!(matches!(answer.trim(), ":3" | ":2"), "{answer}");
    }
    for reader in readers {
        reader.join().expect("all messages, in order");
    }
}

#[test]
fn redis_own_tools_drive_it() {
    if !have("redis-cli") || !have("redis-benchmark") {
        return;
    }
    let resp = Resp::start();
    let port = resp.addr.port().to_string();
    let cli = Command::new("redis-cli").args(["-p", &port, "INCR", "counter"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&cli.stdout).trim(), "1");
    let benchmark = Command::new("timeout")
        .args([
            "60",
            "redis-benchmark",
            "-p",
            &port,
            "-t",
            "ping,set,get,incr",
            "-n",
            "20000",
            "-P",
            "16",
            "-q",
        ])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&benchmark.stdout).into_owned();
    assert!(benchmark.status.success() && told.matches("requests per second").count() == 5, "{told}");
}
