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
