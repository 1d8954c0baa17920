//! The protocol's text: parsing lines, names, and the lines that are built from parts. Pure, and
//! under a fuzzer (`fuzz/fuzz_targets/irc_line.rs`): what comes in here was written by anybody.

use std::time::{SystemTime, UNIX_EPOCH};

/// A line without its end must not be longer than this, tags not counted (RFC 2812, 2.3).
pub const MAX_LINE: usize = 510;

/// Parameters of a command at most (RFC 2812, 2.3).
const MAX_PARAMS: usize = 15;

/// One line, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<'a> {
    pub tags: &'a str,
    pub command: &'a str,
    pub params: Vec<&'a str>,
}

/// Takes a line without its end apart; `None` for a line that says nothing. A source is allowed and
/// not looked at: a client's own does not count.
pub fn parse(line: &str) -> Option<Message<'_>> {
    let mut rest = line.trim_start_matches(' ');
    let mut tags = "";
    for mark in ['@', ':'] {
        if let Some(marked) = rest.strip_prefix(mark) {
            let (word, behind) = marked.split_once(' ')?;
            rest = behind.trim_start_matches(' ');
            if mark == '@' {
                tags = word;
            }
        }
    }
    let (command, mut rest) = rest.split_once(' ').unwrap_or((rest, ""));
    if command.is_empty() {
        return None;
    }
    let mut params = Vec::new();
    loop {
        rest = rest.trim_start_matches(' ');
        if let Some(last) = rest.strip_prefix(':') {
            params.push(last);
            break;
        }
        if rest.is_empty() {
            break;
        }
        if params.len() == MAX_PARAMS - 1 {
            params.push(rest);
            break;
        }
        let (param, after) = rest.split_once(' ').unwrap_or((rest, ""));
        params.push(param);
        rest = after;
    }
    Some(Message { tags, command, params })
}

/// The bytes of the tags at the front of a line, their blank included: they have a limit of their own.
pub fn tags_length(line: &[u8]) -> usize {
    match line.first() {
        Some(b'@') => line.iter().position(|byte| *byte == b' ').map_or(line.len(), |blank| blank + 1),
        _ => 0,
    }
}

/// Names that differ in the case of ASCII letters are the same (`CASEMAPPING=ascii`).
pub fn fold(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// Letters, digits and a few marks, no digit and no hyphen first (RFC 2812, 2.3.1).
pub fn is_nick(name: &str, longest: usize) -> bool {
    let special = |byte: u8| b"[]\\`_^{|}".contains(&byte);
    let bytes = name.as_bytes();
    bytes.len() <= longest
        && bytes.first().is_some_and(|byte| byte.is_ascii_alphabetic() || special(*byte))
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-' || special(*byte))
}

pub const CHANNEL_LENGTH: usize = 50;

pub fn is_channel(name: &str) -> bool {
    let forbidden = |character: char| character.is_control() || matches!(character, ' ' | ',' | ':');
    name.len() <= CHANNEL_LENGTH && name.len() > 1 && name.starts_with('#') && !name.contains(forbidden)
}

/// A word of a client's as a reply may repeat it: what could be taken for several words, for none or
/// for the last is a star.
pub fn shown(word: &str) -> &str {
    let word = truncate(word, 60);
    match word.is_empty() || word.starts_with(':') || word.contains(' ') {
        true => "*",
        false => word,
    }
}

/// The front of `text` that is not longer than `most` bytes, cut between characters.
pub fn truncate(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Whether a name matches a mask with `*` and `?`, case aside.
pub fn matches(mask: &str, name: &str) -> bool {
    let (mask, name) = (fold(mask).into_bytes(), fold(name).into_bytes());
    // The usual walk: at a mismatch the last star takes one byte more.
    let (mut m, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match mask.get(m) {
            Some(b'*') => {
                star = Some((m, n));
                m += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => (m, n) = (m + 1, n + 1),
            _ => match &mut star {
                Some((from, taken)) => {
                    *taken += 1;
                    (m, n) = (*from + 1, *taken);
                }
                None => return false,
            },
        }
    }
    mask[m..].iter().all(|byte| *byte == b'*')
}

/// Seconds since 1970.
pub fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `2026-11-23T17:05:09.123Z`, as the server-time tag has it.
pub fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// The date so many days after 1970-01-01, in the Gregorian calendar. The year is taken to begin
/// in March, so that the leap day is its last.
fn civil(days: u64) -> (u64, u64, u64) {
    const CYCLE: u64 = 146_097;
    let days = days + 719_468;
    let (era, day) = (days / CYCLE, days % CYCLE);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, date)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn message<'a>(command: &'a str, params: &[&'a str]) -> Option<Message<'a>> {
        Some(Message { tags: "", command, params: params.to_vec() })
    }

    #[test]
    fn lines_are_taken_apart() {
        assert_eq!(parse("PRIVMSG #a :hello  there"), message("PRIVMSG", &["#a", "hello  there"]));
        let tagged = Message { tags: "time=x;y", command: "JOIN", params: vec!["#a"] };
        assert_eq!(parse("@time=x;y :me!u@h  JOIN   #a"), Some(tagged));
        assert_eq!(parse("TOPIC #a :"), message("TOPIC", &["#a", ""]));
        assert_eq!(parse("USER a 0 * ::)"), message("USER", &["a", "0", "*", ":)"]));
        assert_eq!(parse("A b:c"), message("A", &["b:c"]));
        for nothing in ["", "   ", ":only", "@only", "@a :b", ":a "] {
            assert_eq!(parse(nothing), None, "{nothing:?}");
        }
        let many = format!("X{}", " y".repeat(40));
        assert_eq!(parse(&many).unwrap().params.len(), MAX_PARAMS);
    }

    #[test]
    fn names_keep_to_the_grammar() {
        for good in ["a", "[x]", "Nick-9", "_"] {
            assert!(is_nick(good, 30), "{good}");
        }
        for bad in ["", "9a", "-a", "a b", "a!b", "#a", "ä", "a,b", &"a".repeat(31)] {
            assert!(!is_nick(bad, 30), "{bad}");
        }
        assert!(is_channel("#a") && is_channel("#ä#"));
        for bad in ["", "#", "a", "#a b", "#a,b", "#a\u{7}", "&a"] {
            assert!(!is_channel(bad), "{bad}");
        }
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(truncate("añb", 2), "a");
        assert_eq!(truncate("añb", 3), "añ");
        assert_eq!(truncate("ab", 9), "ab");
    }

    #[test]
    fn what_is_repeated_stays_one_word() {
        assert_eq!((shown("anna"), shown("a b"), shown(":x"), shown("")), ("anna", "*", "*", "*"));
        assert_eq!(shown(&"x".repeat(500)).len(), 60);
    }

    #[test]
    fn masks_match_what_they_say() {
        for (mask, name) in [("*", ""), ("a*", "Abc"), ("*c", "abc"), ("a?c", "aBc"), ("*b*d", "abcbd")] {
            assert!(matches(mask, name), "{mask} {name}");
        }
        for (mask, name) in [("", "a"), ("a?", "a"), ("a*b", "abc"), ("?", "")] {
            assert!(!matches(mask, name), "{mask} {name}");
        }
    }

    #[test]
    fn times_are_written_as_clients_read_them() {
        let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_795_453_509), "2026-11-23T17:05:09.000Z");
        assert_eq!(at(4_102_444_799), "2099-12-31T23:59:59.000Z");
    }
}
