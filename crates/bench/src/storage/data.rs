//! What is uploaded: bytes that no store can compress or have already, made while they are sent.
//!
//! One random block is made from a seed; every frame of every part is that block under a key of its own. Making a frame is
//! one pass of XOR, so that the generator is not what is measured, and any frame can be made again: for a retry, and to check
//! what is read back.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};

use super::checksum::{Checksum, Running};
use super::meter::Sent;

/// Bytes of a frame; the last of a part may be shorter.
pub(super) const FRAME: usize = 128 * 1024;
const WORD: usize = 8;
/// Frames whose memory a body keeps for the next ones. What the connection has queued is bounded by it as well, by less.
const KEPT: usize = 8;

/// Everything that can be uploaded under one seed.
#[derive(Clone)]
pub(super) struct Data {
    seed: u64,
    block: Arc<[u8]>,
}

impl Data {
    /// The data of `seed`; the same seed gives the same bytes on every machine.
    pub(super) fn new(seed: u64) -> Self {
        let mut state = seed;
        let words = (0..FRAME / WORD).flat_map(|_| {
            state = state.wrapping_add(GOLDEN);
            mix(state).to_le_bytes()
        });
        Self { seed, block: words.collect() }
    }

    /// Writes frame number `frame` of part `part` to `out`, which is [`FRAME`] bytes long, or less to have its beginning.
    pub(super) fn fill(&self, part: u32, frame: u64, out: &mut [u8]) {
        let key = self.key(part, frame);
        let mut out = out.chunks_exact_mut(WORD);
        let mut block = self.block.chunks_exact(WORD);
        for (out, block) in out.by_ref().zip(block.by_ref()) {
            out.copy_from_slice(&(word(block) ^ key).to_le_bytes());
        }
        let rest = out.into_remainder();
        let last = (block.next().map_or(0, word) ^ key).to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }

    fn key(&self, part: u32, frame: u64) -> u64 {
        mix(mix(self.seed ^ u64::from(part).wrapping_mul(GOLDEN)).wrapping_add(frame.wrapping_mul(GOLDEN)))
    }

    /// Compares what came back with what was sent.
    pub(super) fn check(&self, part: u32) -> Check {
        Check { data: self.clone(), part, offset: 0, frame: Vec::new() }
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of SplitMix64: every bit of the result depends on every bit of `state`.
fn mix(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// Reads a part again, piece by piece as it arrives.
pub(super) struct Check {
    data: Data,
    part: u32,
    offset: u64,
    frame: Vec<u8>,
}

impl Check {
    /// Whether the next bytes are those that were sent; the offset of the frame that differs if they are not.
    pub(super) fn next(&mut self, mut bytes: &[u8]) -> Result<(), u64> {
        while !bytes.is_empty() {
            let within = usize::try_from(self.offset % FRAME as u64).unwrap_or(0);
            if within == 0 || self.frame.is_empty() {
                self.frame.resize(FRAME, 0);
                self.data.fill(self.part, self.offset / FRAME as u64, &mut self.frame);
            }
            let length = bytes.len().min(FRAME - within);
            let (now, later) = bytes.split_at(length);
            if now != &self.frame[within..within + length] {
                return Err(self.offset - within as u64);
            }
            self.offset += length as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Bytes that were right.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }
}

/// A request body: one part, or the object as a whole.
pub(super) struct PartBody {
    data: Data,
    part: u32,
    length: u64,
    made: u64,
    /// Frames that went out, oldest first: the connection gives them back by dropping its half.
    kept: VecDeque<Bytes>,
    sent: Sent,
    trailer: Option<Box<Trailer>>,
}

impl PartBody {
    /// `length` bytes of `part`, counted by `sent`; with the checksum behind them, in the form that S3 calls `aws-chunked`.
    pub(super) fn new(data: &Data, part: u32, length: u64, sent: Sent, checksum: Option<Checksum>) -> Self {
        let trailer = checksum.map(|checksum| Box::new(Trailer::new(checksum, length)));
        Self { data: data.clone(), part, length, made: 0, kept: VecDeque::with_capacity(KEPT), sent, trailer }
    }

    /// Bytes on the wire, which a trailer makes more than the part has.
    pub(super) fn wire_length(&self) -> u64 {
        self.length + self.trailer.as_ref().map_or(0, |trailer| trailer.overhead())
    }

    fn frame(&mut self) -> Bytes {
        let length = usize::try_from(self.length - self.made).unwrap_or(FRAME).min(FRAME);
        let mut buffer = self.buffer();
        buffer.resize(length, 0);
        self.data.fill(self.part, self.made / FRAME as u64, &mut buffer);
        self.made += length as u64;
        let frame = buffer.freeze();
        if self.kept.len() < KEPT {
            self.kept.push_back(frame.clone());
        }
        if let Some(trailer) = &mut self.trailer {
            trailer.running.update(&frame);
        }
        self.sent.add(length as u64);
        frame
    }

    /// The oldest frame if the connection is done with it, else new memory.
    fn buffer(&mut self) -> BytesMut {
        match self.kept.pop_front().map(Bytes::try_into_mut) {
            Some(Ok(buffer)) => return buffer,
            Some(Err(still_used)) => self.kept.push_front(still_used),
            None => {}
        }
        BytesMut::with_capacity(FRAME)
    }
}

impl Body for PartBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let head = self.trailer.as_mut().and_then(|trailer| trailer.take_head());
        let bytes = match head {
            Some(head) => Some(head),
            None if self.made < self.length => Some(self.frame()),
            None => self.trailer.as_mut().and_then(|trailer| trailer.take_end()),
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.made == self.length && self.trailer.as_ref().is_none_or(|trailer| trailer.ended)
    }

    fn size_hint(&self) -> SizeHint {
        let trailer = self.trailer.as_ref().map_or(0, |trailer| trailer.left());
        SizeHint::with_exact(self.length - self.made + trailer)
    }
}

/// One chunk around the whole part, and the checksum of it behind.
struct Trailer {
    running: Running,
    head: Bytes,
    begun: bool,
    ended: bool,
}

impl Trailer {
    fn new(checksum: Checksum, length: u64) -> Self {
        Self { running: checksum.start(), head: format!("{length:x}\r\n").into(), begun: false, ended: false }
    }

    fn overhead(&self) -> u64 {
        (self.head.len() + self.end().len()) as u64
    }

    fn left(&self) -> u64 {
        let head = if self.begun { 0 } else { self.head.len() };
        let end = if self.ended { 0 } else { self.end().len() };
        (head + end) as u64
    }

    fn end(&self) -> String {
        format!("\r\n0\r\n{}:{}\r\n\r\n", self.running.header(), self.running.value())
    }

    fn take_head(&mut self) -> Option<Bytes> {
        let head = (!self.begun).then(|| self.head.clone());
        self.begun = true;
        head
    }

    fn take_end(&mut self) -> Option<Bytes> {
        let end = (!self.ended).then(|| self.end().into());
        self.ended = true;
        end
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::storage::meter::Meter;

    fn read(body: PartBody) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(body.collect()).unwrap().to_bytes().to_vec()
    }

    fn part(data: &Data, part: u32, length: u64, checksum: Option<Checksum>) -> PartBody {
        PartBody::new(data, part, length, Meter::new().attempt(), checksum)
    }

    #[test]
    fn the_same_seed_and_part_give_the_same_bytes_and_others_give_others() {
        let length = FRAME as u64 * 3 + 13;
        let first = read(part(&Data::new(7), 1, length, None));
        assert_eq!(first.len() as u64, length);
        assert_eq!(first, read(part(&Data::new(7), 1, length, None)));
        assert_ne!(first, read(part(&Data::new(7), 2, length, None)));
        assert_ne!(first, read(part(&Data::new(8), 1, length, None)));
        assert_ne!(first[..FRAME], first[FRAME..2 * FRAME]);
    }

    #[test]
    fn no_pattern_of_four_bytes_comes_more_often_than_chance_has_it() {
        let bytes = read(part(&Data::new(1), 1, FRAME as u64 * 8, None));
        let mut windows: Vec<[u8; 4]> = bytes.windows(4).map(|window| window.try_into().unwrap()).collect();
        let all = windows.len();
        windows.sort_unstable();
        windows.dedup();
        // A million draws of 4 G leave about 120 pairs.
        assert!(all - windows.len() < 1000, "{} of {all} repeat", all - windows.len());
    }

    #[test]
    fn what_comes_back_is_checked_however_it_is_cut() {
        let data = Data::new(3);
        let mut bytes = read(part(&data, 4, FRAME as u64 * 2 + 5, None));
        let mut check = data.check(4);
        for piece in bytes.chunks(1000) {
            check.next(piece).unwrap();
        }
        assert_eq!(check.offset(), bytes.len() as u64);
        bytes[FRAME + 9] ^= 1;
        assert_eq!(data.check(4).next(&bytes), Err(FRAME as u64));
    }

    #[test]
    fn the_size_hint_is_what_comes_with_and_without_a_trailer() {
        for checksum in [None, Some(Checksum::Crc64Nvme), Some(Checksum::Crc32)] {
            let body = part(&Data::new(1), 1, 300_000, checksum);
            let told = body.size_hint().exact().unwrap();
            assert_eq!(told, body.wire_length());
            assert_eq!(read(body).len() as u64, told);
        }
    }

    #[test]
    fn memory_is_used_again_once_it_was_sent() {
        let mut body = part(&Data::new(1), 1, FRAME as u64 * 100, None);
        let first = body.frame().as_ptr();
        assert!((0..20).all(|_| body.frame().as_ptr() == first));
    }
}
