//! The epoll of the load generator and of the backend: tokens are indices of a caller's table.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io;

pub(crate) use rustix::event::epoll::EventFlags as Ready;

/// One registration for a whole exchange: edge-triggered, both directions.
pub(crate) const EXCHANGE: Ready = Ready::IN.union(Ready::OUT).union(Ready::RDHUP).union(Ready::ET);

pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(256) })
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: usize, ready: Ready) -> io::Result<()> {
        epoll::add(&self.epoll, fd, data(token), ready)
    }

    pub(crate) fn modify(&self, fd: impl AsFd, token: usize, ready: Ready) -> io::Result<()> {
        epoll::modify(&self.epoll, fd, data(token), ready)
    }

    /// Replaces `found` with what became ready within `timeout`; an interrupted wait finds nothing.
    pub(crate) fn wait(&mut self, found: &mut Vec<(usize, Ready)>, timeout: Duration) -> io::Result<()> {
        found.clear();
        self.events.clear();
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let room = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, room, Some(&timeout)) {
            Ok(_) | Err(io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        found.extend(self.events.iter().map(|event| {
            let token = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            (token, event.flags)
        }));
        Ok(())
    }
}

fn data(token: usize) -> epoll::EventData {
    epoll::EventData::new_u64(token as u64)
}
