//! Addresses that rest between two peers.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use edgeproxy_store::peers::Released;

/// Tables of the index: each is grown for itself, so that nobody waits for long.
const SHARDS: usize = 256;

/// Taken still, in the order in which they come free, and found by their address.
#[derive(Debug)]
pub(crate) struct Resting {
    order: BTreeSet<(u64, IpAddr)>,
    until: Vec<HashMap<IpAddr, u64>>,
    hash: RandomState,
}

impl Default for Resting {
    fn default() -> Self {
        let until = std::iter::repeat_with(HashMap::new).take(SHARDS).collect();
        Self { order: BTreeSet::new(), until, hash: RandomState::new() }
    }
}

impl Resting {
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn add(&mut self, Released { address, until }: Released) {
        let shard = self.shard(address);
        if let Some(before) = self.until[shard].insert(address, until) {
            self.order.remove(&(before, address));
        }
        self.order.insert((until, address));
    }

    /// Until when this one rests, if it does.
    pub(crate) fn until(&self, address: IpAddr) -> Option<u64> {
        self.until[self.shard(address)].get(&address).copied()
    }

    /// The next one that has rested by then.
    pub(crate) fn take_rested(&mut self, now: u64) -> Option<Released> {
        let (until, address) = self.order.first().copied().filter(|(until, _)| *until <= now)?;
        self.order.pop_first();
        let shard = self.shard(address);
        self.until[shard].remove(&address);
        Some(Released { address, until })
    }

    #[allow(clippy::cast_possible_truncation, reason = "the last bits are wanted")]
    fn shard(&self, address: IpAddr) -> usize {
        self.hash.hash_one(address) as usize % SHARDS
    }
}
