//! A TCP connection through the overlay, as a descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI32};

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
/// broken       -> an end; `error` tells it from a regular one
/// reset by us  -> `reset_on_close`, then closing
/// ```
#[derive(Debug, Clone, Default)]
pub struct Line(Arc<Said>);

#[derive(Debug, Default)]
struct Said {
    /// Why the connection broke, as the system numbers it; 0: it did not.
    error: AtomicI32,
    /// Closing means a reset.
    reset: AtomicBool,
}

impl Line {
    /// Why the connection failed or broke, if it did. Holds once the end was read.
    pub fn error(&self) -> Option<io::Error> {
        let code = self.0.error.load(Acquire);
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

    /// Closing the stream sends a reset from now on, not a regular end.
    pub fn reset_on_close(&self) {
        self.0.reset.store(true, Relaxed);
    }

    /// To be said before the end can be read.
    pub(crate) fn fail(&self, why: Errno) {
        self.0.error.store(why.raw_os_error(), Release);
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.0.reset.load(Relaxed)
    }
}
