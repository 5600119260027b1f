//! A packet as its own header describes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::field::{field, word};

/// Numbers of protocols (IANA).
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMPV4: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    pub(in crate::packet) const HOP_BY_HOP: u8 = 0;
    pub(in crate::packet) const ROUTING: u8 = 43;
    pub(in crate::packet) const FRAGMENT: u8 = 44;
    pub(in crate::packet) const DESTINATION_OPTIONS: u8 = 60;
}

/// Bytes of an IPv4 header without options.
pub(super) const IPV4_HEADER: usize = 20;
/// Bytes of an IPv6 header.
pub(super) const IPV6_HEADER: usize = 40;
/// So many extension headers are looked behind; nobody sends more in earnest.
const EXTENSIONS_MOST: usize = 8;

/// Where things are in an IPv4 header.
pub(super) mod v4 {
    pub(in crate::packet) const TOTAL_LENGTH: usize = 2;
    pub(in crate::packet) const ID: usize = 4;
    pub(in crate::packet) const FRAGMENT: usize = 6;
    pub(in crate::packet) const HOPS: usize = 8;
    pub(in crate::packet) const PROTOCOL: usize = 9;
    pub(in crate::packet) const CHECKSUM: usize = 10;
    pub(in crate::packet) const SOURCE: usize = 12;
    pub(in crate::packet) const DESTINATION: usize = 16;
    /// In the word at `FRAGMENT`.
    pub(in crate::packet) const DONT_FRAGMENT: u16 = 0x4000;
    pub(in crate::packet) const MORE_FRAGMENTS: u16 = 0x2000;
    pub(in crate::packet) const FRAGMENT_OFFSET: u16 = 0x1fff;
}

/// Where things are in an IPv6 header.
pub(super) mod v6 {
    pub(in crate::packet) const PAYLOAD_LENGTH: usize = 4;
    pub(in crate::packet) const NEXT_HEADER: usize = 6;
    pub(in crate::packet) const HOPS: usize = 7;
    pub(in crate::packet) const SOURCE: usize = 8;
    pub(in crate::packet) const DESTINATION: usize = 24;
}

/// Which IP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Version {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// Why something is no packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Malformed {
    /// Neither 4 nor 6.
    #[error("neither IPv4 nor IPv6")]
    Version,
    /// Shorter than a header.
    #[error("the header is cut short")]
    Header,
    /// An IPv4 header that says it is shorter than one can be, or longer than the packet.
    #[error("the header's own length is impossible")]
    HeaderLength,
    /// The packet says it is longer than what there is, or shorter than its header.
    #[error("the packet's length is impossible")]
    TotalLength,
}

/// An IP packet, without what was padded behind it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    bytes: &'a [u8],
    version: Version,
    header: usize,
}

/// Which part of a fragmented packet.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Fragment {
    /// Where it belongs, in units of 8 bytes.
    pub offset: u16,
    /// Whether others follow.
    pub more: bool,
}

impl Fragment {
    /// Whether this is not a whole packet.
    pub fn is_part(self) -> bool {
        self != Self::default()
    }
}

/// What comes after the headers of IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Upper {
    /// Of what protocol it is.
    pub protocol: u8,
    /// Where it starts, from the start of the packet. Not beyond its end.
    pub offset: usize,
    /// Which part of it is here.
    pub fragment: Fragment,
    /// The destination in the header is one on the way to another (IPv6 routing header).
    pub routed: bool,
}

impl<'a> View<'a> {
    /// The packet at the front of these bytes.
    ///
    /// # Errors
    /// There is none, or not all of it.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (version, header, total) = match bytes.first().map(|first| first >> 4) {
            Some(4) => {
                let fixed: &[u8; IPV4_HEADER] = bytes.first_chunk().ok_or(Malformed::Header)?;
                let header = usize::from(fixed[0] & 0x0f) * 4;
                if header < IPV4_HEADER {
                    return Err(Malformed::HeaderLength);
                }
                (Version::V4, header, usize::from(word(fixed, v4::TOTAL_LENGTH)))
            }
            Some(6) => {
                let fixed: &[u8; IPV6_HEADER] = bytes.first_chunk().ok_or(Malformed::Header)?;
                (Version::V6, IPV6_HEADER, IPV6_HEADER + usize::from(word(fixed, v6::PAYLOAD_LENGTH)))
            }
            Some(_) => return Err(Malformed::Version),
            None => return Err(Malformed::Header),
        };
        if total < header {
            return Err(Malformed::TotalLength);
        }
        let bytes = bytes.get(..total).ok_or(Malformed::TotalLength)?;
        Ok(Self { bytes, version, header })
    }

    /// All of the packet.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Which IP it is.
    #[inline]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Bytes of the header: with options for IPv4, without extensions for IPv6.
    #[inline]
    pub fn header_length(&self) -> usize {
        self.header
    }

    /// What the header says comes after it. For IPv6 that may be an extension: see [`Self::upper`].
    #[inline]
    pub fn protocol(&self) -> u8 {
        match self.version {
            Version::V4 => self.bytes[v4::PROTOCOL],
            Version::V6 => self.bytes[v6::NEXT_HEADER],
        }
    }

    /// What comes after the header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header..]
    }

    /// Who it says it is from.
    #[inline]
    pub fn source(&self) -> IpAddr {
        match self.version {
            Version::V4 => Ipv4Addr::from(field(self.bytes, v4::SOURCE)).into(),
            Version::V6 => Ipv6Addr::from(field(self.bytes, v6::SOURCE)).into(),
        }
    }

    /// Who it is for.
    #[inline]
    pub fn destination(&self) -> IpAddr {
        match self.version {
            Version::V4 => Ipv4Addr::from(field(self.bytes, v4::DESTINATION)).into(),
            Version::V6 => Ipv6Addr::from(field(self.bytes, v6::DESTINATION)).into(),
        }
    }

    /// Both addresses, as they stand in the header: 8 bytes or 32.
    #[inline]
    pub(super) fn addresses(&self) -> &'a [u8] {
        match self.version {
            Version::V4 => &self.bytes[v4::SOURCE..IPV4_HEADER],
            Version::V6 => &self.bytes[v6::SOURCE..IPV6_HEADER],
        }
    }

    /// How many routers more it may pass.
    #[inline]
    pub fn hops(&self) -> u8 {
        match self.version {
            Version::V4 => self.bytes[v4::HOPS],
            Version::V6 => self.bytes[v6::HOPS],
        }
    }

    /// Whether a router must not cut it: its sender said so, or it is of IPv6.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.version == Version::V6 || word(self.bytes, v4::FRAGMENT) & v4::DONT_FRAGMENT != 0
    }

    /// What comes after all headers of IP, if they are all here.
    pub fn upper(&self) -> Option<Upper> {
        let upper =
            Upper { protocol: self.protocol(), offset: self.header, fragment: Fragment::default(), routed: false };
        match self.version {
            Version::V4 => Some(Upper { fragment: fragment(word(self.bytes, v4::FRAGMENT)), ..upper }),
            Version::V6 => self.behind_extensions(upper),
        }
    }

    fn behind_extensions(&self, mut upper: Upper) -> Option<Upper> {
        for _ in 0..EXTENSIONS_MOST {
            let kind = upper.protocol;
            if !matches!(
                kind,
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::FRAGMENT | protocol::DESTINATION_OPTIONS
            ) {
                return Some(upper);
            }
            let extension: &[u8; 8] = self.bytes.get(upper.offset..)?.first_chunk()?;
            upper.protocol = extension[0];
            upper.offset += if kind == protocol::FRAGMENT { 8 } else { 8 + usize::from(extension[1]) * 8 };
            if upper.offset > self.bytes.len() {
                return None;
            }
            upper.routed |= kind == protocol::ROUTING;
            if kind == protocol::FRAGMENT {
                let bits = word(extension, 2);
                upper.fragment = Fragment { offset: bits >> 3, more: bits & 1 != 0 };
                if upper.fragment.offset != 0 {
                    // What follows is the middle of something.
                    return Some(upper);
                }
            }
        }
        None
    }

    /// The ports of a packet of TCP or UDP, unless it is a later fragment: source, destination.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let upper = self.upper().filter(|upper| upper.fragment.offset == 0)?;
        let ports: &[u8; 4] = self.bytes.get(upper.offset..)?.first_chunk()?;
        matches!(upper.protocol, protocol::TCP | protocol::UDP).then(|| (word(ports, 0), word(ports, 2)))
    }
}

/// Of IPv4.
fn fragment(bits: u16) -> Fragment {
    Fragment { offset: bits & v4::FRAGMENT_OFFSET, more: bits & v4::MORE_FRAGMENTS != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::{PING4, Tcp};

    #[test]
    fn an_ipv4_packet_is_read() {
        let padded = [&PING4[..], &[0; 12]].concat();
        let view = View::parse(&padded).unwrap();
        assert_eq!(view.bytes(), PING4, "without the padding");
        assert_eq!(view.version(), Version::V4);
        assert_eq!(view.source(), IpAddr::from([10, 0, 0, 1]));
        assert_eq!(view.destination(), IpAddr::from([10, 0, 0, 2]));
        assert_eq!((view.protocol(), view.hops(), view.header_length()), (protocol::ICMPV4, 64, 20));
        assert!(view.dont_fragment());
        assert_eq!(view.ports(), None);
        assert!(!view.upper().unwrap().fragment.is_part());
    }

    #[test]
    fn lengths_have_to_be_possible() {
        assert_eq!(View::parse(&[]).unwrap_err(), Malformed::Header);
        assert_eq!(View::parse(&[0x50; 60]).unwrap_err(), Malformed::Version);
        assert_eq!(View::parse(&PING4[..19]).unwrap_err(), Malformed::Header);
        assert_eq!(View::parse(&PING4[..27]).unwrap_err(), Malformed::TotalLength, "longer than what there is");
        let mut packet = PING4;
        packet[0] = 0x44;
        assert_eq!(View::parse(&packet).unwrap_err(), Malformed::HeaderLength);
        packet[0] = 0x48;
        assert_eq!(View::parse(&packet).unwrap_err(), Malformed::TotalLength, "shorter than its header");
        packet[0] = 0x46;
        assert_eq!(View::parse(&packet).unwrap().payload().len(), 4, "options are allowed");
        let mut packet = PING4;
        packet[3] = 19;
        assert_eq!(View::parse(&packet).unwrap_err(), Malformed::TotalLength);
        let v6 = Tcp::v6().build();
        assert_eq!(View::parse(&v6[..39]).unwrap_err(), Malformed::Header);
        assert_eq!(View::parse(&v6[..v6.len() - 1]).unwrap_err(), Malformed::TotalLength);
        assert_eq!(View::parse(&v6).unwrap().ports(), Some((443, 5000)));
    }

    #[test]
    fn fragments_of_ipv4_are_told() {
        let mut packet = PING4;
        packet[6] = 0x20;
        let upper = View::parse(&packet).unwrap().upper().unwrap();
        assert_eq!(upper.fragment, Fragment { offset: 0, more: true });
        packet[6] = 0x00;
        packet[7] = 185;
        let upper = View::parse(&packet).unwrap().upper().unwrap();
        assert_eq!(upper.fragment, Fragment { offset: 185, more: false });
        assert!(upper.fragment.is_part());
    }

    #[test]
    fn extensions_of_ipv6_are_looked_behind() {
        let plain = Tcp::v6().build();
        let with = |kind: u8, extension: &[u8]| {
            let mut packet = [&plain[..40], extension, &plain[40..]].concat();
            packet[6] = kind;
            packet[5] += u8::try_from(extension.len()).unwrap();
            packet
        };
        let upper = |packet: &[u8]| View::parse(packet).unwrap().upper();
        let options = with(0, &[60, 0, 1, 4, 0, 0, 0, 0, 6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let found = upper(&options).unwrap();
        assert_eq!((found.protocol, found.offset, found.routed), (protocol::TCP, 64, false));
        assert_eq!(View::parse(&options).unwrap().ports(), Some((443, 5000)));
        assert!(upper(&with(43, &[6, 0, 4, 0, 0, 0, 0, 0])).unwrap().routed);
        let later = upper(&with(44, &[6, 0, 0x05, 0xc9, 0, 0, 0, 1])).unwrap();
        assert_eq!(later.fragment, Fragment { offset: 185, more: true });
        assert_eq!(View::parse(&with(44, &[6, 0, 0x05, 0xc8, 0, 0, 0, 1])).unwrap().ports(), None);
        assert_eq!(upper(&with(0, &[6, 200, 0, 0, 0, 0, 0, 0])), None, "beyond the end");
        assert_eq!(upper(&with(0, &[0; 72])), None, "without end");
        assert_eq!(upper(&with(50, &[0; 8])).unwrap().protocol, 50, "what is not known is not looked behind");
    }
}
