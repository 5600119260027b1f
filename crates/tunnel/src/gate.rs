//! How many handshakes are answered, and whose: so that a flood costs us a known share of a core and keeps nobody out
//! who can prove its address.
//!
//! Two budgets, so that neither kind of flood can use up what the other kind of client needs. The first is for initiations
//! whose sender proved nothing; once it is used up we are under load, and a sender gets a cookie instead of an answer. The
//! second is for those that come back with the cookie, and of it each address has a share only. While the first is more
//! than half full there is no flood, and everybody is answered out of it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use crate::moment::Moment;

/// How much is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GateSettings {
    /// Initiations a second from senders that proved nothing. Each costs some 75 µs if its peer is registered, 20 to
    /// 40 µs if not.
    pub unproven_per_second: u32,
    /// Initiations a second from senders that proved their address.
    pub proven_per_second: u32,
    /// Of those, a second from one IPv4 address or one /64 of IPv6…
    pub per_source_per_second: u32,
    /// …and at once.
    pub per_source_burst: u32,
    /// Addresses told apart, 16 bytes each; beyond it some share their share.
    pub sources: usize,
}

impl Default for GateSettings {
    fn default() -> Self {
        Self {
            unproven_per_second: 4_000,
            proven_per_second: 8_000,
            // The kernel's numbers (ratelimiter.c).
            per_source_per_second: 20,
            per_source_burst: 5,
            sources: 8_192,
        }
    }
}

/// What happens with an initiation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It is answered.
    Answer,
    /// Its sender has to prove its address first.
    CookieFirst,
    /// Its address has had its share.
    SourceLimited,
    /// More senders proved their addresses than can be answered.
    Overloaded,
}

/// Lets through what can be borne.
pub struct Gate {
    settings: GateSettings,
    unproven: Bucket,
    proven: Bucket,
    sources: Box<[Bucket]>,
    /// Keeps senders from choosing addresses that share a bucket with somebody else's.
    secret: u64,
}

/// A budget that fills up with time. Counted in thousandths, so that a millisecond brings what it should.
#[derive(Clone, Copy)]
struct Bucket {
    thousandths: u64,
    at: Moment,
}

impl Bucket {
    fn full(burst: u32) -> Self {
        Self { thousandths: u64::from(burst) * 1000, at: Moment::default() }
    }

    fn level(&mut self, per_second: u32, burst: u32, now: Moment) -> u64 {
        let passed = now.as_millis().saturating_sub(self.at.as_millis());
        let filled = self.thousandths.saturating_add(passed.saturating_mul(per_second.into()));
        self.thousandths = filled.min(u64::from(burst) * 1000);
        self.at = now;
        self.thousandths
    }

    fn take(&mut self, per_second: u32, burst: u32, now: Moment) -> bool {
        let enough = self.level(per_second, burst, now) >= 1000;
        if enough {
            self.thousandths -= 1000;
        }
        enough
    }
}

impl Gate {
    /// `secret` has to be random.
    pub fn new(settings: GateSettings, secret: u64) -> Self {
        let sources = settings.sources.max(1).next_power_of_two();
        Self {
            settings,
            unproven: Bucket::full(settings.unproven_per_second),
            proven: Bucket::full(settings.proven_per_second),
            sources: vec![Bucket::full(settings.per_source_burst); sources].into(),
            secret,
        }
    }

    /// An initiation has come. `proves_address` is asked only when it matters.
    pub fn admit(&mut self, from: SocketAddr, now: Moment, proves_address: impl FnOnce() -> bool) -> Admission {
        let GateSettings { unproven_per_second, proven_per_second, per_source_per_second, per_source_burst, .. } =
            self.settings;
        let plenty =
            self.unproven.level(unproven_per_second, unproven_per_second, now) > u64::from(unproven_per_second) * 500;
        if plenty || !proves_address() {
            return match self.unproven.take(unproven_per_second, unproven_per_second, now) {
                true => Admission::Answer,
                false => Admission::CookieFirst,
            };
        }
        let place = self.place(from.ip());
        if !self.sources[place].take(per_source_per_second, per_source_burst, now) {
            return Admission::SourceLimited;
        }
        match self.proven.take(proven_per_second, proven_per_second, now) {
            true => Admission::Answer,
            false => Admission::Overloaded,
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "the remainder is less than the length")]
    fn place(&self, source: IpAddr) -> usize {
        let mut hasher = DefaultHasher::new();
        self.secret.hash(&mut hasher);
        match source.to_canonical() {
            IpAddr::V4(ip) => ip.hash(&mut hasher),
            IpAddr::V6(ip) => ip.octets()[..8].hash(&mut hasher),
        }
        (hasher.finish() & (self.sources.len() as u64 - 1)) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SETTINGS: GateSettings = GateSettings {
        unproven_per_second: 100,
        proven_per_second: 50,
        per_source_per_second: 20,
        per_source_burst: 5,
        sources: 1024,
    };

    fn source(number: u32) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(number.to_be_bytes().into()), 1000)
    }

    #[test]
    fn a_flood_from_everywhere_makes_everybody_prove_its_address() {
        let (mut gate, now) = (Gate::new(SETTINGS, 1), Moment::default());
        for number in 0..100 {
            assert_eq!(gate.admit(source(number), now, || false), Admission::Answer);
        }
        for number in 100..1000 {
            assert_eq!(gate.admit(source(number), now, || false), Admission::CookieFirst);
        }
        assert_eq!(gate.admit(source(5000), now, || true), Admission::Answer, "the others' budget is untouched");
        let later = now.after(Duration::from_millis(20));
        assert_eq!(gate.admit(source(1), later, || false), Admission::Answer, "two more after 20 ms");
        assert_eq!(gate.admit(source(1), later, || false), Admission::Answer);
        assert_eq!(gate.admit(source(1), later, || false), Admission::CookieFirst);
    }

    #[test]
    fn an_address_has_its_share_however_often_it_proves_itself() {
        let (mut gate, now) = (Gate::new(GateSettings { unproven_per_second: 0, ..SETTINGS }, 1), Moment::default());
        for _ in 0..5 {
            assert_eq!(gate.admit(source(1), now, || true), Admission::Answer);
        }
        assert_eq!(gate.admit(source(1), now, || true), Admission::SourceLimited);
        assert_eq!(gate.admit(source(2), now, || true), Admission::Answer);
        let later = now.after(Duration::from_millis(50));
        assert_eq!(gate.admit(source(1), later, || true), Admission::Answer, "one more after 50 ms");
        assert_eq!(gate.admit(source(1), later, || true), Admission::SourceLimited);
        let host = |text: &str| SocketAddr::new(text.parse().unwrap(), 1);
        for number in 0..5 {
            let of_the_64 = host(&format!("2001:db8::{number:x}"));
            assert_eq!(gate.admit(of_the_64, later, || true), Admission::Answer);
        }
        assert_eq!(gate.admit(host("2001:db8::77"), later, || true), Admission::SourceLimited);
    }

    #[test]
    fn neither_kind_of_flood_starves_the_other_kind_of_client() {
        // From everywhere, and nobody proves anything: who does is answered as long as the second budget lasts.
        let (mut gate, now) = (Gate::new(SETTINGS, 1), Moment::default());
        let flood: Vec<_> = (0..10_000).map(|number| gate.admit(source(number), now, || false)).collect();
        assert_eq!(flood.iter().filter(|outcome| **outcome == Admission::Answer).count(), 100);
        for number in 0..50 {
            assert_eq!(gate.admit(source(20_000 + number), now, || true), Admission::Answer);
        }
        // From very many who prove their addresses: who comes without a cookie is answered as if there were no flood.
        let (mut gate, mut now, mut answered) = (Gate::new(SETTINGS, 1), Moment::default(), [0, 0]);
        for tenth in 0..100 {
            now = now.after(Duration::from_millis(100));
            for number in 0..1_000 {
                answered[0] += u32::from(gate.admit(source(number), now, || true) == Admission::Answer);
            }
            for number in 0..5 {
                let stranger = gate.admit(source(5_000 + number), now, || false);
                assert_eq!(stranger, Admission::Answer, "{number} in tenth {tenth}");
                answered[1] += 1;
            }
        }
        assert_eq!(answered[1], 500);
        // In ten seconds: both budgets for what comes in that time, and what they held before.
        assert!((1_000..=1_650).contains(&answered[0]), "{}", answered[0]);
    }

    #[test]
    fn those_that_proved_their_addresses_are_limited_in_all() {
        let (mut gate, now) = (Gate::new(GateSettings { unproven_per_second: 0, ..SETTINGS }, 1), Moment::default());
        let outcomes: Vec<_> = (0..500).map(|number| gate.admit(source(number), now, || true)).collect();
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Admission::Answer).count(), 50);
        assert!(outcomes.contains(&Admission::Overloaded));
    }
}
