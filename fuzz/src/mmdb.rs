//! A country or city table in MaxMind DB format.
//!
//! A file is refused or can be asked for any address; answers are countries and places that exist. Addresses come from
//! the beginning of the file, which is its search tree.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use edgeproxy_route::{GeoTable, Point};

/// Whatever bytes: see the head of this module.
pub fn mmdb(data: &[u8]) {
    let table = match GeoTable::from_mmdb(data.to_vec()) {
        Ok(table) => table,
        Err(error) => return drop(error.to_string()),
    };
    table.description();
    let origin = Point::from_degrees(0.0, 0.0).expect("on the globe");
    for address in addresses(data) {
        let place = table.lookup(address);
        if let Some(country) = place.country {
            assert!(country.as_str().bytes().all(|letter| letter.is_ascii_uppercase()), "{country:?}");
        }
        if let Some(point) = place.point {
            let km = point.distance_km(origin);
            assert!((0.0..=20_100.0).contains(&km), "{km} km from the origin");
        }
        assert!(!place.precise || place.point.is_some());
    }
}

fn addresses(data: &[u8]) -> Vec<IpAddr> {
    let mut bits = [0; 16];
    bits.iter_mut().zip(data).for_each(|(bit, byte)| *bit = *byte);
    let v6 = u128::from_be_bytes(bits);
    let v4 = u32::from_be_bytes([bits[0], bits[1], bits[2], bits[3]]);
    let mut addresses: Vec<IpAddr> =
        vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().into()];
    for shift in [0, 1, 8, 24] {
        addresses.push(Ipv4Addr::from_bits(v4.rotate_left(shift)).into());
        addresses.push(Ipv6Addr::from_bits(v6.rotate_left(shift)).into());
    }
    addresses.extend([0, 1 << 30, 2 << 30, 3 << 30].map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))));
    addresses
}
