//! Ten regions of the world, for the demo and the tests.

/// A region with a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Region code.
    pub region: &'static str,
    /// Country of the backend.
    pub country: &'static str,
    /// City, for people.
    pub city: &'static str,
}

const fn place(region: &'static str, country: &'static str, city: &'static str) -> Place {
    Place { region, country, city }
}

/// From west to east by continent.
pub const TEN_REGIONS: [Place; 10] = [
    place("gru", "BR", "São Paulo"),
    place("iad", "US", "Virginia"),
    place("ord", "US", "Chicago"),
    place("lax", "US", "Los Angeles"),
    place("lhr", "GB", "London"),
    place("fra", "DE", "Frankfurt"),
    place("cdg", "FR", "Paris"),
    place("nrt", "JP", "Tokyo"),
    place("sin", "SG", "Singapore"),
    place("syd", "AU", "Sydney"),
];
