//! A TCP connection through the overlay, as a descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize};

use rustix::io::Errno;

/// A connection and the way to hear of it. The descriptor does not block.
#[derive(Debug)]
pub struct Stream {
    /// A TCP socket of the kernel; with a line, one end of a pair of Unix sockets whose other end is the stack's.
    pub fd: OwnedFd,
    /// Where the stack and its user say what a Unix socket cannot.
    pub line: Option<Line>,
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What is said of a stream of the stack beside its bytes.
///
/// ```text
/// dialled      -> one byte comes before all others once the connection stands; the end instead: it failed
/// finished     -> shutdown(Write), both ways; closing finishes as well
/// broken       -> news of the descriptor, and an end after all that came; `error` tells it from a regular one
/// reset by us  -> `reset_on_close`, then closing
/// ```
#[derive(Debug, Clone, Default)]
pub struct Line {
    said: Arc<Said>,
    /// Where both ends of the pair are users': what the other is told.
    other: Option<Arc<Said>>,
}

#[derive(Debug, Default)]
struct Said {
    /// Why the connection broke, as the system numbers it; 0: it did not.
    error: AtomicI32,
    /// Closing means a reset.
    reset: AtomicBool,
    /// Bytes that the stack has taken and the other side has not.
    unacknowledged: AtomicUsize,
}

impl Line {
    /// Of both ends of one pair, with no stack between.
    pub(crate) fn pair() -> (Self, Self) {
        let (one, other) = (Arc::<Said>::default(), Arc::<Said>::default());
        let line = |said, other| Self { said, other: Some(other) };
        (line(Arc::clone(&one), Arc::clone(&other)), line(other, one))
    }

    /// Why the connection failed or broke, if it did. What came before can still be read.
    pub fn error(&self) -> Option<io::Error> {
        let code = self.said.error.load(Acquire);
        (code != 0).then(|| io::Error::from_raw_os_error(code))
    }

    /// Whether the dialled connection stands, by what reading one byte brought.
    ///
    /// # Errors
    /// It does not, and this is why.
    pub fn settled(&self, read: usize) -> io::Result<()> {
        match read {
            0 => Err(self.error().unwrap_or_else(|| Errno::CONNABORTED.into())),
            _ => Ok(()),
        }
    }

    /// Bytes on the way to the other side that are not in the descriptor any more. To be asked after the descriptor was:
    /// 0 is said only where none is between the two.
    pub fn unacknowledged(&self) -> usize {
        self.said.unacknowledged.load(Acquire)
    }

    /// Closing the stream sends a reset from now on, not a regular end.
    pub fn reset_on_close(&self) {
        self.said.reset.store(true, Relaxed);
        if let Some(other) = &self.other {
            other.error.store(Errno::CONNRESET.raw_os_error(), Release);
        }
    }

    /// To be said before the end can be read.
    pub(crate) fn fail(&self, why: Errno) {
        self.said.error.store(why.raw_os_error(), Release);
    }

    pub(crate) fn note_unacknowledged(&self, bytes: usize) {
        self.said.unacknowledged.store(bytes, Release);
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.said.reset.load(Relaxed)
    }
}
