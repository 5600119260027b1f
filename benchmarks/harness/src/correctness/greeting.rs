//! The start of a connection: a backend that speaks first, one that is not there, and one that comes back.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::Verdict;
use super::ends::{Bench, CALL, Ending, limit, read_to_ending};
use crate::failure::{Context, Failure};

const GREETING: &[u8] = b"220 ready\r\n";
/// Far above any round trip here, far below the kernel's delays for a silent client.
const PROMPT: Duration = Duration::from_millis(100);
/// Longest time that a client may be left without news.
const PATIENCE: Duration = Duration::from_secs(10);

/// The client says nothing until it has been greeted.
pub(super) fn backend_speaks_first(bench: &Bench) -> Result<Verdict, Failure> {
    let began = Instant::now();
    let mut client = bench.client()?;
    // Health checks connect too: everyone is greeted until the client has been.
    client.set_read_timeout(Some(Duration::from_millis(20))).context("socket time limit")?;
    let mut greeted = Vec::new();
    let mut received = vec![0; GREETING.len()];
    while began.elapsed() < CALL {
        if let Ok(mut backend) = bench.accept(Duration::from_millis(5)) {
            // A health check may be gone again.
            let _ = backend.write_all(GREETING);
            greeted.push(backend);
        }
        if client.read_exact(&mut received).is_ok() {
            let took = began.elapsed();
            let found = format!("{:.1} ms", took.as_secs_f64() * 1e3);
            return Ok(Verdict::new(took < PROMPT && received == GREETING, found));
        }
    }
    Ok(Verdict::new(false, "no greeting within 5 s"))
}

/// Nobody listens at the backend's address: how and when the client is told is a figure, not a verdict.
pub(super) fn backend_down(bench: &Bench) -> Result<Verdict, Failure> {
    bench.take_backend_down();
    let began = Instant::now();
    let Ok(mut client) = bench.client() else {
        return Ok(Verdict { passed: None, found: format!("refused after {}", milliseconds(began)) });
    };
    limit(&client, PATIENCE)?;
    // The answer to a client that is already gone is a reset, which is what the reading shows.
    let _ = client.write_all(b"is anybody there?");
    let (_, ending) = read_to_ending(&mut client);
    let how = match ending {
        Ending::Clean => "closed",
        Ending::Reset => "reset",
        Ending::Silence => return Ok(Verdict::new(false, "no news within 10 s")),
    };
    Ok(Verdict { passed: None, found: format!("{how} after {}", milliseconds(began)) })
}

/// After the backend has been away, connections reach it again.
pub(super) fn backend_back(bench: &Bench) -> Result<Verdict, Failure> {
    bench.bring_backend_back()?;
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if bench.connect().is_ok() {
            return Ok(Verdict::new(true, format!("after {}", milliseconds(began))));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(Verdict::new(false, "not within 10 s"))
}

fn milliseconds(since: Instant) -> String {
    format!("{:.0} ms", since.elapsed().as_secs_f64() * 1e3)
}
