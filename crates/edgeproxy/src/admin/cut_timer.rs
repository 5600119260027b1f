//! Deadlines of drains.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;

use super::drain::Target;

type Timers = HashMap<Target, AbortHandle>;

/// At most one deadline for each target. In memory only, as are the connections that it ends.
#[derive(Default)]
pub(super) struct CutTimers {
    running: Arc<Mutex<Timers>>,
}

impl CutTimers {
    /// Cuts after `deadline`, on a thread where it may take its time, unless the drain was `undone` before. Replaces the
    /// target's former deadline.
    pub(super) fn start(
        &self,
        target: Target,
        deadline: Duration,
        undone: impl Future<Output = ()> + Send + 'static,
        cut: impl FnOnce() + Send + 'static,
    ) {
        // Held until the timer is in the map, so that it cannot end before.
        let mut running = lock(&self.running);
        let timers = Arc::clone(&self.running);
        let of = target.clone();
        let timer = tokio::spawn(async move {
            let is_due = tokio::select! {
                biased;
                () = undone => false,
                () = tokio::time::sleep(deadline) => true,
            };
            lock(&timers).remove(&of);
            if is_due {
                tokio::task::spawn_blocking(cut);
            }
        });
        if let Some(former) = running.insert(target, timer.abort_handle()) {
            former.abort();
        }
    }

    /// The target's deadline, if it has one, is off.
    pub(super) fn cancel(&self, target: &Target) {
        if let Some(timer) = lock(&self.running).remove(target) {
            timer.abort();
        }
    }
}

fn lock(timers: &Mutex<Timers>) -> MutexGuard<'_, Timers> {
    // Each step leaves the map valid.
    timers.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn the_last_deadline_counts_and_can_be_called_off() {
        let timers = CutTimers::default();
        let target = Target::Backend("b1".to_owned());
        let (cuts, mut cut) = mpsc::unbounded_channel();
        let start = |deadline: Duration, name: &'static str| {
            let cuts = cuts.clone();
            let tell = move || cuts.send(name).expect("the test listens");
            timers.start(target.clone(), deadline, pending(), tell);
        };
        start(LONG, "replaced");
        start(Duration::ZERO, "in time");
        assert_eq!(cut.recv().await, Some("in time"));
        assert!(lock(&timers.running).is_empty());

        // Without a pause between the two, the first has no chance to be done before it is called off.
        start(Duration::ZERO, "called off");
        timers.cancel(&target);
        start(Duration::from_millis(20), "later");
        assert_eq!(cut.recv().await, Some("later"));

        let tell = cuts.clone();
        timers.start(target.clone(), Duration::ZERO, ready(()), move || tell.send("undone").expect("the test listens"));
        // It ends without a cut, and its place is free.
        while !lock(&timers.running).is_empty() {
            tokio::task::yield_now().await;
        }
        start(Duration::ZERO, "last");
        assert_eq!(cut.recv().await, Some("last"));
    }
}
