//! Which client went where: a bounded memory with a time to live.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::client::AffinityKey;
use crate::moment::Moment;
use crate::state::SlotKey;

/// Parts with a lock each. More than any number of cores that decide at once, so that they seldom meet at one.
const SHARDS: usize = 64;

/// Where a client went, and until when that counts.
#[derive(Clone, Copy)]
struct Binding {
    backend: SlotKey,
    /// End of its time to live; each new connection of the client extends it.
    expires: Moment,
}

/// The bindings of one listener.
///
/// Expired entries leave as new ones come, oldest first: no timer and no sweep. The capacity is shared out evenly to 64
/// parts, each of which holds at least one client and never more than its share.
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
    /// Remembers `capacity` clients, rounded up to a multiple of 64, for `ttl` after their last connection. A zero `ttl`
    /// remembers nothing.
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
        // Two looked at for one that came: whatever has expired is gone before as many again have come.
        for _ in 0..2 {
            shard.retire_oldest(now);
        }
        if shard.bindings.len() > self.shard_capacity {
            shard.evict_oldest();
        }
    }

    /// Extends the binding of a client that was served elsewhere for once, so that it can return.
    pub fn extend(&self, client: AffinityKey, now: Moment) {
        if let Some(binding) = self.shard(client).bindings.get_mut(&client) {
            binding.expires = now.after(self.ttl);
        }
    }

    /// Clients remembered, expired ones that have not left yet included.
    pub fn remembered(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).bindings.len()).sum()
    }

    fn shard(&self, client: AffinityKey) -> MutexGuard<'_, Shard> {
        let at = usize::try_from(self.hasher.hash_one(client) % SHARDS as u64).expect("below SHARDS");
        lock(&self.shards[at])
    }
}

impl Shard {
    /// Lets the client in front go if its binding has expired; one whose binding was extended is queued again.
    fn retire_oldest(&mut self, now: Moment) {
        let Some((_, client)) = self.order.pop_front_if(|(queued, _)| *queued <= now) else { return };
        if let Entry::Occupied(binding) = self.bindings.entry(client) {
            let expires = binding.get().expires;
            if expires > now {
                self.order.push_back((expires, client));
            } else {
                binding.remove();
            }
        }
    }

    /// Lets one go although it counts: the first in the queue that was not extended since it was queued, or, where the
    /// few in front all were, the last of these.
    fn evict_oldest(&mut self) {
        // The newcomer is the last in the queue: it stays.
        for tries_left in (0..self.order.len().saturating_sub(1).min(4)).rev() {
            let Some((queued, client)) = self.order.pop_front() else { return };
            let Entry::Occupied(binding) = self.bindings.entry(client) else { continue };
            let expires = binding.get().expires;
            if expires == queued || tries_left == 0 {
                binding.remove();
                return;
            }
            self.order.push_back((expires, client));
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
    use crate::state::{Applicant, StatePool};

    fn client(n: u32) -> AffinityKey {
        ClientAddr::new(SocketAddr::new(Ipv4Addr::from_bits(n).into(), 1)).affinity_key()
    }

    fn at(secs: u64) -> Moment {
        Moment::from_millis(secs * 1000)
    }

    fn backends() -> Vec<SlotKey> {
        let addr = "10.0.0.1:80".parse().unwrap();
        StatePool::default()
            .assign(&["a", "b"].map(|id| Applicant { id, addr }))
            .unwrap()
            .into_iter()
            .map(|claim| claim.key)
            .collect()
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
        assert!(affinity.remembered() <= 6_400, "{}", affinity.remembered());
        let still_there = affinity.remembered();
        for n in 0..still_there {
            affinity.bind(client(1_000_000 + u32::try_from(n).unwrap()), backends[1], at(601));
        }
        for n in 0..100_000 {
            assert_eq!(affinity.get(client(n), at(601)), None);
        }
        assert!(affinity.remembered() <= 6_400, "{}", affinity.remembered());
    }

    #[test]
    fn clients_that_keep_returning_do_not_push_the_memory_past_its_bound() {
        let (affinity, backends) = (Affinity::new(Duration::from_secs(600), 640), backends());
        for n in 0..5_000 {
            affinity.bind(client(n), backends[0], at(0));
            // Most have come back since they were queued.
            (0..=n.min(700)).step_by(3).for_each(|back| affinity.extend(client(n - back), at(1)));
            assert!(affinity.remembered() <= 640, "{}", affinity.remembered());
        }
        assert_eq!(affinity.get(client(4_999), at(2)), Some(backends[0]), "the newest is there");
    }

    #[test]
    fn no_ttl_remembers_nothing() {
        let (affinity, backends) = (Affinity::new(Duration::ZERO, 100), backends());
        affinity.bind(client(1), backends[0], at(0));
        assert_eq!(affinity.get(client(1), at(0)), None);
        assert_eq!(affinity.remembered(), 0);
    }
}
