//! Moving bytes between sockets without copying them: `splice` through a pooled pipe.
//!
//! A pipe holds page references in slots, not bytes: with the default 16 slots one call moves about 53 KB of what a
//! network delivers; with 256 (1 MB) it moves what is there, in a tenth of the calls. Pipes belong to the core and go
//! back to its pool as soon as they are empty, so only a direction whose receiver is slow holds one.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A read of this many bytes at once shows a sender in bulk: from here on its bytes go through a pipe…
pub(super) const SPLICE_AT: usize = 32 * 1024;
/// …as long as one fill brings at least this much. Below, two calls cost more than the copy they spare.
pub(super) const SPLICE_WHILE: usize = 16 * 1024;

const PIPE_BYTES: usize = 1024 * 1024;
/// Idle pipes a core keeps. Each is two descriptors and no memory.
const KEPT: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    bytes: usize,
}

impl Pipe {
    /// A pipe from the pool, or a new one; `None` where descriptors are short.
    pub(super) fn take() -> Option<Self> {
        if let Some(pipe) = POOL.with_borrow_mut(Vec::pop) {
            return Some(pipe);
        }
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Beyond a per-user quota the kernel keeps the default size: slower, not wrong.
        let _ = fcntl_setpipe_size(&into, PIPE_BYTES);
        Some(Self { out, into, bytes: 0 })
    }

    /// An empty pipe goes back to the pool; one with bytes in it (of a connection that broke) is closed.
    pub(super) fn give_back(self) {
        if self.is_empty() {
            POOL.with_borrow_mut(|pool| {
                if pool.len() < KEPT {
                    pool.push(self);
                }
            });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Moves what the source has into the (empty) pipe. Ready with 0 when the source has finished.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, source: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(source.poll_read_ready(cx))?;
            let moved = source.try_io(Interest::READABLE, || {
                Ok(splice(source, None, &self.into, None, PIPE_BYTES, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
            });
            match moved {
                Ok(count) => {
                    self.bytes += count;
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Moves bytes from the pipe to the destination, as many as it takes at once.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, destination: &TcpStream) -> Poll<io::Result<u64>> {
        loop {
            ready!(destination.poll_write_ready(cx))?;
            let moved = destination.try_io(Interest::WRITABLE, || {
                Ok(splice(&self.out, None, destination, None, self.bytes, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
            });
            match moved {
                Ok(count) => {
                    self.bytes -= count;
                    return Poll::Ready(Ok(count as u64));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}
