//! What stands before each packet of a TUN device opened with `IFF_VNET_HDR`: what was left undone to the packet, or
//! may be left to the kernel (virtio 1.2, section 5.1.6; `linux/virtio_net.h`).
//!
//! ```text
//! flags 1 | segmentation 1 | header length 2 | segment size 2 | checksum start 2 | checksum offset 2 | buffers 2
//! ```
//! Numbers are in the order of this machine. The last field is there if the device was told so (`TUNSETVNETHDRSZ`),
//! and zero.

use super::field::field;

/// The length of the header, which the device was told.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum VnetHeader {
    /// 10 bytes, as from the start.
    #[default]
    Short,
    /// 12 bytes.
    Long,
}

impl VnetHeader {
    /// Bytes of it.
    pub const fn length(self) -> usize {
        match self {
            Self::Short => SHORT,
            Self::Long => SHORT + 2,
        }
    }
}

const SHORT: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const ECN: u8 = 0x80;

/// How a super-packet is to be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segmentation {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// One UDP datagram into fragments; of old, and not asked for.
    Fragments,
    /// UDP into datagrams.
    Udp,
}

/// What is left to do.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Offload {
    /// The checksum field holds the sum of the pseudo-header only.
    pub needs_checksum: bool,
    /// Checksums were verified.
    pub data_valid: bool,
    /// This is more than one packet.
    pub segmentation: Option<Segmentation>,
    /// TCP with congestion notification: `CWR` is for the first segment only.
    pub ecn: bool,
    /// Bytes before the payload. A hint: the kernel gives the length of a whole first packet as well.
    pub header_length: u16,
    /// Payload of each segment but the last.
    pub segment_size: u16,
    /// Where the checksum begins to cover.
    pub checksum_start: u16,
    /// Where it stands, from there.
    pub checksum_offset: u16,
}

/// What is no such header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum OffloadError {
    /// Too short.
    #[error("shorter than the header of the device")]
    Short,
    /// A kind of segmentation nobody asked for.
    #[error("an unknown segmentation, {0}")]
    Segmentation(u8),
}

impl Offload {
    /// Reads the header and gives what comes after it.
    ///
    /// # Errors
    /// The header is not all there, or says what we do not know.
    #[inline]
    pub fn parse(read: &[u8], header: VnetHeader) -> Result<(Self, &[u8]), OffloadError> {
        let (head, packet) = read.split_at_checked(header.length()).ok_or(OffloadError::Short)?;
        let number = |start| u16::from_le_bytes(field(head, start));
        let segmentation = match head[1] & !ECN {
            0 => None,
            1 => Some(Segmentation::Tcp4),
            3 => Some(Segmentation::Fragments),
            4 => Some(Segmentation::Tcp6),
            5 => Some(Segmentation::Udp),
            other => return Err(OffloadError::Segmentation(other)),
        };
        let offload = Self {
            needs_checksum: head[0] & NEEDS_CHECKSUM != 0,
            data_valid: head[0] & DATA_VALID != 0,
            segmentation,
            ecn: head[1] & ECN != 0,
            header_length: number(2),
            segment_size: number(4),
            checksum_start: number(6),
            checksum_offset: number(8),
        };
        Ok((offload, packet))
    }

    /// The header, of the longer kind: the shorter is its front.
    pub fn header(&self) -> [u8; SHORT + 2] {
        let flag = |is_set, bit| if is_set { bit } else { 0 };
        let segmentation = match self.segmentation {
            None => 0,
            Some(Segmentation::Tcp4) => 1,
            Some(Segmentation::Fragments) => 3,
            Some(Segmentation::Tcp6) => 4,
            Some(Segmentation::Udp) => 5,
        };
        let mut head = [0; SHORT + 2];
        head[0] = flag(self.needs_checksum, NEEDS_CHECKSUM) | flag(self.data_valid, DATA_VALID);
        head[1] = segmentation | flag(self.ecn, ECN);
        let numbers = [self.header_length, self.segment_size, self.checksum_start, self.checksum_offset];
        for (place, number) in head[2..].as_chunks_mut::<2>().0.iter_mut().zip(numbers) {
            *place = number.to_le_bytes();
        }
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_is_written() {
        let [low, high] = 1448_u16.to_le_bytes();
        let [start, zero] = 20_u16.to_le_bytes();
        let [offset, _] = 16_u16.to_le_bytes();
        let bytes = [1, 0x81, 52_u16.to_le_bytes()[0], 52_u16.to_le_bytes()[1], low, high, start, zero, offset, zero];
        let (offload, rest) = Offload::parse(&bytes, VnetHeader::Short).unwrap();
        let expected = Offload {
            needs_checksum: true,
            data_valid: false,
            segmentation: Some(Segmentation::Tcp4),
            ecn: true,
            header_length: 52,
            segment_size: 1448,
            checksum_start: 20,
            checksum_offset: 16,
        };
        assert_eq!((offload, rest), (expected, &[][..]));
        assert_eq!(offload.header()[..10], bytes);
        assert_eq!(Offload::default().header(), [0; 12]);
        assert_eq!(Offload::parse(&bytes, VnetHeader::Long), Err(OffloadError::Short));
    }

    #[test]
    fn unknown_segmentations_are_refused() {
        for kind in 0..=255_u8 {
            let known = matches!(kind & 0x7f, 0 | 1 | 3 | 4 | 5);
            let head = [0, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(Offload::parse(&head, VnetHeader::Long).is_ok(), known, "{kind}");
        }
    }
}
