//! What routers say of a packet of ours (ICMP).

use std::net::SocketAddr;

use rustix::io::Errno;

use crate::packet::{View, protocol};

/// Bytes before the packet that is spoken of.
const HEAD: usize = 8;
// Types and codes: RFC 792, RFC 1812 5.2.7.1, RFC 4443 3.1.
const V4_UNREACHABLE: u8 = 3;
const V4_PORT: u8 = 3;
const V4_TOO_BIG: u8 = 4;
const V6_UNREACHABLE: u8 = 1;
const V6_PORT: u8 = 4;

/// Which flow cannot get through, from us to whom, and why; `None`: the packet says nothing of the kind.
pub(super) fn unreachable(packet: &View<'_>) -> Option<(SocketAddr, SocketAddr, Errno)> {
    let upper = packet.upper().filter(|upper| !upper.fragment.is_part())?;
    let bytes = packet.bytes().get(upper.offset..)?;
    let (kind, code) = (*bytes.first()?, *bytes.get(1)?);
    let why = match (upper.protocol, kind, code) {
        (protocol::ICMPV4, V4_UNREACHABLE, V4_PORT) | (protocol::ICMPV6, V6_UNREACHABLE, V6_PORT) => Errno::CONNREFUSED,
        (protocol::ICMPV4, V4_UNREACHABLE, V4_TOO_BIG) => return None,
        (protocol::ICMPV4, V4_UNREACHABLE, _) | (protocol::ICMPV6, V6_UNREACHABLE, _) => Errno::HOSTUNREACH,
        _ => return None,
    };
    // A SYN is short enough to be quoted whole.
    let quoted = View::parse(bytes.get(HEAD..)?).ok()?;
    if quoted.upper()?.protocol != protocol::TCP {
        return None;
    }
    let (from, to) = quoted.ports()?;
    Some((SocketAddr::new(quoted.source(), from), SocketAddr::new(quoted.destination(), to), why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{ICMPV6_LONGEST, Notice, Unreachable, notice};

    /// A SYN from port 40000 to port 443, of which no more than the ports is looked at.
    fn segment(v6: bool) -> Vec<u8> {
        let mut packet = match v6 {
            false => {
                let mut header = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol::TCP, 0, 0];
                header.extend([10, 50, 0, 1, 10, 50, 0, 2]);
                header
            }
            true => {
                let mut header = vec![0x60, 0, 0, 0, 0, 20, protocol::TCP, 64];
                for last in [1, 2] {
                    header.extend([0xfd, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
                }
                header
            }
        };
        packet.extend([0x9c, 0x40, 0x01, 0xbb]);
        packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0]);
        packet
    }

    #[test]
    fn what_a_router_says_is_understood() {
        for (v6, router, from, to) in [
            (false, "10.50.0.9", "10.50.0.1:40000", "10.50.0.2:443"),
            (true, "fd50::9", "[fd50::1]:40000", "[fd50::2]:443"),
        ] {
            let said = |what| {
                let mut room = [0; ICMPV6_LONGEST];
                let length = notice(what, &segment(v6), router.parse().unwrap(), &mut room).unwrap();
                unreachable(&View::parse(&room[..length]).unwrap())
            };
            let about = |why| Some((from.parse().unwrap(), to.parse().unwrap(), why));
            assert_eq!(said(Notice::Unreachable(Unreachable::Port)), about(Errno::CONNREFUSED));
            for there_is_no_way in [Unreachable::Network, Unreachable::Host, Unreachable::Prohibited] {
                assert_eq!(said(Notice::Unreachable(there_is_no_way)), about(Errno::HOSTUNREACH));
            }
            assert_eq!(said(Notice::TooBig { mtu: 1280 }), None);
            assert_eq!(said(Notice::TimeExceeded), None);
            assert_eq!(unreachable(&View::parse(&segment(v6)).unwrap()), None);
        }
    }
}
