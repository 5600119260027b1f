//! Which servers there are, and where we are: from the environment, by the rule that older services follow.

use std::time::Duration;

use crate::error::Error;
use crate::judge::Limits;
use crate::monitor::MonitorSettings;
use crate::server::{REPLICA_PORT, Server};
use crate::server_pool::PoolSettings;

/// A pool over several regions.
#[derive(Clone, Debug)]
pub struct RegionSettings {
    /// All servers, in any order; which of them is the primary is found out.
    pub servers: Vec<Server>,
    /// Where we are; a server with this region is nearer than any other.
    pub region: Option<String>,
    /// Of each server's connections.
    pub pool: PoolSettings,
    /// How they are watched.
    pub monitor: MonitorSettings,
    /// How far a replica may lag.
    pub limits: Limits,
    /// How long a statement waits for a server that may be asked, a primary mostly, where none is known.
    pub patience: Duration,
    /// How long a read waits for a replica to have what its token asks for, before the primary is asked.
    pub fence_wait: Duration,
    /// Longest time for a statement, or for all of one flight.
    pub statement: Duration,
}

/// As long as the wait for a connection. A promotion takes one to some seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than a replica nearby takes to replay what has arrived, less than a primary far away takes to answer.
const FENCE_WAIT: Duration = Duration::from_millis(50);
/// Beyond any statement of a request that somebody waits for.
const STATEMENT: Duration = Duration::from_secs(30);

impl RegionSettings {
    /// These servers, and the defaults.
    #[must_use]
    pub fn new(servers: Vec<Server>) -> Self {
        Self {
            servers,
            region: None,
            pool: PoolSettings::default(),
            monitor: MonitorSettings::default(),
            limits: Limits::default(),
            patience: PATIENCE,
            fence_wait: FENCE_WAIT,
            statement: STATEMENT,
        }
    }

    /// From `DATABASE_URL`, `PRIMARY_REGION` and `FLY_REGION`, which `variable` looks up: in the primary's region the server
    /// that the URL names, elsewhere that and the region's own replica at port 5433. `None` without `DATABASE_URL`.
    ///
    /// # Errors
    ///
    /// The URL cannot be read.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Error> {
        let Some(url) = variable("DATABASE_URL").filter(|url| !url.is_empty()) else { return Ok(None) };
        let word = |name| variable(name).filter(|word| !word.is_empty());
        let (primary_region, region) = (word("PRIMARY_REGION"), word("FLY_REGION"));
        let mut primary = Server::from_url(&url)?;
        let mut servers = Vec::new();
        if is_elsewhere(primary_region.as_deref(), region.as_deref()) {
            let mut replica = primary.clone().at_port(REPLICA_PORT);
            replica.region.clone_from(&region);
            servers.push(replica);
        }
        primary.region = primary_region;
        servers.insert(0, primary);
        Ok(Some(Self { region, ..Self::new(servers) }))
    }
}

impl Server {
    /// The server that a service in `region` asks, by the rule of those that know one URL and two words: if both regions
    /// are given and they differ, the same at port 5433, the region's own replica; the URL as it is otherwise.
    ///
    /// # Errors
    ///
    /// The URL cannot be read.
    pub fn for_region(url: &str, primary_region: Option<&str>, region: Option<&str>) -> Result<Self, Error> {
        let server = Self::from_url(url)?;
        Ok(if is_elsewhere(primary_region, region) { server.at_port(REPLICA_PORT) } else { server })
    }
}

/// Both are said, and they differ.
fn is_elsewhere(primary_region: Option<&str>, region: Option<&str>) -> bool {
    match (primary_region, region) {
        (Some(primary), Some(here)) => !primary.is_empty() && !here.is_empty() && primary != here,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "postgres://app:secret@top1.nearest.of.db.internal:5432/app?sslmode=disable";

    #[test]
    fn only_the_port_changes_and_only_where_both_regions_are_given_and_differ() {
        for (primary, here, port) in [
            (Some("sjc"), Some("fra"), 5433),
            (Some("sjc"), Some("sjc"), 5432),
            (Some("sjc"), Some(""), 5432),
            (Some(""), Some("fra"), 5432),
            (Some(""), Some(""), 5432),
            (Some("sjc"), None, 5432),
            (None, Some("fra"), 5432),
            (None, None, 5432),
        ] {
            let server = Server::for_region(URL, primary, here).unwrap();
            let unchanged = Server::from_url(URL).unwrap();
            assert_eq!(server.port, port, "{primary:?} {here:?}");
            assert_eq!(format!("{:?}", server.at_port(5432)), format!("{unchanged:?}"));
        }
        // Whatever port the URL has.
        let odd = Server::for_region("postgres://h:6000/db", Some("a"), Some("b")).unwrap();
        assert_eq!(odd.to_string(), "h:5433");
        assert_eq!(Server::for_region("postgres:///db", None, None).unwrap().database.as_deref(), Some("db"));
    }

    #[test]
    fn a_pool_elsewhere_has_the_replica_here_and_the_primary_there() {
        let settings = |regions: [&'static str; 2]| {
            let variable = move |name: &str| match name {
                "DATABASE_URL" => Some(URL.to_owned()),
                "PRIMARY_REGION" => Some(regions[0].to_owned()),
                "FLY_REGION" => Some(regions[1].to_owned()),
                _ => None,
            };
            RegionSettings::from_environment(variable).unwrap().unwrap()
        };
        let elsewhere = settings(["sjc", "fra"]);
        let servers: Vec<_> = elsewhere.servers.iter().map(|server| (server.port, server.region.as_deref())).collect();
        assert_eq!(servers, [(5432, Some("sjc")), (5433, Some("fra"))]);
        assert_eq!(elsewhere.region.as_deref(), Some("fra"));
        assert_eq!((elsewhere.pool.most_open, elsewhere.pool.wait), (5, Duration::from_secs(5)));
        assert_eq!(settings(["sjc", "sjc"]).servers.len(), 1);
        assert_eq!(settings(["", "fra"]).servers.len(), 1);
        assert!(RegionSettings::from_environment(|_| None).unwrap().is_none());
        assert!(RegionSettings::from_environment(|name| (name == "DATABASE_URL").then(|| "x".into())).is_err());
    }
}
