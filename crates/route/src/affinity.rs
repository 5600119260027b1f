//! Which client went where: a bounded memory with a time to live.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::client::AffinityKey;
use crate::moment::Moment;
use crate::state::SlotKey;

const SHARDS: usize = 64;

/// Where a client went, and until when that counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    /// The backend.
    pub backend: SlotKey,
    /// End of its time to live; each new connection of the client extends it.
    pub expires: Moment,
}

/// The bindings of one listener.
///
/// Expired entries leave as new ones come, oldest first: no timer, no sweep, and never more than the capacity.
pub struct Affinity {
    ttl: Duration,
    shard_capacity: usize,
    /// Keyed, because clients choose their addresses.
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
}

#[derive(Default)]
struct Shard {
    bindings: HashMap<AffinityKey, Binding>,
    /// Clients by the time their binding was made or last queued; a binding extended since goes to the back again.
    order: VecDeque<(Moment, AffinityKey)>,
}

impl Affinity {
    /// Remembers up to about `capacity` clients for `ttl` after their last connection. A zero `ttl` remembers nothing.
    pub fn new(ttl: Duration, capacity: usize) -> Self {
        Self {
            ttl,
            shard_capacity: capacity.div_ceil(SHARDS).max(1),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Where this client went, if that still counts.
    pub fn get(&self, client: AffinityKey, now: Moment) -> Option<SlotKey> {
        if self.ttl.is_zero() {
            return None;
        }
        let shard = self.shard(client);
        shard.bindings.get(&client).filter(|binding| now < binding.expires).map(|binding| binding.backend)
    }

    /// Remembers that the client went to `backend` now.
    pub fn bind(&self, client: AffinityKey, backend: SlotKey, now: Moment) {
        if self.ttl.is_zero() {
            return;
        }
        let binding = Binding { backend, expires: now.after(self.ttl) };
        let mut shard = self.shard(client);
        if shard.bindings.insert(client, binding).is_none() {
            shard.order.push_back((binding.expires, client));
        }
        // Two out for one in: whatever piled up is gone before the memory has doubled.
        for _ in 0..2 {
            let full = shard.bindings.len() > self.shard_capacity;
            shard.retire_oldest(now, full);
        }
    }

    /// Extends the binding of a client that was served elsewhere for once, so that it can return.
    pub fn extend(&self, client: AffinityKey, now: Moment) {
        if let Some(binding) = self.shard(client).bindings.get_mut(&client) {
            binding.expires = now.after(self.ttl);
        }
    }

    /// Clients remembered, expired ones that have not left yet included.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).bindings.len()).sum()
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, client: AffinityKey) -> MutexGuard<'_, Shard> {
        let at = usize::try_from(self.hasher.hash_one(client) % SHARDS as u64).expect("below SHARDS");
        lock(&self.shards[at])
    }
}

impl Shard {
    fn retire_oldest(&mut self, now: Moment, full: bool) {
        let Some(&(queued, client)) = self.order.front() else { return };
        if queued > now && !full {
            return;
        }
        self.order.pop_front();
        match self.bindings.get(&client).map(|binding| binding.expires) {
            Some(expires) if expires > now && expires > queued => self.order.push_back((expires, client)),
            Some(_) => {
                self.bindings.remove(&client);
            }
            None => {}
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // Each change of a shard is complete before anything can panic.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::client::ClientAddr;
    use crate::state::StatePool;

    fn client(n: u32) -> AffinityKey {
        ClientAddr::new(SocketAddr::new(Ipv4Addr::from_bits(n).into(), 1)).affinity_key()
    }

    fn at(secs: u64) -> Moment {
        Moment::from_millis(secs * 1000)
    }

    fn backends() -> Vec<SlotKey> {
        StatePool::default().assign(["a", "b"].into_iter()).unwrap()
    }

    #[test]
    fn a_binding_lives_its_ttl_from_the_last_connection() {
        let (affinity, backends) = (Affinity::new(Duration::from_secs(600), 1000), backends());
        affinity.bind(client(1), backends[0], at(0));
        assert_eq!(affinity.get(client(1), at(599)), Some(backends[0]));
        assert_eq!(affinity.get(client(1), at(600)), None);
        affinity.bind(client(1), backends[0], at(599));
        assert_eq!(affinity.get(client(1), at(1198)), Some(backends[0]));
        affinity.extend(client(1), at(1198));
        assert_eq!(affinity.get(client(1), at(1700)), Some(backends[0]));
        assert_eq!(affinity.get(client(2), at(0)), None);
    }

    #[test]
    fn memory_is_bounded_and_expired_clients_leave_without_a_sweep() {
        let (affinity, backends) = (Affinity::new(Duration::from_secs(600), 6_400), backends());
        for n in 0..100_000 {
            affinity.bind(client(n), backends[0], at(0));
        }
        assert!(affinity.len() <= 6_400 + SHARDS, "{}", affinity.len());
        let still_there = affinity.len();
        for n in 0..still_there {
            affinity.bind(client(1_000_000 + u32::try_from(n).unwrap()), backends[1], at(601));
        }
        for n in 0..100_000 {
            assert_eq!(affinity.get(client(n), at(601)), None);
        }
        assert!(affinity.len() <= still_there + SHARDS, "{}", affinity.len());
    }

    #[test]
    fn no_ttl_remembers_nothing() {
        let (affinity, backends) = (Affinity::new(Duration::ZERO, 100), backends());
        affinity.bind(client(1), backends[0], at(0));
        assert_eq!(affinity.get(client(1), at(0)), None);
        assert!(affinity.is_empty());
    }
}
