//! Names of servers, and moments that all servers put in the same order.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A server among the others: a number of its own, drawn when it starts. To the others it is written
/// as sixteen hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerId(pub u64);

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<ServerId> for String {
    fn from(id: ServerId) -> Self {
        format!("{id:?}")
    }
}

impl TryFrom<String> for ServerId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(&text, 16).ok().filter(|_| digits);
        number.map(Self).ok_or("sixteen hexadecimal digits are wanted")
    }
}

/// When something was done, in milliseconds since 1970, and at which server: no two are the same, and
/// the older is the smaller one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    #[serde(deserialize_with = "sane")]
    pub at: u64,
    pub server: ServerId,
}

/// Far ahead of every clock; what says more could not be made later any more.
const LATEST: u64 = 1 << 53;

fn sane<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let at = u64::deserialize(from)?;
    if at < LATEST {
        Ok(at)
    } else {
        Err(serde::de::Error::custom("not a time"))
    }
}

impl Stamp {
    /// A moment that is later than another one, even when the clock is not.
    pub fn later_than(self, other: Option<Self>) -> Self {
        match other {
            Some(other) if other >= self => Self { at: other.at.saturating_add(1), ..self },
            _ => self,
        }
    }

    pub fn seconds(self) -> u64 {
        self.at / 1000
    }
}
