//! The PROXY protocol header at the start of a connection.
//!
//! - A header is no longer than the input, nor than what the proxy looks at.
//! - What a header was parsed from is parsed alike whatever follows, and every strict prefix of it asks for more.
//! - Asking for more ends: no input as long as what the proxy looks at is incomplete.
//! - An input that begins with a whole signature is never taken for another protocol, and one that does not never for
//!   a header.
//! - Headers written by the book give back the address they were written for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use arbitrary::{Arbitrary, Unstructured};
use edgeproxy_proxy::HeaderStart::{Header, Incomplete, Malformed, Other};
use edgeproxy_proxy::parse_proxy_header as parse;

const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The proxy peeks at this many bytes at most.
const LOOKED_AT: usize = 4096;

/// A header as some sender would write it.
#[derive(Arbitrary, Debug)]
struct Written {
    binary: bool,
    v6: bool,
    source: (u128, u16),
    destination: (u128, u16),
    /// Type and length of further fields of a v2 header.
    fields: Vec<(u8, u8)>,
}

/// Whatever bytes: see the head of this module.
pub fn proxy_header(data: &[u8]) {
    let peeked = &data[..data.len().min(LOOKED_AT)];
    let start = parse(peeked);
    match start {
        Header(length, client) => {
            assert!((1..=peeked.len()).contains(&length), "{length} of {} bytes", peeked.len());
            assert!(client.is_none_or(|client| SocketAddr::new(client.ip(), client.port()) == client));
            for shorter in prefixes(length) {
                assert_eq!(parse(&peeked[..shorter]), Incomplete, "{shorter} of {length} bytes");
            }
            for tail in [&b""[..], b"\0", b"\n", b"PROXY ", V2_SIGNATURE, &[0xff; 300]] {
                let longer = [&peeked[..length], tail].concat();
                assert_eq!(parse(&longer), start, "followed by {tail:?}");
            }
        }
        Incomplete => {
            let full = [peeked, &vec![0; LOOKED_AT - peeked.len()]].concat();
            assert_ne!(parse(&full), Incomplete, "waits for a byte that is never looked at");
        }
        // What is no header stays none, however much comes.
        Malformed | Other => {
            let longer = [peeked, &[b'\n'; 16]].concat();
            assert_eq!(parse(&longer), start);
        }
    }
    let signed = peeked.starts_with(V1_SIGNATURE) || peeked.starts_with(V2_SIGNATURE);
    assert!(!signed || start != Other, "begins like a header");
    assert!(signed || !matches!(start, Header(..) | Malformed), "does not begin like a header");

    if let Ok(written) = Written::arbitrary(&mut Unstructured::new(data)) {
        let bytes = written.bytes();
        let expected = if bytes.len() > LOOKED_AT { Malformed } else { Header(bytes.len(), Some(written.client())) };
        let peeked = &bytes[..bytes.len().min(LOOKED_AT)];
        assert_eq!(parse(peeked), expected, "{written:?}");
    }
}

/// All of a short header, and of a long one those that end near something.
fn prefixes(length: usize) -> impl Iterator<Item = usize> {
    (0..length).filter(move |&at| at < 128 || at + 32 > length || at % 97 == 0)
}

impl Written {
    fn client(&self) -> SocketAddr {
        self.address(self.source)
    }

    fn address(&self, (ip, port): (u128, u16)) -> SocketAddr {
        let ip = if self.v6 {
            IpAddr::V6(Ipv6Addr::from_bits(ip))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(ip & u128::from(u32::MAX)).expect("masked")))
        };
        SocketAddr::new(ip, port)
    }

    fn bytes(&self) -> Vec<u8> {
        let (source, destination) = (self.client(), self.address(self.destination));
        if !self.binary {
            let family = if self.v6 { "TCP6" } else { "TCP4" };
            let ports = format!("{} {}", source.port(), destination.port());
            return format!("PROXY {family} {} {} {ports}\r\n", source.ip(), destination.ip()).into_bytes();
        }
        let mut body = Vec::new();
        for address in [source, destination] {
            match address.ip() {
                IpAddr::V4(ip) => body.extend(ip.octets()),
                IpAddr::V6(ip) => body.extend(ip.octets()),
            }
        }
        body.extend(source.port().to_be_bytes());
        body.extend(destination.port().to_be_bytes());
        for &(kind, length) in self.fields.iter().take(64) {
            body.extend([kind, 0, length]);
            body.extend(vec![kind; usize::from(length)]);
        }
        let length = u16::try_from(body.len()).expect("64 fields of at most 258 bytes");
        [V2_SIGNATURE, &[0x21, if self.v6 { 0x21 } else { 0x11 }], &length.to_be_bytes(), &body].concat()
    }
}
