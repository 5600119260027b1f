//! One run at a time, whatever it measures: two would show in each other's figures. And none once the process is to end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// Whose turn it is, for all who measure in this process; cheap to clone, all clones are the same.
#[derive(Clone, Default)]
pub struct Turns(Arc<Shared>);

#[derive(Default)]
struct Shared {
    running: Mutex<Option<Running>>,
    /// Tells that it has ended.
    over: Notify,
    /// True: it is to end, and none is to begin.
    stopping: watch::Sender<bool>,
}

struct Running {
    activity: Arc<dyn Activity>,
    since: SystemTime,
}

/// A run while it goes on, as others see it.
pub(crate) trait Activity: Send + Sync {
    /// What it is and how far it has come, for somebody who has to wait.
    fn told(&self, since: SystemTime) -> Value;

    /// Rounds that are done, where there are rounds.
    fn rounds(&self) -> usize {
        0
    }
}

/// Why no run can begin.
#[derive(Debug)]
pub(crate) enum NoTurn {
    /// Another one goes on, and tells this.
    Running(Value),
    /// The process ends.
    Stopping,
}

/// Being the run that goes on; over when dropped, however it ended.
pub(crate) struct Turn(Arc<Shared>);

impl Turns {
    /// Nothing goes on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This is the run that goes on from now.
    pub(crate) fn begin(&self, activity: Arc<dyn Activity>) -> Result<Turn, NoTurn> {
        let mut running = self.0.running.lock();
        if *self.0.stopping.borrow() {
            return Err(NoTurn::Stopping);
        }
        if let Some(other) = &*running {
            return Err(NoTurn::Running(other.activity.told(other.since)));
        }
        *running = Some(Running { activity, since: SystemTime::now() });
        Ok(Turn(Arc::clone(&self.0)))
    }

    /// Rounds that the run has done; `None`: nothing goes on.
    pub(crate) fn rounds(&self) -> Option<usize> {
        self.0.running.lock().as_ref().map(|running| running.activity.rounds())
    }

    /// Ends the run that goes on, begins no other, and waits until it has ended, or `limit` is over; whether it has.
    pub(crate) async fn settle(&self, limit: Duration) -> bool {
        self.0.stopping.send_replace(true);
        let over = async {
            loop {
                // Before the look: what ends in between is heard.
                let over = self.0.over.notified();
                if self.0.running.lock().is_none() {
                    break;
                }
                over.await;
            }
        };
        timeout(limit, over).await.is_ok()
    }
}

impl Turn {
    /// Becomes true when the run is to end.
    pub(crate) fn stop(&self) -> watch::Receiver<bool> {
        self.0.stopping.subscribe()
    }

    /// Resolves when the run is to end.
    pub(crate) async fn stopped(&self) {
        // The sender is in here.
        let _ = self.stop().wait_for(|is_told| *is_told).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.running.lock() = None;
        self.0.over.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(&'static str);

    impl Activity for Named {
        fn told(&self, _: SystemTime) -> Value {
            self.0.into()
        }
    }

    fn begin(turns: &Turns, name: &'static str) -> Result<Turn, NoTurn> {
        turns.begin(Arc::new(Named(name)))
    }

    #[tokio::test]
    async fn the_second_is_told_of_the_first_and_after_the_end_nobody_begins() {
        let turns = Turns::new();
        let first = begin(&turns, "first").ok().unwrap();
        assert!(matches!(begin(&turns.clone(), "second"), Err(NoTurn::Running(told)) if told == "first"));
        drop(first);
        assert_eq!(turns.rounds(), None);
        let third = begin(&turns, "third").ok().unwrap();
        assert!(!turns.settle(Duration::from_millis(10)).await);
        third.stopped().await;
        let (settled, ()) = tokio::join!(turns.settle(Duration::from_secs(20)), async { drop(third) });
        assert!(settled);
        assert!(matches!(begin(&turns, "fourth"), Err(NoTurn::Stopping)));
    }
}
