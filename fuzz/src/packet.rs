//! Packets inside the tunnel: read, forwarded, answered, cut and joined.
//!
//! The input is a packet; the same behind the header of a TUN device; and a batch of packets, each behind its length in
//! two bytes.
//!
//! - What a view shows lies within the packet.
//! - One hop fewer leaves everything else as it was, and a good checksum good.
//! - A notice fits its room, is a packet itself, goes to the sender, and nothing is said in answer to it.
//! - Segments are packets of the same two ends, as long as they said, and hold the whole payload.
//! - Of a batch every packet is written once, and what was joined is cut into as many again.

use edgeproxy_overlay::packet::{
    ICMPV6_LONGEST, MergeSettings, Merger, Notice, Offload, Split, Unreachable, Version, View, VnetHeader,
    decrement_hops, ipv4_header_is_valid, notice,
};

/// Packets of a batch.
const BATCH: usize = 200;
/// A segment size of a byte cuts a packet into very many: enough is enough.
const MOST_SEGMENTS: usize = 300;

/// Whatever bytes: see the head of this module.
pub fn packet(data: &[u8]) {
    view(data);
    for vnet in [VnetHeader::Short, VnetHeader::Long] {
        cut(data, vnet);
        for udp in [false, true] {
            join(data, MergeSettings { vnet, udp, ..MergeSettings::default() });
        }
    }
}

fn view(data: &[u8]) {
    let Ok(view) = View::parse(data) else {
        assert!(decrement_hops(&mut data.to_vec()).is_err());
        return;
    };
    let length = view.bytes().len();
    assert!(length <= data.len() && view.header_length() + view.payload().len() == length);
    assert!(view.upper().is_none_or(|upper| upper.offset <= length));
    let _ = view.ports();

    let mut onward = view.bytes().to_vec();
    if decrement_hops(&mut onward).is_ok() {
        let after = View::parse(&onward).expect("it is a packet still");
        assert_eq!(after.hops() + 1, view.hops());
        assert_eq!((after.source(), after.destination()), (view.source(), view.destination()));
        assert_eq!(after.payload(), view.payload());
        assert_eq!(ipv4_header_is_valid(&after), ipv4_header_is_valid(&view));
    } else {
        assert!(view.hops() <= 1 && onward == view.bytes());
    }

    let us = match view.version() {
        Version::V4 => [192, 0, 2, 1].into(),
        Version::V6 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
    };
    for what in [Notice::TimeExceeded, Notice::Unreachable(Unreachable::Network)] {
        let mut room = [0; ICMPV6_LONGEST];
        let Ok(length) = notice(what, data, us, &mut room) else { continue };
        let said = View::parse(&room[..length]).expect("a notice is a packet");
        assert_eq!((said.bytes().len(), said.source(), said.destination()), (length, us, view.source()));
        assert!(ipv4_header_is_valid(&said));
        assert!(notice(what, &room[..length], us, &mut [0; ICMPV6_LONGEST]).is_err(), "an error about an error");
        assert!(notice(what, data, us, &mut [0; ICMPV6_LONGEST][..length - 1]).is_err(), "no room");
    }
}

fn cut(data: &[u8], vnet: VnetHeader) {
    let Ok((offload, packet)) = Offload::parse(data, vnet) else { return };
    let Ok(split) = Split::new(&offload, packet) else { return };
    let (source, destination) = (split.packet().source(), split.packet().destination());
    assert_eq!(split.segments().len(), split.count());
    let mut room = vec![0; split.longest()];
    for segment in split.segments().take(MOST_SEGMENTS) {
        let length = segment.length();
        assert!(length <= room.len());
        assert!(segment.write_to(&mut room[..length - 1]).is_err(), "no room");
        assert_eq!(segment.write_to(&mut room), Ok(length));
        let view = View::parse(&room[..length]).expect("a segment is a packet");
        assert_eq!((view.source(), view.destination()), (source, destination));
        assert_eq!(view.bytes().len(), length);
    }
}

fn join(data: &[u8], settings: MergeSettings) {
    let mut rest = data;
    let next = || {
        let (length, behind) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_le_bytes(*length)).min(behind.len());
        let (packet, behind) = behind.split_at(length);
        rest = behind;
        Some(packet)
    };
    // Whoever opened them has seen that they are packets.
    let packets: Vec<&[u8]> = std::iter::from_fn(next)
        .filter_map(|bytes| View::parse(bytes).ok())
        .map(|view| view.bytes())
        .take(BATCH)
        .collect();
    let mut merger = Merger::new(settings);
    let merged = merger.merge(&packets);
    let mut count = 0;
    for write in merged.writes() {
        count += write.count();
        let bytes = [write.header(), &write.payloads().collect::<Vec<_>>().concat()].concat();
        assert_eq!(bytes.len(), settings.vnet.length() + write.length());
        let (offload, packet) = Offload::parse(&bytes, settings.vnet).expect("our own header");
        if write.count() > 1 {
            let split = Split::new(&offload, packet).expect("what was joined can be cut");
            assert_eq!(split.count(), write.count());
        } else {
            assert!(packets.contains(&packet), "a packet that goes alone is as it was");
        }
    }
    assert_eq!(count, packets.len());
}
