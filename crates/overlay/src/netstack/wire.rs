//! The stack's side of a queue: packets to a worker, one a write.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::SendFlags;
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::sent::Sent;
use crate::tun::HEADER;

/// One of the queues.
pub(super) struct Outlet {
    fd: OwnedFd,
    /// The packet that found no room, with its header. While there is one, no other is made.
    held: Vec<u8>,
    buffer: Vec<u8>,
    /// Flows that have more to send.
    pub(super) waiting: Vec<usize>,
    /// Epoll tells when there is room.
    pub(super) watched: bool,
}

impl Outlet {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd, held: Vec::new(), buffer: Vec::new(), waiting: Vec::new(), watched: false }
    }

    /// Whether the worker has yet to make room.
    pub(super) fn is_full(&self) -> bool {
        !self.held.is_empty()
    }

    /// Sends what was held, if there is room now.
    pub(super) fn resume(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.write(held);
    }

    /// The next packet from the worker with its header, if one waits; 0: the worker has ended.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        retry_on_intr(|| rustix::io::read(&self.fd, &mut *buffer))
    }

    /// Returns the room of what was sent.
    fn write(&mut self, packet: Vec<u8>) {
        if packet.is_empty() {
            return;
        }
        match retry_on_intr(|| rustix::net::send(&self.fd, &packet, SendFlags::NOSIGNAL)) {
            // One answer more than there is room for is lost, as on any network.
            Err(Errno::AGAIN | Errno::NOBUFS) if self.held.is_empty() => self.held = packet,
            // The worker has ended, and the overlay with it.
            Ok(_) | Err(_) => self.buffer = packet,
        }
    }
}

impl AsFd for Outlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A queue as the stack sees it for the time of one call: at most one packet comes in.
pub(super) struct Wire<'a> {
    pub(super) outlet: Option<&'a mut Outlet>,
    pub(super) packet: Option<&'a [u8]>,
    /// Of the flow that sends, if it is one.
    pub(super) sent: Option<&'a mut Sent>,
    pub(super) mtu: usize,
}

pub(super) struct Incoming<'a>(&'a [u8]);

pub(super) struct Outgoing<'a> {
    outlet: Option<&'a mut Outlet>,
    sent: Option<&'a mut Sent>,
}

impl Device for Wire<'_> {
    type RxToken<'t>
        = Incoming<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Outgoing<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let packet = self.packet.take()?;
        let outgoing = Outgoing { outlet: self.outlet.as_deref_mut(), sent: self.sent.as_deref_mut() };
        Some((Incoming(packet), outgoing))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        let outlet = self.outlet.as_deref_mut().filter(|outlet| !outlet.is_full())?;
        Some(Outgoing { outlet: Some(outlet), sent: self.sent.as_deref_mut() })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let Some(outlet) = self.outlet else { return write(&mut vec![0; length]) };
        let mut packet = std::mem::take(&mut outlet.buffer);
        packet.clear();
        // The header is empty: each packet is whole, its checksums are there.
        packet.resize(HEADER + length, 0);
        let done = write(&mut packet[HEADER..]);
        if let Some(sent) = self.sent {
            sent.mend(&mut packet[HEADER..]);
        }
        outlet.write(packet);
        done
    }
}
