//! Which addresses are whose, and which are to be had.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use edgeproxy_store::peers::Released;
use edgeproxy_tunnel::Prefix;
use ipnet::IpNet;

use crate::number_set::NumberSet;
use crate::resting::Resting;

/// Addresses handed out of one pool at most: as many as a network of IPv4 with 8 bits has. Of larger ones the first.
const POOL_MOST: usize = 1 << 24;

/// Where peers get their addresses from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolSettings {
    /// The network.
    pub network: IpNet,
    /// Only for peers of this region.
    pub region: Option<String>,
}

/// Why there is no address, or not this one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    /// All are taken, or rest.
    #[error("no {family} address is left in {}; {resting} rest after a removal; add a network to gateway.pools", pools.join(", "))]
    Exhausted {
        /// Of which kind.
        family: Family,
        /// Where was looked.
        pools: Vec<String>,
        /// How many would come free by waiting.
        resting: usize,
    },
    /// In no pool.
    #[error("{0} is in none of the networks of gateway.pools, or the first or last of one")]
    Elsewhere(IpAddr),
    /// In a pool that is wider than what is given out of it.
    #[error("{0} lies in {1}, but beyond its first {POOL_MOST} addresses; no others are given out of a pool")]
    Beyond(IpAddr, IpNet),
    /// Somebody has it.
    #[error("{0} belongs to another peer, or to this gateway")]
    Taken(IpAddr),
    /// Somebody had it.
    #[error("{0} belonged to another peer until a moment ago, and rests until second {1} since 1970")]
    Resting(IpAddr, u64),
    /// Two of one kind.
    #[error("a peer has one IPv4 and one IPv6 address, not {0} and {1}; further networks are prefixes")]
    TwoOfAKind(IpAddr, IpAddr),
    /// A network that shares addresses with another.
    #[error("{0} overlaps {1}, which belongs to another peer, to a pool or to this gateway")]
    Overlap(Prefix, Prefix),
}

/// Which IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The addresses of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Pair {
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
}

impl Pair {
    pub(crate) fn iter(self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::from).into_iter().chain(self.v6.map(IpAddr::from))
    }

    fn has(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4.is_some(),
            Family::V6 => self.v6.is_some(),
        }
    }

    /// Returns what was there.
    fn put(&mut self, address: IpAddr) -> Option<IpAddr> {
        match address {
            IpAddr::V4(v4) => self.v4.replace(v4).map(IpAddr::from),
            IpAddr::V6(v6) => self.v6.replace(v6).map(IpAddr::from),
        }
    }
}

/// All pools, and the networks behind peers.
#[derive(Debug)]
pub(crate) struct Addresses {
    pools: Vec<Pool>,
    /// Addresses of peers from before the pools were changed.
    elsewhere: HashSet<IpAddr>,
    resting: Resting,
    /// Our own addresses, and those of peers that are not registered here.
    reserved: Vec<Prefix>,
    /// The pools and those.
    fixed: Vec<Prefix>,
    /// Networks behind peers, by their first address.
    networks: BTreeMap<IpAddr, Prefix>,
}

#[derive(Debug)]
struct Pool {
    network: IpNet,
    region: Option<String>,
    numbers: NumberSet,
    /// Where the next search begins: behind the last one given, so that one given back is not given at once.
    next: usize,
}

impl Addresses {
    /// `taken` are this gateway's own and those of peers that are not registered here; a pool within another takes its
    /// addresses out of that one.
    pub(crate) fn new(pools: &[PoolSettings], taken: &[Prefix]) -> Self {
        let mut made: Vec<Pool> = pools.iter().map(Pool::new).collect();
        for pool in &mut made {
            let outer = pool.network;
            let inner =
                pools.iter().map(|inner| inner.network).filter(|inner| *inner != outer && outer.contains(inner));
            inner.map(prefix).chain(taken.iter().copied()).for_each(|prefix| pool.leave_out(prefix));
        }
        let fixed = pools.iter().map(|pool| prefix(pool.network)).chain(taken.iter().copied());
        Self {
            pools: made,
            elsewhere: HashSet::new(),
            resting: Resting::default(),
            reserved: taken.to_vec(),
            fixed: fixed.collect(),
            networks: BTreeMap::new(),
        }
    }

    /// Takes an address of each kind that there are pools of for this region; those that are asked for instead of any.
    pub(crate) fn allocate(&mut self, asked: &[IpAddr], region: Option<&str>) -> Result<Pair, AddressError> {
        let mut pair = Pair::default();
        let done = self.try_allocate(&mut pair, asked, region);
        if done.is_err() {
            self.give_back(pair.iter());
        }
        done.map(|()| pair)
    }

    fn try_allocate(&mut self, pair: &mut Pair, asked: &[IpAddr], region: Option<&str>) -> Result<(), AddressError> {
        for address in asked {
            self.claim(*address)?;
            if let Some(other) = pair.put(*address) {
                self.give_back([other]);
                return Err(AddressError::TwoOfAKind(other, *address));
            }
        }
        for family in [Family::V4, Family::V6] {
            if !pair.has(family)
                && let Some(address) = self.any(family, region)?
            {
                pair.put(address);
            }
        }
        Ok(())
    }

    /// The next free address. `None`: there is no pool of this kind.
    fn any(&mut self, family: Family, region: Option<&str>) -> Result<Option<IpAddr>, AddressError> {
        let of_family = |pool: &Pool| (family == Family::V4) == pool.network.addr().is_ipv4();
        let of_region = |pool: &Pool| pool.region.is_some() && pool.region.as_deref() == region;
        let mut looked = Vec::new();
        // A region that has pools of its own takes of no other.
        let own = self.pools.iter().any(|pool| of_family(pool) && of_region(pool));
        for pool in self.pools.iter_mut().filter(|pool| of_family(pool)) {
            if if own { of_region(pool) } else { pool.region.is_none() } {
                if let Some(address) = pool.take_next() {
                    return Ok(Some(address));
                }
                looked.push(pool.network.to_string());
            }
        }
        match looked.is_empty() {
            true => Ok(None),
            false => Err(AddressError::Exhausted { family, pools: looked, resting: self.resting.len() }),
        }
    }

    fn claim(&mut self, address: IpAddr) -> Result<(), AddressError> {
        let resting = self.resting.until(address);
        let error = match self.pool_of(address) {
            None => AddressError::Elsewhere(address),
            Some(pool) => match pool.number(address) {
                None => AddressError::Beyond(address, pool.network),
                Some(number) if pool.numbers.take(number) => return Ok(()),
                Some(_) if pool.left_out(address) => AddressError::Elsewhere(address),
                Some(_) => AddressError::Taken(address),
            },
        };
        Err(resting.map_or(error, |until| AddressError::Resting(address, until)))
    }

    /// Takes note of an address that a peer has. Returns whether nobody else has it.
    pub(crate) fn note(&mut self, address: IpAddr) -> bool {
        match self.claim(address) {
            Ok(()) => true,
            Err(AddressError::Elsewhere(_) | AddressError::Beyond(..)) => self.elsewhere.insert(address),
            Err(_) => false,
        }
    }

    /// Whether a peer has what the configuration has for something else: what, and with what it overlaps.
    pub(crate) fn reserved(&self, own: Pair, networks: &[Prefix]) -> Option<(Prefix, Prefix)> {
        let among = |fixed: &[Prefix], prefix: Prefix| Some((prefix, overlapping(fixed, prefix)?));
        let own = own.iter().map(Prefix::host).find_map(|own| among(&self.reserved, own));
        own.or_else(|| networks.iter().find_map(|network| among(&self.fixed, *network)))
    }

    /// These can be had again at once: nobody was told of them.
    pub(crate) fn give_back(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            if self.elsewhere.remove(&address) {
                continue;
            }
            if let Some(pool) = self.pool_of(address)
                && let Some(number) = pool.number(address)
            {
                pool.numbers.give_back(number);
            }
        }
    }

    /// The pool that this address lies in: of those within each other the smallest.
    fn pool_of(&mut self, address: IpAddr) -> Option<&mut Pool> {
        let of = self.pools.iter_mut().filter(|pool| pool.network.contains(&address));
        of.max_by_key(|pool| pool.network.prefix_len())
    }

    /// These can be had again later.
    pub(crate) fn rest(&mut self, released: impl IntoIterator<Item = Released>) {
        released.into_iter().for_each(|released| self.resting.add(released));
    }

    /// Gives back those that have rested, so many at most; returns them.
    pub(crate) fn wake(&mut self, now: u64, most: usize) -> Vec<Released> {
        let woken: Vec<_> = std::iter::from_fn(|| self.resting.take_rested(now)).take(most).collect();
        self.give_back(woken.iter().map(|released| released.address));
        woken
    }

    /// Takes networks for a peer, all or none.
    pub(crate) fn take_networks(&mut self, prefixes: &[Prefix]) -> Result<(), AddressError> {
        for (count, prefix) in prefixes.iter().enumerate() {
            if let Some(other) = self.overlapping(*prefix) {
                self.free_networks(&prefixes[..count]);
                return Err(AddressError::Overlap(*prefix, other));
            }
            self.networks.insert(prefix.address(), *prefix);
        }
        Ok(())
    }

    pub(crate) fn free_networks(&mut self, prefixes: &[Prefix]) {
        for prefix in prefixes {
            self.networks.remove(&prefix.address());
        }
    }

    /// Those of peers do not overlap each other: of them the one that begins last before our end decides.
    fn overlapping(&self, prefix: Prefix) -> Option<Prefix> {
        let nearest = self.networks.range(..=last(prefix)).next_back().map(|(_, other)| other);
        overlapping(&self.fixed, prefix).or_else(|| overlapping(nearest, prefix))
    }

    /// Of all pools: how many addresses there are, are taken, and rest.
    pub(crate) fn figures(&self) -> impl Iterator<Item = (IpNet, usize, usize)> {
        self.pools.iter().map(|pool| (pool.network, pool.numbers.bound(), pool.numbers.taken()))
    }

    pub(crate) fn resting(&self) -> usize {
        self.resting.len()
    }
}

impl Pool {
    fn new(settings: &PoolSettings) -> Self {
        let network = settings.network.trunc();
        let bits = u32::from(network.max_prefix_len() - network.prefix_len());
        let size = 1_usize.checked_shl(bits).unwrap_or(0);
        let bound = if bits > 24 { POOL_MOST } else { size };
        let mut numbers = NumberSet::new(bound);
        // The network itself, or the anycast address of its routers; and the broadcast address of IPv4.
        if bits > 1 {
            numbers.take(0);
            if network.addr().is_ipv4() {
                numbers.take(bound - 1);
            }
        }
        Self { network, region: settings.region.clone(), numbers, next: 0 }
    }

    fn take_next(&mut self) -> Option<IpAddr> {
        let number = self.numbers.free_from(self.next).or_else(|| self.numbers.free_from(0))?;
        self.numbers.take(number);
        self.next = number + 1;
        Some(self.address(number))
    }

    fn address(&self, number: usize) -> IpAddr {
        match self.network.addr() {
            IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits() | u32::try_from(number).unwrap_or(0)).into(),
            IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits() | number as u128).into(),
        }
    }

    fn number(&self, address: IpAddr) -> Option<usize> {
        if !self.network.contains(&address) {
            return None;
        }
        let number = match (self.network.addr(), address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => usize::try_from(address.to_bits() - base.to_bits()).ok(),
            (IpAddr::V6(base), IpAddr::V6(address)) => usize::try_from(address.to_bits() - base.to_bits()).ok(),
            _ => None,
        };
        number.filter(|number| *number < self.numbers.bound())
    }

    /// Of these addresses none is given out.
    fn leave_out(&mut self, prefix: Prefix) {
        let (first, end) = (prefix.address(), last(prefix));
        // One that holds this pool is left to whoever configured both.
        let Some(first) = self.number(first) else { return };
        let end = self.number(end).unwrap_or(self.numbers.bound() - 1);
        for number in first..=end {
            self.numbers.take(number);
        }
    }

    /// Whether nobody ever gets this address: it is the network's own.
    fn left_out(&self, address: IpAddr) -> bool {
        let bits = self.network.max_prefix_len() - self.network.prefix_len();
        bits > 1 && (address == self.network.network() || (address.is_ipv4() && address == self.network.broadcast()))
    }
}

fn prefix(network: IpNet) -> Prefix {
    Prefix::new(network.addr(), network.prefix_len()).unwrap_or_else(|| Prefix::host(network.addr()))
}

/// The first of these that shares addresses with a network.
fn overlapping<'a>(among: impl IntoIterator<Item = &'a Prefix>, prefix: Prefix) -> Option<Prefix> {
    let overlaps = |other: &&Prefix| other.contains(prefix.address()) || prefix.contains(other.address());
    among.into_iter().find(overlaps).copied()
}

/// The last address of a network.
fn last(prefix: Prefix) -> IpAddr {
    match prefix.address() {
        IpAddr::V4(first) => {
            Ipv4Addr::from_bits(first.to_bits() | u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0)).into()
        }
        IpAddr::V6(first) => {
            Ipv6Addr::from_bits(first.to_bits() | u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(network: &str, region: Option<&str>) -> PoolSettings {
        PoolSettings { network: network.parse().unwrap(), region: region.map(str::to_owned) }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn v4(addresses: &mut Addresses, region: Option<&str>) -> String {
        addresses.allocate(&[], region).unwrap().v4.unwrap().to_string()
    }

    #[test]
    fn each_peer_gets_one_of_each_kind() {
        let pools = [pool("10.50.0.0/16", None), pool("fd00:50::/48", None)];
        let mut addresses = Addresses::new(&pools, &[prefix("10.50.0.1"), prefix("fd00:50::1")]);
        let first = addresses.allocate(&[], None).unwrap();
        assert_eq!(first, Pair { v4: Some("10.50.0.2".parse().unwrap()), v6: Some("fd00:50::2".parse().unwrap()) });
        let second = addresses.allocate(&[ip("10.50.9.9")], None).unwrap();
        assert_eq!(second.v4, Some("10.50.9.9".parse().unwrap()));
        assert_eq!(second.v6, Some("fd00:50::3".parse().unwrap()));
        assert_eq!(addresses.allocate(&[ip("10.50.9.9")], None), Err(AddressError::Taken(ip("10.50.9.9"))));
        assert_eq!(addresses.allocate(&[ip("10.50.0.1")], None), Err(AddressError::Taken(ip("10.50.0.1"))));
        for elsewhere in ["10.51.0.1", "10.50.0.0", "10.50.255.255", "fd00:51::1"] {
            assert_eq!(addresses.allocate(&[ip(elsewhere)], None), Err(AddressError::Elsewhere(ip(elsewhere))));
        }
        let two = [ip("10.50.1.1"), ip("10.50.1.2")];
        assert_eq!(addresses.allocate(&two, None), Err(AddressError::TwoOfAKind(two[0], two[1])));
        assert!(addresses.allocate(&two[..1], None).is_ok(), "given back");
        assert!(addresses.allocate(&two[1..], None).is_ok(), "given back");
    }

    #[test]
    fn a_region_has_its_part() {
        let pools = [pool("10.50.0.0/16", None), pool("10.50.3.0/24", Some("eu")), pool("10.50.4.0/30", Some("ap"))];
        let mut addresses = Addresses::new(&pools, &[]);
        assert_eq!(v4(&mut addresses, Some("eu")), "10.50.3.1");
        assert_eq!(v4(&mut addresses, Some("ap")), "10.50.4.1");
        assert_eq!(v4(&mut addresses, Some("ap")), "10.50.4.2");
        let exhausted = addresses.allocate(&[], Some("ap")).unwrap_err();
        assert!(exhausted.to_string().contains("10.50.4.0/30"), "{exhausted}");
        assert_eq!(v4(&mut addresses, Some("us")), "10.50.0.1", "no part of its own");
        for _ in 0..2000 {
            let address = v4(&mut addresses, None);
            assert!(
                !address.starts_with("10.50.3.") && !address.starts_with("10.50.4.0") && address != "10.50.4.3",
                "{address}"
            );
        }
    }

    #[test]
    fn what_a_part_gives_back_is_that_parts() {
        let pools = [pool("10.50.0.0/16", None), pool("10.50.0.0/28", Some("eu"))];
        let mut addresses = Addresses::new(&pools, &[]);
        let first = addresses.allocate(&[], Some("eu")).unwrap();
        addresses.give_back(first.iter());
        assert_eq!(v4(&mut addresses, None), "10.50.0.16", "not one of the part's");
        assert!(addresses.allocate(&[ip("10.50.0.1")], None).is_ok());
        assert_eq!(addresses.allocate(&[ip("10.50.0.1")], None), Err(AddressError::Taken(ip("10.50.0.1"))));
    }

    #[test]
    fn an_address_rests_before_it_is_given_again() {
        let mut addresses = Addresses::new(&[pool("10.50.0.0/30", None)], &[]);
        let (first, _) = (addresses.allocate(&[], None).unwrap(), addresses.allocate(&[], None).unwrap());
        addresses.rest(first.iter().map(|address| Released { address, until: 100 }));
        assert!(addresses.allocate(&[], None).unwrap_err().to_string().contains("1 rest"));
        assert_eq!(addresses.allocate(&[ip("10.50.0.1")], None), Err(AddressError::Resting(ip("10.50.0.1"), 100)));
        assert!(addresses.wake(99, 9).is_empty());
        assert_eq!(addresses.wake(100, 9).len(), 1);
        assert_eq!(addresses.allocate(&[], None).unwrap(), first);
    }

    #[test]
    fn one_that_rests_long_keeps_no_other_from_waking() {
        let mut addresses = Addresses::new(&[pool("10.50.0.0/24", None)], &[]);
        let mut rest = |until: u64| {
            let address = addresses.allocate(&[], None).unwrap().iter().next().unwrap();
            addresses.rest([Released { address, until }]);
            Released { address, until }
        };
        // As when the quarantine was longer before, or the clock was set back.
        let (long, short, again) = (rest(1000), rest(10), rest(20));
        addresses.rest([Released { until: 5, ..again }]);
        assert_eq!(addresses.wake(10, 9), [Released { until: 5, ..again }, short]);
        assert!(addresses.wake(999, 9).is_empty());
        assert_eq!((addresses.wake(1000, 9), addresses.resting()), (vec![long], 0));
    }

    #[test]
    fn a_wide_pool_gives_its_first_part_and_says_so() {
        let mut addresses = Addresses::new(&[pool("fd00:50::/48", None)], &[]);
        let (last, beyond) = (ip("fd00:50::ff:ffff"), ip("fd00:50::100:0"));
        assert_eq!(addresses.allocate(&[last], None).unwrap().v6.map(IpAddr::from), Some(last));
        let error = addresses.allocate(&[beyond], None).unwrap_err();
        assert_eq!(error, AddressError::Beyond(beyond, "fd00:50::/48".parse().unwrap()));
        assert!(error.to_string().contains("beyond its first 16777216"), "{error}");
        // A peer that had it before the pool was as it is keeps it.
        assert!(addresses.note(beyond) && !addresses.note(beyond));
    }

    #[test]
    fn of_very_many_that_rest_each_is_told_by_its_own_time() {
        let mut addresses = Addresses::new(&[pool("10.50.0.0/16", None)], &[]);
        let many: Vec<_> = (0..5000).map(|_| addresses.allocate(&[], None).unwrap()).collect();
        for (until, pair) in (100..).zip(&many) {
            addresses.rest(pair.iter().map(|address| Released { address, until }));
        }
        for (until, pair) in (100..).zip(&many) {
            let address = pair.iter().next().unwrap();
            assert_eq!(addresses.allocate(&[address], None), Err(AddressError::Resting(address, until)));
        }
        assert_eq!((addresses.wake(100 + 2499, 1000).len(), addresses.resting()), (1000, 4000), "no more at once");
        assert_eq!((addresses.wake(100 + 2499, 9999).len(), addresses.resting()), (1500, 2500));
        let (woken, rests) = (many[2499].iter().next().unwrap(), many[2500].iter().next().unwrap());
        assert!(addresses.allocate(&[woken], None).is_ok());
        assert_eq!(addresses.allocate(&[rests], None), Err(AddressError::Resting(rests, 2600)));
    }

    #[test]
    fn networks_do_not_overlap() {
        let mut addresses =
            Addresses::new(&[pool("10.50.0.0/16", None), pool("10.50.3.0/24", Some("eu"))], &[prefix("192.0.2.1")]);
        addresses.take_networks(&[prefix("172.16.1.0/24"), prefix("fd00::/64")]).unwrap();
        for overlapping in [
            "172.16.1.0/24",
            "172.16.0.0/16",
            "172.16.1.5",
            "10.50.200.0/24",
            "10.0.0.0/8",
            "192.0.2.0/24",
            "0.0.0.0/0",
            "fd00::7",
            "::/0",
        ] {
            let both = [prefix("172.17.0.0/16"), prefix(overlapping)];
            assert!(matches!(addresses.take_networks(&both), Err(AddressError::Overlap(..))), "{overlapping}");
        }
        addresses.take_networks(&[prefix("172.16.0.0/24"), prefix("172.16.2.0/24")]).unwrap();
        addresses.free_networks(&[prefix("172.16.1.0/24")]);
        addresses.take_networks(&[prefix("172.16.1.128/25"), prefix("172.16.1.0/25")]).unwrap();
    }

    #[test]
    fn one_can_be_a_whole_pool() {
        let mut addresses = Addresses::new(&[pool("10.50.0.7/32", None), pool("fd00::/127", None)], &[]);
        let pair = addresses.allocate(&[], None).unwrap();
        assert_eq!(pair.iter().map(|ip| ip.to_string()).collect::<Vec<_>>(), ["10.50.0.7", "fd00::"]);
        assert!(addresses.allocate(&[], None).is_err());
    }
}
