//! What was read from the TUN device, cut into the packets it stands for, each written where it is sealed.
//!
//! The kernel hands over up to 64 KiB with one header (TSO, USO). What the headers of all segments have in common is
//! summed once; the payload is summed while it is copied; so that a segment costs little more than the copy.

use super::checksum::Sum;
use super::field::{length_word, long, put, word};
use super::offload::{Offload, Segmentation};
use super::transport::{UDP_HEADER, tcp, tcp_header_length, udp};
use super::view::{IPV4_HEADER, IPV6_HEADER, Malformed, Upper, Version, View, protocol, v4, v6};

/// Why a packet is not cut.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum SplitError {
    /// It is none.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It is to be cut in a way we never asked for, or do not know.
    #[error("cannot be cut this way")]
    Unsupported,
    /// The packet is not what the header before it says.
    #[error("the offload header does not fit the packet")]
    Mismatch,
}

/// Less room was given than the segment needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no room for the segment")]
pub struct NoRoom;

/// A packet as the device gives it, ready to be cut.
#[derive(Clone, Copy, Debug)]
pub struct Split<'a> {
    packet: View<'a>,
    task: Task,
}

#[derive(Clone, Copy, Debug)]
enum Task {
    /// It goes as it is.
    Copy,
    /// It is one packet whose checksum, which covers it from `start`, has to be completed.
    Complete {
        start: usize,
        field: usize,
    },
    Cut(Cut),
}

/// What all segments have in common.
#[derive(Clone, Copy, Debug)]
struct Cut {
    kind: Kind,
    version: Version,
    /// Bytes before the transport header.
    network: usize,
    /// Bytes before the payload.
    headers: usize,
    /// Payload of each segment but the last.
    size: usize,
    count: usize,
    /// Of the IPv4 header, but for what differs.
    network_sum: Sum,
    /// Of the pseudo-header and the transport header, but for what differs.
    transport_sum: Sum,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Tcp { sequence: u32, flags: u8 },
    Udp,
}

impl<'a> Split<'a> {
    /// Looks at a packet and what came before it.
    ///
    /// # Errors
    /// It cannot be sent on.
    pub fn new(offload: &Offload, packet: &'a [u8]) -> Result<Self, SplitError> {
        let packet = View::parse(packet)?;
        let task = match offload.segmentation {
            Some(segmentation) => Task::Cut(Cut::new(offload, segmentation, &packet)?),
            None if offload.needs_checksum => {
                let start = usize::from(offload.checksum_start);
                let field = start + usize::from(offload.checksum_offset);
                if start < packet.header_length() || field + 2 > packet.bytes().len() {
                    return Err(SplitError::Mismatch);
                }
                Task::Complete { start, field }
            }
            None => Task::Copy,
        };
        Ok(Self { packet, task })
    }

    /// The packet that is cut: what it says of its source and destination holds for each segment.
    pub fn packet(&self) -> &View<'a> {
        &self.packet
    }

    /// How many segments there are; at least one.
    pub fn count(&self) -> usize {
        match &self.task {
            Task::Copy | Task::Complete { .. } => 1,
            Task::Cut(cut) => cut.count,
        }
    }

    /// Bytes of the longest segment: of all but the last.
    pub fn longest(&self) -> usize {
        self.segment(0).length()
    }

    /// The segments, in order.
    #[inline]
    pub fn segments(&self) -> impl ExactSizeIterator<Item = Segment<'_>> {
        (0..self.count()).map(|number| self.segment(number))
    }

    #[inline]
    fn segment(&self, number: usize) -> Segment<'_> {
        let bytes = self.packet.bytes();
        match &self.task {
            Task::Copy | Task::Complete { .. } => Segment { split: self, number, payload: bytes, headers: 0 },
            Task::Cut(cut) => {
                let payload = &bytes[cut.headers..];
                let start = (number * cut.size).min(payload.len());
                let end = (start + cut.size).min(payload.len());
                Segment { split: self, number, payload: &payload[start..end], headers: cut.headers }
            }
        }
    }
}

impl Cut {
    fn new(offload: &Offload, segmentation: Segmentation, packet: &View<'_>) -> Result<Self, SplitError> {
        let version = packet.version();
        let protocol = match (segmentation, version) {
            (Segmentation::Tcp4, Version::V4) | (Segmentation::Tcp6, Version::V6) => protocol::TCP,
            (Segmentation::Udp, _) => protocol::UDP,
            (Segmentation::Fragments, _) => return Err(SplitError::Unsupported),
            _ => return Err(SplitError::Mismatch),
        };
        let upper = packet.upper().ok_or(SplitError::Mismatch)?;
        let transport = &packet.bytes()[upper.offset..];
        let (length, checksum) = match protocol {
            protocol::TCP => (tcp_header_length(transport).ok_or(SplitError::Mismatch)?, tcp::CHECKSUM),
            _ => (UDP_HEADER, udp::CHECKSUM),
        };
        let says_the_same = upper.protocol == protocol
            && !upper.fragment.is_part()
            && transport.len() >= length
            && offload.needs_checksum
            && usize::from(offload.checksum_start) == upper.offset
            && usize::from(offload.checksum_offset) == checksum
            && offload.segment_size != 0;
        if !says_the_same {
            return Err(SplitError::Mismatch);
        }
        if upper.routed {
            // The checksum covers an address that is not in the header.
            return Err(SplitError::Unsupported);
        }
        let size = usize::from(offload.segment_size);
        let (network, headers) = (upper.offset, upper.offset + length);
        Ok(Self {
            kind: match protocol {
                protocol::TCP => Kind::Tcp { sequence: long(transport, tcp::SEQUENCE), flags: transport[tcp::FLAGS] },
                _ => Kind::Udp,
            },
            version,
            network,
            headers,
            size,
            count: (packet.bytes().len() - headers).div_ceil(size).max(1),
            network_sum: network_sum(&packet.bytes()[..network]),
            transport_sum: transport_sum(&upper, &transport[..length]).pseudo_header(packet.addresses(), protocol, 0),
        })
    }

    /// Makes the copied headers those of a segment.
    #[inline]
    fn finish(&self, packet: &[u8], headers: &mut [u8], number: usize, payload: usize, payload_sum: Sum) {
        let total = self.headers + payload;
        let (network, transport) = headers.split_at_mut(self.network);
        match self.version {
            Version::V4 => {
                #[allow(clippy::cast_possible_truncation, reason = "the number of a packet comes round")]
                let id = word(packet, v4::ID).wrapping_add(number as u16);
                let sum = self.network_sum.word(length_word(total)).word(id);
                put(network, v4::TOTAL_LENGTH, length_word(total).to_be_bytes());
                put(network, v4::ID, id.to_be_bytes());
                put(network, v4::CHECKSUM, sum.checksum().to_be_bytes());
            }
            Version::V6 => put(network, v6::PAYLOAD_LENGTH, length_word(total - IPV6_HEADER).to_be_bytes()),
        }
        let length = length_word(total - self.network);
        let sum = self.transport_sum.word(length).and(payload_sum);
        match self.kind {
            Kind::Tcp { sequence, flags } => {
                #[allow(clippy::cast_possible_truncation, reason = "sequence numbers come round")]
                let sequence = sequence.wrapping_add((number * self.size) as u32).to_be_bytes();
                let flags = self.flags_of(flags, number);
                put(transport, tcp::SEQUENCE, sequence);
                transport[tcp::FLAGS] = flags;
                let sum = sum.bytes(&sequence).word(flags.into());
                put(transport, tcp::CHECKSUM, sum.checksum().to_be_bytes());
            }
            Kind::Udp => {
                put(transport, udp::LENGTH, length.to_be_bytes());
                put(transport, udp::CHECKSUM, sum.word(length).checksum_not_zero().to_be_bytes());
            }
        }
    }

    /// Only the last segment ends something; only the first says that the window was reduced.
    #[inline]
    fn flags_of(&self, flags: u8, number: usize) -> u8 {
        let not_last = if number + 1 < self.count { tcp::FIN | tcp::PSH } else { 0 };
        let not_first = if number > 0 { tcp::CWR } else { 0 };
        flags & !(not_last | not_first)
    }
}

/// Without total length, number and checksum.
fn network_sum(header: &[u8]) -> Sum {
    if header[0] >> 4 != 4 {
        return Sum::ZERO;
    }
    Sum::ZERO
        .bytes(&header[..v4::TOTAL_LENGTH])
        .bytes(&header[v4::FRAGMENT..v4::CHECKSUM])
        .bytes(&header[v4::SOURCE..IPV4_HEADER])
        .bytes(&header[IPV4_HEADER..])
}

/// Without sequence number, flags, length and checksum.
fn transport_sum(upper: &Upper, header: &[u8]) -> Sum {
    if upper.protocol == protocol::UDP {
        return Sum::ZERO.bytes(&header[..udp::LENGTH]);
    }
    Sum::ZERO
        .bytes(&header[..tcp::SEQUENCE])
        .bytes(&header[tcp::SEQUENCE + 4..tcp::OFFSET])
        .bytes(&[header[tcp::OFFSET], 0])
        .bytes(&header[tcp::FLAGS + 1..tcp::CHECKSUM])
        .bytes(&header[tcp::CHECKSUM + 2..])
}

/// One packet, not yet written.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'s> {
    split: &'s Split<'s>,
    number: usize,
    payload: &'s [u8],
    headers: usize,
}

impl Segment<'_> {
    /// Bytes of the packet.
    #[inline]
    pub fn length(&self) -> usize {
        self.headers + self.payload.len()
    }

    /// Writes the packet to the front of the room and gives its length. What is behind it stays as it was.
    ///
    /// # Errors
    /// There is not enough room. Nothing was written.
    #[inline]
    pub fn write_to(&self, room: &mut [u8]) -> Result<usize, NoRoom> {
        let length = self.length();
        let room = room.get_mut(..length).ok_or(NoRoom)?;
        let packet = self.split.packet.bytes();
        match &self.split.task {
            Task::Copy => room.copy_from_slice(packet),
            Task::Complete { start, field } => {
                let (head, covered) = room.split_at_mut(*start);
                head.copy_from_slice(&packet[..*start]);
                // The field holds the sum of the pseudo-header, which so becomes part of it.
                let sum = Sum::ZERO.copy(&packet[*start..], covered);
                put(room, *field, sum.checksum_not_zero().to_be_bytes());
            }
            Task::Cut(cut) => {
                let (headers, payload) = room.split_at_mut(cut.headers);
                headers.copy_from_slice(&packet[..cut.headers]);
                let sum = Sum::ZERO.copy(self.payload, payload);
                cut.finish(packet, headers, self.number, payload.len(), sum);
            }
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::{PING4, Seeded, Tcp, assert_naively_valid, naive_checksum};
    use crate::packet::{VnetHeader, transport_is_valid};

    /// What a TCP super-packet comes with.
    fn offload(packet: &[u8], size: u16) -> Offload {
        let view = View::parse(packet).unwrap();
        let is_tcp = view.protocol() == protocol::TCP;
        Offload {
            needs_checksum: true,
            segmentation: Some(match (is_tcp, view.version()) {
                (true, Version::V4) => Segmentation::Tcp4,
                (true, Version::V6) => Segmentation::Tcp6,
                (false, _) => Segmentation::Udp,
            }),
            // As when it was forwarded: not the length of the headers at all.
            header_length: 1500,
            segment_size: size,
            checksum_start: u16::try_from(view.header_length()).unwrap(),
            checksum_offset: if is_tcp { 16 } else { 6 },
            ..Offload::default()
        }
    }

    fn cut(offload: &Offload, packet: &[u8]) -> Vec<Vec<u8>> {
        let split = Split::new(offload, packet).unwrap();
        let segments: Vec<_> = split
            .segments()
            .map(|segment| {
                // Headroom, room, tailroom: nothing but the room is touched.
                let mut area = vec![0xee; 16 + segment.length() + 48];
                let length = segment.write_to(&mut area[16..]).unwrap();
                assert_eq!(length, segment.length());
                assert!(area[..16].iter().chain(&area[16 + length..]).all(|byte| *byte == 0xee));
                assert_eq!(segment.write_to(&mut area[..length - 1]), Err(NoRoom));
                area[16..16 + length].to_vec()
            })
            .collect();
        assert_eq!(segments.len(), split.count());
        assert_eq!(segments.iter().map(Vec::len).max().unwrap(), split.longest());
        segments
    }

    #[test]
    fn a_tcp_packet_is_cut() {
        let bytes = Seeded::new(3).bytes(2500);
        for tcp in [Tcp::v4(), Tcp::v6()] {
            // Everything at once: FIN, PSH, CWR, ACK; sequence number and IPv4 number come round.
            let tcp = Tcp { flags: 0x99, sequence: u32::MAX - 500, id: 0xffff, payload: bytes.clone(), ..tcp };
            let packet = tcp.build();
            let segments = cut(&offload(&packet, 1000), &packet);
            assert_eq!(segments.len(), 3);
            let mut payload = Vec::new();
            for (number, segment) in segments.iter().enumerate() {
                assert_naively_valid(segment);
                let network = if tcp.is_v4() { 20 } else { 40 };
                let transport = &segment[network..];
                assert_eq!(transport.len(), 32 + [1000, 1000, 500][number]);
                assert_eq!(transport[tcp::FLAGS], [0x90, 0x10, 0x19][number]);
                assert_eq!(long(transport, 4), [u32::MAX - 500, 499, 1499][number]);
                if tcp.is_v4() {
                    assert_eq!(word(segment, 4), [0xffff, 0, 1][number]);
                    assert_eq!(word(segment, 6), 0x4000, "DF stays");
                }
                assert_eq!(transport[20..32], packet[network + 20..network + 32], "options stay");
                payload.extend_from_slice(&transport[32..]);
            }
            assert_eq!(payload, bytes);
        }
    }

    #[test]
    fn a_segment_is_what_its_sender_would_have_built() {
        let bytes = Seeded::new(4).bytes(2000);
        for tcp in [Tcp::v4(), Tcp::v6()] {
            let whole = Tcp { payload: bytes.clone(), ..tcp.clone() }.build();
            let segments = cut(&offload(&whole, 1448), &whole);
            let second = Tcp { payload: bytes[1448..].to_vec(), sequence: tcp.sequence + 1448, id: tcp.id + 1, ..tcp };
            assert_eq!(segments[1], second.build());
        }
    }

    #[test]
    fn datagrams_are_cut() {
        let bytes = Seeded::new(5).bytes(3601);
        for tcp in [Tcp::v4(), Tcp::v6()] {
            let network = if tcp.is_v4() { 20 } else { 40 };
            let packet = Tcp { payload: bytes.clone(), ..tcp }.udp();
            let segments = cut(&offload(&packet, 1200), &packet);
            assert_eq!(
                segments.iter().map(|segment| segment.len() - network).collect::<Vec<_>>(),
                [1208, 1208, 1208, 9]
            );
            for (number, segment) in segments.iter().enumerate() {
                assert_naively_valid(segment);
                assert_eq!(usize::from(word(segment, network + 4)), segment.len() - network);
                let end = bytes.len().min((number + 1) * 1200);
                assert_eq!(segment[network + 8..], bytes[number * 1200..end]);
            }
        }
    }

    #[test]
    fn ipv4_options_and_ipv6_extensions_go_with_each_segment() {
        let payload = Seeded::new(6).bytes(1900);
        let plain = Tcp { payload: payload.clone(), ..Tcp::v4() }.build();
        let mut packet = [&plain[..20], &[1; 4], &plain[20..]].concat();
        packet[0] = 0x46;
        let total = u16::try_from(packet.len()).unwrap();
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        for segment in cut(&offload(&packet, 1000), &packet) {
            assert_eq!(segment[20..24], [1; 4]);
            assert_naively_valid(&segment);
        }
        let plain = Tcp { payload, ..Tcp::v6() }.build();
        let mut packet = [&plain[..40], &[6, 0, 1, 4, 0, 0, 0, 0], &plain[40..]].concat();
        packet[6] = 60;
        let length = u16::try_from(packet.len() - 40).unwrap();
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        let offload = Offload { checksum_start: 48, ..offload(&plain, 1000) };
        for segment in cut(&offload, &packet) {
            assert_eq!(segment[40..48], packet[40..48]);
            let length = segment.len() - 48;
            let pseudo = [&segment[8..40], &[0, 0, length.to_be_bytes()[6], length.to_be_bytes()[7], 0, 0, 0, 6]];
            assert_eq!(naive_checksum(&[pseudo[0], pseudo[1], &segment[48..]]), 0);
        }
        packet[6] = 43;
        assert_eq!(Split::new(&offload, &packet).unwrap_err(), SplitError::Unsupported);
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        for packet in [Tcp::v4().build(), Tcp::v6().build(), Tcp::v4().udp(), Tcp::v6().udp()] {
            let view = View::parse(&packet).unwrap();
            let (start, offset) = (view.header_length(), if view.protocol() == 6 { 16 } else { 6 });
            let mut partial = packet.clone();
            let pseudo = Sum::ZERO.pseudo_header(view.addresses(), view.protocol(), packet.len() - start).folded();
            partial[start + offset..start + offset + 2].copy_from_slice(&pseudo.to_be_bytes());
            let head = Offload {
                needs_checksum: true,
                checksum_start: u16::try_from(start).unwrap(),
                checksum_offset: u16::try_from(offset).unwrap(),
                ..Offload::default()
            };
            assert_eq!(cut(&head, &partial), [packet]);
            let beyond = Offload { checksum_offset: u16::try_from(partial.len() - start - 1).unwrap(), ..head };
            assert_eq!(Split::new(&beyond, &partial).unwrap_err(), SplitError::Mismatch);
            let within_ip = Offload { checksum_start: 10, ..head };
            assert_eq!(Split::new(&within_ip, &partial).unwrap_err(), SplitError::Mismatch);
        }
    }

    #[test]
    fn what_needs_nothing_is_copied() {
        let read = [&[0; 10][..], &PING4, &[0; 7]].concat();
        let (head, packet) = Offload::parse(&read, VnetHeader::Short).unwrap();
        assert_eq!(cut(&head, packet), [PING4.to_vec()]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let packet = Tcp { payload: vec![1; 3000], ..Tcp::v4() }.build();
        let good = offload(&packet, 1000);
        let refused = |bad: Offload, packet: &[u8]| Split::new(&bad, packet).unwrap_err();
        assert_eq!(refused(Offload { segment_size: 0, ..good }, &packet), SplitError::Mismatch);
        assert_eq!(refused(Offload { needs_checksum: false, ..good }, &packet), SplitError::Mismatch);
        assert_eq!(refused(Offload { checksum_start: 24, ..good }, &packet), SplitError::Mismatch);
        assert_eq!(refused(Offload { checksum_offset: 6, ..good }, &packet), SplitError::Mismatch);
        for (kind, error) in [
            (Segmentation::Tcp6, SplitError::Mismatch),
            (Segmentation::Udp, SplitError::Mismatch),
            (Segmentation::Fragments, SplitError::Unsupported),
        ] {
            assert_eq!(refused(Offload { segmentation: Some(kind), ..good }, &packet), error);
        }
        for doff in [0x40, 0xf0] {
            let mut packet = Tcp { payload: vec![1; 10], ..Tcp::v4() }.build();
            packet[20 + tcp::OFFSET] = doff;
            assert_eq!(refused(good, &packet), SplitError::Mismatch, "a TCP header of impossible length");
        }
        let mut fragment = packet.clone();
        fragment[6] = 0x20;
        assert_eq!(refused(good, &fragment), SplitError::Mismatch);
        assert_eq!(refused(good, &packet[..2000]), SplitError::Malformed(Malformed::TotalLength));
        let mut empty = Tcp::v4();
        empty.payload.clear();
        let segments = cut(&good, &empty.build());
        assert_eq!(segments.len(), 1, "a header alone is one packet");
        assert!(transport_is_valid(&View::parse(&segments[0]).unwrap()));
    }
}
