//! The load generator: one thread, one epoll, every wait bounded, every failure counted.

pub(crate) mod bulk;
pub(crate) mod held;
pub(crate) mod short;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// Longest sleep of the load loops: how late a deadline may be noticed.
pub(crate) const TICK: Duration = Duration::from_millis(200);

/// What a load did.
#[derive(Default, Debug)]
pub(crate) struct Tally {
    /// Operations that ended well.
    pub(crate) operations: u64,
    /// Payload bytes that arrived, bulk only.
    pub(crate) bytes: u64,
    /// Nanoseconds of each operation that ended well, in no order.
    pub(crate) latencies: Vec<u64>,
    pub(crate) elapsed: Duration,
    /// How often each kind of error happened.
    pub(crate) errors: BTreeMap<String, u64>,
}

impl Tally {
    pub(crate) fn error(&mut self, kind: impl Into<String>) {
        *self.errors.entry(kind.into()).or_default() += 1;
    }

    pub(crate) fn system_error(&mut self, during: &str, error: Errno) {
        self.error(format!("{during}: {error}"));
    }

    pub(crate) fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// The two bounds of every load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For one operation, after which it counts as an error.
    pub(crate) operation: Duration,
    /// For the whole load, after which what is unfinished counts as an error.
    pub(crate) whole: Duration,
}

impl Patience {
    pub(crate) fn is_over(&self, began: Instant) -> bool {
        began.elapsed() > self.whole
    }
}

/// A payload that starts with the mode byte and does not repeat within a buffer length.
pub(crate) fn payload(mode: u8, length: usize) -> Vec<u8> {
    let varied = (0..length).map(|at| u8::try_from(at % 251).unwrap_or(0));
    let mut bytes: Vec<u8> = varied.collect();
    if let Some(first) = bytes.first_mut() {
        *first = mode;
    }
    bytes
}
