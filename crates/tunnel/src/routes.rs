//! Which peer an address belongs to: the longest prefix that holds it.
//!
//! Nearly all prefixes of a gateway are single hosts, so there is a hash table for each length in use, asked from the
//! longest on: one to three probes, whatever the number of peers.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Hashes with a secret, as whoever chooses addresses and keys would choose those that collide.
#[derive(Clone, Copy)]
pub struct Keyed(pub u64);

impl BuildHasher for Keyed {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

impl fmt::Debug for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyed")
    }
}

/// Addresses that begin alike. Bits beyond its length are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text is no prefix.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PrefixError {
    /// No address.
    #[error("{0:?} is not an IP address, alone or with a length as in 10.50.0.0/16")]
    Address(String),
    /// A length that addresses of this family do not have.
    #[error("{0:?} has a length that its address does not have: 0 to 32 for IPv4, 0 to 128 for IPv6")]
    Length(String),
}

impl Prefix {
    /// All addresses that share the first `length` bits of this one; `None` where it has not so many.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        (length <= width(address)).then(|| Self { address: masked(address, length), length })
    }

    /// One address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: width(address) }
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits that its addresses share.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether it holds this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.length) == self.address
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address = address.parse().map_err(|_| PrefixError::Address(text.to_owned()))?;
        let Some(length) = length else { return Ok(Self::host(address)) };
        let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let length = length.parse().ok().filter(|_| digits);
        length.and_then(|length| Self::new(address, length)).ok_or_else(|| PrefixError::Length(text.to_owned()))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Prefixes and whom they belong to.
pub struct Routes<T> {
    owners: HashMap<Prefix, T, Keyed>,
    v4: Lengths,
    v6: Lengths,
}

/// Which lengths are in use, and by how many prefixes.
struct Lengths {
    /// Bit n: there is a prefix of n bits. (No word of 128 bits has a bit for 128.)
    used: [u128; 2],
    count: Box<[u32; 129]>,
}

impl Lengths {
    fn new() -> Self {
        Self { used: [0; 2], count: Box::new([0; 129]) }
    }

    fn add(&mut self, length: u8) {
        self.count[usize::from(length)] += 1;
        self.used[usize::from(length / 128)] |= 1 << (length % 128);
    }

    fn remove(&mut self, length: u8) {
        let count = &mut self.count[usize::from(length)];
        *count -= 1;
        if *count == 0 {
            self.used[usize::from(length / 128)] &= !(1 << (length % 128));
        }
    }

    /// Those in use, the longest first.
    #[allow(clippy::cast_possible_truncation, reason = "a bit's number is below 128")]
    fn longest_first(&self) -> impl Iterator<Item = u8> {
        let [short, long] = self.used;
        let mut left = short;
        let shorter = std::iter::from_fn(move || {
            let length = left.checked_ilog2()?;
            left &= !(1 << length);
            Some(length as u8)
        });
        (long & 1 != 0).then_some(128).into_iter().chain(shorter)
    }
}

impl<T> Routes<T> {
    /// No routes yet. `secret` has to be random.
    pub fn new(secret: u64) -> Self {
        Self { owners: HashMap::with_hasher(Keyed(secret)), v4: Lengths::new(), v6: Lengths::new() }
    }

    /// Gives a prefix to somebody, at once; returns who had it before.
    pub fn insert(&mut self, prefix: Prefix, owner: T) -> Option<T> {
        let before = self.owners.insert(prefix, owner);
        if before.is_none() {
            self.lengths(prefix.address).add(prefix.length);
        }
        before
    }

    /// Takes a prefix away; returns who had it.
    pub fn remove(&mut self, prefix: Prefix) -> Option<T> {
        let owner = self.owners.remove(&prefix)?;
        self.lengths(prefix.address).remove(prefix.length);
        Some(owner)
    }

    /// Who has exactly this prefix.
    pub fn get(&self, prefix: Prefix) -> Option<&T> {
        self.owners.get(&prefix)
    }

    /// Whom an address belongs to.
    pub fn lookup(&self, address: IpAddr) -> Option<&T> {
        let lengths = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        lengths.longest_first().find_map(|length| {
            let prefix = Prefix { address: masked(address, length), length };
            self.owners.get(&prefix)
        })
    }

    fn lengths(&mut self, address: IpAddr) -> &mut Lengths {
        if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, Seeded};

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn text_becomes_a_prefix_or_says_why_not() {
        assert_eq!(prefix("10.50.3.7/24").to_string(), "10.50.3.0/24");
        assert_eq!(prefix("10.50.3.7").to_string(), "10.50.3.7/32");
        assert_eq!(prefix("::/0").to_string(), "::/0");
        assert_eq!(prefix("2001:db8::1").to_string(), "2001:db8::1/128");
        for bad in ["", "x", "10.50.0/16", "10.50.0.0 /16"] {
            assert!(matches!(bad.parse::<Prefix>(), Err(PrefixError::Address(_))), "{bad}");
        }
        for bad in ["10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "::/129", "10.0.0.0/8/8", "10.0.0.0/-1"] {
            assert!(matches!(bad.parse::<Prefix>(), Err(PrefixError::Length(_))), "{bad}");
        }
    }

    #[test]
    fn the_longest_prefix_has_the_address() {
        let mut routes = Routes::new(1);
        for (text, owner) in [("0.0.0.0/0", 0), ("10.0.0.0/8", 1), ("10.50.0.0/16", 2), ("10.50.1.1", 3), ("::/0", 4)] {
            assert_eq!(routes.insert(prefix(text), owner), None);
        }
        routes.insert(prefix("2001:db8::1"), 5);
        let whose = |routes: &Routes<i32>, text: &str| routes.lookup(ip(text)).copied();
        assert_eq!(whose(&routes, "10.50.1.1"), Some(3));
        assert_eq!(whose(&routes, "10.50.1.2"), Some(2));
        assert_eq!(whose(&routes, "10.51.1.2"), Some(1));
        assert_eq!(whose(&routes, "192.0.2.1"), Some(0));
        assert_eq!(whose(&routes, "2001:db8::1"), Some(5));
        assert_eq!(whose(&routes, "2001:db8::2"), Some(4));
        assert_eq!(routes.insert(prefix("10.50.1.1"), 9), Some(3), "moved");
        assert_eq!(whose(&routes, "10.50.1.1"), Some(9));
        assert_eq!(routes.remove(prefix("10.50.1.1")), Some(9));
        assert_eq!(routes.remove(prefix("10.50.1.1")), None);
        assert_eq!(whose(&routes, "10.50.1.1"), Some(2));
        routes.remove(prefix("0.0.0.0/0"));
        assert_eq!(whose(&routes, "192.0.2.1"), None);
        assert_eq!(whose(&routes, "::ffff:10.50.1.1"), Some(4), "a mapped address is one of IPv6");
    }

    /// Keys and addresses are chosen by others; where they lie in a table must not be.
    #[test]
    fn who_chooses_what_is_looked_up_does_not_choose_where_it_lies() {
        let place = |secret: u64, key: u32| Keyed(secret).hash_one(key) % 1024;
        // All that collide in a table with one secret are spread over one with another.
        let colliding: Vec<u32> = (0..100_000).filter(|key| place(1, *key) == 0).collect();
        let elsewhere: std::collections::HashSet<u64> = colliding.iter().map(|key| place(2, *key)).collect();
        assert!(colliding.len() > 50 && elsewhere.len() * 10 > colliding.len() * 8);
        // The type says that the table of routes is such a one.
        let _: fn(&Routes<()>) -> &HashMap<Prefix, (), Keyed> = |routes| &routes.owners;
    }

    #[test]
    fn agrees_with_a_scan() {
        let mut random = Seeded::new(7);
        let (mut routes, mut list) = (Routes::new(3), Vec::<(Prefix, usize)>::new());
        let mut any = |six: bool| -> IpAddr {
            // Few different bits, so that prefixes nest.
            match six {
                true => Ipv6Addr::from(random.bytes::<16>().map(|byte| byte & 1)).into(),
                false => Ipv4Addr::from(random.bytes::<4>().map(|byte| byte & 3)).into(),
            }
        };
        let mut lengths = Seeded::new(8);
        for owner in 0..3_000 {
            let address = any(owner % 2 == 0);
            let length = u8::try_from(lengths.number() % u64::from(width(address) + 1)).unwrap();
            let prefix = Prefix::new(address, length).unwrap();
            list.retain(|(other, _)| *other != prefix);
            if owner % 3 == 0 {
                routes.remove(prefix);
            } else {
                routes.insert(prefix, owner);
                list.push((prefix, owner));
            }
            let asked = any(owner % 2 == 0);
            let longest =
                list.iter().filter(|(prefix, _)| prefix.contains(asked)).max_by_key(|(prefix, _)| prefix.length);
            assert_eq!(routes.lookup(asked), longest.map(|(_, owner)| owner), "{asked}");
        }
    }
}
