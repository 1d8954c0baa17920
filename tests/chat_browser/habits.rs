//! What people do to a page: long names, long topics, odd channels, many of them; and commands as they
//! type them in other clients.

use crate::webdriver::{key, Driver};
use crate::{begins, enter, installed, is, line, shows, start, tab_to, titled, util};

#[test]
fn a_page_stands_long_names_odd_channels_and_a_crowd() {
    if !["chromium", "chromedriver"].iter().all(|program| installed(program)) {
        return util::skip("chromium and chromedriver", "not installed");
    }
    let chat = start("127.0.0.1:0", "127.0.0.1:0");
    let driver = Driver::start();
    let page = driver.open(1280, 800);
    page.screen(1280, 800, false);
    // What the server cannot give is refused by the form, in words that are true.
    page.go(&format!("http://{}/", chat.web));
    page.until("document.activeElement.id === 'nick'");
    page.keys(&line("J\u{fc}rgen"));
    page.until("document.getElementById('nick').validity.patternMismatch");
    let long = "w".repeat(30);
    enter(&page, chat.web, &long, &long);
    page.until("document.getElementById('me').scrollWidth <= document.getElementById('me').clientWidth");
    page.until(
        "document.querySelector('#me .nick').scrollWidth > document.querySelector('#me .nick').clientWidth",
    );
    // Where only the server can tell, the page repeats what it said.
    page.eval("(wish = 'J\u{fc}rgen', socket.close())");
    page.until(&begins("The nick J\u{fc}rgen cannot be had"));
    page.until(&is("online"));
    page.keys(&line("/nick worker"));
    page.until("document.getElementById('me').textContent === 'worker'");

    // A percent sign is a letter.
    page.keys(&line("/join #a%62"));
    page.until(&titled("#a%62"));
    assert_eq!(page.eval("inHash().join()"), "#a%62");
    let names: Vec<String> = (0..40).map(|n| format!("#room{n}")).collect();
    page.keys(&line(&format!("/join {}", names[..20].join(","))));
    page.keys(&line(&format!("/join {}", names[20..].join(","))));
    page.until("buffers.size === 43");
    page.keys(&line("/join #room39"));
    page.until(&titled("#room39"));
    let in_view =
        "(() => { const a = current.item.getBoundingClientRect(), b = document.getElementById('buffers')\
        .getBoundingClientRect(); return a.top >= b.top - 1 && a.bottom <= b.bottom + 1; })()";
    page.until(in_view);
    // A reload keeps the order, joins nothing twice, and shows what was shown.
    let order = "[...buffers.values()].map((buffer) => buffer.name).join()";
    let before = page.eval(order);
    page.eval("location.reload()");
    page.until(&format!("typeof registered !== 'undefined' && registered && {}", titled("#room39")));
    page.until("channels().every((buffer) => buffer.joined)");
    assert_eq!(page.eval(order), before);

    they_come_and_go(&page, &chat);
    commands(&page, &chat);
    a_thumb(&page);
}

/// Those who come and go do not push away what was said.
fn they_come_and_go(page: &crate::Page, chat: &crate::Chat) {
    page.keys(&line("something worth reading"));
    page.until(&shows("something worth reading"));
    let count = page.eval("current.log.childElementCount");
    let crowd: Vec<_> = (0..12).map(|n| chat.member(&format!("guest{n}"), "#room39")).collect();
    page.until(&shows("guest0, guest1, guest2, guest3, guest4 and 7 more joined"));
    drop(crowd);
    page.until(&begins("guest0, guest1, guest2, guest3, guest4 and 7 more joined \u{b7} guest"));
    let more = page.eval("current.log.childElementCount").as_i64().unwrap() - count.as_i64().unwrap();
    assert_eq!(more, 1, "lines for all of them");
}

/// What IRC people type.
fn commands(page: &crate::Page, chat: &crate::Chat) {
    let mut friend = chat.client("friend");
    page.keys(&line("/invite friend"));
    friend.hear(" INVITE friend #room39");
    friend.join("#room39");
    for (typed, heard) in [
        ("/op friend", "MODE #room39 +o friend"),
        ("/deop friend", "MODE #room39 -o friend"),
        ("/voice friend", "MODE #room39 +v friend"),
        ("/mode +m", "MODE #room39 +m"),
        ("/ban *!*@evil", "MODE #room39 +b *!*@evil"),
        ("/topic #room39 Known to all", "TOPIC #room39 :Known to all"),
        ("/kick #room39 friend see you", "KICK #room39 friend :see you"),
    ] {
        page.keys(&line(typed));
        friend.hear(heard);
    }
    page.keys(&line("/away out to lunch"));
    page.until(&begins("You have been marked as being away"));
    friend.say("INVITE worker #nowhere");
    friend.hear(" 403 ");
}

/// What a phone needs: a long topic can be read, and a thumb hits the button.
fn a_thumb(page: &crate::Page) {
    let topic = "There is much to be said about this room. ".repeat(6);
    page.keys(&line(&format!("/topic {topic}")));
    page.until("document.getElementById('topic').value.length > 200");
    page.screen(390, 844, true);
    page.until(crate::STILL);
    tab_to(page, "topic", true);
    page.until(
        "document.getElementById('topic').scrollHeight <= document.getElementById('topic').clientHeight + 1",
    );
    page.keys(&key::ESCAPE.to_string());
    let thumb = "(() => { const box = current.close.getBoundingClientRect(); return box.width >= 44 && box.height >= 44; })()";
    page.until(thumb);
    // Marks that are stacked on a letter do not paint over the lines above.
    page.until("getComputedStyle(document.querySelector('.line .text')).overflowY === 'clip'");
}
