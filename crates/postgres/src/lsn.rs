//! Positions in the write-ahead log, and the token that a write leaves behind.

use std::fmt;
use std::str::FromStr;

/// A position in the write-ahead log, in bytes from its beginning. Written as PostgreSQL does: `16/B374D848`.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Lsn(pub u64);

/// What a write leaves behind: whoever has replayed this timeline up to this position has the write.
///
/// Written as `2-16/B374D848`, which may stand in a cookie and in a header as it is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Token {
    /// The history it is a position in. Each promotion begins a new one, and a position of an older one says nothing
    /// about what comes after the fork.
    pub timeline: u32,
    /// The primary's flushed position after the commit.
    pub lsn: Lsn,
}

/// What should have been a position or a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct NotAnLsn(&'static str);

const POSITION: NotAnLsn = NotAnLsn("not a position of the write-ahead log; it looks like 16/B374D848");
const TOKEN: NotAnLsn = NotAnLsn("not a token of a write; it looks like 2-16/B374D848");

impl Lsn {
    /// Bytes from `other` up to here; 0 if this is no further.
    #[must_use]
    pub fn beyond(self, other: Lsn) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:X}/{:X}", self.0 >> 32, self.0 & u64::from(u32::MAX))
    }
}

impl FromStr for Lsn {
    type Err = NotAnLsn;

    fn from_str(text: &str) -> Result<Self, NotAnLsn> {
        let (high, low) = text.split_once('/').ok_or(POSITION)?;
        Ok(Self(half(high)? << 32 | half(low)?))
    }
}

/// 1 to 8 hexadecimal digits. A sign, which the standard library's parser would take, is none.
fn half(text: &str) -> Result<u64, NotAnLsn> {
    if text.len() > 8 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(POSITION);
    }
    u64::from_str_radix(text, 16).map_err(|_| POSITION)
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.timeline, self.lsn)
    }
}

impl FromStr for Token {
    type Err = NotAnLsn;

    fn from_str(text: &str) -> Result<Self, NotAnLsn> {
        let (timeline, lsn) = text.split_once('-').ok_or(TOKEN)?;
        if timeline.is_empty() || !timeline.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(TOKEN);
        }
        let timeline = timeline.parse().ok().filter(|&timeline| timeline > 0).ok_or(TOKEN)?;
        Ok(Self { timeline, lsn: lsn.parse().map_err(|_| TOKEN)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_written_as_the_server_writes_it() {
        let lsn = Lsn(0x0000_0016_B374_D848);
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!("16/B374D848".parse(), Ok(lsn));
        assert_eq!("16/b374d848".parse(), Ok(lsn));
        assert_eq!(Lsn(5).to_string(), "0/5");
        assert_eq!("FFFFFFFF/FFFFFFFF".parse(), Ok(Lsn(u64::MAX)));
    }

    #[test]
    fn a_token_comes_back_from_a_cookie() {
        let token = Token { timeline: 2, lsn: Lsn(0x16_B374_D848) };
        assert_eq!(token.to_string(), "2-16/B374D848");
        assert_eq!(token.to_string().parse(), Ok(token));
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in ["", "/", "1", "1/", "/1", "1/2/3", "+1/2", "1/-2", "123456789/0", "g/0", " 1/2", "1/2 "] {
            assert_eq!(text.parse::<Lsn>(), Err(POSITION), "{text:?}");
            assert_eq!(format!("1-{text}").parse::<Token>(), Err(TOKEN), "{text:?}");
        }
        for text in ["1/2", "0-1/2", "-1/2", "+1-1/2", "4294967296-1/2", "1--1/2", "x-1/2"] {
            assert_eq!(text.parse::<Token>(), Err(TOKEN), "{text:?}");
        }
    }

    #[test]
    fn a_distance_is_never_negative() {
        assert_eq!(Lsn(9).beyond(Lsn(4)), 5);
        assert_eq!(Lsn(4).beyond(Lsn(9)), 0);
    }
}
