//! Instants as initiations carry them.

use std::time::{Duration, SystemTime};

use crate::message::TIMESTAMP;

/// TAI64's label of 1970 (2^62), and the ten seconds TAI was ahead then.
const EPOCH: u64 = (1 << 62) + 10;
/// How exactly we tell others the time: 2^24 ns (17 ms) betray less about the host than ns, and are finer than the
/// 20 ms that have to lie between two initiations.
const GRAIN_NS: u32 = 1 << 24;

/// An instant, as 8 bytes of seconds and 4 of nanoseconds, big endian: later ones are greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Tai64N(pub [u8; TIMESTAMP]);

impl Tai64N {
    /// As we send it: rounded down. A clock before 1970 counts as 1970.
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let mut bytes = [0; TIMESTAMP];
        bytes[..8].copy_from_slice(&(EPOCH + since.as_secs()).to_be_bytes());
        bytes[8..].copy_from_slice(&(since.subsec_nanos() / GRAIN_NS * GRAIN_NS).to_be_bytes());
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_is_greater() {
        let at = |secs, nanos| Tai64N::of(SystemTime::UNIX_EPOCH + Duration::new(secs, nanos));
        assert!(Tai64N::default() < at(0, 0));
        assert!(at(5, 999_999_999) < at(6, 0));
        assert!(at(5, 0) < at(5, 20_000_000));
        assert_eq!(at(5, 0), at(5, 1_000_000), "rounded down");
        assert_eq!(at(0, 0).0, [0x40, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0]);
    }
}
