//! One benchmark at a time on a machine: two would measure each other.

use std::fs::{File, TryLockError};
use std::time::{Duration, Instant};

use crate::failure::{Context, Failure};
use crate::progress;

/// A full run takes less.
const PATIENCE: Duration = Duration::from_secs(90 * 60);
const LOOK: Duration = Duration::from_secs(1);

/// Held while a benchmark runs; the kernel releases it when the process ends, however that happens.
pub(crate) struct Turn {
    _lock: File,
}

impl Turn {
    pub(crate) fn take() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join("edgeproxy-benchmarks.lock");
        let file = File::create(&path).context(format!("cannot make {}", path.display()))?;
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _lock: file }),
                Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => {}
                Err(error) => return Err(error).context("another benchmark holds this machine"),
            }
            if began.elapsed() < LOOK {
                progress::note("another benchmark runs on this machine; waiting for its end");
            }
            std::thread::sleep(LOOK);
        }
    }
}
