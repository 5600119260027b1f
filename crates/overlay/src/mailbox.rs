//! How threads speak to one another: they leave letters and ring; the owner reads them in its own time.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

/// Letters that may wait beside others: a thread that does not keep up must not fill memory with packets.
const MOST_OFFERED: usize = 4096;

/// The letters of one thread.
pub(crate) struct Mailbox<T> {
    /// `None` once the thread has ended.
    letters: Mutex<Option<Vec<T>>>,
    bell: OwnedFd,
}

impl<T> Mailbox<T> {
    pub(crate) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { letters: Mutex::new(Some(Vec::new())), bell })
    }

    /// Leaves a letter that strangers or peers had us write, unless too many wait. Returns whether it was left.
    pub(crate) fn offer(&self, letter: impl FnOnce() -> T) -> bool {
        let has_room = self.letters.lock().as_ref().is_some_and(|letters| letters.len() < MOST_OFFERED);
        if has_room {
            self.post(letter());
        }
        has_room
    }

    /// Leaves a letter. One for a thread that has ended is dropped.
    pub(crate) fn post(&self, letter: T) {
        let first = match &mut *self.letters.lock() {
            None => return,
            Some(letters) => {
                letters.push(letter);
                letters.len() == 1
            }
        };
        if first {
            // Fails only when the counter is full: then it rings already.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    /// Takes the letters out, and the bell is silent again.
    pub(crate) fn take(&self) -> Vec<T> {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.letters.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The thread has ended: nobody reads what is left here.
    pub(crate) fn close(&self) {
        self.letters.lock().take();
    }
}

impl<T> fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

impl<T> AsFd for Mailbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
