//! How long the buffers of a flow are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// The least, in each direction: no queries and answers need more, and 4,096 flows hold no more than 512 MiB.
const FLOOR: usize = 64 * 1024;
/// The most: 100 Mbit/s at 335 ms.
const CEILING: usize = 4 * 1024 * 1024;
/// For a first connection, whose round trip nobody has measured: 100 Mbit/s at 20 ms.
const UNKNOWN: usize = 256 * 1024;
/// Bytes per second that a flow shall be able to move: a window a round trip.
const RATE: u128 = 12_500_000;
/// What all flows together may have beyond the floor. Where it is used up, flows get the floor.
const EXTRA_MOST: usize = 256 * 1024 * 1024;
/// Hosts whose round trip is remembered; beyond, all are forgotten and measured anew.
const HOSTS_MOST: usize = 4096;

/// What was granted so far, and what is known of round trips.
#[derive(Default)]
pub(super) struct Memory {
    extra: usize,
    round_trips: HashMap<IpAddr, Duration>,
}

/// The bytes of one of a flow's two buffers, to be given back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant(usize);

impl Grant {
    pub(super) fn bytes(self) -> usize {
        self.0
    }

    /// Beyond the floor, for both directions.
    fn extra(self) -> usize {
        2 * (self.0 - FLOOR)
    }
}

impl Memory {
    /// As much as a flow to this host should have, or the floor where there is not so much.
    pub(super) fn grant(&mut self, remote: IpAddr) -> Grant {
        let wanted = self.round_trips.get(&remote).map_or(UNKNOWN, |round_trip| window(*round_trip));
        let grant = Grant(wanted);
        match self.extra + grant.extra() <= EXTRA_MOST {
            true => {
                self.extra += grant.extra();
                grant
            }
            false => Grant(FLOOR),
        }
    }

    pub(super) fn give_back(&mut self, grant: Grant) {
        self.extra -= grant.extra();
    }

    /// A handshake took so long.
    pub(super) fn note_round_trip(&mut self, remote: IpAddr, round_trip: Duration) {
        if self.round_trips.len() >= HOSTS_MOST && !self.round_trips.contains_key(&remote) {
            self.round_trips.clear();
        }
        self.round_trips.insert(remote, round_trip);
    }
}

/// What is under way at the rate we aim at.
fn window(round_trip: Duration) -> usize {
    let bytes = round_trip.as_micros() * RATE / 1_000_000;
    usize::try_from(bytes).unwrap_or(CEILING).clamp(FLOOR, CEILING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_follows_the_round_trip() {
        let mut memory = Memory::default();
        let host = IpAddr::from([10, 50, 0, 2]);
        assert_eq!(memory.grant(host).bytes(), UNKNOWN);
        for (millis, bytes) in [(0, FLOOR), (1, FLOOR), (20, 250_000), (300, 3_750_000), (5000, CEILING)] {
            memory.note_round_trip(host, Duration::from_millis(millis));
            assert_eq!(memory.grant(host).bytes(), bytes);
        }
    }

    #[test]
    fn where_memory_is_used_up_the_floor_is_left() {
        let mut memory = Memory::default();
        let host = IpAddr::from([10, 50, 0, 2]);
        memory.note_round_trip(host, Duration::from_secs(1));
        let grants: Vec<_> = std::iter::repeat_with(|| memory.grant(host)).take(100).collect();
        assert_eq!(
            grants.iter().filter(|grant| grant.bytes() == CEILING).count(),
            EXTRA_MOST / (2 * (CEILING - FLOOR))
        );
        assert!(grants.iter().all(|grant| [FLOOR, CEILING].contains(&grant.bytes())));
        for grant in grants {
            memory.give_back(grant);
        }
        assert_eq!(memory.extra, 0);
    }
}
