//! Cut and joined, joined and cut: what comes out is what went in. And nothing panics.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{PING4, Seeded, Tcp, assert_naively_valid};
use crate::packet::{
    Change, ICMPV6_LONGEST, MergeSettings, Merged, Merger, Notice, Offload, SLICES_MOST, Split, Unreachable, View,
    VnetHeader, decrement_hops, ipv4_header_is_valid, notice, transport_is_valid,
};

/// As the device sees them, and as it would cut them again.
fn cut_again(merged: &Merged<'_>, vnet: VnetHeader) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for write in merged.writes() {
        let mut bytes = write.header().to_vec();
        for payload in write.payloads() {
            bytes.extend_from_slice(payload);
        }
        assert!(bytes.len() <= vnet.length() + 65_535 || write.count() == 1);
        let (offload, packet) = Offload::parse(&bytes, vnet).unwrap();
        let split = Split::new(&offload, packet).unwrap();
        assert_eq!(split.count(), write.count());
        packets.extend(segments(&split));
    }
    packets
}

fn segments(split: &Split<'_>) -> Vec<Vec<u8>> {
    split
        .segments()
        .map(|segment| {
            let mut room = vec![0; segment.length()];
            segment.write_to(&mut room).unwrap();
            room
        })
        .collect()
}

#[test]
fn what_is_cut_and_joined_is_as_it_was() {
    let mut seeded = Seeded::new(10);
    for round in 0..400 {
        let tcp = if seeded.chance(2) { Tcp::v4() } else { Tcp::v6() };
        let is_tcp = seeded.chance(2);
        let size = 100 + seeded.below(1400);
        let length = 1 + seeded.below((size * 60).min(65_535 - 92));
        let flags = if seeded.chance(2) { 0x10 } else { 0x18 };
        let tcp = Tcp {
            payload: seeded.bytes(length),
            flags,
            sequence: u32::try_from(seeded.number() >> 32).unwrap(),
            ..tcp
        };
        let whole = if is_tcp { tcp.build() } else { tcp.udp() };
        let network = if tcp.is_v4() { 20 } else { 40 };
        let offload = Offload {
            needs_checksum: true,
            segmentation: Some(match (is_tcp, tcp.is_v4()) {
                (true, true) => crate::packet::Segmentation::Tcp4,
                (true, false) => crate::packet::Segmentation::Tcp6,
                (false, _) => crate::packet::Segmentation::Udp,
            }),
            segment_size: u16::try_from(size).unwrap(),
            checksum_start: network,
            checksum_offset: if is_tcp { 16 } else { 6 },
            ..Offload::default()
        };
        let cut = segments(&Split::new(&offload, &whole).unwrap());
        assert_eq!(cut.len(), length.div_ceil(size));
        for packet in &cut {
            assert_naively_valid(packet);
            let view = View::parse(packet).unwrap();
            assert!(transport_is_valid(&view) && ipv4_header_is_valid(&view));
        }
        let slices: Vec<&[u8]> = cut.iter().map(Vec::as_slice).collect();
        let vnet = if seeded.chance(2) { VnetHeader::Short } else { VnetHeader::Long };
        let mut merger = Merger::new(MergeSettings { vnet, udp: true, ..MergeSettings::default() });
        let merged = merger.merge(&slices);
        assert_eq!(merged.writes().len(), 1, "round {round}");
        let write = merged.writes().next().unwrap();
        // Byte for byte, but for the checksum, which the kernel completes.
        let at = usize::from(network) + usize::from(offload.checksum_offset);
        let joined = [write.header(), &write.payloads().collect::<Vec<_>>().concat()].concat();
        if cut.len() == 1 {
            assert_eq!(joined[vnet.length()..], whole);
        } else {
            assert_eq!(joined[vnet.length()..][..at], whole[..at], "round {round}");
            assert_eq!(joined[vnet.length()..][at + 2..], whole[at + 2..], "round {round}");
        }
        assert_eq!(cut_again(&merged, vnet), cut);
    }
}

/// One packet of one of a few flows, often the next of its stream, sometimes something strange.
fn traffic(seeded: &mut Seeded, streams: &mut HashMap<usize, Tcp>) -> Vec<u8> {
    let which = seeded.below(12);
    let stream = streams.entry(which).or_insert_with(|| {
        let port = u16::try_from(which).unwrap();
        Tcp { ports: [1000, port], ..if which.is_multiple_of(2) { Tcp::v4() } else { Tcp::v6() } }
    });
    let size = if seeded.chance(8) { 1 + seeded.below(600) } else { 600 };
    stream.payload = seeded.bytes(size);
    let now = stream.clone();
    stream.sequence = stream.sequence.wrapping_add(u32::try_from(size).unwrap());
    stream.id = stream.id.wrapping_add(1);
    let mut packet = match which % 3 {
        0 => now.udp(),
        _ if seeded.chance(8) => Tcp { flags: u8::try_from(seeded.below(256)).unwrap(), ..now }.build(),
        _ if seeded.chance(12) => Tcp { payload: Vec::new(), ..now }.build(),
        _ if seeded.chance(12) => Tcp { timestamp: 5, ..now }.build(),
        _ => now.build(),
    };
    if seeded.chance(20) {
        // Changed on its way, where it says neither whose it is nor how long.
        let at = packet.len() - 1;
        packet[at] ^= 1 << seeded.below(8);
    }
    if packet[0] >> 4 == 4 && seeded.chance(30) {
        // A fragment; with the checksum of its header left wrong, which has to stay so.
        packet[6] |= 0x20;
    }
    packet
}

/// With what names a flow for certain: addresses, ports, protocol.
fn flow_of(packet: &[u8]) -> Vec<u8> {
    match packet[0] >> 4 {
        4 => [&packet[9..10], &packet[12..24]].concat(),
        _ => [&packet[6..7], &packet[8..44]].concat(),
    }
}

/// The kernel gives joined packets numbers in order.
fn without_number(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

#[test]
fn each_flow_stays_in_order_and_every_byte_arrives() {
    let mut seeded = Seeded::new(11);
    let mut streams = HashMap::new();
    let mut merger = Merger::new(MergeSettings { udp: true, flows: 5, ..MergeSettings::default() });
    let (mut came, mut written) = (0, 0);
    for round in 0..2000 {
        // Runs, as they come: some packets of one flow, then of another.
        let mut batch: Vec<Vec<u8>> = (0..64).map(|_| traffic(&mut seeded, &mut streams)).collect();
        batch.sort_by_key(|packet| if round % 2 == 0 { flow_of(packet) } else { Vec::new() });
        let slices: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
        let merged = merger.merge(&slices);
        came += batch.len();
        written += merged.writes().len();
        for write in merged.writes().filter(|write| write.count() == 1) {
            assert!(write.header().iter().all(|byte| *byte == 0));
        }
        let after = cut_again(&merged, VnetHeader::Short);
        let by_flow = |packets: &[Vec<u8>]| {
            let mut flows: HashMap<_, Vec<_>> = HashMap::new();
            for packet in packets {
                flows.entry(flow_of(packet)).or_default().push(without_number(packet));
            }
            flows
        };
        assert!(by_flow(&after) == by_flow(&batch), "round {round}");
    }
    assert!(written * 4 < came * 3, "{written} writes for {came} packets");
}

/// Arbitrary bytes, or a good packet with some of them changed, or cut short.
fn anything(seeded: &mut Seeded) -> Vec<u8> {
    let length = seeded.below(200);
    let with_payload = |tcp: Tcp, seeded: &mut Seeded| Tcp { payload: seeded.bytes(length), ..tcp };
    let mut bytes = match seeded.below(6) {
        0 => seeded.bytes(length),
        1 => PING4.to_vec(),
        2 => with_payload(Tcp::v4(), seeded).build(),
        3 => with_payload(Tcp::v6(), seeded).build(),
        4 => with_payload(Tcp::v4(), seeded).udp(),
        _ => with_payload(Tcp::v6(), seeded).udp(),
    };
    for _ in 0..seeded.below(4) {
        if !bytes.is_empty() {
            // Mostly in the headers, and mostly what is at a boundary.
            let at = seeded.below(bytes.len().min(72));
            let value = seeded.bytes(1)[0];
            bytes[at] = [0, 0xff, 0x06, 0x2c, value, value][seeded.below(6)];
        }
    }
    if seeded.chance(4) {
        let length = seeded.below(bytes.len() + 1);
        bytes.truncate(length);
    }
    bytes
}

fn any_offload(seeded: &mut Seeded) -> Vec<u8> {
    let mut head = seeded.bytes(12);
    if !seeded.chance(4) {
        head[0] |= 1;
        head[1] = [0, 1, 3, 4, 5, 0x81, 0x84][seeded.below(7)];
        for (at, number) in [(4, seeded.below(300)), (6, [20, 40, 48][seeded.below(3)]), (8, [6, 16][seeded.below(2)])]
        {
            head[at..at + 2].copy_from_slice(&u16::try_from(number).unwrap().to_le_bytes());
        }
    }
    head
}

#[test]
fn no_bytes_make_anything_panic() {
    let mut seeded = Seeded::new(12);
    let mut merger = Merger::new(MergeSettings { udp: true, ..MergeSettings::default() });
    let mut batch = Vec::new();
    let mut room = vec![0; 70_000];
    let (mut cut, mut said, mut joined) = (0, 0, 0);
    for _ in 0..100_000 {
        let mut bytes = anything(&mut seeded);
        if let Ok(view) = View::parse(&bytes) {
            assert!(view.bytes().len() <= bytes.len() && view.header_length() <= view.bytes().len());
            assert!(view.upper().is_none_or(|upper| upper.offset <= view.bytes().len()));
            let _ = (view.source(), view.destination(), view.hops(), view.ports(), view.dont_fragment());
            let _ = (ipv4_header_is_valid(&view), transport_is_valid(&view));
        }
        let read = [any_offload(&mut seeded), bytes.clone()].concat();
        if let Ok((offload, packet)) = Offload::parse(&read, VnetHeader::Long)
            && let Ok(split) = Split::new(&offload, packet)
        {
            let count = split.segments().filter(|segment| segment.write_to(&mut room).is_ok()).count();
            assert_eq!(count, split.count());
            cut += usize::from(count > 1);
        }
        let what = [
            Notice::TimeExceeded,
            Notice::Unreachable(Unreachable::Host),
            Notice::TooBig { mtu: u32::try_from(seeded.below(100_000)).unwrap() },
        ][seeded.below(3)];
        let from = [IpAddr::from([10, 0, 0, 9]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 9])][seeded.below(2)];
        if let Ok(length) = notice(what, &bytes, from, &mut room[..ICMPV6_LONGEST]) {
            let mut answer = room[..length].to_vec();
            assert!(ipv4_header_is_valid(&View::parse(&answer).unwrap()));
            assert!(notice(what, &answer, from, &mut room).is_err(), "an error is not answered");
            decrement_hops(&mut answer).unwrap();
            said += 1;
        }
        let _ = Change::NONE.replaced(&bytes, &read).apply(7);
        let _ = decrement_hops(&mut bytes);
        batch.push(bytes);
        if batch.len() == 64 {
            let slices: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
            let merged = merger.merge(&slices);
            let mut gathered = [std::io::IoSlice::new(&[]); 1 + SLICES_MOST];
            for write in merged.writes() {
                let length: usize = write.gather(&mut gathered).iter().map(|slice| slice.len()).sum();
                assert_eq!(length, write.length() + 10);
                joined += usize::from(write.count() > 1);
            }
            batch.clear();
        }
    }
    // Not all of it was refused at the door.
    assert!(cut > 300 && said > 10_000 && joined > 100, "{cut} cut, {said} answered, {joined} joined");
}
