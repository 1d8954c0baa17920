//! The chat's page in a real Chromium, used with the keyboard alone. Screenshots: `target/chat-*.png`.

#[path = "chat/mod.rs"]
mod chat;
#[path = "chat_browser/habits.rs"]
mod habits;
#[path = "chat_browser/webdriver.rs"]
mod webdriver;

mod util;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use chat::{Chat, Irc};
use webdriver::{key, Driver, Page};

/// A chat server at these addresses.
fn start(irc: &str, web: &str) -> Chat {
    let mut command = Command::new(util::example("chat"));
    command.args(["--irc", irc, "--web", web]).stdin(Stdio::null());
    Chat::spawn(command)
}

fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(name)
}

/// A line of the conversation that is shown has this text.
fn shows(text: &str) -> String {
    format!("[...document.querySelectorAll('.line .text')].some((line) => line.textContent === {text:?})")
}

fn begins(text: &str) -> String {
    format!(
        "[...document.querySelectorAll('.line .text')].some((line) => line.textContent.startsWith({text:?}))"
    )
}

fn lists(nick: &str) -> String {
    format!("[...document.querySelectorAll('#names .nick')].some((name) => name.textContent === {nick:?})")
}

fn is(state: &str) -> String {
    format!("document.getElementById('state').textContent === {state:?}")
}

fn titled(name: &str) -> String {
    format!("document.getElementById('title').textContent === {name:?}")
}

const BOX_HAS_FOCUS: &str = "document.activeElement.id === 'input'";

/// Nothing moves, and nothing waits to be drawn.
const STILL: &str = "drawing === 0 && document.getAnimations().length === 0";

/// Through the first page: the nick stands there to be typed over, the channel is filled in.
fn enter(page: &Page, web: SocketAddr, wish: &str, nick: &str) {
    enter_by(page, &format!("http://{web}/"), wish, nick);
}

fn enter_by(page: &Page, url: &str, wish: &str, nick: &str) {
    page.go(url);
    page.until("document.activeElement.id === 'nick'");
    page.keys(&line(wish));
    page.until(&is("online"));
    page.until(&lists(nick));
    page.until(BOX_HAS_FOCUS);
}

/// To an element by Tab, or by Shift+Tab.
fn tab_to(page: &Page, id: &str, back: bool) {
    let keys = if back { format!("{}{}", key::SHIFT, key::TAB) } else { key::TAB.to_string() };
    for _ in 0..20 {
        if page.eval("document.activeElement.id") == id {
            return;
        }
        page.keys(&keys);
    }
    panic!("{id} cannot be reached by Tab");
}

/// A line of input, sent.
fn line(text: &str) -> String {
    format!("{text}{}", key::ENTER)
}

#[test]
fn two_pages_talk_lose_their_server_and_come_back() {
    if !["chromium", "chromedriver"].iter().all(|program| installed(program)) {
        return util::skip("chromium and chromedriver", "not installed");
    }
    let chat = start("127.0.0.1:0", "127.0.0.1:0");
    let driver = Driver::start();
    let (alice, bob) = std::thread::scope(|scope| {
        let alice = scope.spawn(|| driver.open(1280, 800));
        let bob = driver.open(1280, 800);
        (alice.join().expect("a browser"), bob)
    });
    for page in [&alice, &bob] {
        page.screen(1280, 800, false);
        page.prefers("prefers-color-scheme", "light");
    }
    // Alice is first and so the channel's operator, who may set its topic.
    enter(&alice, chat.web, "alice", "alice");
    let mut carol = chat.member("carol", "#lobby");
    // Bob asks for a nick that somebody has: he gets another and is told, and then takes his own.
    enter(&bob, chat.web, "carol", "carol_");
    bob.until(&shows("The nick carol is in use; you are carol_ for now."));
    bob.keys(&line("/nick bob"));
    alice.until(&lists("bob"));
    bob.until("document.getElementById('me').textContent === 'bob'");

    they_talk(&alice, &bob, &mut carol);
    pictures(&alice);
    a_long_text(&alice, &mut carol);
    drop(carol);
    let chat = the_server_dies(&alice, &bob, chat);
    the_server_hangs_up(&alice, &bob);
    for page in [alice, bob] {
        // Nothing but the sockets that could not be opened or that broke.
        let log = page.log();
        assert!(log.iter().all(|line| line.contains("WebSocket connection to")), "{log:#?}");
    }
    drop(chat);
}

#[test]
fn two_pages_talk_over_https() {
    if !["chromium", "chromedriver"].iter().all(|program| installed(program)) {
        return util::skip("chromium and chromedriver", "not installed");
    }
    let file = |name: &str| format!("{}/tests/tls/files/{name}", env!("CARGO_MANIFEST_DIR"));
    let (cert, key) = (file("p256.cert.pem"), file("p256.key.pem"));
    let chat = Chat::start(&["--ircs", "127.0.0.1:0", "--cert", &cert, "--key", &key]);
    let driver = Driver::start();
    let (alice, bob) = (driver.open(1280, 800), driver.open(1280, 800));
    let url = format!("https://{}/", chat.web);
    enter_by(&alice, &url, "alice", "alice");
    enter_by(&bob, &url, "bob", "bob");
    alice.keys(&line("Nobody listens in on us."));
    bob.until(&shows("Nobody listens in on us."));
    bob.keys(&line("Not even the proxy."));
    alice.until(&shows("Not even the proxy."));
    for page in [alice, bob] {
        assert_eq!(page.log(), Vec::<String>::new());
    }
}

fn they_talk(alice: &Page, bob: &Page, carol: &mut Irc) {
    // A topic: its field is before the message box in the order of the focus.
    tab_to(alice, "topic", true);
    alice.keys(&format!("One thread, many friends{}", key::ENTER));
    bob.until("document.getElementById('topic').value === 'One thread, many friends'");
    alice.until(BOX_HAS_FOCUS);

    // Everybody hears everybody.
    alice.keys(&line("Good morning! Is anybody else on the web page?"));
    bob.until(&shows("Good morning! Is anybody else on the web page?"));
    carol.hear("PRIVMSG #lobby :Good morning! Is anybody else on the web page?");
    bob.keys(&line("Yes, me."));
    bob.keys(&line("It is the same room as on IRC, by the way."));
    alice.until(&shows("It is the same room as on IRC, by the way."));
    carol.say("PRIVMSG #lobby :Indeed: I am in a terminal, and alice is in my window");
    alice.until(&shows("Indeed: I am in a terminal, and alice is in my window"));
    alice.until("document.querySelector('.line.mention .nick').textContent === 'carol'");
    carol.say("PRIVMSG #lobby :\u{1}ACTION waves\u{1}");
    alice.until(&shows("waves"));

    // Markup is text, a nick is completed by Tab, an address is a link.
    let markup = "<img src=x onerror=\"document.title='hit'\"><b>is this bold?</b>";
    bob.keys(&line(markup));
    alice.until(&shows(markup));
    assert_eq!(alice.eval("document.querySelectorAll('.log img, .log b').length"), 0);
    alice.keys(&format!("bo{}{}", key::TAB, line("no, text stays text: https://example.org/chat explains")));
    bob.until(&shows("bob: no, text stays text: https://example.org/chat explains"));
    assert_eq!(bob.eval("document.querySelector('.log a').href"), "https://example.org/chat");

    // A private message opens a conversation of its own; Alt+Down goes there, Alt+Up comes back.
    let (up, down) = (format!("{}{}", key::ALT, key::UP), format!("{}{}", key::ALT, key::DOWN));
    alice.keys(&line("/msg bob Shall we have a look at the lab?"));
    alice.until(&titled("bob"));
    alice.until(&shows("Shall we have a look at the lab?"));
    bob.until("document.querySelector('#buffers .hit .badge')?.textContent === '1'");
    bob.keys(&down);
    bob.until(&titled("alice"));
    bob.until(&shows("Shall we have a look at the lab?"));
    bob.keys(&up);
    bob.until(&titled("#lobby"));

    // A refusal is readable; what was sent comes back by Up.
    alice.keys(&line("/whois nobody-at-all"));
    alice.until("document.querySelector('.line.error')?.textContent.includes('nobody-at-all')");
    alice.keys(&key::UP.to_string());
    alice.until("document.getElementById('input').value === '/whois nobody-at-all'");
    alice.keys(&key::DOWN.to_string());
    alice.keys(&line("/join #rust"));
    alice.until(&titled("#rust"));
    bob.keys(&line("/topic"));
    bob.keys(&line("See you there."));
    alice.until(
        "[...document.querySelectorAll('#buffers .badge')].some((badge) => badge.textContent === '1')",
    );
    for _ in 0..5 {
        if alice.eval(&titled("#lobby")) != true {
            alice.keys(&up);
        }
    }
    alice.until(&shows("See you there."));
}

/// More than a line of IRC holds arrives in pieces, cut between words.
fn a_long_text(alice: &Page, carol: &mut Irc) {
    let long = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. ".repeat(9);
    alice.keys(&line(&long));
    let mut heard = String::new();
    while heard.len() < long.trim_end().len() {
        let piece = carol.hear("PRIVMSG #lobby :");
        // The end of the line, two bytes more, is not in it.
        assert!(piece.len() <= 510, "{} bytes", piece.len());
        let text = piece.split(" PRIVMSG #lobby :").nth(1).expect("a text");
        heard += if long.starts_with(&(heard.clone() + text)) { text } else { "" };
    }
    assert_eq!(heard.trim_end(), long.trim_end());
}

/// How it looks on a desktop in the light and in the dark, and on a phone.
fn pictures(page: &Page) {
    page.screenshot(&picture("chat-desktop.png"));
    page.prefers("prefers-color-scheme", "dark");
    page.screenshot(&picture("chat-dark.png"));
    page.screen(390, 844, true);
    page.until(STILL);
    assert_eq!(page.eval("document.documentElement.scrollWidth"), 390);
    page.screenshot(&picture("chat-phone.png"));
    page.until("document.getElementById('menu').offsetWidth > 0");
    page.until("getComputedStyle(document.getElementById('side')).visibility === 'hidden'");
    // The drawer, without a finger: to its button, in, and out again.
    tab_to(page, "menu", true);
    page.keys(&key::ENTER.to_string());
    page.until("document.activeElement.closest('#side') !== null");
    page.until(STILL);
    page.screenshot(&picture("chat-drawer.png"));
    page.keys(&key::ESCAPE.to_string());
    page.until("document.activeElement.id === 'menu'");
    page.screen(1280, 800, false);
    page.prefers("prefers-color-scheme", "light");
    tab_to(page, "input", false);
}

/// The server is killed and started again on its ports: both pages notice and return by themselves.
fn the_server_dies(alice: &Page, bob: &Page, chat: Chat) -> Chat {
    alice.keys("written before the fall");
    let (irc, web) = (chat.irc.to_string(), chat.web.to_string());
    // As in a crash: nobody is told anything.
    drop(chat);
    alice.until(&is("offline"));
    bob.until(&is("offline"));
    alice.until("/retry in \\d+ s/.test(document.getElementById('countdown').textContent)");
    alice.until("document.getElementById('now').offsetWidth > 0");
    alice.keys(&key::ENTER.to_string());
    alice.until("document.getElementById('input').value === 'written before the fall'");
    alice.screenshot(&picture("chat-offline.png"));
    let chat = start(&irc, &web);
    alice.until(&is("online"));
    bob.until(&is("online"));
    alice.until(&lists("bob"));
    bob.until(&lists("alice"));
    alice.keys(&key::ENTER.to_string());
    bob.until(&shows("written before the fall"));
    bob.keys(&line("Welcome back."));
    alice.until(&shows("Welcome back."));
    // What was said before is still there.
    assert_eq!(alice.eval(&shows("Yes, me.")), true);
    chat
}

/// IRC's own way to lose a connection: the others see why, and the page comes back.
fn the_server_hangs_up(alice: &Page, bob: &Page) {
    alice.keys(&line("/raw QUIT :gone fishing"));
    alice.until(&is("offline"));
    bob.until(&begins("alice quit:"));
    alice.until(&is("online"));
    bob.until(&lists("alice"));
    bob.keys(&line("Did they bite?"));
    alice.until(&shows("Did they bite?"));
}

/// Whether a program is in the path.
fn installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
