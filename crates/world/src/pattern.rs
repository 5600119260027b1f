//! Bytes that differ at every position, so that none can be lost, doubled or swapped unseen.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes written or read at once.
const PIECE: usize = 256 * 1024;

/// An endless sequence of bytes; equal seeds, equal sequences.
#[derive(Clone, Debug)]
pub struct Pattern {
    seed: u64,
    at: u64,
}

impl Pattern {
    /// From its beginning.
    pub fn new(seed: u64) -> Self {
        Self { seed, at: 0 }
    }

    /// The next bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        let mut filled = 0;
        while filled < bytes.len() {
            let word = self.word(self.at / 8).to_le_bytes();
            let skip = usize::try_from(self.at % 8).unwrap_or(0);
            let count = (8 - skip).min(bytes.len() - filled);
            bytes[filled..filled + count].copy_from_slice(&word[skip..skip + count]);
            filled += count;
            self.at += count as u64;
        }
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes);
        bytes
    }

    /// Where `bytes` differ from the next ones of the pattern, counted from its beginning.
    pub fn check(&mut self, bytes: &[u8]) -> Option<u64> {
        let from = self.at;
        let mine = self.take(bytes.len());
        if mine == bytes {
            return None;
        }
        mine.iter().zip(bytes).position(|(mine, theirs)| mine != theirs).map(|at| from + at as u64)
    }

    /// SplitMix64 of the word's number.
    fn word(&self, number: u64) -> u64 {
        let state = self.seed.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// Writes the first `length` bytes of a pattern.
///
/// # Errors
/// Those of the stream.
pub async fn write_pattern(stream: &mut (impl AsyncWrite + Unpin), seed: u64, length: u64) -> io::Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut piece = vec![0; PIECE];
    let mut left = length;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        pattern.fill(&mut piece[..count]);
        stream.write_all(&piece[..count]).await?;
        left -= count as u64;
    }
    stream.flush().await
}

/// Reads to the end and gives the number of bytes, all of which are the pattern's.
///
/// # Errors
/// Those of the stream; `InvalidData` for a byte that is not the pattern's.
pub async fn read_pattern(stream: &mut (impl AsyncRead + Unpin), seed: u64) -> io::Result<u64> {
    let mut pattern = Pattern::new(seed);
    let mut piece = vec![0; PIECE];
    let mut total = 0;
    loop {
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            return Ok(total);
        }
        if let Some(at) = pattern.check(&piece[..count]) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("byte {at} is wrong")));
        }
        total += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_make_the_same_bytes() {
        let whole = Pattern::new(7).take(1000);
        let mut pattern = Pattern::new(7);
        let pieces: Vec<u8> = [1, 2, 3, 5, 8, 13, 21, 947].into_iter().flat_map(|size| pattern.take(size)).collect();
        assert_eq!(whole, pieces);
        assert_ne!(whole, Pattern::new(8).take(1000));
        assert_eq!(Pattern::new(7).check(&whole), None);
        let mut wrong = whole;
        wrong[500] ^= 1;
        assert_eq!(Pattern::new(7).check(&wrong), Some(500));
    }
}
