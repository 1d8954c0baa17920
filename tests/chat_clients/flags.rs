//! The command line.

use std::fs::OpenOptions;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::chat::Scratch;
use crate::util::{self};

/// How the chat ends with these flags: status, output, errors.
fn outcome(flags: &[&str]) -> (Option<i32>, String, String) {
    outcome_of(Command::new(util::example("chat")).args(flags).stdin(Stdio::null()))
}

fn outcome_of(command: &mut Command) -> (Option<i32>, String, String) {
    let dir = Scratch::new("flags");
    let file = |name: &str| {
        let options = OpenOptions::new().write(true).create(true).truncate(true).open(dir.path().join(name));
        Stdio::from(options.unwrap())
    };
    let mut child = command.env_remove("RUST_LOG").stdout(file("out")).stderr(file("err")).spawn().unwrap();
    let end = Instant::now() + util::SOON;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        if Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    (status, read("out"), read("err"))
}

#[test]
fn wrong_flags_exit_with_2_and_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let free = ["--irc", "127.0.0.1:0", "--web", "127.0.0.1:0"];
    let wrong: [(&[&str], &str); 28] = [
        (&["--irc", "nonsense"], "--irc"),
        (&["--web", "127.0.0.1"], "--web"),
        (&["--rate", "0"], "--rate"),
        (&["--rate", "NaN"], "--rate"),
        (&["--burst", "0"], "--burst"),
        (&["--burst=-1"], "--burst"),
        (&["--drain", "0"], "--drain"),
        (&["--drain", "soon"], "--drain"),
        (&["--ping-interval", "1e99"], "--ping-interval"),
        (&["--send-queue", "1"], "--send-queue"),
        (&["--max-line", "10"], "--max-line"),
        (&["--nick-length", "1000"], "--nick-length"),
        (&["--name", "two words"], "--name"),
        (&["--redis", "no port"], "no port"),
        (&["--origin", "nonsense"], "--origin"),
        (&["--origin", "https://a.example/chat"], "--origin"),
        (&["--host", "http://a.example"], "--host"),
        (&["--host", ""], "--host"),
        (&["--max-channels-per-address", "0"], "--max-channels-per-address"),
        (&["--motd", "two\rlines"], "--motd"),
        (&["--history", "1000000"], "--history"),
        (&["--accounts", "/no/such/file"], "/no/such/file"),
        (&["--operators", "/no/such/file"], "/no/such/file"),
        (&["--accounts", "Cargo.toml"], "Cargo.toml: line 1"),
        (&["--no-such-flag"], "--no-such-flag"),
        (&["surplus"], "surplus"),
        (&["--irc", &taken], &taken),
        (&["--web", &taken], &taken),
    ];
    for (flags, named) in wrong {
        let given: Vec<&str> = free.chunks(2).filter(|flag| flag[0] != flags[0]).flatten().copied().collect();
        let (status, output, errors) = outcome(&[&given, flags].concat());
        assert_eq!((status, output.as_str()), (Some(2), ""), "{flags:?}: {errors}");
        assert!(errors.lines().count() == 1 && errors.ends_with('\n'), "{flags:?}: {errors:?}");
        assert!(errors.starts_with("chat: ") && errors.contains(named), "{flags:?}: {errors:?}");
    }
}

/// How the chat ends when a shell starts it like this.
fn outcome_by(start: &str, stdin: Stdio) -> (Option<i32>, String, String) {
    let mut manager = Command::new("sh");
    manager.args(["-c", start]).arg(util::example("chat"));
    manager.args(["--irc", "127.0.0.1:0", "--web", "127.0.0.1:0"]).env_remove("LISTEN_PID");
    outcome_of(manager.stdin(stdin))
}

#[test]
fn promised_sockets_that_cannot_listen_exit_with_2_and_one_line() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let cases = [
        // More than there is a use for; files; a connection.
        (r#"LISTEN_FDS=3 exec "$0" "$@" 3</dev/null 4</dev/null 5</dev/null"#, Stdio::null()),
        (r#"LISTEN_FDS=2 exec "$0" "$@" 3</dev/null 4</dev/null"#, Stdio::null()),
        (r#"LISTEN_FDS=1 exec "$0" "$@" 3<&0"#, OwnedFd::from(connected).into()),
    ];
    for (start, stdin) in cases {
        let (status, output, errors) = outcome_by(start, stdin);
        assert_eq!((status, output.as_str()), (Some(2), ""), "{start}: {errors}");
        assert!(errors.lines().count() == 1 && errors.starts_with("chat: "), "{start}: {errors:?}");
    }
}

// The numbers must not be taken for what the program itself has opened meanwhile.
#[test]
fn promised_sockets_that_are_not_there_exit_with_2_and_one_line() {
    for count in 1..=2 {
        let start = format!(r#"LISTEN_FDS={count} exec "$0" "$@" 3<&- 4<&-"#);
        let (status, output, errors) = outcome_by(&start, Stdio::null());
        assert_eq!((status, output.as_str()), (Some(2), ""), "{start}: {errors}");
        assert!(errors.lines().count() == 1 && errors.starts_with("chat: "), "{start}: {errors:?}");
    }
}

#[test]
fn the_help_names_every_flag_with_its_default() {
    let (status, help, errors) = outcome(&["--help"]);
    assert_eq!((status, errors.as_str()), (Some(0), ""));
    let flags = [
        ("irc", "127.0.0.1:6667"),
        ("web", "127.0.0.1:8080"),
        ("name", "chat.local"),
        ("network", "unbroken"),
        ("motd", "Welcome. Nobody here dies of a broken pipe."),
        ("redis", ""),
        ("origin", ""),
        ("host", ""),
        ("max-clients", "10000"),
        ("max-clients-per-address", "1000"),
        ("max-channels", "1000"),
        ("max-channels-per-client", "50"),
        ("max-channels-per-address", "100"),
        ("max-line", "512"),
        ("rate", "5"),
        ("burst", "30"),
        ("nick-length", "30"),
        ("send-queue", "262144"),
        ("register-timeout", "30"),
        ("ping-interval", "60"),
        ("ping-timeout", "30"),
        ("drain", "10"),
        ("announce", "5"),
        ("history", "0"),
        ("accounts", ""),
        ("operators", ""),
        ("cert", ""),
        ("key", ""),
        ("ircs", "127.0.0.1:6697"),
        ("threads", "1"),
    ];
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for (flag, default) in flags {
        let (_, about) = words.split_once(&format!(" --{flag} <")).unwrap_or_else(|| panic!("no --{flag}"));
        let about = about.split(" --").next().unwrap();
        assert!(
            default.is_empty() || about.replace('"', "").contains(&format!("[default: {default}]")),
            "--{flag} {about}"
        );
    }
    // And none that this test does not know.
    let named = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
    for flag in named.map(|line| line.split([' ', '=']).next().unwrap()) {
        assert!(flags.iter().any(|(known, _)| *known == flag), "--{flag} is new");
    }
}

#[test]
fn variables_that_make_no_sense_exit_with_2_and_one_line() {
    for (variables, named) in [
        ("LISTEN_FDS=abc", "LISTEN_FDS"),
        ("LISTEN_FDS=-1", "LISTEN_FDS"),
        ("LISTEN_FDS=1 LISTEN_PID=abc", "LISTEN_PID"),
        ("LISTEN_FDS=2 LISTEN_FDNAMES=irc", "LISTEN_FDNAMES"),
        ("LISTEN_FDS=1 LISTEN_FDNAMES=irc:web", "LISTEN_FDNAMES"),
    ] {
        let (status, output, errors) = outcome_by(&format!(r#"{variables} exec "$0" "$@""#), Stdio::null());
        assert_eq!((status, output.as_str()), (Some(2), ""), "{variables}: {errors}");
        let one_line = errors.lines().count() == 1 && errors.starts_with("chat: ");
        assert!(one_line && errors.contains(named), "{variables}: {errors:?}");
    }
}

#[test]
fn a_promised_socket_is_never_dropped_for_another_of_its_name() {
    for names in ["irc:irc", "web:web", "other:irc"] {
        let sockets: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let start = format!(r#"LISTEN_FDS=2 LISTEN_FDNAMES={names} exec "$0" "$@" 3<&0 4<&0"#);
        let stdin = Stdio::from(OwnedFd::from(sockets[0].try_clone().unwrap()));
        let (status, output, errors) = outcome_by(&start, stdin);
        assert_eq!((status, output.as_str()), (Some(2), ""), "{names}: {errors}");
        assert!(errors.lines().count() == 1 && errors.contains("LISTEN_FDNAMES"), "{names}: {errors:?}");
    }
}
