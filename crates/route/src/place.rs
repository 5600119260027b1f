//! Where on Earth something is, in the words routing needs: country, part of the world, direction from its centre.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::countries::country_facts;
use crate::regions::region_facts;

/// Mean radius of the Earth in km (IUGG).
const EARTH_RADIUS_KM: f32 = 6371.0;

/// An ISO 3166-1 alpha-2 country code, upper case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Country([u8; 2]);

impl Country {
    /// The two letters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a country code is two ASCII letters")
    }

    pub(crate) fn code(self) -> [u8; 2] {
        self.0
    }

    pub(crate) const fn from_code(code: [u8; 2]) -> Self {
        Self(code)
    }

    /// The country's English short name, when the code is assigned.
    pub fn name(self) -> Option<&'static str> {
        country_facts(self.0).map(|facts| facts.name)
    }
}

impl FromStr for Country {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.as_bytes() {
            [a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
                Ok(Self([a.to_ascii_uppercase(), b.to_ascii_uppercase()]))
            }
            _ => Err(format!("{text:?} is not an ISO 3166-1 alpha-2 country code (two letters, such as DE)")),
        }
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Country {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A part of the world that regions and countries belong to. Routing tables may use its code as a coarse region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Area {
    /// `sa`
    SouthAmerica,
    /// `us` (also `na`): Central America and the Caribbean included.
    NorthAmerica,
    /// `eu`
    Europe,
    /// `ap`: South, Central, East and South-East Asia, and Oceania.
    AsiaPacific,
    /// `af`
    Africa,
    /// `me`
    MiddleEast,
}

impl Area {
    /// The coarse region code of this part of the world.
    pub fn code(self) -> &'static str {
        match self {
            Self::SouthAmerica => "sa",
            Self::NorthAmerica => "us",
            Self::Europe => "eu",
            Self::AsiaPacific => "ap",
            Self::Africa => "af",
            Self::MiddleEast => "me",
        }
    }

    /// The area a coarse region code stands for; `None` for the code of a single place.
    pub fn from_code(code: &str) -> Option<Self> {
        match code {
            "sa" => Some(Self::SouthAmerica),
            "us" | "na" => Some(Self::NorthAmerica),
            "eu" => Some(Self::Europe),
            "ap" => Some(Self::AsiaPacific),
            "af" => Some(Self::Africa),
            "me" => Some(Self::MiddleEast),
            _ => None,
        }
    }
}

/// A point on the globe, kept as a unit vector so that nearness is one dot product.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Point([f32; 3]);

impl Point {
    /// From latitude and longitude in degrees (WGS 84); `None` outside ±90 and ±180.
    pub fn from_degrees(lat: f32, lon: f32) -> Option<Self> {
        ((-90.0..=90.0).contains(&lat) && (-180.0..=180.0).contains(&lon)).then(|| Self::on_globe(lat, lon))
    }

    pub(crate) fn on_globe(lat: f32, lon: f32) -> Self {
        let (sin_lat, cos_lat) = lat.to_radians().sin_cos();
        let (sin_lon, cos_lon) = lon.to_radians().sin_cos();
        Self([cos_lat * cos_lon, cos_lat * sin_lon, sin_lat])
    }

    /// Grows as `other` gets farther away: 0 at the same point, 2 at the antipode. Cheaper than kilometres and ordered
    /// alike.
    pub(crate) fn remoteness(self, other: Self) -> f32 {
        let dot = self.0[0] * other.0[0] + self.0[1] * other.0[1] + self.0[2] * other.0[2];
        (1.0 - dot).max(0.0)
    }

    /// Great-circle distance in km.
    pub fn distance_km(self, other: Self) -> f32 {
        // The chord keeps its precision at short distances, where the arc cosine of a dot product has none.
        let chord = self.0.iter().zip(other.0).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
        2.0 * EARTH_RADIUS_KM * (chord / 2.0).min(1.0).asin()
    }
}

/// Where a client is, as far as the geo table knows. Every field may be unknown.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Place {
    /// The country of the address.
    pub country: Option<Country>,
    /// The part of the world of that country.
    pub area: Option<Area>,
    /// The city's position, or the middle of the country.
    pub point: Option<Point>,
    /// Whether `point` is finer than the country. If not, it says nothing about which of two backends within the
    /// client's own country is nearer.
    pub precise: bool,
}

impl Place {
    /// Nothing is known of this address: a private network, or a range no table has.
    pub const UNKNOWN: Self = Self { country: None, area: None, point: None, precise: false };

    /// All that follows from knowing the country alone.
    pub fn in_country(country: Country) -> Self {
        match country_facts(country.code()) {
            Some(facts) => Self {
                country: Some(country),
                area: Some(facts.area),
                point: Some(Point::on_globe(facts.lat, facts.lon)),
                precise: false,
            },
            None => match country.code() {
                // Not countries: registries' marks for ranges used all over Europe or Asia and the Pacific.
                [b'E', b'U'] => Self::in_area("eu"),
                [b'A', b'P'] => Self::in_area("ap"),
                // An unassigned code (a geo table newer than ours): still good for an exact country match.
                _ => Self { country: Some(country), ..Self::UNKNOWN },
            },
        }
    }

    fn in_area(code: &str) -> Self {
        let facts = region_facts(code).expect("every coarse region is built in");
        Self { area: Some(facts.area), point: Some(Point::on_globe(facts.lat, facts.lon)), ..Self::UNKNOWN }
    }

    /// A known position, finer than the country.
    #[must_use]
    pub fn at(self, point: Point) -> Self {
        Self { point: Some(point), precise: true, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_globe() {
        let london = Point::from_degrees(51.51, -0.13).unwrap();
        let sydney = Point::from_degrees(-33.87, 151.21).unwrap();
        let paris = Point::from_degrees(48.86, 2.35).unwrap();
        assert!((london.distance_km(sydney) - 16_994.0).abs() < 20.0);
        assert!((london.distance_km(paris) - 344.0).abs() < 3.0);
        assert!(london.remoteness(paris) < london.remoteness(sydney));
        assert_eq!(Point::from_degrees(91.0, 0.0), None);
        assert_eq!(Point::from_degrees(0.0, f32::NAN), None);
    }

    #[test]
    fn every_country_has_an_area_and_a_point() {
        for first in b'A'..=b'Z' {
            for second in b'A'..=b'Z' {
                let country = Country::from_code([first, second]);
                let place = Place::in_country(country);
                let known = country.name().is_some() || ["EU", "AP"].contains(&country.as_str());
                assert_eq!(place.area.is_some(), known, "{country}");
                assert_eq!(place.point.is_some(), known, "{country}");
            }
        }
        let europe = Place::in_country("EU".parse().unwrap());
        assert_eq!((europe.country, europe.area), (None, Some(Area::Europe)));
        let kenya = Place::in_country("ke".parse().unwrap());
        assert_eq!(kenya.area, Some(Area::Africa));
    }

    #[test]
    fn country_codes_are_two_letters() {
        assert_eq!("de".parse::<Country>().unwrap().as_str(), "DE");
        assert!("D1".parse::<Country>().is_err());
        assert!("DEU".parse::<Country>().is_err());
        assert!("é".parse::<Country>().is_err());
    }
}
