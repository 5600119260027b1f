//! Client address to place: the embedded country table, or a MaxMind-format file.

mod embedded;

use std::net::IpAddr;

use maxminddb::Reader;
use serde::Deserialize;

use self::embedded::Embedded;
use crate::place::{Country, Place, Point};

/// A position whose stated accuracy is coarser than this says no more than the country does.
const COARSEST_PRECISE_KM: u16 = 500;

/// Looks up where an address is. A lookup reads memory only and allocates nothing.
pub struct GeoTable(Source);

enum Source {
    Embedded(Embedded),
    MaxMind(Reader<Vec<u8>>),
}

/// Why a geo table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GeoError {
    /// The bytes are not in MaxMind DB format, or cut off.
    #[error("not a usable MaxMind DB file: {0}")]
    Format(#[from] maxminddb::MaxMindDbError),
    /// A database about something else, such as ASNs.
    #[error("a {0:?} database; a country or city database is needed")]
    Kind(String),
}

/// The fields read of a record, in GeoIP2 layout or in the flat layout that several open data sets use.
#[derive(Deserialize, Default)]
struct Record<'a> {
    #[serde(borrow)]
    country: Option<CountryField<'a>>,
    #[serde(borrow)]
    registered_country: Option<CountryField<'a>>,
    country_code: Option<&'a str>,
    location: Option<LocationField>,
    latitude: Option<f32>,
    longitude: Option<f32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CountryField<'a> {
    Nested { iso_code: Option<&'a str> },
    Flat(&'a str),
}

#[derive(Deserialize, Default, Clone, Copy)]
struct LocationField {
    latitude: Option<f32>,
    longitude: Option<f32>,
    accuracy_radius: Option<u16>,
}

impl GeoTable {
    /// The country table inside the binary.
    pub fn embedded() -> Self {
        Self(Source::Embedded(Embedded::new()))
    }

    /// A country or city table from the bytes of an `.mmdb` file.
    ///
    /// # Errors
    /// Bytes in another format, or a table about something else.
    pub fn from_mmdb(bytes: Vec<u8>) -> Result<Self, GeoError> {
        let reader = Reader::from_source(bytes)?;
        // A file cut off or overwritten half-way has a good header and bad records: refuse it now, not at a lookup.
        reader.verify()?;
        let kind = &reader.metadata().database_type;
        if ["ASN", "ISP", "Domain", "Connection", "Anonymous"].iter().any(|other| kind.contains(other)) {
            return Err(GeoError::Kind(kind.clone()));
        }
        Ok(Self(Source::MaxMind(reader)))
    }

    /// What to call the table in logs.
    pub fn description(&self) -> String {
        match &self.0 {
            Source::Embedded(_) => "embedded country table".to_owned(),
            Source::MaxMind(reader) => {
                let metadata = reader.metadata();
                format!("{} built at {} (Unix time)", metadata.database_type, metadata.build_epoch)
            }
        }
    }

    /// Where the address is; [`Place::UNKNOWN`] for addresses the table does not have.
    pub fn lookup(&self, ip: IpAddr) -> Place {
        match &self.0 {
            Source::Embedded(table) => table.lookup(ip).map_or(Place::UNKNOWN, Place::in_country),
            Source::MaxMind(reader) => {
                reader.lookup(ip).ok().and_then(|found| found.decode().ok().flatten()).map_or(Place::UNKNOWN, place)
            }
        }
    }
}

fn place(record: Record<'_>) -> Place {
    let code = |field: Option<CountryField<'_>>| match field {
        Some(CountryField::Nested { iso_code }) => iso_code.and_then(|code| code.parse::<Country>().ok()),
        Some(CountryField::Flat(code)) => code.parse().ok(),
        None => None,
    };
    // The country where the address is used comes before the one it is registered in.
    let country = code(record.country)
        .or_else(|| record.country_code.and_then(|code| code.parse().ok()))
        .or_else(|| code(record.registered_country));
    let place = country.map_or(Place::UNKNOWN, Place::in_country);
    let location = record.location.unwrap_or(LocationField {
        latitude: record.latitude,
        longitude: record.longitude,
        accuracy_radius: None,
    });
    let coarse = location.accuracy_radius.is_some_and(|km| km > COARSEST_PRECISE_KM);
    match (location.latitude, location.longitude) {
        (Some(lat), Some(lon)) if !coarse => Point::from_degrees(lat, lon).map_or(place, |point| place.at(point)),
        _ => place,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_table_knows_public_addresses_and_no_private_ones() {
        let table = GeoTable::embedded();
        let country = |ip: &str| table.lookup(ip.parse().unwrap()).country.map(|c| c.to_string());
        // Blocks held by national research networks for decades.
        assert_eq!(country("192.53.103.108").as_deref(), Some("DE"), "PTB");
        assert_eq!(country("133.11.0.1").as_deref(), Some("JP"), "University of Tokyo");
        assert_eq!(country("2001:da8::1").as_deref(), Some("CN"), "CERNET");
        for private in ["10.0.0.1", "127.0.0.1", "192.168.1.1", "::1", "fd00::1"] {
            assert_eq!(country(private), None, "{private}");
        }
    }

    #[test]
    fn every_country_of_the_embedded_table_has_a_place() {
        let table = GeoTable::embedded();
        let mut seen = std::collections::BTreeSet::new();
        // One address of every /16 meets every country that holds one.
        for high in 0..=u32::from(u16::MAX) {
            for low in [1_u32, 0x8001] {
                let place = table.lookup(std::net::Ipv4Addr::from_bits(high << 16 | low).into());
                if let Some(country) = place.country {
                    assert!(place.area.is_some() && place.point.is_some(), "{country} has no place");
                    seen.insert(country);
                }
            }
        }
        assert!(seen.len() > 150, "only {} countries seen", seen.len());
    }

    #[test]
    fn bytes_that_are_no_database_are_refused() {
        assert!(matches!(GeoTable::from_mmdb(b"<html>".to_vec()), Err(GeoError::Format(_))));
    }

    #[test]
    fn records_of_both_layouts_give_a_place() {
        let nested = Record {
            country: Some(CountryField::Nested { iso_code: Some("BR") }),
            location: Some(LocationField { latitude: Some(-23.5), longitude: Some(-46.6), accuracy_radius: Some(20) }),
            ..Record::default()
        };
        let found = place(nested);
        assert_eq!(found.country.unwrap().as_str(), "BR");
        assert!(found.precise);

        let flat = Record { country_code: Some("KE"), ..Record::default() };
        assert!(!place(flat).precise);

        let coarse = Record {
            country: Some(CountryField::Flat("US")),
            location: Some(LocationField {
                latitude: Some(37.75),
                longitude: Some(-97.8),
                accuracy_radius: Some(1000),
            }),
            ..Record::default()
        };
        assert!(!place(coarse).precise, "the middle of the country, in disguise");
    }
}
