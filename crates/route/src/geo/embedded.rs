//! The country table inside the binary: the IPFire location database, as the crate `tor-geoip-db` carries it.

use std::net::IpAddr;
use std::num::NonZeroU16;

use tor_geoip_db::{ipv4c, ipv4s, ipv6c, ipv6s};

use crate::place::Country;

/// Upper 16 bits of an address: what the index is by.
const PREFIXES: usize = 1 << 16;

/// The table and an index into it.
///
/// A binary search over 400,000 ranges takes 19 steps, most of them cache misses. The index (256 KiB, made at start in
/// a millisecond) leaves the search the few ranges that share the address's first 16 bits.
pub(super) struct Embedded {
    /// For each prefix, how many ranges start before it; one more at the end.
    before: Box<[u32]>,
}

impl Embedded {
    pub(super) fn new() -> Self {
        let starts = ipv4s();
        let mut before = Vec::with_capacity(PREFIXES + 1);
        let mut ranges = 0;
        for prefix in 0..PREFIXES as u64 {
            while starts.get(ranges).is_some_and(|&start| u64::from(start) < prefix << 16) {
                ranges += 1;
            }
            before.push(u32::try_from(ranges).expect("fewer ranges than IPv4 addresses"));
        }
        before.push(u32::try_from(starts.len()).expect("fewer ranges than IPv4 addresses"));
        Self { before: before.into_boxed_slice() }
    }

    pub(super) fn lookup(&self, ip: IpAddr) -> Option<Country> {
        match ip {
            IpAddr::V4(v4) => {
                let prefix = usize::from(v4.octets()[0]) << 8 | usize::from(v4.octets()[1]);
                let (from, to) = (self.before[prefix] as usize, self.before[prefix + 1] as usize);
                // Ranges are told by their starts: the one that holds an address is the last that does not start after.
                let within = ipv4s()[from..to].partition_point(|&start| start <= v4.to_bits());
                country(ipv4c(), from + within)
            }
            IpAddr::V6(v6) => country(ipv6c(), ipv6s().partition_point(|&start| start <= v6.to_bits())),
        }
    }
}

/// The country of the range before `after`.
fn country(codes: &[Option<NonZeroU16>], after: usize) -> Option<Country> {
    let code = codes.get(after.checked_sub(1)?).copied().flatten()?;
    Some(Country::from_code(code.get().to_ne_bytes()))
        .filter(|country| country.code().iter().all(u8::is_ascii_uppercase))
}
