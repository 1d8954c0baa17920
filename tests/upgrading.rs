//! A server is replaced by the program that stands at its path by then, under load: nobody is refused, and no
//! answer is cut.

mod util;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::process::{kill_process, Pid, Signal};
use util::patient;

/// A copy of the example `http` in a folder of its own, and whoever runs it.
struct Site {
    folder: PathBuf,
    program: PathBuf,
    addr: SocketAddr,
    child: Child,
}

const BODY: usize = 300_000;

fn site(name: &str, threads: &str) -> Site {
    let folder = std::env::temp_dir().join(format!("unbroken-upgrade-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let program = folder.join("http");
    install(&program);
    std::fs::write(folder.join("page"), vec![b'x'; BODY]).unwrap();
    let mut child = Command::new(&program)
        .args(["127.0.0.1:0", folder.to_str().unwrap(), "--threads", threads])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let addr = line.trim().strip_prefix("listening on ").expect(&line).parse().unwrap();
    Site { folder, program, addr, child }
}

/// Puts a new binary in place of the old one, as a package manager does.
fn install(program: &Path) {
    let new = program.with_extension("new");
    // By another process: what we have open for writing, a child of ours that is being started has as well,
    // and nobody can execute it meanwhile (ETXTBSY).
    assert!(Command::new("cp").arg(util::example("http")).arg(&new).status().unwrap().success());
    std::fs::rename(&new, program).unwrap();
}

impl Site {
    /// The processes that run the program that stands at the path now.
    fn running(&self) -> Vec<Pid> {
        let all = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let ours = all.filter(|pid| {
            let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
            exe.is_ok_and(|exe| exe == self.program)
        });
        ours.filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
    }

    fn only_one(&self) -> Pid {
        util::eventually("one process serves", || self.running().len() == 1);
        self.running()[0]
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for pid in self.running() {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What the clients met.
#[derive(Default)]
struct Tally {
    answered: AtomicUsize,
    refused: AtomicUsize,
    cut: AtomicUsize,
}

/// Reads one answer. Whether the connection goes on.
fn read_answer(stream: &mut BufReader<TcpStream>) -> std::io::Result<bool> {
    let (mut head, mut goes_on) = (String::new(), true);
    loop {
        let before = head.len();
        if stream.read_line(&mut head)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let line = head[before..].trim();
        goes_on &= !line.eq_ignore_ascii_case("connection: close");
        if line.is_empty() {
            break;
        }
    }
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut body = vec![0; BODY];
    stream.read_exact(&mut body)?;
    assert!(body.iter().all(|byte| *byte == b'x'));
    Ok(goes_on)
}

/// Asks again and again, on one connection for as long as the server lets it.
fn ask(addr: SocketAddr, tally: &Tally, stop: &AtomicBool, keep: bool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(stream) = TcpStream::connect(addr) else {
            tally.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        patient(&stream);
        let mut stream = BufReader::new(stream);
        loop {
            let then = if keep { "keep-alive" } else { "close" };
            let request = format!("GET /page HTTP/1.1\r\nHost: a\r\nConnection: {then}\r\n\r\n");
            let asked = stream.get_mut().write_all(request.as_bytes());
            match asked.and_then(|()| read_answer(&mut stream)) {
                Ok(goes_on) => {
                    tally.answered.fetch_add(1, Ordering::Relaxed);
                    if !goes_on || stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
                Err(_) => {
                    tally.cut.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
        }
    }
}

fn upgrade_under_load(threads: &str) {
    let mut site = site(&format!("load-{threads}"), threads);
    let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = [false, false, true, true]
        .into_iter()
        .map(|keep| {
            let (tally, stop, addr) = (tally.clone(), stop.clone(), site.addr);
            thread::spawn(move || ask(addr, &tally, &stop, keep))
        })
        .collect();
    let mut served = BTreeSet::new();
    for round in 0..3 {
        let before = tally.answered.load(Ordering::Relaxed);
        util::eventually("answers", || tally.answered.load(Ordering::Relaxed) > before + 100);
        let old = site.only_one();
        served.insert(old.as_raw_nonzero());
        install(&site.program);
        kill_process(old, Signal::HUP).unwrap();
        if round == 0 {
            let mut status = None;
            util::eventually("the old one ends", || {
                status = site.child.try_wait().unwrap();
                status.is_some()
            });
            assert!(status.unwrap().success());
        }
        util::eventually("the new one serves", || site.running().first().is_some_and(|pid| *pid != old));
    }
    let before = tally.answered.load(Ordering::Relaxed);
    util::eventually("answers", || tally.answered.load(Ordering::Relaxed) > before + 100);
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    let (refused, cut) = (tally.refused.load(Ordering::Relaxed), tally.cut.load(Ordering::Relaxed));
    assert_eq!((refused, cut), (0, 0), "of {} answers", tally.answered.load(Ordering::Relaxed));
    served.insert(site.only_one().as_raw_nonzero());
    assert_eq!(served.len(), 4, "four processes, one after the other");
}

#[test]
fn a_program_is_replaced_under_load_and_no_client_is_refused_or_cut() {
    upgrade_under_load("1");
}

#[test]
fn one_on_several_cores_is_replaced_likewise() {
    upgrade_under_load("2");
}

#[test]
fn a_successor_that_cannot_start_changes_nothing() {
    let site = site("broken", "1");
    let old = site.only_one();
    let new = site.program.with_extension("new");
    std::fs::write(&new, "no program").unwrap();
    std::fs::rename(&new, &site.program).unwrap();
    kill_process(old, Signal::HUP).unwrap();
    thread::sleep(Duration::from_millis(200));
    let stream = TcpStream::connect(site.addr).unwrap();
    patient(&stream);
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(read_answer(&mut stream).unwrap(), "and goes on");
}
