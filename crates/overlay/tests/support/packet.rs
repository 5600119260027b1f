//! IP packets as a queue gives and takes them.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use edgeproxy_overlay::HEADER;

/// The virtio header (virtio 1.2, 5.1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) flags: u8,
    pub(crate) gso_type: u8,
    pub(crate) length: u16,
    pub(crate) gso_size: u16,
    pub(crate) checksum_start: u16,
    pub(crate) checksum_offset: u16,
}

impl Header {
    pub(crate) const NEEDS_CHECKSUM: u8 = 1;

    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            length: number(2),
            gso_size: number(4),
            checksum_start: number(6),
            checksum_offset: number(8),
        }
    }
}

/// A packet of TCP or UDP.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) header: Header,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// What follows a header of eight bytes.
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let (header, packet) = bytes.split_at(HEADER);
        let (source, destination, rest): (IpAddr, IpAddr, _) = match packet[0] >> 4 {
            4 => (array::<4>(packet, 12).into(), array::<4>(packet, 16).into(), &packet[20..]),
            6 => (array::<16>(packet, 8).into(), array::<16>(packet, 24).into(), &packet[40..]),
            version => panic!("IP version {version}"),
        };
        let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
        Self {
            header: Header::parse(header),
            source: (source, port(0)).into(),
            destination: (destination, port(2)).into(),
            payload: rest[8..].to_vec(),
        }
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

/// A packet of UDP over IPv4, without the checksum that UDP may leave out there.
pub(crate) fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let (SocketAddr::V4(source), SocketAddr::V4(destination)) = (source, destination) else { panic!("IPv4 only") };
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend((20 + length).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(source.ip().octets());
    packet.extend(destination.ip().octets());
    let checksum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&checksum);
    let ports = [source, destination].map(|address: SocketAddrV4| address.port().to_be_bytes());
    packet.extend(ports.concat());
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// The checksum of the Internet (RFC 1071) over an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    !u16::try_from((folded & 0xFFFF) + (folded >> 16)).unwrap()
}
