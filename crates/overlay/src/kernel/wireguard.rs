//! What is said to the kernel's WireGuard, and what it answers (linux/wireguard.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edgeproxy_tunnel::{Prefix, PresharedKey, PrivateKey, PublicKey, Tai64N};
use rustix::net::AddressFamily;
use zeroize::Zeroizing;

use super::generic::{Attributes, number, read};
use crate::registry::{PeerSettings, PeerStatus};

pub(super) const FAMILY: &str = "wireguard";
pub(super) const GET_DEVICE: u8 = 0;
pub(super) const SET_DEVICE: u8 = 1;

const DEVICE_INDEX: u16 = 1;
const DEVICE_PRIVATE_KEY: u16 = 3;
const DEVICE_PUBLIC_KEY: u16 = 4;
const DEVICE_FLAGS: u16 = 5;
const DEVICE_LISTEN_PORT: u16 = 6;
const DEVICE_PEERS: u16 = 8;
const DEVICE_REPLACE_PEERS: u32 = 1;
const PEER_PUBLIC_KEY: u16 = 1;
const PEER_PRESHARED_KEY: u16 = 2;
const PEER_FLAGS: u16 = 3;
const PEER_ENDPOINT: u16 = 4;
const PEER_KEEPALIVE: u16 = 5;
const PEER_LAST_HANDSHAKE: u16 = 6;
const PEER_RECEIVED: u16 = 7;
const PEER_SENT: u16 = 8;
const PEER_ALLOWED_IPS: u16 = 9;
const PEER_REPLACE_ALLOWED_IPS: u32 = 2;
const PEER_UPDATE_ONLY: u32 = 4;
const ALLOWED_FAMILY: u16 = 1;
const ALLOWED_ADDRESS: u16 = 2;
const ALLOWED_LENGTH: u16 = 3;
/// One of a list that has no names.
const ITEM: u16 = 0;

/// Addresses of a peer that go into one message: a nested attribute holds 64 KiB.
const ADDRESSES: usize = 1_000;
/// Bytes that all else of a message takes at most, and one of a peer's addresses.
const ROOM: usize = 256;
const ROOM_PER_ADDRESS: usize = 48;

/// An interface is meant, and no more said.
pub(super) fn of(index: u32) -> Zeroizing<Vec<u8>> {
    begin(index, 0).finish()
}

fn begin(index: u32, addresses: usize) -> Attributes {
    let mut attributes = Attributes::with_room(ROOM + addresses * ROOM_PER_ADDRESS);
    attributes.add(DEVICE_INDEX, &index.to_ne_bytes());
    attributes
}

/// Who we are; there are no peers any more.
pub(super) fn identity(index: u32, private: &PrivateKey, port: Option<u16>) -> Zeroizing<Vec<u8>> {
    let mut attributes = begin(index, 0);
    attributes.add(DEVICE_FLAGS, &DEVICE_REPLACE_PEERS.to_ne_bytes());
    attributes.add(DEVICE_PRIVATE_KEY, private.bytes());
    attributes.add(DEVICE_LISTEN_PORT, &port.unwrap_or(0).to_ne_bytes());
    attributes.finish()
}

/// A peer is to be as it is said here, in so many messages.
pub(super) fn peer(index: u32, settings: &PeerSettings) -> Vec<Zeroizing<Vec<u8>>> {
    let mut messages = vec![first(index, settings)];
    let more = settings.allowed_ips.get(ADDRESSES..).unwrap_or_default().chunks(ADDRESSES);
    messages.extend(
        more.map(|prefixes| one_peer(index, &settings.public, prefixes.len(), |peer| add_prefixes(peer, prefixes))),
    );
    messages
}

fn first(index: u32, settings: &PeerSettings) -> Zeroizing<Vec<u8>> {
    let prefixes = settings.allowed_ips.get(..ADDRESSES).unwrap_or(&settings.allowed_ips);
    one_peer(index, &settings.public, prefixes.len(), |peer| {
        peer.add(PEER_FLAGS, &PEER_REPLACE_ALLOWED_IPS.to_ne_bytes());
        peer.add(PEER_PRESHARED_KEY, settings.preshared.bytes());
        if let Some(endpoint) = settings.endpoint {
            peer.add(PEER_ENDPOINT, &sockaddr(endpoint));
        }
        let seconds = settings.keepalive.map_or(0, |interval| u16::try_from(interval.as_secs()).unwrap_or(u16::MAX));
        peer.add(PEER_KEEPALIVE, &seconds.to_ne_bytes());
        add_prefixes(peer, prefixes);
    })
}

/// A peer is found there, if it is still one.
pub(super) fn endpoint(index: u32, public: &PublicKey, endpoint: SocketAddr) -> Zeroizing<Vec<u8>> {
    one_peer(index, public, 0, |peer| {
        peer.add(PEER_FLAGS, &PEER_UPDATE_ONLY.to_ne_bytes());
        peer.add(PEER_ENDPOINT, &sockaddr(endpoint));
    })
}

fn one_peer(
    index: u32,
    public: &PublicKey,
    addresses: usize,
    fill: impl FnOnce(&mut Attributes),
) -> Zeroizing<Vec<u8>> {
    let mut attributes = begin(index, addresses);
    attributes.nest(DEVICE_PEERS, |peers| {
        peers.nest(ITEM, |peer| {
            peer.add(PEER_PUBLIC_KEY, &public.0);
            fill(peer);
        });
    });
    attributes.finish()
}

fn add_prefixes(peer: &mut Attributes, prefixes: &[Prefix]) {
    peer.nest(PEER_ALLOWED_IPS, |allowed| {
        for prefix in prefixes {
            allowed.nest(ITEM, |one| {
                let family = |family: AddressFamily| family.as_raw().to_ne_bytes();
                match prefix.address() {
                    IpAddr::V4(ip) => {
                        one.add(ALLOWED_FAMILY, &family(AddressFamily::INET));
                        one.add(ALLOWED_ADDRESS, &ip.octets());
                    }
                    IpAddr::V6(ip) => {
                        one.add(ALLOWED_FAMILY, &family(AddressFamily::INET6));
                        one.add(ALLOWED_ADDRESS, &ip.octets());
                    }
                }
                one.add(ALLOWED_LENGTH, &[prefix.length()]);
            });
        }
    });
}

/// A `sockaddr_in` or `sockaddr_in6`.
fn sockaddr(address: SocketAddr) -> Vec<u8> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut bytes = family.as_raw().to_ne_bytes().to_vec();
    bytes.extend(address.port().to_be_bytes());
    match address {
        SocketAddr::V4(address) => {
            bytes.extend(address.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(address) => {
            bytes.extend(address.flowinfo().to_be_bytes());
            bytes.extend(address.ip().octets());
            bytes.extend(address.scope_id().to_ne_bytes());
        }
    }
    bytes
}

fn socket_addr(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let ip: IpAddr = match bytes.len() {
        16 => Ipv4Addr::from_octets(bytes.get(4..8)?.try_into().ok()?).into(),
        28 => Ipv6Addr::from_octets(bytes.get(8..24)?.try_into().ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// How an interface is.
#[derive(Default)]
pub(super) struct Status {
    /// `None`: it has no key.
    pub(super) public: Option<PublicKey>,
    pub(super) port: u16,
    pub(super) peers: Vec<PeerStatus>,
}

impl Status {
    /// Puts the answers together. A peer with many addresses is told of in more than one of them, one after the other.
    pub(super) fn read(answers: &[Zeroizing<Vec<u8>>], now: SystemTime) -> Self {
        let mut status = Self::default();
        for (kind, value) in answers.iter().flat_map(|answer| read(answer)) {
            match kind {
                DEVICE_PUBLIC_KEY => status.public = value.try_into().ok().map(PublicKey),
                DEVICE_LISTEN_PORT => status.port = small(value),
                DEVICE_PEERS => {
                    for (_, peer) in read(value) {
                        status.add(read_peer(peer, now));
                    }
                }
                _ => {}
            }
        }
        status
    }

    fn add(&mut self, peer: Option<PeerStatus>) {
        let Some(peer) = peer else { return };
        match self.peers.last_mut() {
            Some(last) if last.settings.public == peer.settings.public => {
                last.settings.allowed_ips.extend(peer.settings.allowed_ips);
            }
            _ => self.peers.push(peer),
        }
    }
}

fn read_peer(attributes: &[u8], now: SystemTime) -> Option<PeerStatus> {
    let mut public = None;
    let mut settings = PeerSettings {
        public: PublicKey([0; 32]),
        preshared: PresharedKey::default(),
        endpoint: None,
        keepalive: None,
        allowed_ips: Vec::new(),
    };
    let (mut last_handshake_at, mut received, mut sent) = (None, 0, 0);
    for (kind, value) in read(attributes) {
        match kind {
            PEER_PUBLIC_KEY => public = value.try_into().ok().map(PublicKey),
            PEER_PRESHARED_KEY => {
                if let Ok(key) = value.try_into() {
                    settings.preshared = PresharedKey::from_bytes(key);
                }
            }
            PEER_ENDPOINT => settings.endpoint = socket_addr(value),
            PEER_KEEPALIVE => {
                settings.keepalive = Some(Duration::from_secs(small(value).into())).filter(|every| !every.is_zero());
            }
            PEER_LAST_HANDSHAKE => last_handshake_at = time(value),
            PEER_RECEIVED => received = number(value).unwrap_or(0),
            PEER_SENT => sent = number(value).unwrap_or(0),
            PEER_ALLOWED_IPS => settings.allowed_ips.extend(read(value).filter_map(|(_, one)| prefix(one))),
            _ => {}
        }
    }
    settings.public = public?;
    // Somebody may have set the clock back since.
    let last_handshake = last_handshake_at.map(|at| now.duration_since(at).unwrap_or_default());
    // The kernel keeps it to itself.
    let greatest = Tai64N::default();
    Some(PeerStatus { settings, last_handshake, last_handshake_at, greatest, received, sent })
}

fn prefix(attributes: &[u8]) -> Option<Prefix> {
    let (mut address, mut length) = (None, None);
    for (kind, value) in read(attributes) {
        match (kind, value.len()) {
            (ALLOWED_ADDRESS, 4) => address = value.try_into().ok().map(|octets| Ipv4Addr::from_octets(octets).into()),
            (ALLOWED_ADDRESS, 16) => address = value.try_into().ok().map(|octets| Ipv6Addr::from_octets(octets).into()),
            (ALLOWED_LENGTH, 1) => length = value.first().copied(),
            _ => {}
        }
    }
    Prefix::new(address?, length?)
}

/// Seconds and nanoseconds since 1970; both 0: never.
fn time(value: &[u8]) -> Option<SystemTime> {
    let (seconds, nanoseconds) = (number(value.get(..8)?)?, number(value.get(8..16)?)?);
    let since = Duration::new(seconds, u32::try_from(nanoseconds).ok().filter(|part| *part < 1_000_000_000)?);
    (!since.is_zero()).then(|| UNIX_EPOCH.checked_add(since)).flatten()
}

fn small(value: &[u8]) -> u16 {
    number(value).and_then(|number| u16::try_from(number).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(addresses: u32) -> PeerSettings {
        let prefixes = (0..addresses).map(|number| Prefix::new(Ipv4Addr::from_bits(0x0a00_0000 + number).into(), 32));
        PeerSettings {
            public: PublicKey([7; 32]),
            preshared: PresharedKey::from_bytes([8; 32]),
            endpoint: Some("[2001:db8::1]:51820".parse().unwrap()),
            keepalive: Some(Duration::from_secs(25)),
            allowed_ips: prefixes.chain(["fd50::/64".parse().ok()]).map(Option::unwrap).collect(),
        }
    }

    fn assert_same(read: &PeerSettings, written: &PeerSettings) {
        assert_eq!((read.public, &read.allowed_ips), (written.public, &written.allowed_ips));
        assert_eq!((read.endpoint, read.keepalive), (written.endpoint, written.keepalive));
        assert_eq!(read.preshared, written.preshared);
    }

    #[test]
    fn what_is_said_of_a_peer_is_what_is_read_of_it() {
        for (addresses, messages) in [(1, 1), (999, 1), (1_000, 2), (2_500, 3)] {
            let written = settings(addresses);
            let said = peer(5, &written);
            assert_eq!(said.len(), messages, "{addresses}");
            assert!(said.iter().all(|message| message.len() < 65_536));
            let status = Status::read(&said, UNIX_EPOCH);
            assert_eq!(status.peers.len(), 1);
            assert_same(&status.peers[0].settings, &written);
            assert_eq!((status.peers[0].last_handshake, status.public), (None, None));
        }
    }

    #[test]
    fn room_for_a_message_is_known_before() {
        for addresses in [0, 1, 999] {
            let message = first(5, &settings(addresses));
            assert!(message.len() <= ROOM + settings(addresses).allowed_ips.len() * ROOM_PER_ADDRESS, "{addresses}");
        }
    }

    #[test]
    fn an_answer_that_is_cut_off_or_changed_says_less() {
        let whole = peer(5, &settings(3)).remove(0);
        for length in 0..whole.len() {
            let mut changed = whole.clone();
            changed[length] ^= 0x55;
            for answer in [Zeroizing::new(whole[..length].to_vec()), changed] {
                assert!(Status::read(&[answer], UNIX_EPOCH).peers.len() <= 1);
            }
        }
    }

    #[test]
    fn times_are_since_1970_and_zero_is_never() {
        let at = |seconds: u64, nanoseconds: u64| time(&[seconds.to_ne_bytes(), nanoseconds.to_ne_bytes()].concat());
        assert_eq!(at(0, 0), None);
        assert_eq!(at(3, 5), Some(UNIX_EPOCH + Duration::new(3, 5)));
        assert_eq!(at(u64::MAX, 999_999_999), None);
        assert_eq!(at(1, u64::MAX), None);
    }
}
