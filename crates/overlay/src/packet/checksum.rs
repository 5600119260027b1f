//! The checksum of the internet (RFC 1071): a sum in ones' complement arithmetic, where it matters neither in which
//! order words are added nor, until the end, in which order their bytes are.

use super::field::{field, length_word, word};
use super::view::{Version, View, protocol, v4};

/// Words of 32 bits that are added side by side, in as many sums of 64 bits: the compiler makes vectors of it. (Adding
/// 64 bits at a time with the carry takes three times as long, for want of an instruction the language can name.)
const LANES: usize = 16;
const STEP: usize = LANES * 4;

/// A sum of words, in the order of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sum(u64);

impl Sum {
    /// Nothing yet.
    pub const ZERO: Self = Self(0);

    /// Adds bytes that start at an even place of what is summed. An odd one at their end counts as if a zero followed.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let (steps, rest) = bytes.as_chunks::<STEP>();
        let mut lanes = [0_u64; LANES];
        for step in steps {
            add(&mut lanes, step);
        }
        self.plus(&lanes).few_bytes(rest)
    }

    /// The same, while copying them. Both have the same length; of two lengths the shorter counts.
    ///
    /// Saves a tenth of what a copy and a sum take.
    #[inline]
    #[must_use]
    pub fn copy(self, from: &[u8], to: &mut [u8]) -> Self {
        let length = from.len().min(to.len());
        let (steps, rest) = from[..length].as_chunks::<STEP>();
        let (copies, copied_rest) = to[..length].as_chunks_mut::<STEP>();
        let mut lanes = [0_u64; LANES];
        for (step, copy) in steps.iter().zip(copies) {
            *copy = *step;
            add(&mut lanes, step);
        }
        copied_rest.copy_from_slice(rest);
        self.plus(&lanes).few_bytes(rest)
    }

    /// Adds a number of 16 bits.
    #[inline]
    #[must_use]
    pub fn word(self, number: u16) -> Self {
        Self(self.0 + u64::from(number.to_be()))
    }

    /// Adds another sum.
    #[inline]
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 + u64::from(other.folded_natively()))
    }

    /// The sum itself, in 16 bits: what stands in a checksum field that the kernel is to complete.
    #[inline]
    pub fn folded(self) -> u16 {
        u16::from_be(self.folded_natively())
    }

    /// What stands in a checksum field.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.folded()
    }

    /// The same for protocols in which zero means that there is none: UDP. For others it does not matter.
    #[inline]
    pub fn checksum_not_zero(self) -> u16 {
        match self.checksum() {
            0 => u16::MAX,
            checksum => checksum,
        }
    }

    /// Whether what was summed, its checksum included, is as it was sent.
    #[inline]
    pub fn is_valid(self) -> bool {
        self.folded_natively() == u16::MAX
    }

    /// Adds what a checksum of TCP, UDP or ICMPv6 covers of the IP header (RFC 9293, 768, 8200).
    #[inline]
    #[must_use]
    pub(super) fn pseudo_header(self, addresses: &[u8], protocol: u8, length: usize) -> Self {
        self.few_bytes(addresses).word(protocol.into()).word(length_word(length))
    }

    /// Folded on the way, so that no number of additions overflows.
    #[inline]
    fn plus(self, lanes: &[u64; LANES]) -> Self {
        let sum = lanes.iter().fold(0, |sum: u64, lane| sum + (lane >> 32) + (lane & 0xffff_ffff));
        Self(self.0 + (sum >> 32) + (sum & 0xffff_ffff))
    }

    /// For headers, and for what is left of a payload.
    #[inline]
    fn few_bytes(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let sum = words.iter().fold(self.0, |sum, word| sum + u64::from(u32::from_ne_bytes(*word)));
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        Self(sum + u64::from(u32::from_ne_bytes(last)))
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "four foldings leave 16 bits")]
    fn folded_natively(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }
}

#[inline(always)]
fn add(lanes: &mut [u64; LANES], step: &[u8; STEP]) {
    for (lane, word) in lanes.iter_mut().zip(step.as_chunks::<4>().0) {
        *lane += u64::from(u32::from_ne_bytes(*word));
    }
}

/// What a rewriting changes in the checksums that cover it (RFC 1624, equation 3), so that the rest need not be read.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Change(Sum);

impl Change {
    /// None yet.
    pub const NONE: Self = Self(Sum::ZERO);

    /// These bytes, at an even place of what is summed, were replaced by those. An odd one at the end counts as if a
    /// zero followed: take whole words.
    #[must_use]
    pub fn replaced(self, old: &[u8], new: &[u8]) -> Self {
        Self(self.0.word(Sum::ZERO.few_bytes(old).checksum()).few_bytes(new))
    }

    /// The checksum as it is after the change.
    pub fn apply(self, checksum: u16) -> u16 {
        self.0.word(!checksum).checksum()
    }

    /// The same for UDP, where zero means that there is none, before and after.
    pub fn apply_to_udp(self, checksum: u16) -> u16 {
        if checksum == 0 { 0 } else { self.0.word(!checksum).checksum_not_zero() }
    }
}

/// Whether an IPv4 header is as it was sent; IPv6 has no checksum to tell by.
pub fn ipv4_header_is_valid(packet: &View<'_>) -> bool {
    packet.version() == Version::V6 || Sum::ZERO.few_bytes(&packet.bytes()[..packet.header_length()]).is_valid()
}

/// Whether a whole packet of TCP or UDP carries a checksum that fits. No: also if it carries none, or is of something
/// else, or a fragment, or has IPv6 extensions.
#[inline]
pub fn transport_is_valid(packet: &View<'_>) -> bool {
    let (protocol, transport) = (packet.protocol(), packet.payload());
    let is_whole = packet.version() == Version::V6
        || word(packet.bytes(), v4::FRAGMENT) & (v4::FRAGMENT_OFFSET | v4::MORE_FRAGMENTS) == 0;
    let has_checksum = match protocol {
        protocol::TCP => transport.len() >= 20,
        protocol::UDP => {
            transport.len() >= 8 && usize::from(word(transport, 4)) == transport.len() && field(transport, 6) != [0, 0]
        }
        _ => false,
    };
    is_whole
        && has_checksum
        && Sum::ZERO.pseudo_header(packet.addresses(), protocol, transport.len()).bytes(transport).is_valid()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::{PING4, Seeded, Tcp, naive_checksum};

    #[test]
    fn the_example_of_rfc_1071() {
        let sum = Sum::ZERO.bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
        assert_eq!(sum.checksum(), !0xddf2);
    }

    #[test]
    fn a_known_header() {
        // The usual example: 45 00 00 73 … checksum b861.
        let mut header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(Sum::ZERO.bytes(&header).checksum(), 0xb861);
        header[10..12].copy_from_slice(&[0xb8, 0x61]);
        assert!(Sum::ZERO.bytes(&header).is_valid());
        assert!(ipv4_header_is_valid(&View::parse(&PING4).unwrap()));
    }

    #[test]
    fn any_length_and_alignment_sums_and_copies_like_the_naive_way() {
        let mut seeded = Seeded::new(1);
        let bytes = seeded.bytes(70_000);
        let mut copy = vec![0; bytes.len()];
        for length in (0..300).chain([1399, 1400, 1401, 65_535, 65_536]) {
            let start = seeded.below(64);
            let part = &bytes[start..start + length];
            assert_eq!(Sum::ZERO.bytes(part).checksum(), naive_checksum(&[part]), "length {length}");
            copy.fill(0);
            assert_eq!(Sum::ZERO.copy(part, &mut copy[..length]), Sum::ZERO.bytes(part));
            assert_eq!(&copy[..length], part);
            assert!(copy[length..].iter().all(|byte| *byte == 0));
        }
        let ones = vec![0xff; 65_535];
        assert_eq!(Sum::ZERO.bytes(&ones).checksum(), naive_checksum(&[&ones]));
        assert_eq!(Sum::ZERO.bytes(&[0; 100]).folded(), 0, "nothing but zeros is the only sum of zero");
    }

    #[test]
    fn a_change_gives_what_summing_again_gives() {
        let mut seeded = Seeded::new(2);
        for _ in 0..10_000 {
            let mut bytes = seeded.bytes(40);
            let before = Sum::ZERO.bytes(&bytes).checksum();
            let at = seeded.below(16) * 2;
            let length = [2, 4][seeded.below(2)];
            // Zeros and ones are where the arithmetic has its corners.
            let new = match seeded.below(4) {
                0 => vec![0; length],
                1 => vec![0xff; length],
                _ => seeded.bytes(length),
            };
            let change = Change::NONE.replaced(&bytes[at..at + length], &new);
            bytes[at..at + length].copy_from_slice(&new);
            assert_eq!(change.apply(before), Sum::ZERO.bytes(&bytes).checksum());
            assert_eq!(change.apply_to_udp(0), 0);
        }
        // RFC 1624, section 4: the sum is dd2f, its complement 22d0; 5555 becomes 3285; not ffff but 0.
        assert_eq!(Change::NONE.replaced(&[0x55, 0x55], &[0x32, 0x85]).apply(0xdd2f), 0x0000);
        assert_eq!(Change::NONE.replaced(&[0x55, 0x55], &[0x32, 0x85]).apply_to_udp(0xdd2f), 0xffff);
    }

    #[test]
    fn addresses_and_ports_are_rewritten() {
        let mut packet = Tcp::v4().build();
        let mut change = Change::NONE.replaced(&packet[16..20], &[192, 168, 7, 9]);
        packet[16..20].copy_from_slice(&[192, 168, 7, 9]);
        let header = change.apply(word(&packet, 10));
        change = change.replaced(&packet[22..24], &[0x1f, 0x90]);
        packet[22..24].copy_from_slice(&[0x1f, 0x90]);
        let transport = change.apply(word(&packet, 36));
        packet[10..12].copy_from_slice(&header.to_be_bytes());
        packet[36..38].copy_from_slice(&transport.to_be_bytes());
        let view = View::parse(&packet).unwrap();
        assert!(ipv4_header_is_valid(&view) && transport_is_valid(&view));
        assert_eq!(view.ports(), Some((443, 8080)));
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        for packet in [Tcp::v4().build(), Tcp::v6().build(), Tcp::v4().udp(), Tcp::v6().udp()] {
            assert!(transport_is_valid(&View::parse(&packet).unwrap()));
            let header = View::parse(&packet).unwrap().header_length();
            for bit in 0..(packet.len() - header) * 8 {
                let mut changed = packet.clone();
                changed[header + bit / 8] ^= 1 << (bit % 8);
                assert!(!transport_is_valid(&View::parse(&changed).unwrap()), "bit {bit}");
            }
        }
    }
}
