//! What the tests of the packet part share; and tests of its parts together.

mod streams;

/// Naively, the way RFC 1071 puts it: what [`super::Sum`] is checked against. All parts but the last are of even length.
pub(crate) fn naive_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(pair[0]) * 256 + u64::from(*pair.get(1).unwrap_or(&0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// Lengths and checksums of a plain packet of TCP or UDP are right.
pub(crate) fn assert_naively_valid(packet: &[u8]) {
    let (addresses, network, protocol) = match packet[0] >> 4 {
        4 => {
            let network = usize::from(packet[0] & 15) * 4;
            assert_eq!(naive_checksum(&[&packet[..network]]), 0, "header checksum");
            assert_eq!(usize::from(packet[2]) * 256 + usize::from(packet[3]), packet.len());
            (&packet[12..20], network, packet[9])
        }
        _ => {
            assert_eq!(usize::from(packet[4]) * 256 + usize::from(packet[5]), packet.len() - 40);
            (&packet[8..40], 40, packet[6])
        }
    };
    let transport = &packet[network..];
    if protocol == 17 {
        assert_eq!(usize::from(transport[4]) * 256 + usize::from(transport[5]), transport.len());
        assert_ne!(transport[6..8], [0, 0], "there is a checksum");
    }
    let length = u16::try_from(transport.len()).unwrap().to_be_bytes();
    assert_eq!(naive_checksum(&[addresses, &[0, protocol], &length, transport]), 0, "transport checksum");
}

/// An echo request from 10.0.0.1 to 10.0.0.2, 64 hops, DF. Its checksums were added up by hand.
pub(crate) const PING4: [u8; 28] =
    [0x45, 0, 0, 28, 0x12, 0x34, 0x40, 0, 64, 1, 0x14, 0xab, 10, 0, 0, 1, 10, 0, 0, 2, 8, 0, 0xf7, 0xfd, 0, 1, 0, 1];

/// Builds packets of TCP, with timestamps, and of UDP.
#[derive(Clone)]
pub(crate) struct Tcp {
    /// 8 bytes or 32.
    pub(crate) addresses: Vec<u8>,
    pub(crate) ports: [u16; 2],
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) timestamp: u32,
    pub(crate) id: u16,
    pub(crate) service: u8,
    pub(crate) hops: u8,
    pub(crate) payload: Vec<u8>,
}

impl Tcp {
    pub(crate) fn v4() -> Self {
        Self {
            addresses: vec![10, 0, 0, 1, 10, 0, 0, 2],
            ports: [443, 5000],
            sequence: 0x1000_0000,
            acknowledgment: 77,
            flags: 0x10,
            window: 502,
            timestamp: 0x0102_0304,
            id: 0x4321,
            service: 0,
            hops: 64,
            payload: b"hello".to_vec(),
        }
    }

    pub(crate) fn v6() -> Self {
        let mut addresses = vec![0; 32];
        addresses[..2].copy_from_slice(&[0xfd, 0]);
        addresses[15] = 1;
        addresses[16..18].copy_from_slice(&[0xfd, 0]);
        addresses[31] = 2;
        Self { addresses, ..Self::v4() }
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.addresses.len() == 8
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut transport = Vec::new();
        transport.extend(self.ports[0].to_be_bytes());
        transport.extend(self.ports[1].to_be_bytes());
        transport.extend(self.sequence.to_be_bytes());
        transport.extend(self.acknowledgment.to_be_bytes());
        transport.extend([0x80, self.flags]);
        transport.extend(self.window.to_be_bytes());
        transport.extend([0; 4]);
        transport.extend([1, 1, 8, 10]);
        transport.extend(self.timestamp.to_be_bytes());
        transport.extend([9, 9, 9, 9]);
        transport.extend(&self.payload);
        self.over_ip(6, transport, 16)
    }

    pub(crate) fn udp(&self) -> Vec<u8> {
        let mut transport = Vec::new();
        transport.extend(self.ports[0].to_be_bytes());
        transport.extend(self.ports[1].to_be_bytes());
        transport.extend(u16::try_from(8 + self.payload.len()).unwrap().to_be_bytes());
        transport.extend([0; 2]);
        transport.extend(&self.payload);
        self.over_ip(17, transport, 6)
    }

    fn over_ip(&self, protocol: u8, mut transport: Vec<u8>, checksum: usize) -> Vec<u8> {
        let length = u16::try_from(transport.len()).unwrap();
        let sum = match naive_checksum(&[&self.addresses, &[0, protocol], &length.to_be_bytes(), &transport]) {
            0 if protocol == 17 => 0xffff,
            sum => sum,
        };
        transport[checksum..checksum + 2].copy_from_slice(&sum.to_be_bytes());
        let mut packet = Vec::new();
        if self.is_v4() {
            packet.extend([0x45, self.service]);
            packet.extend((20 + length).to_be_bytes());
            packet.extend(self.id.to_be_bytes());
            packet.extend([0x40, 0, self.hops, protocol, 0, 0]);
            packet.extend(&self.addresses);
            let sum = naive_checksum(&[&packet]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            packet.extend([0x60 | self.service >> 4, self.service << 4, 0, 0]);
            packet.extend(length.to_be_bytes());
            packet.extend([protocol, self.hops]);
            packet.extend(&self.addresses);
        }
        packet.extend(transport);
        packet
    }
}

/// The same numbers for the same seed (SplitMix64).
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number() % bound as u64).unwrap()
    }

    pub(crate) fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend(self.number().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}
