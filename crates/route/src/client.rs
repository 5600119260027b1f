use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The address a client is known by: the socket's peer, or what a trusted PROXY header said.
///
/// IPv4-mapped IPv6 (`::ffff:192.0.2.1`, which a dual-stack listener reports) is turned back into IPv4 here, once, so
/// that country lookup, affinity and logs never see two forms of one client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClientAddr(SocketAddr);

impl ClientAddr {
    /// Takes a socket address as the kernel or a PROXY header gave it.
    pub fn new(addr: SocketAddr) -> Self {
        Self(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
    }

    /// The client's IP address, never in its mapped form.
    pub fn ip(self) -> IpAddr {
        self.0.ip()
    }

    /// Address and port.
    pub fn socket_addr(self) -> SocketAddr {
        self.0
    }

    /// What affinity remembers this client by.
    pub fn affinity_key(self) -> AffinityKey {
        AffinityKey::of(self.ip())
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One client for the purpose of affinity: an IPv4 address, or the /64 of an IPv6 address.
///
/// A single IPv6 host draws a new address from its /64 every few hours, and often several at once (RFC 8981).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AffinityKey(u64, bool);

impl AffinityKey {
    fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self(u64::from(v4.to_bits()), false),
            IpAddr::V6(v6) => Self(network_half(v6), true),
        }
    }
}

fn network_half(v6: Ipv6Addr) -> u64 {
    let [a, b, c, d, ..] = v6.segments();
    u64::from(a) << 48 | u64::from(b) << 32 | u64::from(c) << 16 | u64::from(d)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ip: &str) -> AffinityKey {
        ClientAddr::new(SocketAddr::new(ip.parse().unwrap(), 1)).affinity_key()
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_client() {
        let client = ClientAddr::new("[::ffff:192.0.2.7]:4000".parse().unwrap());
        assert_eq!(client.to_string(), "192.0.2.7:4000");
        assert_eq!(key("::ffff:192.0.2.7"), key("192.0.2.7"));
    }

    #[test]
    fn ipv6_clients_are_one_per_64() {
        assert_eq!(key("2001:db8:1:2::5"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::5"), key("2001:db8:1:3::5"));
        // The address whose upper half equals an IPv4 number is still another client.
        assert_ne!(key("0:0:c000:207::1"), key("192.0.2.7"));
    }
}
