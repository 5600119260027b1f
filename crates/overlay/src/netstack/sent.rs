//! What the stack forgets when it sends again: how far it had sent.

use smoltcp::wire::{TcpOption, TcpPacket, TcpSeqNumber};

use crate::packet::{Change, View, protocol};

/// How far a flow has sent, and how far it may.
///
/// After a timeout the stack goes back to the first byte that was not acknowledged, and its acknowledgements then bear
/// that number. The other side takes none that is behind what it has received, or beyond what it has room for (RFC 9293
/// 3.10.7.4): where both sides send again, neither would hear the other any more. So an empty segment is given the number
/// it should have: what follows all that was sent, or the end of the window if that comes first.
#[derive(Default)]
pub(super) struct Sent {
    /// What follows the last byte sent.
    next: Option<TcpSeqNumber>,
    /// The last acknowledgement, and the end of the window it gave.
    allowed: Option<(TcpSeqNumber, TcpSeqNumber)>,
    /// The other side's windows are in units of so many bits.
    scale: u8,
}

impl Sent {
    /// Takes note of a segment that came.
    pub(super) fn note(&mut self, came: &TcpPacket<&[u8]>) {
        // That of the first segment is not scaled (RFC 7323 2.2).
        let scale = if came.syn() { 0 } else { self.scale };
        if came.syn() {
            self.scale = window_scale(came.options()).unwrap_or(0);
        }
        let number = came.ack_number();
        if came.ack() && self.allowed.is_none_or(|(last, _)| number >= last) {
            self.allowed = Some((number, number + (usize::from(came.window_len()) << scale)));
        }
    }

    /// Takes note of a segment that goes, or mends it.
    pub(super) fn mend(&mut self, packet: &mut [u8]) {
        let view = View::parse(packet).ok().filter(|view| view.protocol() == protocol::TCP);
        let Some(transport) = view.map(|view| view.header_length()).and_then(|header| packet.get_mut(header..)) else {
            return;
        };
        let Ok(mut segment) = TcpPacket::new_checked(transport) else { return };
        let (number, length) = (segment.seq_number(), segment.segment_len());
        let next = self.next.filter(|next| *next > number + length).unwrap_or(number + length);
        self.next = Some(next);
        if length == 0 {
            let fit = self.allowed.map_or(next, |(_, end)| if end < next { end } else { next });
            let bytes = |number: TcpSeqNumber| number.0.to_be_bytes();
            let change = Change::NONE.replaced(&bytes(number), &bytes(fit));
            segment.set_checksum(change.apply(segment.checksum()));
            segment.set_seq_number(fit);
        }
    }
}

fn window_scale(mut options: &[u8]) -> Option<u8> {
    while !options.is_empty() {
        match TcpOption::parse(options).ok()? {
            // As the stack does with more than there may be (RFC 7323 2.3).
            (_, TcpOption::WindowScale(scale)) => return Some(scale.min(14)),
            (_, TcpOption::EndOfList) => return None,
            (rest, _) => options = rest,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use smoltcp::wire::{Ipv4Address, Ipv4Packet, Ipv4Repr, TcpControl, TcpRepr, TcpSeqNumber};
    use smoltcp::{phy::ChecksumCapabilities, wire::IpProtocol};

    use super::*;
    use crate::packet::transport_is_valid;

    const US: Ipv4Address = Ipv4Address::new(10, 50, 0, 1);
    const THEM: Ipv4Address = Ipv4Address::new(10, 50, 0, 2);

    fn segment(number: i32, payload: &[u8]) -> TcpRepr<'_> {
        TcpRepr {
            src_port: 40_000,
            dst_port: 5432,
            control: TcpControl::None,
            seq_number: TcpSeqNumber(number),
            ack_number: Some(TcpSeqNumber(7)),
            window_len: 1000,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload,
        }
    }

    /// What becomes of it on the way out.
    fn sequence(sent: &mut Sent, tcp: TcpRepr<'_>) -> i32 {
        let next_header = IpProtocol::Tcp;
        let ip = Ipv4Repr { src_addr: US, dst_addr: THEM, next_header, payload_len: tcp.buffer_len(), hop_limit: 64 };
        let mut packet = vec![0; ip.buffer_len() + tcp.buffer_len()];
        let all = ChecksumCapabilities::default();
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut packet), &all);
        tcp.emit(&mut TcpPacket::new_unchecked(&mut packet[20..]), &US.into(), &THEM.into(), &all);
        sent.mend(&mut packet);
        assert!(transport_is_valid(&View::parse(&packet).unwrap()));
        TcpPacket::new_unchecked(&packet[20..]).seq_number().0
    }

    fn come(sent: &mut Sent, tcp: TcpRepr<'_>) {
        let mut bytes = vec![0; tcp.buffer_len()];
        let none = ChecksumCapabilities::ignored();
        tcp.emit(&mut TcpPacket::new_unchecked(&mut bytes[..]), &THEM.into(), &US.into(), &none);
        sent.note(&TcpPacket::new_checked(&bytes[..]).unwrap());
    }

    #[test]
    fn an_empty_segment_bears_what_follows_all_that_was_sent() {
        let mut sent = Sent::default();
        assert_eq!(sequence(&mut sent, TcpRepr { control: TcpControl::Syn, ..segment(i32::MAX, &[]) }), i32::MAX);
        assert_eq!(sequence(&mut sent, segment(i32::MIN, &[1; 500])), i32::MIN);
        assert_eq!(sequence(&mut sent, segment(i32::MIN + 500, &[])), i32::MIN + 500);
        assert_eq!(sequence(&mut sent, segment(i32::MIN, &[])), i32::MIN + 500);
        assert_eq!(sequence(&mut sent, segment(i32::MIN, &[1; 200])), i32::MIN, "what carries something stays");
    }

    #[test]
    fn an_empty_segment_stays_within_the_window() {
        let mut sent = Sent::default();
        let opening = TcpRepr { control: TcpControl::Syn, window_scale: Some(2), ..segment(6, &[]) };
        come(&mut sent, TcpRepr { ack_number: Some(TcpSeqNumber(100)), window_len: 50, ..opening });
        assert_eq!(sequence(&mut sent, segment(100, &[1; 60])), 100);
        assert_eq!(sequence(&mut sent, segment(160, &[])), 150, "the first window is as it stands");
        come(&mut sent, TcpRepr { ack_number: Some(TcpSeqNumber(100)), window_len: 50, ..segment(7, &[]) });
        assert_eq!(sequence(&mut sent, segment(160, &[])), 160, "others are in units");
        come(&mut sent, TcpRepr { ack_number: Some(TcpSeqNumber(99)), window_len: 0, ..segment(7, &[]) });
        assert_eq!(sequence(&mut sent, segment(160, &[])), 160, "what comes late says nothing");
    }
}
