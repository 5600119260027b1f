//! The end of a POP: unready, then no new clients, then no clients at all.

use std::time::Duration;

use tokio::sync::watch;

/// How far a drain has got. Never goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Takes clients.
    Serving,
    /// Says it is not ready, but still takes those who come.
    Unready,
    /// Takes no more; finishes what runs.
    Draining,
    /// Nothing runs any more.
    Over,
}

/// Tells everybody how far the drain has got.
pub struct Drain {
    phase: watch::Sender<Phase>,
}

impl Default for Drain {
    fn default() -> Self {
        Self { phase: watch::Sender::new(Phase::Serving) }
    }
}

impl Drain {
    /// How far it has got.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = to > *phase;
            if forward {
                *phase = to;
            }
            forward
        });
    }

    /// Resolves when a drain has begun.
    pub(crate) async fn began(&self) {
        self.reached(Phase::Unready).await;
    }

    /// Resolves when listeners have to close.
    pub(crate) fn listeners_close(&self) -> impl Future<Output = ()> + 'static {
        let mut phases = self.phase.subscribe();
        async move {
            // The sender lives as long as the process does.
            let _ = phases.wait_for(|phase| *phase >= Phase::Draining).await;
        }
    }

    /// Resolves when nothing runs any more.
    pub(crate) async fn over(&self) {
        self.reached(Phase::Over).await;
    }

    async fn reached(&self, wanted: Phase) {
        let mut phases = self.phase.subscribe();
        let _ = phases.wait_for(|phase| *phase >= wanted).await;
    }
}

/// How often a drain looks whether the last connection has gone.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);
