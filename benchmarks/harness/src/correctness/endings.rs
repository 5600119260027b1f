//! Resets: a stream that was cut must not look as if it had ended well.

use std::net::TcpStream;
use std::time::Duration;

use super::Verdict;
use super::ends::{Bench, Ending, limit, read_to_ending, reset};
use crate::failure::Failure;

const WAIT: Duration = Duration::from_secs(3);

pub(super) fn client_reset(bench: &Bench) -> Result<Verdict, Failure> {
    let ends = bench.connect()?;
    across(ends.client, ends.backend)
}

pub(super) fn backend_reset(bench: &Bench) -> Result<Verdict, Failure> {
    let ends = bench.connect()?;
    across(ends.backend, ends.client)
}

fn across(cut: TcpStream, mut other: TcpStream) -> Result<Verdict, Failure> {
    limit(&other, WAIT)?;
    reset(cut)?;
    let (_, ending) = read_to_ending(&mut other);
    let found = match ending {
        Ending::Reset => "reset",
        Ending::Clean => "arrives as a clean end",
        Ending::Silence => "nothing within 3 s",
    };
    Ok(Verdict::new(ending == Ending::Reset, found))
}
