//! Which packets belong together, and which of them can be joined.

use super::checksum::ipv4_header_is_valid;
use super::field::{long, word};
use super::transport::{UDP_HEADER, tcp, tcp_header_length, udp};
use super::view::{IPV4_HEADER, Version, View, protocol, v4, v6};

/// Addresses and ports as they stand in the packet, and of which version and protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Flow {
    bytes: [u8; 36],
    version: Version,
    pub(super) protocol: u8,
}

/// What has to be known of a packet to join it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) network: usize,
    /// Bytes before the payload.
    pub(super) headers: usize,
    pub(super) payload: usize,
    pub(super) sequence: u32,
    /// Whether its sender wants it delivered at once. Nothing is joined behind it.
    pub(super) push: bool,
}

/// What a packet is to those of its flow that came before.
pub(super) enum Kind {
    /// It may be joined with others.
    Joins(Flow, Shape),
    /// It goes alone, and its flow goes on behind it.
    Alone(Flow),
    /// Whose it is cannot be told: it may belong to any flow between its addresses.
    Opaque,
}

impl Kind {
    pub(super) fn of(view: &View<'_>, udp_too: bool) -> Self {
        let (bytes, network) = (view.bytes(), view.header_length());
        let (transport, protocol) = (view.payload(), view.protocol());
        let is_plain = match view.version() {
            Version::V4 => {
                network == IPV4_HEADER && word(bytes, v4::FRAGMENT) & (v4::MORE_FRAGMENTS | v4::FRAGMENT_OFFSET) == 0
            }
            Version::V6 => true,
        };
        if !is_plain || !matches!(protocol, protocol::TCP | protocol::UDP) || transport.len() < UDP_HEADER {
            return Self::Opaque;
        }
        let flow = Flow::of(view);
        let shape = match protocol {
            protocol::TCP => Shape::of_tcp(network, transport),
            _ => Shape::of_udp(network, transport).filter(|_| udp_too),
        };
        match shape {
            // Its header will be written anew: a wrong one must not be made good.
            Some(shape) if ipv4_header_is_valid(view) => Self::Joins(flow, shape),
            _ => Self::Alone(flow),
        }
    }
}

impl Flow {
    fn of(view: &View<'_>) -> Self {
        let mut bytes = [0; 36];
        let ends = view.addresses().len();
        bytes[..ends].copy_from_slice(view.addresses());
        bytes[ends..ends + 4].copy_from_slice(&view.payload()[..4]);
        Self { bytes, version: view.version(), protocol: view.protocol() }
    }

    pub(super) fn is_between(&self, view: &View<'_>) -> bool {
        let addresses = view.addresses();
        self.version == view.version() && self.bytes[..addresses.len()] == *addresses
    }
}

impl Shape {
    fn of_tcp(network: usize, transport: &[u8]) -> Option<Self> {
        let length = tcp_header_length(transport)?;
        let (flags, payload) = (transport[tcp::FLAGS], transport.len() - length);
        // The other four bits beside the length are flags as well, or will be.
        let is_plain = flags & !tcp::PSH == tcp::ACK && transport[tcp::OFFSET] & 0x0f == 0;
        (is_plain && payload > 0).then(|| Self {
            network,
            headers: network + length,
            payload,
            sequence: long(transport, tcp::SEQUENCE),
            push: flags & tcp::PSH != 0,
        })
    }

    fn of_udp(network: usize, transport: &[u8]) -> Option<Self> {
        let payload = transport.len() - UDP_HEADER;
        let is_plain =
            usize::from(word(transport, udp::LENGTH)) == transport.len() && word(transport, udp::CHECKSUM) != 0;
        let headers = network + UDP_HEADER;
        (is_plain && payload > 0).then_some(Self { network, headers, payload, sequence: 0, push: false })
    }
}

/// Whether the kernel, when it cuts the run again, gives this packet the number it has. (With DF no number means
/// anything, RFC 6864; it is without DF that Linux sends UDP in bulk.)
pub(super) fn has_next_number(head: &[u8], packet: &[u8], count: usize, flow: &Flow) -> bool {
    let number_after = |count: u16| word(head, v4::ID).wrapping_add(count);
    flow.version == Version::V6
        || word(head, v4::FRAGMENT) & v4::DONT_FRAGMENT != 0
        || u16::try_from(count).is_ok_and(|count| number_after(count) == word(packet, v4::ID))
}

/// Whether headers of one flow and of the same length are equal in all that the kernel will copy from the first.
pub(super) fn have_like_headers(head: &[u8], packet: &[u8], shape: Shape, flow: &Flow) -> bool {
    let like = |start, end| head[start..end] == packet[start..end];
    let network = match flow.version {
        // Version and length, type of service; flags; time to live and protocol.
        Version::V4 => like(0, v4::TOTAL_LENGTH) && like(v4::FRAGMENT, v4::CHECKSUM),
        // Version, traffic class and flow label; next header and hop limit.
        Version::V6 => like(0, v6::PAYLOAD_LENGTH) && like(v6::NEXT_HEADER, v6::SOURCE),
    };
    let at = shape.network;
    // Acknowledgment and length, window, urgent pointer and options; flags are plain in both.
    network
        && (flow.protocol == protocol::UDP
            || like(at + 8, at + tcp::FLAGS) && like(at + 14, at + tcp::CHECKSUM) && like(at + 18, shape.headers))
}
