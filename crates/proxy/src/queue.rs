//! Clients that wait, for a full app to have room or for somebody to have the role they need: bounded, first come first served, across all cores.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;

use crate::core::{Mailbox, Order, Token};

/// The waiting clients of one listener. Only the one at the head is ever woken; when it is admitted or gives up it
/// wakes the next.
pub(crate) struct Queue {
    capacity: usize,
    /// Length of `waiting`, readable without the lock: every connection that ends looks at it.
    length: AtomicUsize,
    waiting: Mutex<Line>,
    gauge: Gauge,
}

/// Those who wait, by ticket.
#[derive(Default)]
struct Line {
    waiting: BTreeMap<u64, Waiting>,
    next_ticket: u64,
}

/// A waiting client: the connection, and the core to tell.
struct Waiting {
    core: Arc<Mailbox>,
    token: Token,
}

/// A place in the queue; leaves it when dropped.
pub(crate) struct Place {
    queue: Arc<Queue>,
    ticket: u64,
}

impl Queue {
    pub(crate) fn new(capacity: usize, gauge: Gauge) -> Self {
        Self { capacity, length: AtomicUsize::new(0), waiting: Mutex::default(), gauge }
    }

    /// Whether anybody waits. Newcomers then queue behind them even if there is room at this moment.
    pub(crate) fn is_busy(&self) -> bool {
        self.length.load(SeqCst) > 0
    }

    /// Takes the last place, or `None` when the queue is full. The connection gets its turn through the mailbox.
    pub(crate) fn join(self: &Arc<Self>, core: &Arc<Mailbox>, token: Token) -> Option<Place> {
        let mut line = self.waiting.lock();
        if line.waiting.len() >= self.capacity {
            return None;
        }
        let ticket = line.next_ticket;
        line.next_ticket += 1;
        line.waiting.insert(ticket, Waiting { core: Arc::clone(core), token });
        self.length.store(line.waiting.len(), SeqCst);
        self.gauge.inc();
        Some(Place { queue: Arc::clone(self), ticket })
    }

    /// There may be room: lets the head of the queue look.
    pub(crate) fn wake_head(&self) {
        if self.is_busy()
            && let Some((_, head)) = self.waiting.lock().waiting.first_key_value()
        {
            head.core.post(Order::Turn(head.token));
        }
    }
}

impl Place {
    /// Whether this is the head of the queue.
    pub(crate) fn is_head(&self) -> bool {
        self.queue.waiting.lock().waiting.first_key_value().is_some_and(|(ticket, _)| *ticket == self.ticket)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut line = self.queue.waiting.lock();
            line.waiting.remove(&self.ticket);
            self.queue.length.store(line.waiting.len(), SeqCst);
        }
        self.queue.gauge.dec();
        // Whoever was woken for this place's sake, or for a second slot that came free meanwhile, is now the head.
        self.queue.wake_head();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(mailbox: &Mailbox) -> Vec<u32> {
        let turn = |order| if let Order::Turn(token) = order { Some(token.serial) } else { None };
        mailbox.take().into_iter().filter_map(turn).collect()
    }

    #[test]
    fn places_are_bounded_and_served_in_order() {
        let queue = Arc::new(Queue::new(2, Gauge::default()));
        let core = Arc::new(Mailbox::new().unwrap());
        let join = |serial| queue.join(&core, Token { index: 0, serial });
        let first = join(1).unwrap();
        let second = join(2).unwrap();
        assert!(join(3).is_none());
        assert!(first.is_head() && !second.is_head());
        queue.wake_head();
        assert_eq!(turns(&core), [1]);
        drop(first);
        assert_eq!(turns(&core), [2], "leaving wakes the next");
        assert!(second.is_head());
        drop(second);
        assert!(!queue.is_busy() && turns(&core).is_empty());
        assert!(join(4).is_some());
    }
}
