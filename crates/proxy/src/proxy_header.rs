//! The PROXY protocol (v1 and v2, haproxy.org/download/2.6/doc/proxy-protocol.txt) as a trusted peer sends it: whom it
//! speaks for.

use std::net::{IpAddr, SocketAddr};
use std::task::Poll;

use ipnet::IpNet;
use ppp::v2::ParseError as V2Error;
use ppp::{v1, v2};

use crate::close::Refusal;
use crate::socket::Socket;

const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// A v1 line has at most 107 bytes (section 2.1).
const V1_LONGEST: usize = 107;
/// What a v2 header with addresses and the usual TLVs (TLS certificate names, connection ids) stays well below. The
/// format would allow 64 KiB, which no sender needs.
const V2_LONGEST: usize = 4096;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// A whole header of this many bytes; the client's address, unless it is the sender's own (health checks of a
    /// balancer, unknown protocols).
    Header(usize, Option<SocketAddr>),
    /// The beginning of a header.
    Incomplete,
    /// No header.
    Other,
    /// Begins like a header and is none.
    Malformed,
}

/// Reads what stands at the start of a connection. Total: any bytes have an answer.
pub fn parse(bytes: &[u8]) -> Start {
    if begins(bytes, V1_SIGNATURE) {
        parse_v1(bytes)
    } else if begins(bytes, V2_SIGNATURE) {
        parse_v2(bytes)
    } else {
        Start::Other
    }
}

/// `bytes` begins with the signature, or is a beginning of it.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    let shared = bytes.len().min(signature.len());
    bytes[..shared] == signature[..shared]
}

fn parse_v1(bytes: &[u8]) -> Start {
    let line_end = bytes.iter().take(V1_LONGEST).position(|&byte| byte == b'\n');
    let Some(line_end) = line_end else {
        return if bytes.len() < V1_LONGEST { Start::Incomplete } else { Start::Malformed };
    };
    match v1::Header::try_from(&bytes[..=line_end]) {
        Ok(header) => {
            let client = match header.addresses {
                v1::Addresses::Tcp4(tcp) => Some((IpAddr::V4(tcp.source_address), tcp.source_port)),
                v1::Addresses::Tcp6(tcp) => Some((IpAddr::V6(tcp.source_address), tcp.source_port)),
                v1::Addresses::Unknown => None,
            };
            Start::Header(line_end + 1, client.map(SocketAddr::from))
        }
        Err(_) => Start::Malformed,
    }
}

fn parse_v2(bytes: &[u8]) -> Start {
    match v2::Header::try_from(bytes) {
        Ok(header) if header.len() > V2_LONGEST => Start::Malformed,
        Ok(header) => {
            let client = match (header.command, header.addresses) {
                (v2::Command::Local, _) => None,
                (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => Some((IpAddr::V4(ip.source_address), ip.source_port)),
                (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => Some((IpAddr::V6(ip.source_address), ip.source_port)),
                (v2::Command::Proxy, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
            };
            Start::Header(header.len(), client.map(SocketAddr::from))
        }
        Err(V2Error::Incomplete(_)) => Start::Incomplete,
        // Told without the 16 bytes before the addresses.
        Err(V2Error::Partial(_, wanted)) if wanted + 16 <= V2_LONGEST => Start::Incomplete,
        Err(_) => Start::Malformed,
    }
}

/// Whether a connection from `peer` must begin with a header.
pub(crate) fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    let peer = peer.to_canonical();
    trusted.iter().any(|net| net.contains(&peer))
}

/// Takes the header off the stream of a trusted peer, once it is there. What follows the header stays in the socket.
pub(crate) fn receive(socket: &mut Socket) -> Poll<Result<Option<SocketAddr>, Refusal>> {
    if socket.is_broken() {
        return Poll::Ready(Err(Refusal::ClientGone));
    }
    let mut bytes = [0; V2_LONGEST];
    let Poll::Ready(peeked) = socket.peek(&mut bytes) else { return Poll::Pending };
    let Ok(count) = peeked else { return Poll::Ready(Err(Refusal::ClientGone)) };
    Poll::Ready(match parse(&bytes[..count]) {
        // All of it was seen in the socket a moment ago, so this never blocks.
        Start::Header(length, client) => match socket.read(&mut bytes[..length]) {
            Poll::Ready(Ok(taken)) if taken == length => Ok(client),
            _ => Err(Refusal::ClientGone),
        },
        Start::Incomplete if !socket.is_finished() => {
            socket.seen();
            return Poll::Pending;
        }
        Start::Malformed => Err(Refusal::HeaderMalformed),
        Start::Other | Start::Incomplete => Err(Refusal::HeaderMissing),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn both_versions_give_the_client_and_leave_what_follows() {
        let line = b"PROXY TCP4 198.51.100.7 203.0.113.1 5555 80\r\nGET /";
        assert_eq!(parse(line), Start::Header(45, Some("198.51.100.7:5555".parse().unwrap())));
        let line = b"PROXY TCP6 2001:db8::7 2001:db8::1 5555 80\r\n";
        assert_eq!(parse(line), Start::Header(line.len(), Some("[2001:db8::7]:5555".parse().unwrap())));
        assert_eq!(parse(b"PROXY UNKNOWN\r\nx"), Start::Header(15, None));

        let body = [198, 51, 100, 7, 203, 0, 113, 1, 0x15, 0xb3, 0, 80];
        let mut header = v2(1, 0x11, &body);
        header.extend(b"payload");
        assert_eq!(parse(&header), Start::Header(28, Some("198.51.100.7:5555".parse().unwrap())));
        assert_eq!(parse(&v2(0, 0, &[])), Start::Header(16, None), "LOCAL: the sender itself");
        let with_tlv = v2(1, 0x11, &[&body[..], &[0x04, 0, 3, 1, 2, 3]].concat());
        assert_eq!(parse(&with_tlv), Start::Header(34, Some("198.51.100.7:5555".parse().unwrap())));
    }

    #[test]
    fn every_beginning_of_a_header_is_incomplete() {
        let line = b"PROXY TCP4 198.51.100.7 203.0.113.1 5555 80\r\n";
        let binary = v2(1, 0x11, &[198, 51, 100, 7, 203, 0, 113, 1, 0x15, 0xb3, 0, 80]);
        for whole in [&line[..], &binary[..]] {
            for length in 0..whole.len() {
                assert_eq!(parse(&whole[..length]), Start::Incomplete, "{length} bytes");
            }
        }
    }

    #[test]
    fn what_only_looks_like_a_header_is_malformed() {
        for bytes in [
            &b"PROXY TCP4 198.51.100.7\r\n"[..],
            b"PROXY TCP4 198.51.100.7 203.0.113.1 99999 80\r\n",
            b"PROXY TCP4 2001:db8::7 2001:db8::1 5555 80\r\n",
            b"PROXY SCTP 198.51.100.7 203.0.113.1 5555 80\r\n",
            b"PROXY TCP4 198.51.100.7 203.0.113.1 5555 80\n",
            &[b"PROXY ", &[b'x'; 200][..]].concat(),
            &v2(1, 0x11, &[1, 2, 3]),
            &v2(7, 0x11, &[0; 12]),
            &v2(1, 0x77, &[0; 12]),
        ] {
            assert_eq!(parse(bytes), Start::Malformed, "{:?}", String::from_utf8_lossy(bytes));
        }
        let mut endless = v2(1, 0x11, &[0; 12]);
        endless[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        assert_eq!(parse(&endless), Start::Malformed, "longer than any sender needs");
    }

    #[test]
    fn other_protocols_are_no_headers() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"PROXIMA", b"\r\n\r\nQUIT"] {
            assert_eq!(parse(bytes), Start::Other);
        }
    }

    #[test]
    fn trust_is_by_network_and_sees_through_mapped_addresses() {
        let trusted = ["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        assert!(is_trusted("127.1.2.3".parse().unwrap(), &trusted));
        assert!(is_trusted("::ffff:127.0.0.1".parse().unwrap(), &trusted));
        assert!(is_trusted("fd12::1".parse().unwrap(), &trusted));
        assert!(!is_trusted("198.51.100.7".parse().unwrap(), &trusted));
    }
}
