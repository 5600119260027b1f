//! What a router says when it does not pass a packet on (RFC 792, 1812, 4443). How often it may say so is its caller's
//! affair.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::Sum;
use super::field::{length_word, put};
use super::view::{IPV4_HEADER, IPV6_HEADER, Upper, Version, View, protocol, v4, v6};

/// No notice for IPv4 is longer (RFC 1812, section 4.3.2.3).
pub const ICMPV4_LONGEST: usize = 576;
/// No notice for IPv6 is longer: every link takes so much (RFC 4443, section 2.4).
pub const ICMPV6_LONGEST: usize = 1280;

/// Bytes before what is quoted.
const ICMP_HEADER: usize = 8;
const HOPS: u8 = 64;
/// Internetwork control (RFC 1812, section 4.3.2.5).
const PRECEDENCE: u8 = 0xc0;

/// What is said.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Notice {
    /// It had no hops left.
    TimeExceeded,
    /// It cannot be delivered.
    Unreachable(Unreachable),
    /// It is longer than what can be passed on: so many bytes. (For IPv4 to be said of packets only that must not be
    /// fragmented.)
    TooBig {
        /// The longest packet that can be.
        mtu: u32,
    },
}

/// Why something is not delivered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Unreachable {
    /// There is no route to it.
    Network,
    /// There is nobody at this address.
    Host,
    /// Nobody listens at this port.
    Port,
    /// It is not allowed.
    Prohibited,
}

/// Why nothing is said.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Silence {
    /// It is no packet.
    #[error("not a packet")]
    Malformed,
    /// It is an error message itself, or may be.
    #[error("an error message is not answered")]
    IsError,
    /// It is not the first part of what was fragmented.
    #[error("a later fragment is not answered")]
    LaterFragment,
    /// Its source is not the address of one machine.
    #[error("the source is nobody's address")]
    Source,
    /// It was for many.
    #[error("what was sent to many is not answered")]
    Destination,
    /// Our address is of the other version.
    #[error("no address of this version to answer from")]
    OurAddress,
    /// It does not fit.
    #[error("no room for the notice")]
    NoRoom,
}

/// Writes a packet to the sender of `original`, from one of our addresses, to the front of the room, and gives its
/// length. A room of [`ICMPV6_LONGEST`] is enough for all.
///
/// # Errors
/// Nothing is to be said, or there is no room for it.
pub fn notice(notice: Notice, original: &[u8], from: IpAddr, room: &mut [u8]) -> Result<usize, Silence> {
    let original = View::parse(original).map_err(|_| Silence::Malformed)?;
    may_answer(&original)?;
    match (from, original.source()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => write_v4(notice, &original, from, to, room),
        (IpAddr::V6(from), IpAddr::V6(to)) => write_v6(notice, &original, from, to, room),
        _ => Err(Silence::OurAddress),
    }
}

/// RFC 1812, section 4.3.2.7; RFC 4443, section 2.4 (e). (That one lets "packet too big" answer multicast; nothing here
/// needs it.)
fn may_answer(original: &View<'_>) -> Result<(), Silence> {
    let upper = original.upper().ok_or(Silence::IsError)?;
    if upper.fragment.offset != 0 {
        return Err(Silence::LaterFragment);
    }
    if is_error(original, upper) {
        return Err(Silence::IsError);
    }
    let to_many = match original.destination() {
        IpAddr::V4(to) => to.is_multicast() || to.is_broadcast(),
        IpAddr::V6(to) => to.is_multicast(),
    };
    if to_many {
        return Err(Silence::Destination);
    }
    let of_one = match original.source() {
        // Class E, of which broadcast is the last, belongs to nobody either; nor does "this network".
        IpAddr::V4(from) => {
            let first = from.octets()[0];
            first != 0 && !from.is_loopback() && !from.is_multicast() && first < 240
        }
        IpAddr::V6(from) => !from.is_unspecified() && !from.is_loopback() && !from.is_multicast(),
    };
    if of_one { Ok(()) } else { Err(Silence::Source) }
}

/// Whether it is an ICMP error, or cut so short that nobody can tell.
fn is_error(original: &View<'_>, upper: Upper) -> bool {
    let kind = original.bytes().get(upper.offset);
    match (original.version(), upper.protocol) {
        // Unreachable, source quench, redirect, time exceeded, parameter problem.
        (Version::V4, protocol::ICMPV4) => kind.is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12)),
        // All below 128; and redirect.
        (Version::V6, protocol::ICMPV6) => kind.is_none_or(|kind| *kind < 128 || *kind == 137),
        _ => false,
    }
}

fn write_v4(
    notice: Notice,
    original: &View<'_>,
    from: Ipv4Addr,
    to: Ipv4Addr,
    room: &mut [u8],
) -> Result<usize, Silence> {
    let (kind, code, rest) = match notice {
        Notice::TimeExceeded => (11, 0, 0),
        Notice::Unreachable(Unreachable::Network) => (3, 0, 0),
        Notice::Unreachable(Unreachable::Host) => (3, 1, 0),
        Notice::Unreachable(Unreachable::Port) => (3, 3, 0),
        Notice::Unreachable(Unreachable::Prohibited) => (3, 13, 0),
        Notice::TooBig { mtu } => (3, 4, mtu.min(u16::MAX.into())),
    };
    let packet = with_quote(original, IPV4_HEADER, ICMPV4_LONGEST, room)?;
    let total = packet.len();
    let (header, icmp) = packet.split_at_mut(IPV4_HEADER);
    header.fill(0);
    header[..2].copy_from_slice(&[0x45, PRECEDENCE]);
    put(header, v4::TOTAL_LENGTH, length_word(total).to_be_bytes());
    put(header, v4::FRAGMENT, v4::DONT_FRAGMENT.to_be_bytes());
    put(header, v4::HOPS, [HOPS, protocol::ICMPV4]);
    put(header, v4::SOURCE, from.octets());
    put(header, v4::DESTINATION, to.octets());
    let sum = Sum::ZERO.bytes(header);
    put(header, v4::CHECKSUM, sum.checksum().to_be_bytes());
    finish(icmp, kind, code, rest, Sum::ZERO);
    Ok(total)
}

fn write_v6(
    notice: Notice,
    original: &View<'_>,
    from: Ipv6Addr,
    to: Ipv6Addr,
    room: &mut [u8],
) -> Result<usize, Silence> {
    let (kind, code, rest) = match notice {
        Notice::TimeExceeded => (3, 0, 0),
        Notice::Unreachable(Unreachable::Network) => (1, 0, 0),
        Notice::Unreachable(Unreachable::Prohibited) => (1, 1, 0),
        Notice::Unreachable(Unreachable::Host) => (1, 3, 0),
        Notice::Unreachable(Unreachable::Port) => (1, 4, 0),
        Notice::TooBig { mtu } => (2, 0, mtu),
    };
    let packet = with_quote(original, IPV6_HEADER, ICMPV6_LONGEST, room)?;
    let total = packet.len();
    let (header, icmp) = packet.split_at_mut(IPV6_HEADER);
    header.fill(0);
    header[0] = 0x60;
    put(header, v6::PAYLOAD_LENGTH, length_word(icmp.len()).to_be_bytes());
    put(header, v6::NEXT_HEADER, [protocol::ICMPV6, HOPS]);
    put(header, v6::SOURCE, from.octets());
    put(header, v6::DESTINATION, to.octets());
    let pseudo = Sum::ZERO.pseudo_header(&header[v6::SOURCE..], protocol::ICMPV6, icmp.len());
    finish(icmp, kind, code, rest, pseudo);
    Ok(total)
}

/// Room for the headers, and behind them as much of the original as may be.
fn with_quote<'r>(
    original: &View<'_>,
    header: usize,
    longest: usize,
    room: &'r mut [u8],
) -> Result<&'r mut [u8], Silence> {
    let before = header + ICMP_HEADER;
    let quoted = original.bytes().len().min(longest - before);
    let packet = room.get_mut(..before + quoted).ok_or(Silence::NoRoom)?;
    packet[before..].copy_from_slice(&original.bytes()[..quoted]);
    Ok(packet)
}

fn finish(icmp: &mut [u8], kind: u8, code: u8, rest: u32, pseudo: Sum) {
    put(icmp, 0, [kind, code, 0, 0]);
    put(icmp, 4, rest.to_be_bytes());
    let sum = pseudo.bytes(icmp);
    put(icmp, 2, sum.checksum().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::{PING4, Tcp, naive_checksum};

    const US4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 254));
    const US6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xfe));

    fn said(what: Notice, original: &[u8], from: IpAddr) -> Result<Vec<u8>, Silence> {
        let mut room = [0xee; ICMPV6_LONGEST];
        let length = notice(what, original, from, &mut room)?;
        assert!(room[length..].iter().all(|byte| *byte == 0xee));
        Ok(room[..length].to_vec())
    }

    #[test]
    fn a_notice_for_ipv4() {
        let mut padded = PING4.to_vec();
        padded.extend([0; 4]);
        let packet = said(Notice::TimeExceeded, &padded, US4).unwrap();
        assert_eq!(packet[..10], [0x45, 0xc0, 0, 56, 0, 0, 0x40, 0, 64, 1]);
        assert_eq!(packet[12..20], [10, 0, 0, 254, 10, 0, 0, 1]);
        assert_eq!(packet[20..22], [11, 0]);
        assert_eq!(packet[24..28], [0; 4]);
        assert_eq!(packet[28..], PING4);
        assert_eq!((naive_checksum(&[&packet[..20]]), naive_checksum(&[&packet[20..]])), (0, 0));
    }

    #[test]
    fn types_codes_and_numbers() {
        let long = |tcp: Tcp| Tcp { payload: vec![7; 1400], ..tcp }.build();
        let (v4, v6) = (long(Tcp::v4()), long(Tcp::v6()));
        for (what, of_v4, of_v6) in [
            (Notice::TimeExceeded, [11, 0], [3, 0]),
            (Notice::Unreachable(Unreachable::Network), [3, 0], [1, 0]),
            (Notice::Unreachable(Unreachable::Host), [3, 1], [1, 3]),
            (Notice::Unreachable(Unreachable::Port), [3, 3], [1, 4]),
            (Notice::Unreachable(Unreachable::Prohibited), [3, 13], [1, 1]),
            (Notice::TooBig { mtu: 1380 }, [3, 4], [2, 0]),
        ] {
            let number = if matches!(what, Notice::TooBig { .. }) { [0, 0, 5, 100] } else { [0; 4] };
            let packet = said(what, &v4, US4).unwrap();
            assert_eq!((packet.len(), &packet[20..22], &packet[24..28]), (576, &of_v4[..], &number[..]));
            assert_eq!(packet[28..], v4[..548]);
            assert_eq!((naive_checksum(&[&packet[..20]]), naive_checksum(&[&packet[20..]])), (0, 0));
            let packet = said(what, &v6, US6).unwrap();
            assert_eq!((packet.len(), &packet[40..42], &packet[44..48]), (1280, &of_v6[..], &number[..]));
            assert_eq!(packet[4..8], [0x04, 0xd8, 58, 64]);
            assert_eq!(packet[48..], v6[..1232]);
            assert_eq!(naive_checksum(&[&packet[8..40], &[0, 0, 0x04, 0xd8, 0, 0, 0, 58], &packet[40..]]), 0);
        }
        let packet = said(Notice::TooBig { mtu: 70_000 }, &v4, US4).unwrap();
        assert_eq!(packet[24..28], [0, 0, 0xff, 0xff]);
    }

    #[test]
    fn nothing_is_said_where_nothing_may_be() {
        let refused = |original: &[u8], from| said(Notice::TimeExceeded, original, from).unwrap_err();
        let changed = |at: usize, bytes: &[u8]| {
            let mut packet = PING4.to_vec();
            packet[at..at + bytes.len()].copy_from_slice(bytes);
            packet
        };
        assert_eq!(refused(&PING4, US6), Silence::OurAddress);
        assert_eq!(refused(&PING4[..20], US4), Silence::Malformed);
        for kind in [3, 4, 5, 11, 12] {
            assert_eq!(refused(&changed(20, &[kind]), US4), Silence::IsError);
        }
        assert!(said(Notice::TimeExceeded, &changed(20, &[0]), US4).is_ok(), "a reply to an echo is no error");
        assert_eq!(refused(&changed(2, &[0, 20]), US4), Silence::IsError, "ICMP without its type");
        assert_eq!(refused(&changed(6, &[0, 1]), US4), Silence::LaterFragment);
        assert!(said(Notice::TimeExceeded, &changed(6, &[0x20, 0]), US4).is_ok(), "the first fragment");
        for source in [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
            assert_eq!(refused(&changed(12, &source), US4), Silence::Source);
        }
        for destination in [[224, 0, 0, 1], [239, 1, 1, 1], [255; 4]] {
            assert_eq!(refused(&changed(16, &destination), US4), Silence::Destination);
        }
        let plain = Tcp::v6().build();
        let changed = |at: usize, bytes: &[u8]| {
            let mut packet = plain.clone();
            packet[at..at + bytes.len()].copy_from_slice(bytes);
            packet
        };
        for source in [0_u128, 1, 0xff02 << 112 | 1] {
            assert_eq!(refused(&changed(8, &source.to_be_bytes()), US6), Silence::Source);
        }
        assert_eq!(refused(&changed(24, &[0xff]), US6), Silence::Destination);
        let icmp = |kind: u8| {
            let mut packet = changed(6, &[58]);
            packet[40] = kind;
            packet
        };
        for kind in [1, 2, 3, 4, 127, 137] {
            assert_eq!(refused(&icmp(kind), US6), Silence::IsError);
        }
        assert!(said(Notice::TimeExceeded, &icmp(128), US6).is_ok());
        let behind = |kind: u8| {
            let mut packet = changed(6, &[60]);
            packet[40..49].copy_from_slice(&[58, 0, 1, 4, 0, 0, 0, 0, kind]);
            packet
        };
        assert_eq!(refused(&behind(1), US6), Silence::IsError, "an error behind an extension is one");
        assert!(said(Notice::TimeExceeded, &behind(129), US6).is_ok());
        assert_eq!(notice(Notice::TimeExceeded, &PING4, US4, &mut [0; 55]), Err(Silence::NoRoom));
    }
}
