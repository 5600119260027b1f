//! The four messages as they stand on the wire (paper, section 5.4). All numbers are little endian.
//!
//! ```text
//! initiation  148  type 1 | sender 4 | ephemeral 32 | static 32+16 | timestamp 12+16 | mac1 16 | mac2 16
//! response     92  type 2 | sender 4 | receiver 4 | ephemeral 32 | nothing 0+16      | mac1 16 | mac2 16
//! cookie       64  type 3 | receiver 4 | nonce 24 | cookie 16+16
//! transport 32..   type 4 | receiver 4 | counter 8 | packet, padded to 16, +16
//! ```
//! The type is one byte, and three zero bytes follow it.

use crate::key::{KEY, PublicKey};
use crate::noise::MAC;

/// Bytes of an initiation.
pub const INITIATION: usize = 148;
/// Bytes of a response.
pub const RESPONSE: usize = 92;
/// Bytes of a cookie reply.
pub const COOKIE_REPLY: usize = 64;
/// Bytes of a transport message before its packet.
pub const TRANSPORT_HEADER: usize = 16;
/// Bytes of a transport message after its packet.
pub const TRANSPORT_TAG: usize = MAC;
/// Packets are padded to a multiple of this.
pub const PADDING: usize = 16;

/// Bytes of both MACs at the end of an initiation or a response.
pub(crate) const MACS: usize = 2 * MAC;
/// Bytes of an instant in an initiation.
pub(crate) const TIMESTAMP: usize = 12;
/// Bytes of a cookie reply's nonce.
pub(crate) const COOKIE_NONCE: usize = 24;
/// Bytes of a cookie.
pub(crate) const COOKIE: usize = 16;

/// Where things are.
mod at {
    use super::{COOKIE_NONCE, KEY, MAC, TIMESTAMP};

    pub(super) const FIRST_INDEX: usize = 4;
    pub(super) const SECOND_INDEX: usize = 8;
    pub(super) const INITIATION_EPHEMERAL: usize = 8;
    pub(super) const STATIC: usize = INITIATION_EPHEMERAL + KEY;
    pub(super) const TIMESTAMP_SEALED: usize = STATIC + KEY + MAC;
    pub(super) const INITIATION_MACS: usize = TIMESTAMP_SEALED + TIMESTAMP + MAC;
    pub(super) const RESPONSE_EPHEMERAL: usize = 12;
    pub(super) const NOTHING: usize = RESPONSE_EPHEMERAL + KEY;
    pub(super) const RESPONSE_MACS: usize = NOTHING + MAC;
    pub(super) const NONCE: usize = 8;
    pub(super) const COOKIE_SEALED: usize = NONCE + COOKIE_NONCE;
    pub(super) const COUNTER: usize = 8;
}

const TYPE_INITIATION: u32 = 1;
const TYPE_RESPONSE: u32 = 2;
const TYPE_COOKIE_REPLY: u32 = 3;
const TYPE_TRANSPORT: u32 = 4;

/// A datagram that has the shape of a message. Nothing of it is verified.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// Somebody wants a session.
    Initiation(Initiation<'a>),
    /// The answer.
    Response(Response<'a>),
    /// The answer of somebody who is under load.
    CookieReply(CookieReply<'a>),
    /// A packet inside a session.
    Transport(Transport),
}

/// Somebody wants a session.
#[derive(Clone, Copy, Debug)]
pub struct Initiation<'a>(pub(crate) &'a [u8; INITIATION]);

/// The answer to an initiation.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a>(pub(crate) &'a [u8; RESPONSE]);

/// Proof of the sender's address, for its next attempt.
#[derive(Clone, Copy, Debug)]
pub struct CookieReply<'a>(pub(crate) &'a [u8; COOKIE_REPLY]);

/// The header of a packet inside a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transport {
    /// The receiver's index of the session.
    pub receiver: u32,
    /// Number of the message, from 0.
    pub counter: u64,
}

impl<'a> Message<'a> {
    /// What kind of message this is, if any.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        match u32::from_le_bytes(*datagram.first_chunk()?) {
            TYPE_INITIATION => datagram.try_into().ok().map(Initiation).map(Self::Initiation),
            TYPE_RESPONSE => datagram.try_into().ok().map(Response).map(Self::Response),
            TYPE_COOKIE_REPLY => datagram.try_into().ok().map(CookieReply).map(Self::CookieReply),
            TYPE_TRANSPORT => Transport::parse(datagram).map(Self::Transport),
            _ => None,
        }
    }
}

impl<'a> Initiation<'a> {
    /// The index its sender will know the session by.
    pub fn sender(&self) -> u32 {
        number(self.0, at::FIRST_INDEX)
    }

    pub(crate) fn ephemeral(&self) -> PublicKey {
        PublicKey(*field(self.0, at::INITIATION_EPHEMERAL))
    }

    pub(crate) fn static_key(&self) -> &'a [u8; KEY + MAC] {
        field(self.0, at::STATIC)
    }

    pub(crate) fn timestamp(&self) -> &'a [u8; TIMESTAMP + MAC] {
        field(self.0, at::TIMESTAMP_SEALED)
    }

    /// A message whose MACs are still missing.
    pub(crate) fn write(
        sender: u32,
        ephemeral: &PublicKey,
        static_key: &[u8; KEY + MAC],
        timestamp: &[u8; TIMESTAMP + MAC],
    ) -> [u8; INITIATION] {
        let mut message = [0; INITIATION];
        put(&mut message, 0, &TYPE_INITIATION.to_le_bytes());
        put(&mut message, at::FIRST_INDEX, &sender.to_le_bytes());
        put(&mut message, at::INITIATION_EPHEMERAL, &ephemeral.0);
        put(&mut message, at::STATIC, static_key);
        put(&mut message, at::TIMESTAMP_SEALED, timestamp);
        message
    }
}

impl<'a> Response<'a> {
    /// The index its sender will know the session by.
    pub fn sender(&self) -> u32 {
        number(self.0, at::FIRST_INDEX)
    }

    /// The index of the initiation it answers.
    pub fn receiver(&self) -> u32 {
        number(self.0, at::SECOND_INDEX)
    }

    pub(crate) fn ephemeral(&self) -> PublicKey {
        PublicKey(*field(self.0, at::RESPONSE_EPHEMERAL))
    }

    pub(crate) fn nothing(&self) -> &'a [u8; MAC] {
        field(self.0, at::NOTHING)
    }

    /// A message whose MACs are still missing.
    pub(crate) fn write(sender: u32, receiver: u32, ephemeral: &PublicKey, nothing: &[u8; MAC]) -> [u8; RESPONSE] {
        let mut message = [0; RESPONSE];
        put(&mut message, 0, &TYPE_RESPONSE.to_le_bytes());
        put(&mut message, at::FIRST_INDEX, &sender.to_le_bytes());
        put(&mut message, at::SECOND_INDEX, &receiver.to_le_bytes());
        put(&mut message, at::RESPONSE_EPHEMERAL, &ephemeral.0);
        put(&mut message, at::NOTHING, nothing);
        message
    }
}

impl<'a> CookieReply<'a> {
    /// The index of the message it answers.
    pub fn receiver(&self) -> u32 {
        number(self.0, at::FIRST_INDEX)
    }

    pub(crate) fn nonce(&self) -> &'a [u8; COOKIE_NONCE] {
        field(self.0, at::NONCE)
    }

    pub(crate) fn cookie(&self) -> &'a [u8; COOKIE + MAC] {
        field(self.0, at::COOKIE_SEALED)
    }

    pub(crate) fn write(receiver: u32, nonce: &[u8; COOKIE_NONCE], cookie: &[u8; COOKIE + MAC]) -> [u8; COOKIE_REPLY] {
        let mut message = [0; COOKIE_REPLY];
        put(&mut message, 0, &TYPE_COOKIE_REPLY.to_le_bytes());
        put(&mut message, at::FIRST_INDEX, &receiver.to_le_bytes());
        put(&mut message, at::NONCE, nonce);
        put(&mut message, at::COOKIE_SEALED, cookie);
        message
    }
}

impl Transport {
    /// The header of a datagram that is long enough to be a transport message.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let header: &[u8; TRANSPORT_HEADER] = datagram.first_chunk()?;
        let long_enough = datagram.len() >= TRANSPORT_HEADER + TRANSPORT_TAG;
        (number(header, 0) == TYPE_TRANSPORT && long_enough).then(|| Self {
            receiver: number(header, at::FIRST_INDEX),
            counter: u64::from_le_bytes(*field(header, at::COUNTER)),
        })
    }

    /// Writes it to the front of a message.
    pub(crate) fn write(&self, header: &mut [u8; TRANSPORT_HEADER]) {
        put(header, 0, &TYPE_TRANSPORT.to_le_bytes());
        put(header, at::FIRST_INDEX, &self.receiver.to_le_bytes());
        put(header, at::COUNTER, &self.counter.to_le_bytes());
    }
}

/// The bytes of an initiation or a response that mac1 covers; mac1; and mac2, which covers both.
pub(crate) struct Macs<'a> {
    pub(crate) covered: &'a [u8],
    pub(crate) covered_by_second: &'a [u8],
    pub(crate) first: &'a [u8; MAC],
    pub(crate) second: &'a [u8; MAC],
}

impl<'a> Macs<'a> {
    pub(crate) fn of<const LENGTH: usize>(message: &'a [u8; LENGTH]) -> Self {
        let (covered, first, second) = (LENGTH - MACS, LENGTH - MACS, LENGTH - MAC);
        Self {
            covered: &message[..covered],
            covered_by_second: &message[..second],
            first: field(message, first),
            second: field(message, second),
        }
    }
}

/// `WIDTH` bytes from `start`. Every caller's fit into its message, which the compiler sees to after inlining.
#[inline(always)]
fn field<const WIDTH: usize>(message: &[u8], start: usize) -> &[u8; WIDTH] {
    message[start..].first_chunk().expect("every field lies within its message")
}

#[inline(always)]
fn number(message: &[u8], start: usize) -> u32 {
    u32::from_le_bytes(*field(message, start))
}

#[inline(always)]
fn put(message: &mut [u8], start: usize, bytes: &[u8]) {
    message[start..start + bytes.len()].copy_from_slice(bytes);
}

const _: () = {
    assert!(at::INITIATION_MACS + MACS == INITIATION);
    assert!(at::RESPONSE_MACS + MACS == RESPONSE);
    assert!(at::COOKIE_SEALED + COOKIE + MAC == COOKIE_REPLY);
    assert!(at::COUNTER + 8 == TRANSPORT_HEADER);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_the_shape_is_a_message() {
        for (kind, length) in [(1, INITIATION), (2, RESPONSE), (3, COOKIE_REPLY), (4, 32)] {
            let mut datagram = vec![0; length];
            datagram[0] = kind;
            assert!(Message::parse(&datagram).is_some());
            assert!(Message::parse(&datagram[..length - 1]).is_none(), "type {kind} cut short");
            datagram.push(0);
            assert_eq!(Message::parse(&datagram).is_some(), kind == 4, "type {kind} too long");
            datagram.pop();
            for reserved in 1..4 {
                datagram[reserved] = 1;
                assert!(Message::parse(&datagram).is_none(), "type {kind} with something in the reserved bytes");
                datagram[reserved] = 0;
            }
        }
        for kind in [0, 5, 255] {
            assert!(Message::parse(&[kind, 0, 0, 0, 0, 0, 0, 0]).is_none());
        }
        for length in 0..4 {
            assert!(Message::parse(&[4, 0, 0, 0][..length]).is_none());
        }
    }
}
