//! The first line of a client: what its connection is to do.

use std::time::Duration;

/// The longest first line, its end not counted.
pub const LONGEST: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Echo,
    Sink,
    Send(u64),
    SendClose(u64),
    SendAbort(u64),
    Half(u64),
    Stream,
    Flood(u64),
    Room,
    Pause(Duration),
    Twice(Duration),
    Panic,
    Stats,
    Unknown,
}

/// Looks for a command at the start of `data`. Gives it with the length of its line, or nothing
/// while the line may still be completed.
pub fn read(data: &[u8]) -> Option<(Command, usize)> {
    match data.iter().take(LONGEST + 1).position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = &data[..end];
            Some((parse(line.strip_suffix(b"\r").unwrap_or(line)), end + 1))
        }
        None if data.len() > LONGEST => Some((Command::Unknown, data.len())),
        None => None,
    }
}

fn parse(line: &[u8]) -> Command {
    let Ok(line) = std::str::from_utf8(line) else { return Command::Unknown };
    let (word, argument) = match line.split_once(' ') {
        Some((word, argument)) => (word, Some(argument)),
        None => (line, None),
    };
    let Some(argument) = argument else {
        return match word {
            "ECHO" => Command::Echo,
            "SINK" => Command::Sink,
            "STREAM" => Command::Stream,
            "ROOM" => Command::Room,
            "PANIC" => Command::Panic,
            "STATS" => Command::Stats,
            _ => Command::Unknown,
        };
    };
    let Some(number) = number(argument) else { return Command::Unknown };
    match word {
        "SEND" => Command::Send(number),
        "SENDCLOSE" => Command::SendClose(number),
        "SENDABORT" => Command::SendAbort(number),
        "HALF" => Command::Half(number),
        "FLOOD" => Command::Flood(number),
        "PAUSE" => Command::Pause(Duration::from_millis(number)),
        "TWICE" => Command::Twice(Duration::from_millis(number)),
        _ => Command::Unknown,
    }
}

/// Decimal digits only; what no 64 bits can hold counts as the most that they can.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}
