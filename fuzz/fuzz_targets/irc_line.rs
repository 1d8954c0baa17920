//! The chat's lines: no input panics, what is taken apart was in the line, names keep to the grammar.
#![no_main]
#![allow(dead_code)]

#[path = "../../examples/chat/irc.rs"]
mod irc;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    assert!(irc::tags_length(data) <= data.len());
    let Ok(line) = std::str::from_utf8(data) else { return };
    let mut names = line.split(' ');
    if let Some(message) = irc::parse(line) {
        assert!(!message.command.is_empty() && !message.command.contains(' '));
        assert!(message.params.len() <= 15);
        for (n, param) in message.params.iter().enumerate() {
            assert!(line.contains(param));
            let last = n + 1 == message.params.len();
            assert!(last || !(param.is_empty() || param.contains(' ') || param.starts_with(':')));
        }
        // Written again, it says the same.
        if let Some((last, front)) = message.params.split_last() {
            let again = format!("{} {} :{last}", message.command, front.join(" "));
            if !front.is_empty() && !message.command.starts_with(['@', ':']) {
                let again = irc::parse(&again).map(|again| (again.command.to_owned(), again.params.len()));
                assert_eq!(again, Some((message.command.to_owned(), message.params.len())));
            }
        }
    }
    for (most, name) in [10, 20, 64].into_iter().zip(names.by_ref()) {
        assert!(!irc::is_nick(name, most) || (name.len() <= most && !name.contains([' ', ',', '!', '@', ':', '#'])));
        assert!(!irc::is_channel(name) || !name.contains([' ', ',', '\u{7}', '\0', '\r', '\n']));
        assert!(irc::truncate(name, most).len() <= most && name.starts_with(irc::truncate(name, most)));
        assert!(irc::matches("*", name) && irc::matches(&name.replace(['*', '?'], "?"), &name.replace(['*', '?'], "x")));
    }
});
