//! Datagrams on their way out: sealed where they lie, and handed to the kernel many at once.

use std::io;
use std::sync::Arc;

use edgeproxy_tunnel::{Moment, Path, Sealer, TRANSPORT_HEADER, datagram_length};

use crate::registry::Remote;
use crate::udp::Udp;

/// What the kernel takes as one: a UDP datagram's greatest payload over IPv4.
const MOST_BYTES: usize = 65_507;
/// Datagrams it takes as one.
const MOST_DATAGRAMS: usize = 64;

/// Peers whose datagrams are collected at a time: they are looked for one by one.
const MOST_OPEN: usize = 32;

/// Datagrams to several peers.
#[derive(Default)]
pub(crate) struct Outbox {
    open: Vec<Batch>,
    spare: Vec<Vec<u8>>,
}

/// Datagrams to one peer, all but the last of one length.
struct Batch {
    remote: Arc<Remote>,
    sealer: Sealer,
    path: Path,
    bytes: Vec<u8>,
    stride: usize,
    packets: bool,
}

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    /// It is sealed, and will go with the next flush at the latest.
    Sealed,
    /// There is no session to send it in.
    NoSession,
}

/// What a flush has found out.
#[derive(Default)]
pub(crate) struct Flushed {
    /// Peers whose session should be renewed.
    pub(crate) worn: Vec<Arc<Remote>>,
    /// Datagrams that the kernel did not take.
    pub(crate) lost: u64,
}

impl Outbox {
    /// Adds a packet of this length, which `write` puts into its place. None (0) is a keepalive.
    pub(crate) fn add(
        &mut self,
        remote: &Arc<Remote>,
        length: usize,
        mtu: usize,
        (udp, now): (&Udp, Moment),
        flushed: &mut Flushed,
        write: impl FnOnce(&mut [u8]),
    ) -> Sent {
        let place = match self.open.iter().position(|batch| Arc::ptr_eq(&batch.remote, remote)) {
            Some(place) => place,
            None => {
                if self.open.len() == MOST_OPEN {
                    self.flush(udp, now, flushed);
                }
                let Some((session, path)) = remote.outlet.ready(now) else { return Sent::NoSession };
                let Ok(sealer) = session.sealer(now) else { return Sent::NoSession };
                let bytes = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(MOST_BYTES));
                let remote = Arc::clone(remote);
                self.open.push(Batch { remote, sealer, path, bytes, stride: 0, packets: false });
                self.open.len() - 1
            }
        };
        let batch = &mut self.open[place];
        let datagram = datagram_length(length, mtu);
        if !batch.has_room(datagram) {
            batch.flush(udp, now, flushed);
        }
        let start = batch.bytes.len();
        batch.bytes.resize(start + datagram, 0);
        let sealed = &mut batch.bytes[start..];
        write(&mut sealed[TRANSPORT_HEADER..][..length]);
        if batch.sealer.seal(sealed).is_err() {
            batch.bytes.truncate(start);
            return Sent::NoSession;
        }
        if batch.stride == 0 {
            batch.stride = datagram;
        }
        batch.packets |= length > 0;
        Sent::Sealed
    }

    /// Hands everything to the kernel.
    pub(crate) fn flush(&mut self, udp: &Udp, now: Moment, flushed: &mut Flushed) {
        for mut batch in self.open.drain(..) {
            batch.flush(udp, now, flushed);
            if batch.sealer.session().is_worn(now) {
                flushed.worn.push(batch.remote);
            }
            self.spare.push(batch.bytes);
        }
    }
}

impl Batch {
    /// A shorter datagram may be the last one only.
    fn has_room(&self, datagram: usize) -> bool {
        let count = if self.stride == 0 { 0 } else { self.bytes.len().div_ceil(self.stride) };
        let whole = self.stride == 0 || self.bytes.len().is_multiple_of(self.stride);
        whole
            && (self.stride == 0 || datagram <= self.stride)
            && count < MOST_DATAGRAMS
            && self.bytes.len() + datagram <= MOST_BYTES
    }

    fn flush(&mut self, udp: &Udp, now: Moment, flushed: &mut Flushed) {
        if self.bytes.is_empty() {
            return;
        }
        let local = self.path.local;
        match udp.send(&mut self.path, &self.bytes, self.stride) {
            Ok(()) => {}
            Err(error) => {
                flushed.lost += self.bytes.len().div_ceil(self.stride) as u64;
                if error.kind() != io::ErrorKind::WouldBlock {
                    tracing::debug!(peer = %self.remote.public, endpoint = %self.path.remote, %error, "cannot send");
                }
            }
        }
        if let Some(local) = local.filter(|_| self.path.local.is_none()) {
            self.remote.outlet.forget_local(local);
        }
        // Sent or lost on the way is all the same to the timers: an answer is awaited.
        let bytes = self.bytes.len() as u64;
        match self.packets {
            true => self.remote.outlet.note_packets(bytes, now),
            false => self.remote.outlet.note(bytes, now),
        }
        self.bytes.clear();
        self.stride = 0;
        self.packets = false;
    }
}
