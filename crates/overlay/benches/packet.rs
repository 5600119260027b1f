//! What it costs to cut, to join and to sum. `cargo bench -p edgeproxy-overlay`

use std::io::IoSlice;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use edgeproxy_overlay::packet::{
    Change, MergeSettings, Merger, Notice, Offload, SLICES_MOST, Segmentation, Split, Sum, View, VnetHeader,
    decrement_hops, notice,
};

/// What a tunnel with an MTU of 1,420 bytes leaves for a segment with timestamps.
const SIZE: usize = 1420 - 52;

fn main() {
    divan::main();
}

/// TCP over IPv4 with timestamps, or UDP; its checksum is left to be filled in.
fn super_packet(is_tcp: bool, payload: usize) -> (Offload, Vec<u8>) {
    let headers = if is_tcp { 52 } else { 28 };
    let mut packet = vec![0; headers];
    packet.extend((0..payload).map(|n| n.to_le_bytes()[0].wrapping_mul(31)));
    let word = |length: usize| u16::try_from(length).expect("fits").to_be_bytes();
    packet[..2].copy_from_slice(&[0x45, 0]);
    packet[2..4].copy_from_slice(&word(headers + payload));
    packet[6..10].copy_from_slice(&[0x40, 0, 64, if is_tcp { 6 } else { 17 }]);
    packet[12..24].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 80, 19, 136]);
    if is_tcp {
        packet[32..34].copy_from_slice(&[0x80, 0x18]);
        packet[40..44].copy_from_slice(&[1, 1, 8, 10]);
    } else {
        packet[24..26].copy_from_slice(&word(8 + payload));
    }
    let offload = Offload {
        needs_checksum: true,
        segmentation: Some(if is_tcp { Segmentation::Tcp4 } else { Segmentation::Udp }),
        segment_size: u16::try_from(SIZE).expect("fits"),
        checksum_start: 20,
        checksum_offset: if is_tcp { 16 } else { 6 },
        ..Offload::default()
    };
    (offload, packet)
}

/// Into datagrams, each with room before and behind, as they are sealed and sent.
fn cut(offload: &Offload, packet: &[u8], area: &mut Vec<u8>) -> Vec<(usize, usize)> {
    let split = Split::new(offload, packet).expect("a good packet");
    let stride = 16 + split.longest() + 32;
    area.resize(stride * split.count(), 0);
    let mut places = Vec::new();
    for (segment, room) in split.segments().zip(area.chunks_mut(stride)) {
        let length = segment.write_to(&mut room[16..]).expect("enough room");
        places.push((places.len() * stride + 16, length));
    }
    places
}

#[divan::bench(args = [20, 64, 576, 1400, 65_535])]
fn checksum(bencher: Bencher<'_, '_>, length: usize) {
    let bytes = vec![0x5a; length + 1];
    bencher.counter(BytesCount::new(length)).bench_local(|| Sum::ZERO.bytes(black_box(&bytes[1..])).checksum());
}

#[divan::bench]
fn checksum_while_copying_1400(bencher: Bencher<'_, '_>) {
    let (from, mut to) = (vec![0x5a; 1400], vec![0; 1400]);
    bencher
        .counter(BytesCount::new(from.len()))
        .bench_local(|| Sum::ZERO.copy(black_box(&from), black_box(&mut to)).checksum());
}

#[divan::bench]
fn copy_1400_then_checksum(bencher: Bencher<'_, '_>) {
    let (from, mut to) = (vec![0x5a; 1400], vec![0; 1400]);
    bencher.counter(BytesCount::new(from.len())).bench_local(|| {
        black_box(&mut to).copy_from_slice(black_box(&from));
        Sum::ZERO.bytes(black_box(&to)).checksum()
    });
}

#[divan::bench(consts = [true, false])]
fn split_64_kib<const TCP: bool>(bencher: Bencher<'_, '_>) {
    let (offload, packet) = super_packet(TCP, 47 * SIZE);
    let mut area = vec![0; 80_000];
    bencher.counter(ItemsCount::new(47_usize)).bench_local(|| {
        let split = Split::new(black_box(&offload), black_box(&packet)).expect("a good packet");
        let stride = 16 + split.longest() + 32;
        for (segment, room) in split.segments().zip(area.chunks_mut(stride)) {
            black_box(segment.write_to(&mut room[16..]).expect("enough room"));
        }
    });
}

#[divan::bench(consts = [true, false])]
fn merge_45<const TCP: bool>(bencher: Bencher<'_, '_>) {
    let (offload, packet) = super_packet(TCP, 45 * SIZE);
    let mut area = Vec::new();
    let places = cut(&offload, &packet, &mut area);
    let packets: Vec<&[u8]> = places.iter().map(|(start, length)| &area[*start..][..*length]).collect();
    let mut merger = Merger::new(MergeSettings { vnet: VnetHeader::Long, udp: true, ..MergeSettings::default() });
    assert_eq!(merger.merge(&packets).writes().len(), 1);
    bencher.counter(ItemsCount::new(45_usize)).bench_local(|| gather(&mut merger, black_box(&packets)));
}

/// Nothing to join: as many packets, each of a flow of its own.
#[divan::bench]
fn merge_45_strangers(bencher: Bencher<'_, '_>) {
    let (offload, packet) = super_packet(true, 45 * SIZE);
    let mut area = Vec::new();
    let places = cut(&offload, &packet, &mut area);
    for (number, (start, _)) in places.iter().enumerate() {
        // Another source port.
        area[start + 21] = u8::try_from(number).expect("45 fit");
    }
    let packets: Vec<&[u8]> = places.iter().map(|(start, length)| &area[*start..][..*length]).collect();
    let mut merger = Merger::new(MergeSettings::default());
    assert_eq!(merger.merge(&packets).writes().len(), 45);
    bencher.counter(ItemsCount::new(45_usize)).bench_local(|| gather(&mut merger, black_box(&packets)));
}

fn gather(merger: &mut Merger, packets: &[&[u8]]) {
    let merged = merger.merge(packets);
    let mut slices = [IoSlice::new(&[]); 1 + SLICES_MOST];
    for write in merged.writes() {
        black_box(write.gather(&mut slices));
    }
}

#[divan::bench]
fn parse(bencher: Bencher<'_, '_>) {
    let (_, packet) = super_packet(true, 1000);
    bencher.bench_local(|| View::parse(black_box(&packet)).map(|view| view.destination()));
}

#[divan::bench]
fn one_hop(bencher: Bencher<'_, '_>) {
    let (_, mut packet) = super_packet(true, 1000);
    bencher.bench_local(|| {
        packet[8] = 64;
        decrement_hops(black_box(&mut packet))
    });
}

#[divan::bench]
fn rewrite_address_and_port(bencher: Bencher<'_, '_>) {
    let (old, new) = ([10, 0, 0, 1, 0, 80], [10, 0, 0, 77, 31, 144]);
    bencher.bench_local(|| Change::NONE.replaced(black_box(&old), black_box(&new)).apply(black_box(0x1234)));
}

#[divan::bench]
fn time_exceeded(bencher: Bencher<'_, '_>) {
    let (_, packet) = super_packet(true, 1000);
    let mut room = [0; 1280];
    let from = [10, 0, 0, 9].into();
    bencher.bench_local(|| notice(Notice::TimeExceeded, black_box(&packet), from, &mut room));
}
