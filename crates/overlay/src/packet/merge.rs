//! Packets for the TUN device, consecutive ones of a flow joined to one that the kernel takes as a whole (GRO).
//!
//! Only headers are written anew; payloads stay where they were decrypted and are gathered by `writev`.
//!
//! A joined packet gets its checksum from the kernel. A payload that was changed between its sender and the tunnel would
//! so be given a good one: therefore each is verified before it is joined, and goes alone if it does not fit. What
//! goes alone is not verified: its receiver does that.

use std::io::IoSlice;

use super::checksum::{Sum, transport_is_valid};
use super::field::{length_word, put};
use super::flow::{Flow, Kind, Shape, has_next_number, have_like_headers};
use super::offload::{Offload, Segmentation, VnetHeader};
use super::transport::{tcp, udp};
use super::view::{IPV4_HEADER, IPV6_HEADER, Version, View, protocol, v4, v6};

/// No write gathers more packets than this, whatever the settings say.
pub const SLICES_MOST: usize = 128;
/// The kernel takes no more datagrams in one (`UDP_MAX_SEGMENTS` before Linux 6.9).
const DATAGRAMS_MOST: usize = 64;
/// The device takes no longer packet.
const LENGTH_MOST: usize = 65_535;
const HEADERS_MOST: usize = VnetHeader::Long.length() + IPV6_HEADER + 15 * 4;
/// What stands before a packet that goes alone.
const NOTHING_TO_DO: [u8; VnetHeader::Long.length()] = [0; VnetHeader::Long.length()];

/// How packets are joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MergeSettings {
    /// The length of the header the device was told.
    pub vnet: VnetHeader,
    /// Whether UDP is joined: the device must be able to take it (`TUN_F_USO4`, `TUN_F_USO6`; Linux 6.2).
    pub udp: bool,
    /// Packets in one write, at most; up to [`SLICES_MOST`].
    pub slices: usize,
    /// Flows told apart at once. When another comes, the one that began first is joined no further.
    pub flows: usize,
}

impl Default for MergeSettings {
    fn default() -> Self {
        // 64 is what one UDP receive with GRO brings. A batch comes from one peer, rarely with many busy flows.
        Self { vnet: VnetHeader::default(), udp: false, slices: 64, flows: 8 }
    }
}

/// Joins the packets of one batch after another, in buffers it keeps.
#[derive(Debug)]
pub struct Merger {
    settings: MergeSettings,
    /// One for each packet of the batch.
    pieces: Vec<Piece>,
    runs: Vec<Run>,
    /// Of the runs that are more than one packet.
    headers: Vec<Headers>,
    /// Runs that may still grow, the oldest first: at most one of a flow, and always the flow's last.
    open: Vec<Open>,
}

/// What is written of a packet, and which is written after it.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    end: usize,
    next: Option<usize>,
}

/// What becomes one write.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: usize,
    last: usize,
    count: usize,
    /// Bytes of the IP packet.
    length: usize,
    headers: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Headers {
    bytes: [u8; HEADERS_MOST],
    length: usize,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    flow: Flow,
    run: usize,
    /// What the first packet is like, and where it is.
    shape: Shape,
    /// Whether the first packet's checksum was verified.
    is_verified: bool,
    next_sequence: u32,
}

impl Merger {
    /// With buffers that grow to the largest batch.
    pub fn new(settings: MergeSettings) -> Self {
        let settings =
            MergeSettings { slices: settings.slices.clamp(1, SLICES_MOST), flows: settings.flows.max(1), ..settings };
        Self {
            settings,
            pieces: Vec::new(),
            runs: Vec::new(),
            headers: Vec::new(),
            open: Vec::with_capacity(settings.flows),
        }
    }

    /// Joins what can be joined. Packets of a flow stay in their order; a flow is moved before another only if it began
    /// before it. What is no packet is left out, and so is what is padded behind one.
    pub fn merge<'b>(&'b mut self, packets: &'b [&'b [u8]]) -> Merged<'b> {
        self.pieces.clear();
        self.runs.clear();
        self.headers.clear();
        self.open.clear();
        for (index, bytes) in packets.iter().enumerate() {
            match View::parse(bytes) {
                Ok(view) => self.take(packets, index, &view),
                Err(_) => self.pieces.push(Piece { start: 0, end: 0, next: None }),
            }
        }
        for run in self.runs.iter_mut().filter(|run| run.count > 1) {
            run.headers = Some(self.headers.len());
            self.headers.push(Headers::of(run, packets, self.pieces[run.first], self.settings.vnet));
        }
        Merged { merger: self, packets }
    }

    fn take(&mut self, packets: &[&[u8]], index: usize, view: &View<'_>) {
        self.pieces.push(Piece { start: 0, end: view.bytes().len(), next: None });
        match Kind::of(view, self.settings.udp) {
            Kind::Joins(flow, shape) => {
                let place = self.open.iter().position(|open| open.flow == flow);
                if place.is_some_and(|place| self.join(packets, index, view, place, shape)) {
                    return;
                }
                if let Some(place) = place {
                    self.open.remove(place);
                }
                self.begin(index, view);
                if !shape.push {
                    self.open(flow, shape);
                }
            }
            Kind::Alone(flow) => {
                self.open.retain(|open| open.flow != flow);
                self.begin(index, view);
            }
            Kind::Opaque => {
                self.open.retain(|open| !open.flow.is_between(view));
                self.begin(index, view);
            }
        }
    }

    fn begin(&mut self, index: usize, view: &View<'_>) {
        self.runs.push(Run { first: index, last: index, count: 1, length: view.bytes().len(), headers: None });
    }

    /// The run that was just begun may grow.
    fn open(&mut self, flow: Flow, shape: Shape) {
        if self.open.len() == self.settings.flows {
            self.open.remove(0);
        }
        let run = self.runs.len() - 1;
        let next_sequence = shape.sequence.wrapping_add(length_of(shape.payload));
        self.open.push(Open { flow, run, shape, is_verified: false, next_sequence });
    }

    /// Whether the packet was joined to the open run.
    fn join(&mut self, packets: &[&[u8]], index: usize, view: &View<'_>, place: usize, shape: Shape) -> bool {
        let open = &mut self.open[place];
        let run = &mut self.runs[open.run];
        let head = packets[run.first];
        let is_tcp = open.flow.protocol == protocol::TCP;
        let most = if is_tcp { self.settings.slices } else { self.settings.slices.min(DATAGRAMS_MOST) };
        let fits = shape.payload <= open.shape.payload
            && run.count < most
            && run.length + shape.payload <= LENGTH_MOST
            && (!is_tcp || shape.sequence == open.next_sequence)
            && shape.headers == open.shape.headers
            && have_like_headers(head, view.bytes(), shape, &open.flow)
            && has_next_number(head, view.bytes(), run.count, &open.flow);
        if !fits {
            return false;
        }
        open.is_verified = open.is_verified || View::parse(head).is_ok_and(|head| transport_is_valid(&head));
        // If it is this one that does not fit, it may become the first of a run, and then be found out again.
        if !open.is_verified || !transport_is_valid(view) {
            return false;
        }
        self.pieces[run.last].next = Some(index);
        self.pieces[run.first].start = shape.headers;
        self.pieces[index].start = shape.headers;
        run.last = index;
        run.count += 1;
        run.length += shape.payload;
        open.next_sequence = open.next_sequence.wrapping_add(length_of(shape.payload));
        if shape.push || shape.payload < open.shape.payload {
            self.open.remove(place);
        }
        true
    }
}

/// For sequence numbers, which come round.
#[allow(clippy::cast_possible_truncation, reason = "no payload is longer than 16 bits can say")]
fn length_of(payload: usize) -> u32 {
    payload as u32
}

impl Headers {
    /// Those of the first packet, made to fit the whole run.
    fn of(run: &Run, packets: &[&[u8]], first: Piece, vnet: VnetHeader) -> Self {
        let length = first.start;
        let mut bytes = [0; HEADERS_MOST];
        let packet = &mut bytes[vnet.length()..vnet.length() + length];
        packet.copy_from_slice(&packets[run.first][..length]);
        let (network, version) = match packet[0] >> 4 {
            4 => (IPV4_HEADER, Version::V4),
            _ => (IPV6_HEADER, Version::V6),
        };
        let (ip, transport) = packet.split_at_mut(network);
        let covered = run.length - network;
        let (protocol, addresses) = match version {
            Version::V4 => {
                put(ip, v4::TOTAL_LENGTH, length_word(run.length).to_be_bytes());
                put(ip, v4::CHECKSUM, [0, 0]);
                let sum = Sum::ZERO.bytes(ip);
                put(ip, v4::CHECKSUM, sum.checksum().to_be_bytes());
                (ip[v4::PROTOCOL], &ip[v4::SOURCE..])
            }
            Version::V6 => {
                put(ip, v6::PAYLOAD_LENGTH, length_word(covered).to_be_bytes());
                (ip[v6::NEXT_HEADER], &ip[v6::SOURCE..])
            }
        };
        let pseudo = Sum::ZERO.pseudo_header(addresses, protocol, covered).folded().to_be_bytes();
        let (segmentation, checksum) = match (protocol, version) {
            (protocol::UDP, _) => (Segmentation::Udp, udp::CHECKSUM),
            (_, Version::V4) => (Segmentation::Tcp4, tcp::CHECKSUM),
            (_, Version::V6) => (Segmentation::Tcp6, tcp::CHECKSUM),
        };
        if protocol == protocol::UDP {
            put(transport, udp::LENGTH, length_word(covered).to_be_bytes());
        } else {
            transport[tcp::FLAGS] |= packets[run.last][network + tcp::FLAGS] & tcp::PSH;
        }
        put(transport, checksum, pseudo);
        let offload = Offload {
            needs_checksum: true,
            segmentation: Some(segmentation),
            header_length: length_word(length),
            segment_size: length_word(first.end - first.start),
            checksum_start: length_word(network),
            checksum_offset: length_word(checksum),
            ..Offload::default()
        };
        bytes[..vnet.length()].copy_from_slice(&offload.header()[..vnet.length()]);
        Self { bytes, length: vnet.length() + length }
    }
}

/// A batch, ready to be written.
#[derive(Clone, Copy, Debug)]
pub struct Merged<'b> {
    merger: &'b Merger,
    packets: &'b [&'b [u8]],
}

impl<'b> Merged<'b> {
    /// One for each call of `writev`, in order.
    pub fn writes(&self) -> impl ExactSizeIterator<Item = Write<'b>> + use<'b> {
        let Self { merger, packets } = *self;
        merger.runs.iter().map(move |run| Write { merger, packets, run })
    }
}

/// What is written with one call.
#[derive(Clone, Copy, Debug)]
pub struct Write<'b> {
    merger: &'b Merger,
    packets: &'b [&'b [u8]],
    run: &'b Run,
}

impl<'b> Write<'b> {
    /// The header of the device, and of a joined packet all that comes before its payload.
    pub fn header(&self) -> &'b [u8] {
        match self.run.headers {
            Some(index) => {
                let headers = &self.merger.headers[index];
                &headers.bytes[..headers.length]
            }
            None => &NOTHING_TO_DO[..self.merger.settings.vnet.length()],
        }
    }

    /// How many packets it is.
    pub fn count(&self) -> usize {
        self.run.count
    }

    /// Bytes of the packet, without the header of the device.
    pub fn length(&self) -> usize {
        self.run.length
    }

    /// What comes after the header.
    pub fn payloads(&self) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        let Self { merger, packets, run } = *self;
        std::iter::successors(Some(run.first), |index| merger.pieces[*index].next).map(|index| {
            let piece = merger.pieces[index];
            &packets[index][piece.start..piece.end]
        })
    }

    /// All of it, for `writev`. The slices may be used again for the next.
    pub fn gather<'s>(&self, slices: &'s mut [IoSlice<'b>; 1 + SLICES_MOST]) -> &'s [IoSlice<'b>] {
        slices[0] = IoSlice::new(self.header());
        let mut used = 1;
        for (slice, payload) in slices[1..].iter_mut().zip(self.payloads()) {
            *slice = IoSlice::new(payload);
            used += 1;
        }
        &slices[..used]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::field::word;
    use crate::packet::tests::{PING4, Seeded, Tcp, naive_checksum};

    const BOTH: MergeSettings = MergeSettings { vnet: VnetHeader::Long, udp: true, slices: 64, flows: 4 };

    /// Which packets each write is made of, and its bytes.
    fn merged(settings: MergeSettings, packets: &[Vec<u8>]) -> Vec<(usize, Vec<u8>)> {
        let packets: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
        let mut merger = Merger::new(settings);
        let merged = merger.merge(&packets);
        let mut slices = [IoSlice::new(&[]); 1 + SLICES_MOST];
        let mut writes = Vec::new();
        for write in merged.writes() {
            let gathered = write.gather(&mut slices);
            assert_eq!(gathered.len(), 1 + write.count());
            let bytes: Vec<u8> = gathered.iter().flat_map(|slice| slice.iter().copied()).collect();
            assert_eq!(bytes.len(), settings.vnet.length() + write.length());
            writes.push((write.count(), bytes));
        }
        writes
    }

    fn counts(settings: MergeSettings, packets: &[Vec<u8>]) -> Vec<usize> {
        merged(settings, packets).into_iter().map(|(count, _)| count).collect()
    }

    /// So many segments of a stream, each as long.
    fn stream(from: &Tcp, count: u16, size: usize) -> Vec<Tcp> {
        let mut seeded = Seeded::new(7);
        (0..count)
            .map(|number| Tcp {
                payload: seeded.bytes(size),
                sequence: from.sequence.wrapping_add(u32::from(number) * u32::try_from(size).unwrap()),
                id: from.id.wrapping_add(number),
                ..from.clone()
            })
            .collect()
    }

    fn built(stream: &[Tcp]) -> Vec<Vec<u8>> {
        stream.iter().map(Tcp::build).collect()
    }

    #[test]
    fn segments_become_one_packet() {
        for from in [Tcp::v4(), Tcp::v6()] {
            let from = Tcp { sequence: u32::MAX - 1000, ..from };
            let mut segments = stream(&from, 3, 1000);
            segments[2].payload.truncate(301);
            segments[2].flags |= tcp::PSH;
            let payload: Vec<u8> = segments.iter().flat_map(|segment| segment.payload.clone()).collect();
            let mut packets = built(&segments);
            packets[1].extend([0; 12]);
            let [(3, bytes)] = &merged(BOTH, &packets)[..] else { panic!("one write") };
            let (offload, packet) = Offload::parse(bytes, VnetHeader::Long).unwrap();
            let network = if from.is_v4() { 20 } else { 40 };
            let expected = Offload {
                needs_checksum: true,
                segmentation: Some(if from.is_v4() { Segmentation::Tcp4 } else { Segmentation::Tcp6 }),
                header_length: network + 32,
                segment_size: 1000,
                checksum_start: network,
                checksum_offset: 16,
                ..Offload::default()
            };
            assert_eq!(offload, expected);
            // But for the checksum, it is what the sender would have sent in one.
            let mut whole = Tcp { payload, flags: 0x18, ..from.clone() }.build();
            let at = usize::from(network) + 16;
            let length = u16::try_from(2301 + 32).unwrap().to_be_bytes();
            let pseudo = !naive_checksum(&[&from.addresses, &[0, 6], &length]);
            whole[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
            assert_eq!(packet, whole);
        }
    }

    #[test]
    fn datagrams_become_one_packet_if_the_device_takes_it() {
        for from in [Tcp::v4(), Tcp::v6()] {
            let mut datagrams = stream(&from, 4, 1200);
            datagrams[3].payload.truncate(1);
            let mut packets: Vec<_> = datagrams.iter().map(Tcp::udp).collect();
            let [(4, bytes)] = &merged(BOTH, &packets)[..] else { panic!("one write") };
            let (offload, packet) = Offload::parse(bytes, VnetHeader::Long).unwrap();
            let network = if from.is_v4() { 20 } else { 40 };
            assert_eq!((offload.segmentation, offload.segment_size), (Some(Segmentation::Udp), 1200));
            assert_eq!((offload.checksum_start, offload.checksum_offset), (network, 6));
            assert_eq!(word(packet, usize::from(network) + 4), 8 + 3601);
            assert_eq!(counts(MergeSettings { udp: false, ..BOTH }, &packets), [1; 4]);
            let at = usize::from(network) + 6;
            packets[1][at..at + 2].fill(0);
            assert_eq!(counts(BOTH, &packets), [1, 1, 2], "one without a checksum goes alone");
            let many: Vec<_> = stream(&from, 70, 100).iter().map(Tcp::udp).collect();
            assert_eq!(counts(MergeSettings { slices: 100, ..BOTH }, &many), [64, 6]);
        }
    }

    #[test]
    fn what_was_changed_on_its_way_goes_alone() {
        for from in [Tcp::v4(), Tcp::v6()] {
            for (bad, expected) in [(0, &[1, 4][..]), (1, &[1, 1, 3]), (2, &[2, 1, 2]), (4, &[4, 1])] {
                let mut packets = built(&stream(&from, 5, 700));
                *packets[bad].last_mut().unwrap() ^= 0x10;
                let writes = merged(BOTH, &packets);
                assert_eq!(writes.iter().map(|(count, _)| *count).collect::<Vec<_>>(), expected);
                let alone = [&[0; 12][..], &packets[bad]].concat();
                assert!(writes.contains(&(1, alone)), "as it came, so that its receiver sees it");
                let mut packets: Vec<_> = stream(&from, 5, 700).iter().map(Tcp::udp).collect();
                *packets[bad].last_mut().unwrap() ^= 0x10;
                assert_eq!(counts(BOTH, &packets), expected);
            }
        }
        let mut packets = built(&stream(&Tcp::v4(), 4, 700));
        packets[1][10] ^= 1;
        assert_eq!(counts(BOTH, &packets), [1, 1, 2], "nor is a bad header made good");
    }

    #[test]
    fn only_like_segments_are_joined() {
        let parts = |from: &Tcp, change: &dyn Fn(&mut Tcp)| {
            let mut segments = stream(from, 4, 500);
            change(&mut segments[2]);
            counts(BOTH, &built(&segments))
        };
        for from in [Tcp::v4(), Tcp::v6()] {
            assert_eq!(parts(&from, &|_| ()), [4]);
            assert_eq!(parts(&from, &|tcp| tcp.acknowledgment += 1), [2, 1, 1]);
            assert_eq!(parts(&from, &|tcp| tcp.window += 1), [2, 1, 1]);
            assert_eq!(parts(&from, &|tcp| tcp.timestamp += 1), [2, 1, 1]);
            assert_eq!(parts(&from, &|tcp| tcp.service = 3), [2, 1, 1], "congestion was noted");
            assert_eq!(parts(&from, &|tcp| tcp.hops -= 1), [2, 1, 1]);
            assert_eq!(parts(&from, &|tcp| tcp.sequence += 1), [2, 1, 1]);
            assert_eq!(parts(&from, &|tcp| tcp.flags |= tcp::PSH), [3, 1]);
            for flags in [0x11, 0x12, 0x14, 0x30, 0x50, 0x90, 0x00] {
                assert_eq!(parts(&from, &|tcp| tcp.flags = flags), [2, 1, 1], "flags {flags:x}");
            }
            assert_eq!(parts(&from, &|tcp| tcp.payload.truncate(400)), [3, 1], "a shorter one is the last");
            assert_eq!(parts(&from, &|tcp| tcp.payload.push(1)), [2, 1, 1], "a longer one is the first");
            assert_eq!(parts(&from, &|tcp| tcp.payload.clear()), [2, 1, 1], "a mere acknowledgment");
            assert_eq!(parts(&from, &|tcp| tcp.ports[0] += 1), [2, 1, 1], "of another flow");
        }
        assert_eq!(parts(&Tcp::v4(), &|tcp| tcp.id += 9), [4], "with DF the number means nothing");
        let without_df = |from: &Tcp, break_at: usize| {
            let mut segments = stream(from, 4, 500);
            segments[break_at..].iter_mut().for_each(|tcp| tcp.id = tcp.id.wrapping_add(1));
            let mut packets = built(&segments);
            for packet in &mut packets {
                packet[6] = 0;
                packet[10..12].fill(0);
                let sum = naive_checksum(&[&packet[..20]]);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            counts(BOTH, &packets)
        };
        let coming_round = Tcp { id: u16::MAX - 1, ..Tcp::v4() };
        assert_eq!(without_df(&coming_round, 4), [4], "without it they have to follow each other");
        assert_eq!(without_df(&coming_round, 2), [2, 2]);
    }

    #[test]
    fn flows_that_alternate_are_joined_each_for_itself() {
        let flows: Vec<_> = (0..5).map(|number| stream(&Tcp { ports: [number, 80], ..Tcp::v4() }, 6, 300)).collect();
        let alternating = |count: usize| -> Vec<_> {
            (0..6).flat_map(|n| flows[..count].iter().map(move |flow| flow[n].build())).collect()
        };
        assert_eq!(counts(BOTH, &alternating(4)), [6; 4]);
        assert_eq!(counts(BOTH, &alternating(5)), [1; 30], "more than are told apart");
    }

    #[test]
    fn what_may_belong_to_a_flow_is_not_overtaken() {
        let mut fragment = Tcp::v4().udp();
        fragment[6] = 0x20;
        let elsewhere = PING4.map(|byte| if byte == 2 { 3 } else { byte });
        for (between, expected) in
            [(PING4.to_vec(), &[2, 1, 2][..]), (fragment, &[2, 1, 2]), (elsewhere.to_vec(), &[4, 1])]
        {
            let mut packets = built(&stream(&Tcp::v4(), 4, 300));
            packets.insert(2, between);
            assert_eq!(counts(BOTH, &packets), expected);
        }
    }

    #[test]
    fn a_write_has_bounds() {
        assert_eq!(counts(BOTH, &built(&stream(&Tcp::v4(), 100, 100))), [64, 36]);
        let few = MergeSettings { slices: 0, ..BOTH };
        assert_eq!(counts(few, &built(&stream(&Tcp::v4(), 3, 100))), [1; 3]);
        let many = MergeSettings { slices: 1000, ..BOTH };
        assert_eq!(counts(many, &built(&stream(&Tcp::v4(), 150, 100))), [128, 22]);
        // 65,535 less 52 bytes of headers.
        assert_eq!(counts(BOTH, &built(&stream(&Tcp::v4(), 7, 13_096))), [5, 2]);
        assert_eq!(counts(BOTH, &built(&stream(&Tcp::v4(), 7, 13_097))), [4, 3]);
        assert_eq!(counts(BOTH, &built(&stream(&Tcp::v6(), 7, 13_092))), [5, 2]);
        assert_eq!(counts(BOTH, &built(&stream(&Tcp::v6(), 7, 13_093))), [4, 3]);
    }

    #[test]
    fn what_is_no_packet_is_left_out() {
        let short = MergeSettings { vnet: VnetHeader::Short, ..BOTH };
        let writes = merged(short, &[vec![], vec![0x45; 10], PING4.to_vec(), vec![0; 64]]);
        assert_eq!(writes, [(1, [&[0; 10][..], &PING4].concat())]);
        assert_eq!(merged(short, &[]), []);
    }
}
