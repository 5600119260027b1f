//! Client address to place: the embedded country table, or a MaxMind-format file.

mod embedded;

use std::fmt;
use std::net::IpAddr;

use maxminddb::{Reader, WithinOptions};
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use self::embedded::Embedded;
use crate::place::{Country, Place, Point};

/// A position whose stated accuracy is coarser than this says no more than the country does: the radius of a country of
/// middling size, and what providers state where they know the country alone.
const COARSEST_PRECISE_KM: f32 = 500.0;

/// Networks at the beginning of a file that may give no place before it is taken for a file about something else. Real
/// tables begin with a few that are reserved or hold only the country an address is registered in.
const MOST_PLACELESS: u32 = 10_000;

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
    /// A database about something else, such as ASNs, or in a layout of its own.
    #[error(
        "a {0:?} database, of whose records none gives a country or a position; a country or city database is needed"
    )]
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
    latitude: Option<Number>,
    longitude: Option<Number>,
}

/// A country code: as it is, or as the `iso_code` of a map, of which nothing else is read.
struct CountryField<'a>(Option<&'a str>);

/// By hand, as what serde derives for "this or that" would first copy the whole value, at every lookup.
impl<'de: 'a, 'a> Deserialize<'de> for CountryField<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CodeVisitor;

        impl<'de> Visitor<'de> for CodeVisitor {
            type Value = CountryField<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a country code, or a map with an `iso_code`")
            }

            fn visit_borrowed_str<E: Error>(self, code: &'de str) -> Result<Self::Value, E> {
                Ok(CountryField(Some(code)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut code = None;
                while let Some(key) = map.next_key::<&str>()? {
                    if key == "iso_code" {
                        code = map.next_value()?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(CountryField(code))
            }
        }

        deserializer.deserialize_any(CodeVisitor)
    }
}

#[derive(Deserialize, Default, Clone, Copy)]
struct LocationField {
    latitude: Option<Number>,
    longitude: Option<Number>,
    accuracy_radius: Option<Number>,
}

/// A number of any type: what one file keeps as a double is a float or a whole number in another, and the reader takes
/// none for the other.
#[derive(Clone, Copy)]
struct Number(f32);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;

        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "degrees and kilometres")]
        impl Visitor<'_> for NumberVisitor {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Number, E> {
                Ok(Number(number as f32))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Number, E> {
                Ok(Number(number as f32))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number as f32))
            }
        }

        deserializer.deserialize_any(NumberVisitor)
    }
}

impl GeoTable {
    /// The country table inside the binary.
    pub fn embedded() -> Self {
        Self(Source::Embedded(Embedded::new()))
    }

    /// A country or city table from the bytes of an `.mmdb` file. Reads every record of it, which takes seconds for a
    /// large city table: nothing for a thread that others wait for.
    ///
    /// # Errors
    /// Bytes in another format, or a table about something else.
    pub fn from_mmdb(bytes: Vec<u8>) -> Result<Self, GeoError> {
        let reader = Reader::from_source(bytes)?;
        // A file cut off or overwritten half-way has a good header and bad records: refuse it now, not at a lookup.
        reader.verify()?;
        if !gives_places(&reader)? {
            return Err(GeoError::Kind(reader.metadata().database_type.clone()));
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

/// Whether the table is one of those whose records we understand. What it is called says little: there are dozens.
///
/// A table without any network is an empty one of its kind.
fn gives_places(reader: &Reader<Vec<u8>>) -> Result<bool, GeoError> {
    let mut networks = 0;
    for network in reader.networks(WithinOptions::default())? {
        networks += 1;
        let record = network?.decode().ok().flatten();
        if record.map(place).is_some_and(|place| place != Place::UNKNOWN) {
            return Ok(true);
        }
        if networks == MOST_PLACELESS {
            break;
        }
    }
    Ok(networks == 0)
}

fn place(record: Record<'_>) -> Place {
    let code = |field: Option<CountryField<'_>>| field?.0?.parse::<Country>().ok();
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
    let coarse = location.accuracy_radius.is_some_and(|Number(km)| km > COARSEST_PRECISE_KM);
    match (location.latitude, location.longitude) {
        (Some(Number(lat)), Some(Number(lon))) if !coarse => {
            Point::from_degrees(lat, lon).map_or(place, |point| place.at(point))
        }
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
        // Two addresses of every /16 meet nearly every country that there is.
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
    fn a_database_about_something_else_is_refused_whatever_it_is_called() {
        for kind in ["GeoLite2-ASN", "ipinfo generic_asn_free.mmdb", "my own"] {
            let bytes = one_record(kind, &[("asn", "AS64500"), ("name", "Example")]);
            match GeoTable::from_mmdb(bytes) {
                Err(GeoError::Kind(named)) => assert_eq!(named, kind),
                other => panic!("{:?}", other.map(|table| table.description())),
            }
        }
    }

    #[test]
    fn one_field_of_another_type_does_not_pass_for_a_table_without_places() {
        // The latitude is a text: no record of this file can be read.
        let bytes = one_record("city", &[("country", "DE"), ("latitude", "52.5")]);
        assert!(matches!(GeoTable::from_mmdb(bytes), Err(GeoError::Kind(_))));
        let table = GeoTable::from_mmdb(one_record("country", &[("country", "DE")])).unwrap();
        assert_eq!(table.lookup("192.0.2.1".parse().unwrap()).country.unwrap().as_str(), "DE");
    }

    /// The smallest file: all addresses below 128.0.0.0 have no record, all others this one, of texts.
    fn one_record(kind: &str, fields: &[(&str, &str)]) -> Vec<u8> {
        fn text(text: &str) -> Vec<u8> {
            let len = u8::try_from(text.len()).unwrap();
            assert!(len < 29);
            [&[0x40 | len], text.as_bytes()].concat()
        }
        fn map(fields: &[(&str, Vec<u8>)]) -> Vec<u8> {
            let mut bytes = vec![0xE0 | u8::try_from(fields.len()).unwrap()];
            fields.iter().for_each(|(key, value)| bytes.extend([text(key), value.clone()].concat()));
            bytes
        }
        let record: Vec<_> = fields.iter().map(|(key, value)| (*key, text(value))).collect();
        // One node of two 24-bit records: "nothing" is the number of nodes, data follows 16 bytes later.
        let mut bytes = vec![0, 0, 1, 0, 0, 17];
        bytes.extend([0; 16]);
        bytes.extend(map(&record));
        bytes.extend(b"\xAB\xCD\xEFMaxMind.com");
        bytes.extend(map(&[
            ("binary_format_major_version", vec![0xA1, 2]),
            ("binary_format_minor_version", vec![0xA1, 0]),
            ("build_epoch", vec![0x01, 0x02, 1]),
            ("database_type", text(kind)),
            ("description", map(&[("en", text("for a test"))])),
            ("ip_version", vec![0xA1, 4]),
            ("languages", vec![0x00, 0x04]),
            ("node_count", vec![0xC1, 1]),
            ("record_size", vec![0xA1, 24]),
        ]));
        bytes
    }

    #[test]
    fn records_of_both_layouts_give_a_place() {
        let nested = Record {
            country: Some(CountryField(Some("BR"))),
            location: Some(LocationField {
                latitude: Some(Number(-23.5)),
                longitude: Some(Number(-46.6)),
                accuracy_radius: Some(Number(20.0)),
            }),
            ..Record::default()
        };
        let found = place(nested);
        assert_eq!(found.country.unwrap().as_str(), "BR");
        assert!(found.precise);

        let flat = Record { country_code: Some("KE"), ..Record::default() };
        assert!(!place(flat).precise);

        let coarse = Record {
            country: Some(CountryField(Some("US"))),
            location: Some(LocationField {
                latitude: Some(Number(37.75)),
                longitude: Some(Number(-97.8)),
                accuracy_radius: Some(Number(1000.0)),
            }),
            ..Record::default()
        };
        assert!(!place(coarse).precise, "the middle of the country, in disguise");
    }
}
