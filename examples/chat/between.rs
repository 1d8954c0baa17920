//! What a client's reactor and the state tell each other, whether they are the same reactor or two.

use std::borrow::Cow;
use std::net::IpAddr;

use unbroken::Bytes;

use crate::wire::Form;

/// What comes from a client.
pub enum Heard<'a> {
    /// It is there, and waits to be let in. With no form it speaks HTTP.
    Came(Option<IpAddr>, Option<Form>),
    /// One line, whatever it came in, without its end.
    Line(Cow<'a, [u8]>),
    /// To be sent back as it is, behind the answers to what came before.
    Echo(Bytes),
    /// It speaks lines from here on, in this form.
    Upgraded(Form),
    /// It asks for the figures of all reactors.
    Metrics,
    /// It has been silent for long: it is to be asked for a sign of life.
    Silent,
    /// It is to be ended, and told why.
    Ended(Cow<'static, str>),
    /// It is over, after these last bytes.
    Over(Bytes, &'static str),
    /// Its connection is gone, and why.
    Left(String),
    /// All before this has been taken: its reactor waits to hear that.
    Next,
}

impl Heard<'_> {
    pub fn into_owned(self) -> Heard<'static> {
        match self {
            Self::Line(line) => Heard::Line(Cow::Owned(line.into_owned())),
            Self::Came(addr, form) => Heard::Came(addr, form),
            Self::Echo(bytes) => Heard::Echo(bytes),
            Self::Upgraded(form) => Heard::Upgraded(form),
            Self::Metrics => Heard::Metrics,
            Self::Silent => Heard::Silent,
            Self::Ended(why) => Heard::Ended(why),
            Self::Over(last, why) => Heard::Over(last, why),
            Self::Left(why) => Heard::Left(why),
            Self::Next => Heard::Next,
        }
    }

    /// Whether it counts at once, whatever else is still waiting.
    pub fn is_urgent(&self) -> bool {
        matches!(self, Self::Ended(_) | Self::Left(_))
    }
}

/// What a client's reactor is to do for it.
pub enum Told {
    /// Send it what it asked for.
    Answer(Bytes),
    /// Send it what others caused, unless it is too slow for that.
    News(Bytes),
    /// It has registered.
    Registered,
    /// The figures that it asked for.
    Metrics(String),
    /// It is not let in.
    Refused(&'static str),
    /// Close it, with a goodbye in its protocol or without: that was said already.
    Close(Option<Goodbye>),
    /// All that it said has been taken: more may come.
    Next,
    /// It has been sent more than it should have waiting: the state goes on when told that it took that.
    Enough,
}

/// Why a WebSocket is closed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Goodbye {
    Normal,
    /// The server goes away.
    Away,
}
