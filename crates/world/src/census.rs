//! Addresses that the geo table says are of a country. Nobody ever connects to them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use edgeproxy_route::GeoTable;

/// Addresses kept of a country.
const KEPT: usize = 64;

/// Public IPv4 addresses by country.
#[derive(Debug)]
pub struct Census(BTreeMap<String, Vec<Ipv4Addr>>);

impl Census {
    /// Asks the table for one address of every /16, which meets every country with some.
    pub fn take(table: &GeoTable) -> Self {
        let mut found: BTreeMap<String, Vec<Ipv4Addr>> = BTreeMap::new();
        for high in 0..=u32::from(u16::MAX) {
            let address = Ipv4Addr::from_bits(high << 16 | 0x0a07);
            if let Some(country) = table.lookup(address.into()).country {
                let addresses = found.entry(country.to_string()).or_default();
                if addresses.len() < KEPT {
                    addresses.push(address);
                }
            }
        }
        Self(found)
    }

    /// An address of this country; `None` where the table has none.
    pub fn address(&self, country: &str) -> Option<Ipv4Addr> {
        self.addresses(country).first().copied()
    }

    /// Up to 64 addresses of this country, each in another network.
    pub fn addresses(&self, country: &str) -> &[Ipv4Addr] {
        self.0.get(country).map_or(&[], Vec::as_slice)
    }
}
