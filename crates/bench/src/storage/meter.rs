//! What has gone out and come in so far, for whoever looks while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a run; cheap to clone, all clones are the same.
#[derive(Clone, Default)]
pub struct Meter(Arc<Counters>);

#[derive(Default)]
struct Counters {
    out: AtomicU64,
    repeated: AtomicU64,
    back: AtomicU64,
    attempts: AtomicU64,
}

impl Meter {
    /// All at nought.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Payload bytes handed to connections, those that were sent again included.
    #[must_use]
    pub fn out(&self) -> u64 {
        self.0.out.load(Ordering::Relaxed)
    }

    /// Payload bytes of attempts that failed.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.0.repeated.load(Ordering::Relaxed)
    }

    /// Payload bytes that were read back.
    #[must_use]
    pub fn back(&self) -> u64 {
        self.0.back.load(Ordering::Relaxed)
    }

    /// Requests with payload that were begun.
    pub(super) fn attempts(&self) -> u64 {
        self.0.attempts.load(Ordering::Relaxed)
    }

    pub(super) fn add_back(&self, bytes: u64) {
        self.0.back.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts one request.
    pub(super) fn attempt(&self) -> Sent {
        self.0.attempts.fetch_add(1, Ordering::Relaxed);
        Sent { all: self.clone(), here: Arc::default() }
    }
}

/// What one attempt has sent.
#[derive(Clone)]
pub(super) struct Sent {
    all: Meter,
    here: Arc<AtomicU64>,
}

impl Sent {
    pub(super) fn add(&self, bytes: u64) {
        self.here.fetch_add(bytes, Ordering::Relaxed);
        self.all.0.out.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.here.load(Ordering::Relaxed)
    }

    /// The attempt came to nothing: what it sent is to be sent again.
    pub(super) fn failed(&self) {
        self.all.0.repeated.fetch_add(self.bytes(), Ordering::Relaxed);
    }
}
