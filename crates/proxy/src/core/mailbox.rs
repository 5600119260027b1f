//! What other threads want of a core: they leave orders and ring; the core reads them in its own time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use ipnet::IpNet;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use super::token::Token;
use crate::close::Close;
use crate::record::{LiveConnection, Record};

/// Whether an order concerns a connection.
pub(crate) type Concerns = Arc<dyn Fn(&Record) -> bool + Send + Sync>;

pub(crate) enum Order {
    /// There may be room for this waiting client.
    Turn(Token),
    /// The drain has got further.
    Drain,
    /// Tell of up to so many live connections with ids above this one, oldest first.
    List { after: u64, limit: usize, reply: Sender<Vec<LiveConnection>> },
    /// End those that are concerned, and say how many there were.
    End { concerns: Concerns, close: Close, reply: Sender<usize> },
    /// Cut those to published services that come from these networks, and say how many there were.
    EndSources { from: Arc<[IpNet]>, reply: Sender<usize> },
}

pub(crate) struct Mailbox {
    /// `None` once the core has ended.
    orders: Mutex<Option<Vec<Order>>>,
    bell: OwnedFd,
}

impl Mailbox {
    pub(crate) fn new() -> std::io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { orders: Mutex::new(Some(Vec::new())), bell })
    }

    /// Leaves an order. One for a core that has ended is dropped, and whoever waits for a reply sees that.
    pub(crate) fn post(&self, order: Order) {
        let first = match &mut *self.orders.lock() {
            None => return,
            Some(orders) => {
                orders.push(order);
                orders.len() == 1
            }
        };
        if first {
            // Fails only when the counter is full: then it rings already.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    /// Takes the orders out, and the bell is silent again.
    pub(crate) fn take(&self) -> Vec<Order> {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.orders.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The core has ended.
    pub(crate) fn close(&self) {
        self.orders.lock().take();
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
