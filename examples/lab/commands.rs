//! The first line of a client: what its connection is to do.

use std::time::Duration;

use unbroken::frame::{Delimited, Frame};

/// The longest first line, all counted that stands in front of its LF.
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

/// Finds the first line.
pub fn first_line() -> Delimited {
    Delimited::new(b"\n").max(LONGEST)
}

/// The command of a first line.
pub fn read(line: Frame<'_>) -> Command {
    match line {
        Frame::Whole(line) => parse(line.strip_suffix(b"\r").unwrap_or(line)),
        Frame::TooLong { .. } => Command::Unknown,
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
