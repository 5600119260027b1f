//! Headers of TCP (RFC 9293) and UDP (RFC 768).

/// Bytes of a TCP header without options.
pub(super) const TCP_HEADER: usize = 20;
/// Bytes of a UDP header.
pub(super) const UDP_HEADER: usize = 8;

/// Where things are in a TCP header.
pub(super) mod tcp {
    pub(in crate::packet) const SEQUENCE: usize = 4;
    pub(in crate::packet) const OFFSET: usize = 12;
    pub(in crate::packet) const FLAGS: usize = 13;
    pub(in crate::packet) const CHECKSUM: usize = 16;
    pub(in crate::packet) const FIN: u8 = 0x01;
    pub(in crate::packet) const PSH: u8 = 0x08;
    pub(in crate::packet) const ACK: u8 = 0x10;
    pub(in crate::packet) const CWR: u8 = 0x80;
}

/// Where things are in a UDP header.
pub(super) mod udp {
    pub(in crate::packet) const LENGTH: usize = 4;
    pub(in crate::packet) const CHECKSUM: usize = 6;
}

/// Bytes of the TCP header, if all of it is here.
pub(super) fn tcp_header_length(transport: &[u8]) -> Option<usize> {
    let length = usize::from(transport.get(tcp::OFFSET)? >> 4) * 4;
    (length >= TCP_HEADER && length <= transport.len()).then_some(length)
}
