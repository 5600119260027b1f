//! Which table the command is about, and what is known beside it.

use std::path::PathBuf;

use edgeproxy_proxy::ListenerSettings;
use edgeproxy_route::{Backend, Country, Regions};
use edgeproxy_store::{Loaded, RoutingDb};

use crate::commands::{Failure, say, unknown_region, variable};
use crate::config::{Config, ProxyFlags, Role};

const DEFAULT_DB: &str = "routing.db";

/// Flags of every action on the table.
#[derive(clap::Args)]
pub(super) struct SourceFlags {
    /// Routing table, an SQLite file [env: EDGEPROXY_DB_PATH] [default: routing.db]
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
    /// Configuration file, for the table, the geo table and the regions it names [env: EDGEPROXY_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What the flags, the environment and the configuration say together.
pub(super) struct Source {
    pub(super) db: PathBuf,
    pub(super) regions: Regions,
    /// Only a configuration says.
    pub(super) region: Option<String>,
    pub(super) geoip: Option<PathBuf>,
    /// The first one.
    pub(super) listener: Option<ListenerSettings>,
}

impl SourceFlags {
    /// Reads the configuration if one is named. Without one, only the variables for these very flags count: a mistake
    /// in a setting of the proxy is none of a person who lists a table.
    pub(super) fn read(self) -> Result<Source, Failure> {
        let config = self.config.or_else(|| variable("EDGEPROXY_CONFIG").map(PathBuf::from));
        let Some(config) = config else {
            let db = self.db.or_else(|| variable("EDGEPROXY_DB_PATH").map(PathBuf::from));
            let db = db.unwrap_or_else(|| PathBuf::from(DEFAULT_DB));
            return Ok(Source { db, regions: Regions::default(), region: None, geoip: None, listener: None });
        };
        let flags = ProxyFlags { config: Some(config), ..ProxyFlags::default() };
        let config = Config::load(Role::Proxy, &flags, std::env::vars_os()).map_err(Failure::Config)?;
        Ok(Source {
            db: self.db.unwrap_or(config.routing.db),
            regions: Regions::with(config.routing.regions),
            region: Some(config.proxy.region),
            geoip: config.routing.geoip,
            listener: config.proxy.listeners.into_iter().next(),
        })
    }
}

impl Source {
    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        RoutingDb::open(&self.db).and_then(|db| db.load()).map_err(Failure::from_display)
    }

    /// Tells of rows that no client will be sent to.
    pub(super) fn tell_rejected(&self, loaded: &Loaded) {
        for rejected in &loaded.rejected {
            say::mistake(format_args!("{}: {rejected}", self.db.display()));
        }
    }

    /// Tells of regions without a place. They are no mistake: rows may come before the configuration that knows them.
    pub(super) fn tell_unknown_regions<'a>(&self, backends: impl IntoIterator<Item = &'a Backend>) {
        for code in self.regions.unknown(backends.into_iter().map(|backend| backend.region.as_str())) {
            say::note(unknown_region(code));
        }
    }
}

/// For clap: a country code, or nothing for none.
pub(super) fn country(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { text.parse::<Country>().map(|country| country.to_string()) }
}

/// For clap: a name that is not empty. The table's other rules are told by the table.
pub(super) fn name(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("it must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// Where a region lies, in words: `fra (Frankfurt, DE)`.
pub(super) fn place_of(regions: &Regions, code: &str) -> String {
    let region = regions.get(code);
    match (region.city, region.country) {
        (Some(city), Some(country)) => format!("{code} ({city}, {country})"),
        (Some(city), None) => format!("{code} ({city})"),
        (None, Some(country)) => format!("{code} ({country})"),
        (None, None) => code.to_owned(),
    }
}
