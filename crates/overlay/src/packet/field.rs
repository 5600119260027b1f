//! Numbers at known places of headers, in network order.

/// `WIDTH` bytes from `start`. The caller has seen that the header is that long.
#[inline(always)]
pub(super) fn field<const WIDTH: usize>(header: &[u8], start: usize) -> [u8; WIDTH] {
    *header[start..].first_chunk().expect("the header was measured when it was parsed")
}

#[inline(always)]
pub(super) fn word(header: &[u8], start: usize) -> u16 {
    u16::from_be_bytes(field(header, start))
}

#[inline(always)]
pub(super) fn long(header: &[u8], start: usize) -> u32 {
    u32::from_be_bytes(field(header, start))
}

#[inline(always)]
pub(super) fn put<const WIDTH: usize>(header: &mut [u8], start: usize, bytes: [u8; WIDTH]) {
    header[start..start + WIDTH].copy_from_slice(&bytes);
}

/// A length for a field of 16 bits. All that are written are parts of a packet whose own length was such a field, or
/// were bounded when it was put together.
#[inline(always)]
pub(super) fn length_word(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}
