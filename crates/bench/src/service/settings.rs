//! Settings: environment variables alone, as platforms give them.

use std::path::PathBuf;

use edgeproxy_postgres::{RegionSettings, Server, TlsMode};

/// Region where nobody says.
const REGION: &str = "local";
/// Port of the service where nobody says.
const PORT: u16 = 8080;
/// Characters of an instance's name that are shown.
const INSTANCE_CHARS: usize = 8;
/// What stands for the database's host where there is none.
const NOT_CONFIGURED: &str = "not configured";

/// What the environment says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// FLY_REGION.
    pub region: String,
    /// FLY_ALLOC_ID or the name of the host, shortened.
    pub instance: String,
    /// PORT.
    pub port: u16,
    /// By DB_HOST, DB_PORT, DB_USER, DB_PASSWORD, DB_NAME, DB_SSLMODE; `None`: DB_HOST is not set.
    pub database: Option<Server>,
    /// By DATABASE_URL, PRIMARY_REGION and FLY_REGION; `None`: DATABASE_URL is not set.
    pub near: Option<Near>,
    /// EDGEPROXY_OVERLAY: a wg-quick file, or a folder with one for each region.
    pub overlay: Option<PathBuf>,
    /// EDGEPROXY_STATUS=strict: faults are answered by a status of their own, not by 200.
    pub strict: bool,
}

/// The database that is read where it is near.
#[derive(Clone, Debug)]
pub struct Near {
    /// The replica's port outside the primary region, else what the URL says.
    pub server: Server,
    /// That, and the primary for when it is not there.
    pub region: RegionSettings,
}

impl Settings {
    /// Reads the variables that `variable` knows. One that is empty counts as not set. `host` is the name of this machine.
    ///
    /// # Errors
    /// Every mistake there is, a line each.
    pub fn read(variable: impl Fn(&str) -> Option<String>, host: &str) -> Result<Self, Vec<String>> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut mistakes = Vec::new();
        let region = variable("FLY_REGION");
        let settings = Self {
            instance: variable("FLY_ALLOC_ID").as_deref().unwrap_or(host).chars().take(INSTANCE_CHARS).collect(),
            port: port("PORT", variable("PORT"), PORT, &mut mistakes),
            database: database(&variable, &mut mistakes),
            near: near(&variable, region.as_deref(), &mut mistakes),
            region: region.unwrap_or_else(|| REGION.to_owned()),
            overlay: variable("EDGEPROXY_OVERLAY").map(PathBuf::from),
            strict: match variable("EDGEPROXY_STATUS").as_deref() {
                None | Some("published") => false,
                Some("strict") => true,
                Some(other) => {
                    mistakes.push(format!("EDGEPROXY_STATUS is {other:?}; it is published or strict"));
                    false
                }
            },
        };
        if mistakes.is_empty() { Ok(settings) } else { Err(mistakes) }
    }

    /// The database's host as answers show it.
    pub(super) fn db_host(&self) -> String {
        self.database.as_ref().map_or(NOT_CONFIGURED, |server| &server.host).to_owned()
    }
}

fn port(name: &str, value: Option<String>, default: u16, mistakes: &mut Vec<String>) -> u16 {
    let Some(text) = value else { return default };
    text.parse().unwrap_or_else(|_| {
        mistakes.push(format!("{name} is {text:?}; it is a port, 1 to 65535"));
        default
    })
}

fn database(variable: &impl Fn(&str) -> Option<String>, mistakes: &mut Vec<String>) -> Option<Server> {
    let host = variable("DB_HOST")?;
    let mut server = Server::new(host, port("DB_PORT", variable("DB_PORT"), 5432, mistakes))
        .user(variable("DB_USER").as_deref().unwrap_or("postgres"))
        .database(variable("DB_NAME").as_deref().unwrap_or("contacts"));
    if let Some(password) = variable("DB_PASSWORD") {
        server = server.password(password);
    }
    match tls(variable) {
        Ok(mode) => Some(server.tls(mode)),
        Err(error) => {
            mistakes.push(format!("DB_SSLMODE, DB_SSLNEGOTIATION or DB_SSLROOTCERT: {error}"));
            None
        }
    }
}

/// As a database URL would have it.
fn tls(variable: &impl Fn(&str) -> Option<String>) -> Result<TlsMode, edgeproxy_postgres::Error> {
    let of_url =
        [("sslmode", "DB_SSLMODE"), ("sslnegotiation", "DB_SSLNEGOTIATION"), ("sslrootcert", "DB_SSLROOTCERT")];
    let parameters = of_url.iter().filter_map(|(key, name)| Some(format!("{key}={}", variable(name)?)));
    Ok(Server::from_url(&format!("postgres://?{}", parameters.collect::<Vec<_>>().join("&")))?.tls)
}

/// By the rule of clusters with a replica in every region: elsewhere than in the primary's region the port of the replica
/// that is near, else the URL as it is.
fn near(variable: &impl Fn(&str) -> Option<String>, region: Option<&str>, mistakes: &mut Vec<String>) -> Option<Near> {
    let url = variable("DATABASE_URL")?;
    let server = Server::for_region(&url, variable("PRIMARY_REGION").as_deref(), region);
    let region = RegionSettings::from_environment(variable);
    match (server, region) {
        (Ok(server), Ok(Some(region))) => Some(Near { server, region }),
        (Err(error), _) | (_, Err(error)) => {
            mistakes.push(format!("DATABASE_URL: {error}"));
            None
        }
        (_, Ok(None)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
        let find = |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        Settings::read(find, "machine-of-somebody")
    }

    #[test]
    fn nothing_is_needed() {
        let settings = read(&[("FLY_REGION", ""), ("DB_PORT", "6000")]).unwrap();
        assert_eq!((settings.region.as_str(), settings.port, settings.instance.as_str()), ("local", 8080, "machine-"));
        assert!(settings.database.is_none() && settings.overlay.is_none() && !settings.strict);
        assert_eq!(settings.db_host(), "not configured");
    }

    #[test]
    fn a_database_has_defaults_beside_its_host() {
        let settings =
            read(&[("DB_HOST", "10.50.0.1"), ("FLY_ALLOC_ID", "d891234567890"), ("FLY_REGION", "gru")]).unwrap();
        let server = settings.database.as_ref().unwrap();
        assert_eq!((server.host.as_str(), server.port, server.user.as_deref()), ("10.50.0.1", 5432, Some("postgres")));
        assert_eq!((server.password.is_none(), server.database.as_deref()), (true, Some("contacts")));
        assert_eq!((settings.instance.as_str(), settings.db_host().as_str()), ("d8912345", "10.50.0.1"));
    }

    #[test]
    fn the_near_database_is_the_replica_outside_the_primary_region() {
        let port = |variables: &[(&str, &str)]| {
            let all: Vec<_> = [("DATABASE_URL", "postgres://u:p@h/db")].iter().chain(variables).copied().collect();
            read(&all).unwrap().near.unwrap().server.port
        };
        assert_eq!(port(&[]), 5432);
        assert_eq!(port(&[("PRIMARY_REGION", "sjc")]), 5432);
        assert_eq!(port(&[("FLY_REGION", "fra")]), 5432);
        assert_eq!(port(&[("FLY_REGION", "sjc"), ("PRIMARY_REGION", "sjc")]), 5432);
        assert_eq!(port(&[("FLY_REGION", "fra"), ("PRIMARY_REGION", "sjc")]), 5433);
    }

    #[test]
    fn every_mistake_is_told() {
        let mistakes = read(&[("PORT", "http"), ("DB_HOST", "h"), ("DB_PORT", "70000"), ("EDGEPROXY_STATUS", "no")]);
        let mistakes = mistakes.unwrap_err().join("\n");
        assert!(
            ["PORT is", "DB_PORT is", "EDGEPROXY_STATUS is"].iter().all(|start| mistakes.contains(start)),
            "{mistakes}"
        );
    }
}
