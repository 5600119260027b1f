//! A packet passes on to the next router: one hop less.

use super::checksum::Change;
use super::field::{put, word};
use super::view::{Malformed, Version, View, v4, v6};

/// Why a packet is not passed on. It is as it was, fit to be quoted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum HopError {
    /// It is none.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It has passed as many routers as its sender allowed.
    #[error("no hops are left")]
    Expired,
}

/// Takes a hop from the packet at the front of these bytes, and sees to its checksum.
///
/// A checksum that was wrong before stays wrong.
///
/// # Errors
/// It goes no further.
#[inline]
pub fn decrement_hops(packet: &mut [u8]) -> Result<(), HopError> {
    let view = View::parse(packet)?;
    let hops = match view.hops() {
        0 | 1 => return Err(HopError::Expired),
        hops => hops - 1,
    };
    match view.version() {
        Version::V4 => {
            let (old, new) = ([hops + 1, packet[v4::PROTOCOL]], [hops, packet[v4::PROTOCOL]]);
            let checksum = Change::NONE.replaced(&old, &new).apply(word(packet, v4::CHECKSUM));
            put(packet, v4::HOPS, new);
            put(packet, v4::CHECKSUM, checksum.to_be_bytes());
        }
        Version::V6 => packet[v6::HOPS] = hops,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::ipv4_header_is_valid;
    use crate::packet::tests::{PING4, Tcp};

    #[test]
    fn each_hop_is_taken_until_none_is_left() {
        for mut packet in [PING4.to_vec(), Tcp::v6().build()] {
            for left in (1..64).rev() {
                decrement_hops(&mut packet).unwrap();
                let view = View::parse(&packet).unwrap();
                assert_eq!(view.hops(), left);
                assert!(ipv4_header_is_valid(&view));
            }
            let last = packet.clone();
            assert_eq!(decrement_hops(&mut packet), Err(HopError::Expired));
            assert_eq!(packet, last);
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong() {
        let mut packet = PING4;
        packet[10] ^= 1;
        decrement_hops(&mut packet).unwrap();
        assert!(!ipv4_header_is_valid(&View::parse(&packet).unwrap()));
        assert_eq!(decrement_hops(&mut packet[..10]), Err(HopError::Malformed(Malformed::Header)));
    }
}
