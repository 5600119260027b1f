//! Backpressure: how much a connection takes in while nobody reads at its other end.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::Verdict;
use super::ends::{Bench, CALL, limit, read_to_ending};
use crate::failure::{Context, Failure};

const PUSH: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(2);
/// Kernel buffers of four sockets and the proxy's own; more is not backpressure.
const BOUND_MB: f64 = 16.0;
/// Where the pushing stops if nothing else stops it.
const ENOUGH: u64 = 2_000_000_000;

pub(super) fn client_pushes(bench: &Bench) -> Result<Verdict, Failure> {
    let ends = bench.connect()?;
    push(ends.client, ends.backend)
}

pub(super) fn backend_pushes(bench: &Bench) -> Result<Verdict, Failure> {
    let ends = bench.connect()?;
    push(ends.backend, ends.client)
}

fn push(mut sender: TcpStream, mut reader: TcpStream) -> Result<Verdict, Failure> {
    sender.set_nonblocking(true).context("sender")?;
    let part = vec![7; 64 * 1024];
    let mut absorbed = 0;
    let began = Instant::now();
    while began.elapsed() < PUSH && absorbed < ENOUGH {
        match sender.write(&part) {
            Ok(bytes) => absorbed += bytes as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(error).context("send"),
        }
    }
    sender.set_nonblocking(false).context("sender")?;
    sender.shutdown(Shutdown::Write).context("half close")?;
    limit(&reader, CALL)?;
    let (arrived, _) = read_to_ending(&mut reader);
    let megabytes = absorbed as f64 / 1e6;
    let mut found = format!("{megabytes:.1} MB");
    if arrived != absorbed {
        found.push_str(&format!(", of which {:.1} MB arrive", arrived as f64 / 1e6));
    }
    Ok(Verdict::new(megabytes <= BOUND_MB && arrived == absorbed, found))
}
