//! Half closes: each direction of a connection ends on its own, and what is still under way arrives.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use super::Verdict;
use super::ends::{Bench, Ending, read_to_ending};
use crate::failure::{Context, Failure};

const EXCHANGES: u32 = 200;
const PARTS: usize = 8;
const PART: usize = 1024;
/// Between two parts, so that a direction is still busy when the other one ends.
const PAUSE: Duration = Duration::from_millis(1);
const LATE: Duration = Duration::from_millis(200);

/// Small streams both ways at once, each ended with its own FIN, the shorter one now on this side and now on that.
pub(super) fn separate_half_closes(bench: &Bench) -> Result<Verdict, Failure> {
    let count = if bench.quick { 10 } else { EXCHANGES };
    let mut truncated = 0;
    for number in 0..count {
        let ends = bench.connect()?;
        let (from_client, from_backend) = if number % 2 == 0 { (1, PARTS) } else { (PARTS, 1) };
        let whole = thread::scope(|scope| {
            let backend = scope.spawn(|| talk(&ends.backend, from_backend, from_client));
            let client = talk(&ends.client, from_client, from_backend);
            client && backend.join().unwrap_or(false)
        });
        truncated += u32::from(!whole);
    }
    Ok(Verdict::new(truncated == 0, format!("{truncated} of {count} truncated")))
}

/// Sends parts and a FIN while reading; whether all parts of the other side arrived and ended cleanly.
fn talk(socket: &TcpStream, send: usize, expect: usize) -> bool {
    thread::scope(|scope| {
        let sender = scope.spawn(|| send_parts(socket, send));
        let Ok(mut reader) = socket.try_clone() else {
            return false;
        };
        let received = read_to_ending(&mut reader);
        let sent = sender.join().unwrap_or(false);
        sent && received == ((expect * PART) as u64, Ending::Clean)
    })
}

fn send_parts(mut socket: &TcpStream, parts: usize) -> bool {
    for _ in 0..parts {
        if socket.write_all(&[7; PART]).is_err() {
            return false;
        }
        thread::sleep(PAUSE);
    }
    socket.shutdown(Shutdown::Write).is_ok()
}

pub(super) fn client_half_close(bench: &Bench) -> Result<Verdict, Failure> {
    let ends = bench.connect()?;
    half_close(ends.client, ends.backend)
}

pub(super) fn backend_half_close(bench: &Bench) -> Result<Verdict, Failure> {
    let ends = bench.connect()?;
    half_close(ends.backend, ends.client)
}

/// One side says its last word; the other one sees that, and what it says a while later still arrives.
fn half_close(mut first: TcpStream, mut last: TcpStream) -> Result<Verdict, Failure> {
    first.write_all(b"last word").context("send")?;
    first.shutdown(Shutdown::Write).context("half close")?;
    let seen = read_to_ending(&mut last);
    if seen != (9, Ending::Clean) {
        return Ok(Verdict::new(false, format!("other side saw {} bytes, {:?}", seen.0, seen.1)));
    }
    thread::sleep(LATE);
    // An error here shows at the reading end.
    let _ = last.write_all(&[7; PART]).and_then(|()| last.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    let ending = first.read_to_end(&mut answer);
    let whole = ending.is_ok() && answer.len() == PART;
    let found = if whole { "answer after FIN arrives" } else { "answer after FIN is lost" };
    Ok(Verdict::new(whole, found))
}
