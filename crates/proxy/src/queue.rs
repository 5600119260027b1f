//! Clients that wait for a full app to have room: bounded, first come first served, across all cores.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;

/// The waiting clients of one listener. Only the one at the head is ever woken; when it is admitted or gives up it
/// wakes the next.
pub(crate) struct Queue {
    capacity: usize,
    /// Length of `waiting`, readable without the lock: every connection that ends looks at it.
    length: AtomicUsize,
    waiting: Mutex<VecDeque<Arc<Notify>>>,
    gauge: Gauge,
}

/// A place in the queue; leaves it when dropped.
pub(crate) struct Place<'a> {
    queue: &'a Queue,
    turn: Arc<Notify>,
}

impl Queue {
    pub(crate) fn new(capacity: usize, gauge: Gauge) -> Self {
        Self { capacity, length: AtomicUsize::new(0), waiting: Mutex::default(), gauge }
    }

    /// Whether anybody waits. Newcomers then queue behind them even if there is room at this moment.
    pub(crate) fn is_busy(&self) -> bool {
        self.length.load(SeqCst) > 0
    }

    /// Takes the last place, or `None` when the queue is full.
    pub(crate) fn join(&self) -> Option<Place<'_>> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= self.capacity {
            return None;
        }
        let turn = Arc::new(Notify::new());
        waiting.push_back(Arc::clone(&turn));
        self.length.store(waiting.len(), SeqCst);
        self.gauge.inc();
        Some(Place { queue: self, turn })
    }

    /// There may be room: lets the head of the queue look.
    pub(crate) fn wake_head(&self) {
        if self.is_busy()
            && let Some(head) = self.waiting.lock().front()
        {
            head.notify_one();
        }
    }
}

impl Place<'_> {
    /// Whether this is the head of the queue.
    pub(crate) fn is_head(&self) -> bool {
        self.queue.waiting.lock().front().is_some_and(|head| Arc::ptr_eq(head, &self.turn))
    }

    /// Waits until it is worth looking again.
    pub(crate) async fn turn(&self) {
        self.turn.notified().await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        {
            let mut waiting = self.queue.waiting.lock();
            if let Some(at) = waiting.iter().position(|turn| Arc::ptr_eq(turn, &self.turn)) {
                waiting.remove(at);
            }
            self.queue.length.store(waiting.len(), SeqCst);
        }
        self.queue.gauge.dec();
        // Whoever was woken for this place's sake, or for a second slot that came free meanwhile, is now the head.
        self.queue.wake_head();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_bounded_and_served_in_order() {
        let queue = Queue::new(2, Gauge::default());
        let first = queue.join().unwrap();
        let second = queue.join().unwrap();
        assert!(queue.join().is_none());
        assert!(first.is_head() && !second.is_head());
        queue.wake_head();
        first.turn().await;
        drop(first);
        second.turn().await;
        assert!(second.is_head(), "leaving wakes the next");
        drop(second);
        assert!(!queue.is_busy());
        assert!(queue.join().is_some());
    }
}
