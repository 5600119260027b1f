//! Moving bytes between sockets without copying them: `splice` through a pooled pipe.
//!
//! A pipe holds page references in slots, not bytes: with the default 16 slots one call moves about 53 KB of what a
//! network delivers; with 256 (1 MB) it moves what is there, in a tenth of the calls. Pipes belong to the core and go
//! back to its pool as soon as they are empty, so only a direction whose receiver is slow holds one.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::socket::Socket;

/// A read of this many bytes at once shows a sender in bulk: from here on its bytes go through a pipe…
pub(super) const SPLICE_AT: usize = 32 * 1024;
/// …as long as one fill brings at least this much. Below, two calls cost more than the copy they spare.
pub(super) const SPLICE_WHILE: usize = 16 * 1024;

const PIPE_BYTES: usize = 1024 * 1024;
/// Idle pipes a core keeps. Each is two descriptors and no memory.
const KEPT: usize = 16;
/// Pipes a core has at most, so that slow readers in bulk hold 64 MB of pages and not more: beyond, bytes are copied.
const MOST: usize = 64;
/// Descriptors that the pipes of a core take at most.
pub(crate) const PIPE_DESCRIPTORS: u64 = 2 * MOST as u64;

/// The pipes of a core.
pub(crate) struct Pipes {
    empty: Vec<Pipe>,
    /// How many there are, those in use included.
    count: Arc<AtomicUsize>,
    most: usize,
}

impl Default for Pipes {
    fn default() -> Self {
        Self { empty: Vec::new(), count: Arc::default(), most: MOST }
    }
}

impl Pipes {
    /// A pipe from the pool, or a new one; `None` where there are enough, or descriptors are short.
    pub(super) fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.empty.pop() {
            return Some(pipe);
        }
        let count = self.count.load(Relaxed);
        if count >= self.most {
            return None;
        }
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        if fcntl_setpipe_size(&into, PIPE_BYTES).is_err() {
            // Small pipes are slower than copying.
            tracing::warn!(pipes = count, "no more pipes: this user's quota (fs.pipe-user-pages-soft) is used up");
            self.most = count;
            return None;
        }
        self.count.fetch_add(1, Relaxed);
        Some(Pipe { out, into, bytes: 0, count: Arc::clone(&self.count) })
    }

    /// Takes an empty pipe back; one with bytes in it (of a connection that broke) is closed.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        if pipe.is_empty() && self.empty.len() < KEPT {
            self.empty.push(pipe);
        }
    }
}

pub(super) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    bytes: usize,
    /// Of all pipes of the core.
    count: Arc<AtomicUsize>,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Relaxed);
    }
}

impl Pipe {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Moves what the source has into the (empty) pipe. Ready with 0 when nothing more comes this way: the source has
    /// finished, or urgent data is in the way.
    pub(super) fn fill(&mut self, source: &mut Socket) -> Poll<io::Result<usize>> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let moved = source.read_with(|source| splice(source, None, &self.into, None, PIPE_BYTES, flags));
        if let Poll::Ready(Ok(count)) = moved {
            self.bytes += count;
        }
        moved
    }

    /// Moves bytes from the pipe to the destination, as many as it takes at once.
    pub(super) fn drain(&mut self, destination: &mut Socket) -> Poll<io::Result<usize>> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let moved = destination.write_with(|socket| splice(&self.out, None, socket, None, self.bytes, flags));
        if let Poll::Ready(Ok(count)) = moved {
            self.bytes -= count;
        }
        moved
    }
}
