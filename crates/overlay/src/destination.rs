//! Where a packet of a peer goes, and whether it may.

use std::sync::Arc;

use crate::counters::Loss;
use crate::device::Shared;
use crate::packet::{View, decrement_hops};
use crate::registry::{Remote, is_mapped};

pub(crate) enum Destination<'a> {
    /// This machine.
    Here(&'a [u8]),
    /// Another peer.
    Peer(Arc<Remote>, &'a [u8]),
}

/// What may not go anywhere comes back with the reason.
pub(crate) fn of<'a>(
    shared: &Shared,
    from: &Arc<Remote>,
    packet: &'a mut [u8],
) -> Result<Destination<'a>, (Loss, &'a [u8])> {
    let Ok(view) = View::parse(packet) else { return Err((Loss::MalformedPacket, &[])) };
    let (source, destination, length) = (view.source(), view.destination(), view.bytes().len());
    let packet = &mut packet[..length];
    if is_mapped(destination) || !shared.registry.is_of(source, from) {
        return Err((Loss::ForeignSource, &[]));
    }
    if !shared.forward || shared.addresses.contains(&destination) {
        return Ok(Destination::Here(packet));
    }
    match shared.registry.owner_of(destination) {
        None => Ok(Destination::Here(packet)),
        Some(owner) if Arc::ptr_eq(&owner, from) => Err((Loss::Loop, packet)),
        Some(_) if !shared.tenants.may_talk(source, destination) => Err((Loss::OtherTenant, packet)),
        Some(owner) => match decrement_hops(packet) {
            Ok(()) => Ok(Destination::Peer(owner, packet)),
            Err(_) => Err((Loss::Expired, packet)),
        },
    }
}
