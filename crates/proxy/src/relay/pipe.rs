//! Moving bytes between sockets without copying them: `splice` through a pooled pipe.
//!
//! A pipe holds page references in slots, not bytes: with the default 16 slots one call moves about 53 KB of what a
//! network delivers; with 256 (1 MB) it moves what is there, in a tenth of the calls. Pipes belong to the core and go
//! back to its pool as soon as they are empty, so only a direction whose receiver is slow holds one.

use std::io;
use std::os::fd::OwnedFd;
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

/// The empty pipes of a core.
#[derive(Default)]
pub(crate) struct Pipes(Vec<Pipe>);

impl Pipes {
    /// A pipe from the pool, or a new one; `None` where descriptors are short.
    pub(super) fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.0.pop() {
            return Some(pipe);
        }
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Beyond a per-user quota the kernel keeps the default size: slower, not wrong.
        let _ = fcntl_setpipe_size(&into, PIPE_BYTES);
        Some(Pipe { out, into, bytes: 0 })
    }

    /// Takes an empty pipe back; one with bytes in it (of a connection that broke) is closed.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        if pipe.is_empty() && self.0.len() < KEPT {
            self.0.push(pipe);
        }
    }
}

pub(super) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    bytes: usize,
}

impl Pipe {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Moves what the source has into the (empty) pipe. Ready with 0 when the source has finished.
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
