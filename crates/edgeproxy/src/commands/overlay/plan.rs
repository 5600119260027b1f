//! Which region has which overlay address.
//!
//! The overlay is 10.50.0.0/16: a /24 for the hub and the POPs, and one for each part of the world.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use edgeproxy_overlay::{HUB, is_region};
use edgeproxy_route::{Area, Regions};
use edgeproxy_tunnel::Prefix;

/// Where the hub is.
pub(super) const HUB_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 1);
/// Bits of a part's network.
pub(super) const PART_LENGTH: u8 = 24;
/// Regions whose address never depends on which others there are, and which there are when nobody says.
pub(super) const SETTLED: [(&str, Ipv4Addr); 10] = [
    ("gru", Ipv4Addr::new(10, 50, 1, 1)),
    ("iad", Ipv4Addr::new(10, 50, 2, 1)),
    ("ord", Ipv4Addr::new(10, 50, 2, 2)),
    ("lax", Ipv4Addr::new(10, 50, 2, 3)),
    ("lhr", Ipv4Addr::new(10, 50, 3, 1)),
    ("fra", Ipv4Addr::new(10, 50, 3, 2)),
    ("cdg", Ipv4Addr::new(10, 50, 3, 3)),
    ("nrt", Ipv4Addr::new(10, 50, 4, 1)),
    ("sin", Ipv4Addr::new(10, 50, 4, 2)),
    ("syd", Ipv4Addr::new(10, 50, 4, 3)),
];
/// Third bytes of the networks that each region reaches, whichever others there are: hub and POPs, `sa`, `us`, `eu`, `ap`.
const ALWAYS: [u8; 5] = [0, 1, 2, 3, 4];

/// A region and its address.
pub(super) type Seat = (String, Ipv4Addr);

/// Gives each region an address: what the item says (`attic=10.50.9.1`), else the settled one, else the next that is free
/// in its part of the world, so that regions added to the end change nobody's.
///
/// # Errors
/// Everything that is wrong with the list.
pub(super) fn seats(items: &[String], regions: &Regions) -> Result<Vec<Seat>, Vec<String>> {
    let mut mistakes = Vec::new();
    let mut wishes: Vec<Wish> = Vec::new();
    let mut owners = BTreeMap::from([(HUB_ADDRESS, "the hub".to_owned())]);
    for item in items {
        match Wish::read(item, regions) {
            Ok(wish) if wishes.iter().any(|other| other.region == wish.region) => {
                mistakes.push(format!("region {} stands there twice", wish.region));
            }
            Ok(wish) => wishes.push(wish),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    // Before any is chosen: what is chosen keeps clear of them.
    for Wish { region, address } in &wishes {
        if let Address::Fixed(address) = address {
            match owners.get(address) {
                Some(owner) => mistakes.push(format!("{address} is that of {owner}; give region {region} another")),
                None => drop(owners.insert(*address, region.clone())),
            }
        }
    }
    let mut seats = Vec::new();
    for Wish { region, address } in wishes {
        match address.settle(&owners) {
            Some(address) => {
                owners.insert(address, region.clone());
                seats.push((region, address));
            }
            None => mistakes.push(format!("region {region} finds its network full; give it an address elsewhere")),
        }
    }
    if mistakes.is_empty() { Ok(seats) } else { Err(mistakes) }
}

/// What regions send to the hub: the networks of all.
pub(super) fn networks(seats: &[Seat]) -> Vec<Prefix> {
    let mut parts: Vec<u8> = seats.iter().map(|(_, address)| address.octets()[2]).chain(ALWAYS).collect();
    parts.sort_unstable();
    parts.dedup();
    parts.into_iter().filter_map(|part| Prefix::new(Ipv4Addr::new(10, 50, part, 0).into(), PART_LENGTH)).collect()
}

/// The codes that can be given without an address, by part of the world.
pub(super) fn known(regions: &Regions) -> String {
    let mut parts = BTreeMap::<u8, (Area, Vec<&str>)>::new();
    for code in regions.codes() {
        if let Some(area) = regions.get(code).area {
            parts.entry(part(area)).or_insert((area, Vec::new())).1.push(code);
        }
    }
    parts.values().map(|(area, codes)| format!("{}: {}", area.code(), codes.join(" "))).collect::<Vec<_>>().join("; ")
}

/// What an item asks for.
struct Wish {
    region: String,
    address: Address,
}

enum Address {
    /// Given or settled.
    Fixed(Ipv4Addr),
    /// One of this third byte.
    AnyOf(u8),
}

impl Wish {
    fn read(item: &str, regions: &Regions) -> Result<Self, String> {
        let (region, given) = item.split_once('=').map_or((item, None), |(region, given)| (region, Some(given.trim())));
        let region = region.trim();
        if !is_region(region) {
            return Err(format!(
                "{region:?} is not a region: a code of 1 to 32 lower-case letters, digits and '-', other than {HUB}"
            ));
        }
        let settled = SETTLED.iter().find(|(code, _)| *code == region).map(|(_, address)| *address);
        let address = match (given, settled, regions.get(region).area) {
            (Some(given), ..) => Address::Fixed(address(given)?),
            (None, Some(settled), _) => Address::Fixed(settled),
            (None, None, Some(area)) => Address::AnyOf(part(area)),
            (None, None, None) => {
                return Err(format!(
                    "nothing is known of region {region:?}; give it an address, as in {region}=10.50.9.1, or use one of \
                     {}",
                    known(regions)
                ));
            }
        };
        Ok(Self { region: region.to_owned(), address })
    }
}

impl Address {
    fn settle(self, owners: &BTreeMap<Ipv4Addr, String>) -> Option<Ipv4Addr> {
        match self {
            Self::Fixed(address) => Some(address),
            Self::AnyOf(part) => {
                let is_settled = |address: &Ipv4Addr| SETTLED.iter().any(|(_, settled)| settled == address);
                (1..=254)
                    .map(|last| Ipv4Addr::new(10, 50, part, last))
                    .find(|address| !is_settled(address) && !owners.contains_key(address))
            }
        }
    }
}

fn address(text: &str) -> Result<Ipv4Addr, String> {
    let address = text.parse().map(|address: Ipv4Addr| (address, address.octets()));
    match address {
        Ok((address, [10, 50, _, 1..=254])) => Ok(address),
        _ => Err(format!("{text:?} is not an address of the overlay: 10.50.x.y, where y is 1 to 254")),
    }
}

/// Third byte of its network.
fn part(area: Area) -> u8 {
    match area {
        Area::SouthAmerica => 1,
        Area::NorthAmerica => 2,
        Area::Europe => 3,
        Area::AsiaPacific => 4,
        Area::Africa => 5,
        Area::MiddleEast => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    fn told(items: &[&str]) -> Vec<String> {
        let seats = seats(&list(items), &Regions::default()).unwrap();
        seats.into_iter().map(|(region, address)| format!("{region} {address}")).collect()
    }

    fn mistakes(items: &[&str]) -> Vec<String> {
        seats(&list(items), &Regions::default()).unwrap_err()
    }

    #[test]
    fn settled_regions_never_move() {
        let names = SETTLED.map(|(region, _)| region);
        let expected = SETTLED.map(|(region, address)| format!("{region} {address}"));
        assert_eq!(told(&names), expected);
        for (region, address) in SETTLED {
            assert_eq!(told(&[region]), [format!("{region} {address}")]);
            let area = Regions::default().get(region).area.unwrap();
            assert_eq!(address.octets()[2], part(area), "{region} is in the network of its part of the world");
        }
        assert_eq!(told(&["fra=10.50.3.77"]), ["fra 10.50.3.77"], "unless somebody says so");
    }

    #[test]
    fn others_get_the_next_free_address_of_their_part() {
        assert_eq!(
            told(&["ams", " mad = 10.50.3.5", "waw ", "jnb", "fra", "bog", "me-central1"]),
            [
                "ams 10.50.3.4",
                "mad 10.50.3.5",
                "waw 10.50.3.6",
                "jnb 10.50.5.1",
                "fra 10.50.3.2",
                "bog 10.50.1.2",
                "me-central1 10.50.6.1"
            ]
        );
        assert_eq!(told(&["ams", "attic=10.50.200.9"]), ["ams 10.50.3.4", "attic 10.50.200.9"]);
        assert_eq!(told(&["pop-2=10.50.0.2"]), ["pop-2 10.50.0.2"], "beside the hub");
    }

    #[test]
    fn every_known_region_has_room() {
        let regions = Regions::default();
        let all = list(&regions.codes());
        let seats = seats(&all, &regions).unwrap();
        assert_eq!(seats.len(), all.len());
        let addresses: std::collections::BTreeSet<_> = seats.iter().map(|(_, address)| address).collect();
        assert_eq!(addresses.len(), all.len());
        assert!(known(&regions).starts_with("sa: bog brazilsouth"), "{}", known(&regions));
    }

    #[test]
    fn a_full_network_is_told() {
        let mut items: Vec<String> = (1..=254).map(|last| format!("r{last}=10.50.1.{last}")).collect();
        items.push("bog".to_owned());
        let expected = ["region bog finds its network full; give it an address elsewhere"];
        assert_eq!(seats(&items, &Regions::default()).unwrap_err(), expected);
    }

    #[test]
    fn networks_are_the_five_and_those_in_use() {
        let networks = |items: &[&str]| {
            let networks = networks(&seats(&list(items), &Regions::default()).unwrap());
            networks.iter().map(Prefix::to_string).collect::<Vec<_>>().join(" ")
        };
        let five = "10.50.0.0/24 10.50.1.0/24 10.50.2.0/24 10.50.3.0/24 10.50.4.0/24";
        assert_eq!(networks(&["gru"]), five);
        assert_eq!(
            networks(&["attic=10.50.9.1", "jnb", "attic-2=10.50.9.2"]),
            format!("{five} 10.50.5.0/24 10.50.9.0/24")
        );
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let told = mistakes(&[
            "fra",
            "fra",
            "FRA",
            "",
            "hub",
            "../x",
            "xyz",
            "a=10.51.0.1",
            "b=10.50.1.255",
            "c=10.50.0.1",
            "d=10.50.3.2",
            "e=",
        ]);
        let code = "is not a region: a code of 1 to 32 lower-case letters, digits and '-', other than hub";
        let overlay = "is not an address of the overlay: 10.50.x.y, where y is 1 to 254";
        let expected = [
            "region fra stands there twice".to_owned(),
            format!("\"FRA\" {code}"),
            format!("\"\" {code}"),
            format!("\"hub\" {code}"),
            format!("\"../x\" {code}"),
            "nothing is known of region \"xyz\"; give it an address, as in xyz=10.50.9.1, or use one of ".to_owned()
                + &known(&Regions::default()),
            format!("\"10.51.0.1\" {overlay}"),
            format!("\"10.50.1.255\" {overlay}"),
            format!("\"\" {overlay}"),
            "10.50.0.1 is that of the hub; give region c another".to_owned(),
            "10.50.3.2 is that of fra; give region d another".to_owned(),
        ];
        assert_eq!(told, expected);
    }
}
