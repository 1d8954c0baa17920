//! IRC and the web over TLS.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use nix::sys::signal::Signal;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::chat::{connect, Chat, Program, Scratch};
use crate::programs::Terminal;
use crate::util::{self, eventually};

#[path = "../../examples/tls/mod.rs"]
mod example_tls;

fn file(name: &str) -> String {
    format!("{}/tests/tls/files/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn start(kind: &str) -> Chat {
    let (cert, key) = (file(&format!("{kind}.cert.pem")), file(&format!("{kind}.key.pem")));
    Chat::start(&["--ircs", "127.0.0.1:0", "--cert", &cert, "--key", &key])
}

/// Somebody who trusts the certificate in this file alone.
fn secured(addr: std::net::SocketAddr, ca: &str) -> BufReader<StreamOwned<ClientConnection, TcpStream>> {
    let config = example_tls::client(Some(Path::new(ca))).expect("a certificate");
    let name = ServerName::try_from("localhost").expect("a name");
    let session = ClientConnection::new(Arc::clone(&config), name).expect("a session");
    BufReader::new(StreamOwned::new(session, connect(addr)))
}

fn hear(client: &mut impl BufRead, what: &str) -> std::io::Result<()> {
    let mut line = String::new();
    while !line.contains(what) {
        line.clear();
        if client.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

#[test]
fn somebody_with_tls_and_somebody_without_talk_with_each_other() {
    let chat = start("ed25519");
    let mut friend = chat.member("friend", "#safe");
    let mut client = secured(chat.ircs.expect("a port for TLS"), &file("ed25519.cert.pem"));
    client.get_mut().write_all(b"NICK sec\r\nUSER sec 0 * :sec\r\nJOIN #safe\r\n").expect("a write");
    hear(&mut client, " 366 sec #safe ").expect("the names");
    client.get_mut().write_all(b"PRIVMSG #safe :sealed\r\n").expect("a write");
    friend.hear("PRIVMSG #safe :sealed");
    friend.say("PRIVMSG #safe :open");
    hear(&mut client, "PRIVMSG #safe :open").expect("an answer");
    client.get_mut().write_all(b"QUIT :done\r\n").expect("a write");
    assert_eq!(friend.departure_of("sec"), "Quit: done");
}

#[test]
pub(crate) fn certificates_are_read_anew_at_sighup_and_who_is_in_stays() {
    let dir = Scratch::new("certificates");
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let take = |kind: &str| {
        std::fs::copy(file(&format!("{kind}.cert.pem")), &cert).expect("a copy");
        std::fs::copy(file(&format!("{kind}.key.pem")), &key).expect("a copy");
    };
    take("ed25519");
    let flags = [
        "--ircs",
        "127.0.0.1:0",
        "--cert",
        cert.to_str().expect("UTF-8"),
        "--key",
        key.to_str().expect("UTF-8"),
    ];
    let chat = Chat::start(&flags);
    let addr = chat.ircs.expect("a port for TLS");
    let mut early = secured(addr, &file("ed25519.cert.pem"));
    early.get_mut().write_all(b"NICK early\r\nUSER early 0 * :early\r\n").expect("a write");
    hear(&mut early, " 001 early ").expect("a welcome");
    take("p256");
    chat.signal(Signal::SIGHUP);
    let mut count = 0;
    eventually("the new certificate", || {
        count += 1;
        let mut late = secured(addr, &file("p256.cert.pem"));
        let hello = format!("NICK late{count}\r\nUSER late 0 * :late\r\n");
        late.get_mut().write_all(hello.as_bytes()).and_then(|()| hear(&mut late, " 001 late")).is_ok()
    });
    early.get_mut().write_all(b"PING still\r\n").expect("a write");
    hear(&mut early, "PONG").expect("an answer");
    // What cannot be read changes nothing.
    std::fs::write(&cert, "no certificate").expect("a write");
    chat.signal(Signal::SIGHUP);
    early.get_mut().write_all(b"PING still\r\n").expect("a write");
    hear(&mut early, "PONG").expect("an answer");
    let mut later = secured(addr, &file("p256.cert.pem"));
    later.get_mut().write_all(b"NICK later\r\nUSER later 0 * :later\r\n").expect("a write");
    hear(&mut later, " 001 later ").expect("a welcome");
}

#[test]
fn curl_gets_the_page_over_https() {
    if !util::have("curl") {
        return;
    }
    let chat = start("ed25519");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "10", "--cacert", &file("ed25519.cert.pem")]);
    let output = curl.arg(format!("https://{}/health", chat.web)).output().expect("curl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn irssi_talks_over_tls() {
    if !["irssi", "tmux"].iter().all(|program| util::have(program)) {
        return;
    }
    let chat = start("ed25519");
    let mut friend = chat.member("friend", "#terminal");
    let port = chat.ircs.expect("a port for TLS").port().to_string();
    let ca = file("ed25519.cert.pem");
    let irssi = Terminal::start("irssi-tls", &["irssi", "-n", "irma"]);
    irssi.keys(&format!("/connect -tls -tls_verify -tls_cafile {ca} localhost {port}"));
    irssi.until_it_shows("Nobody here dies of a broken pipe.");
    irssi.keys("/join #terminal");
    friend.hear(":irma!");
    irssi.keys("good evening from behind a lock");
    friend.hear("PRIVMSG #terminal :good evening from behind a lock");
}

#[test]
fn weechat_talks_over_tls() {
    if !util::have("weechat-headless") {
        return;
    }
    let chat = start("ed25519");
    let mut friend = chat.member("friend", "#garden");
    let dir = Scratch::new("weechat-tls");
    let port = chat.ircs.expect("a port for TLS").port();
    let mut weechat = Command::new("weechat-headless");
    weechat.arg("--dir").arg(dir.path()).env("HOME", dir.path());
    for command in [
        format!("/server add test localhost/{port}"),
        // What they are called depends on its version.
        "/set irc.server.test.ssl on".to_owned(),
        "/set irc.server.test.tls on".to_owned(),
        format!("/set weechat.network.gnutls_ca_user {}", file("ed25519.cert.pem")),
        "/set irc.server.test.nicks winnie".to_owned(),
        "/set irc.server.test.autojoin #garden".to_owned(),
        "/connect test".to_owned(),
    ] {
        weechat.args(["--run-command", &command]);
    }
    let _weechat = Program::start(&mut weechat);
    friend.hear(":winnie!~");
}

#[test]
fn half_of_the_flags_or_files_that_cannot_be_read_end_with_status_2_and_one_line() {
    let (cert, key) = (file("ed25519.cert.pem"), file("ed25519.key.pem"));
    for flags in [
        &["--cert", &cert][..],
        &["--key", &key][..],
        &["--ircs", "127.0.0.1:0"][..],
        &["--cert", "/nowhere", "--key", &key][..],
        &["--cert", &key, "--key", &key][..],
        &["--cert", &cert, "--key", &cert][..],
    ] {
        let mut chat = Command::new(util::example("chat"));
        chat.args(["--irc", "127.0.0.1:0", "--web", "127.0.0.1:0"]).args(flags);
        let output = chat.output().expect("chat");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), told.lines().count()), (Some(2), 1), "{flags:?}: {told}");
    }
}
