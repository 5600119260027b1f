//! A lot of random data in both directions at the same time, compared byte by byte.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::Verdict;
use super::ends::{Bench, limit};
use crate::failure::Failure;

const GIBIBYTE: usize = 1 << 30;
const QUICK: usize = 16 << 20;
const BLOCK: usize = 64 * 1024;
const STALL: Duration = Duration::from_secs(20);

/// One sequence per direction.
const UP: u64 = 0x9E37_79B9_7F4A_7C15;
const DOWN: u64 = 0xD1B5_4A32_D192_ED03;

pub(super) fn both_ways(bench: &Bench) -> Result<Verdict, Failure> {
    let ends = bench.connect()?;
    limit(&ends.client, STALL)?;
    limit(&ends.backend, STALL)?;
    let length = if bench.quick { QUICK } else { GIBIBYTE };
    let began = Instant::now();
    let moved = thread::scope(|scope| {
        let work = [
            scope.spawn(|| send(&ends.client, UP, length)),
            scope.spawn(|| send(&ends.backend, DOWN, length)),
            scope.spawn(|| receive(&ends.backend, UP, length)),
            scope.spawn(|| receive(&ends.client, DOWN, length)),
        ];
        let results = work.map(|thread| thread.join().unwrap_or_else(|_| Err("check broke".to_owned())));
        results.into_iter().collect::<Result<Vec<()>, String>>()
    });
    let size = format!("{} MiB each way", length >> 20);
    // No FIN before all has arrived: half closes have checks of their own.
    let outcome = moved.and_then(|_| end(&ends.client, &ends.backend));
    Ok(match outcome {
        Ok(()) => Verdict::new(true, format!("{size} equal, {:.1} s", began.elapsed().as_secs_f64())),
        Err(what) => Verdict::new(false, format!("{size}: {what}")),
    })
}

fn send(mut socket: &TcpStream, sequence: u64, length: usize) -> Result<(), String> {
    let mut random = Random(sequence);
    let mut block = vec![0; BLOCK];
    for _ in 0..length / BLOCK {
        random.fill(&mut block);
        socket.write_all(&block).map_err(|error| format!("send: {error}"))?;
    }
    Ok(())
}

fn receive(mut socket: &TcpStream, sequence: u64, length: usize) -> Result<(), String> {
    let mut random = Random(sequence);
    let (mut block, mut expected) = (vec![0; BLOCK], vec![0; BLOCK]);
    for number in 0..length / BLOCK {
        random.fill(&mut expected);
        let at = number * BLOCK;
        socket.read_exact(&mut block).map_err(|error| format!("receive after {at} bytes: {error}"))?;
        if block != expected {
            return Err(format!("bytes differ after {at}"));
        }
    }
    Ok(())
}

/// Both sides send their FIN and find nothing more to read.
fn end(client: &TcpStream, backend: &TcpStream) -> Result<(), String> {
    for socket in [client, backend] {
        socket.shutdown(Shutdown::Write).map_err(|error| format!("half close: {error}"))?;
    }
    for mut socket in [client, backend] {
        match socket.read(&mut [0]) {
            Ok(0) => {}
            Ok(_) => return Err("more bytes than were sent".to_owned()),
            Err(error) => return Err(format!("end: {error}")),
        }
    }
    Ok(())
}

/// SplitMix64 (Steele, Lea, Flood 2014): every 64-bit output once per period, so no block repeats.
struct Random(u64);

impl Random {
    fn fill(&mut self, block: &mut [u8]) {
        for eight in block.chunks_exact_mut(8) {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut word = self.0;
            word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            eight.copy_from_slice(&(word ^ (word >> 31)).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        let mut block = [0; 16];
        Random(1_234_567).fill(&mut block);
        let words: Vec<u64> = block.chunks(8).map(|eight| u64::from_le_bytes(eight.try_into().unwrap())).collect();
        assert_eq!(words, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }
}
