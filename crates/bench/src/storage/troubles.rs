//! What failed on the way and was made good by another attempt.

use std::sync::Arc;

use parking_lot::Mutex;

use super::failure::Failure;

/// More are counted, and not kept.
const KEPT: usize = 20;

/// Shared by the streams of a run.
#[derive(Clone, Default)]
pub(super) struct Troubles(Arc<Mutex<(u64, Vec<String>)>>);

impl Troubles {
    pub(super) fn note(&self, failure: Failure) {
        tracing::warn!(%failure, "storage: will be tried again");
        let mut troubles = self.0.lock();
        troubles.0 += 1;
        if troubles.1.len() < KEPT {
            troubles.1.push(failure.to_string());
        }
    }

    /// How many, and the first of them in words.
    pub(super) fn all(&self) -> (u64, Vec<String>) {
        self.0.lock().clone()
    }
}
