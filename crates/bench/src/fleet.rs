//! The regions whose services are asked, and the run over all of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

mod admission;
mod http;
mod outcome;
mod run;

pub use http::{AskError, Origin, OriginError};
pub use outcome::{Measured, Outcome, Row, Run};
pub(crate) use run::VERSION;
pub use run::{Course, News, PARALLEL, run};

use admission::plain;

/// Port of the service where an address has none.
pub const PORT: u16 = 8080;

/// Where a service is, and what people call the place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Where its regions need telling apart: `fra-2`; the region's code where it is left out.
    #[serde(default)]
    pub name: String,
    /// Region code.
    pub region: String,
    /// `HOST` or `HOST:PORT`.
    pub address: String,
    /// City or the like.
    #[serde(default)]
    pub location: String,
    /// Two letters (ISO 3166), for the flag.
    #[serde(default, alias = "flag")]
    pub country: String,
}

/// All sites, in the order of the table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// What the sites are together, for the title: `Fly.io`.
    #[serde(default)]
    pub source: Option<String>,
    /// Where the database is, for the title: `AWS RDS Ireland`.
    #[serde(default)]
    pub database: Option<String>,
    /// In the order of the table.
    #[serde(rename = "site")]
    pub sites: Vec<Site>,
}

/// Why a file describes no fleet.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// No such file, or the like.
    #[error("{path}: cannot be read: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why not.
        error: std::io::Error,
    },
    /// It is not TOML of this form.
    #[error("{path}: {error}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong, and where.
        error: Box<toml::de::Error>,
    },
    /// It contradicts itself.
    #[error("{path}: {mistake}")]
    Senseless {
        /// The file.
        path: String,
        /// How.
        mistake: String,
    },
}

/// The ten regions at the addresses that `edgeproxy overlay init` gives them.
const TEN: [[&str; 4]; 10] = [
    ["gru", "10.50.1.1", "Sao Paulo", "BR"],
    ["iad", "10.50.2.1", "Virginia", "US"],
    ["ord", "10.50.2.2", "Chicago", "US"],
    ["lax", "10.50.2.3", "Los Angeles", "US"],
    ["lhr", "10.50.3.1", "London", "GB"],
    ["fra", "10.50.3.2", "Frankfurt", "DE"],
    ["cdg", "10.50.3.3", "Paris", "FR"],
    ["nrt", "10.50.4.1", "Tokyo", "JP"],
    ["sin", "10.50.4.2", "Singapore", "SG"],
    ["syd", "10.50.4.3", "Sydney", "AU"],
];

impl Default for Fleet {
    fn default() -> Self {
        let site = |[region, address, location, country]: [&str; 4]| Site {
            name: region.to_owned(),
            region: region.to_owned(),
            address: address.to_owned(),
            location: location.to_owned(),
            country: country.to_owned(),
        };
        Self { source: None, database: None, sites: TEN.into_iter().map(site).collect() }
    }
}

impl Fleet {
    /// Reads a fleet file:
    ///
    /// ```toml
    /// source = "Fly.io"
    /// database = "AWS RDS Ireland"
    /// [[site]]
    /// region = "lhr"
    /// address = "10.50.3.1:8080"
    /// location = "London"
    /// country = "GB"
    /// ```
    ///
    /// # Errors
    /// [`FleetError`].
    pub fn read(path: &Path) -> Result<Self, FleetError> {
        let path_shown = path.display().to_string();
        let text =
            fs::read_to_string(path).map_err(|error| FleetError::Unreadable { path: path_shown.clone(), error })?;
        Self::parse(&path_shown, &text)
    }

    fn parse(path: &str, text: &str) -> Result<Self, FleetError> {
        let mut fleet: Self = toml::from_str(text)
            .map_err(|error| FleetError::Malformed { path: path.to_owned(), error: Box::new(error) })?;
        let senseless = |mistake: String| Err(FleetError::Senseless { path: path.to_owned(), mistake });
        if fleet.sites.is_empty() {
            return senseless("has no [[site]]".to_owned());
        }
        for text in [&mut fleet.source, &mut fleet.database].into_iter().flatten() {
            *text = plain(text);
        }
        let mut names = BTreeSet::new();
        for site in &mut fleet.sites {
            for text in [&mut site.name, &mut site.region, &mut site.address, &mut site.location] {
                *text = plain(text);
            }
            if site.name.is_empty() {
                site.name.clone_from(&site.region);
            }
            if let Err(error) = Origin::at(&site.address, PORT) {
                return senseless(format!("site {}: {error}", site.name));
            }
            if !(site.country.is_empty() || is_country(&site.country)) {
                return senseless(format!("site {}: country {:?} is not two letters", site.name, site.country));
            }
            if !names.insert(site.name.clone()) {
                return senseless(format!("two sites are called {:?}; give each a name", site.name));
            }
        }
        Ok(fleet)
    }

    /// What is known of a region; of one that nobody described, its code.
    pub fn site_of(&self, region: &str, address: &str) -> Site {
        let described = self.sites.iter().find(|site| site.region == region);
        let described = described.map(|site| (site.location.clone(), site.country.clone()));
        let (location, country) = described.unwrap_or_default();
        Site { name: region.to_owned(), region: region.to_owned(), address: address.to_owned(), location, country }
    }
}

fn is_country(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_and_its_mistakes_are_told() {
        let site = "[[site]]\nregion = \"lhr\"\naddress = \"10.50.3.1\"\n";
        let fleet = Fleet::parse("f", site).unwrap();
        assert_eq!((fleet.sites[0].name.as_str(), fleet.sites[0].location.as_str()), ("lhr", ""));
        let steering = Fleet::parse("f", &format!("source = \"a\\u001bb\"\n{site}location = \"c\\nd\"")).unwrap();
        assert_eq!((steering.source.as_deref(), steering.sites[0].location.as_str()), (Some("a b"), "c d"));
        for (text, part) in [
            ("", "missing field `site`"),
            ("site = []", "no [[site]]"),
            (&format!("{site}{site}"), "two sites are called \"lhr\""),
            (&format!("{site}country = \"England\""), "is not two letters"),
            (&format!("{site}colour = \"red\""), "unknown field `colour`"),
            ("[[site]]\nregion = \"x\"\naddress = \"h:p\"", "site x: "),
        ] {
            let error = Fleet::parse("f.toml", text).unwrap_err().to_string();
            assert!(error.starts_with("f.toml: ") && error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn ten_regions_are_known() {
        let regions: Vec<_> = Fleet::default().sites.into_iter().map(|site| site.region).collect();
        assert_eq!(regions.join(" "), "gru iad ord lax lhr fra cdg nrt sin syd");
    }
}
