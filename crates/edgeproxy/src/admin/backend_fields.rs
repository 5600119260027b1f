//! A backend as requests write it: the fields that answers show, or the names of the table's columns.

use std::net::SocketAddr;

use edgeproxy_route::RawBackend;
use serde::{Deserialize, Deserializer};

use super::input::{flag, given, given_or, object};
use super::problem::Problem;

/// The fields of a new backend, or those of one to change.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BackendFields {
    #[serde(deserialize_with = "given")]
    id: Option<String>,
    #[serde(deserialize_with = "given")]
    app: Option<String>,
    #[serde(deserialize_with = "given")]
    region: Option<String>,
    #[serde(deserialize_with = "country")]
    country: Option<String>,
    #[serde(deserialize_with = "given")]
    addr: Option<String>,
    #[serde(deserialize_with = "given")]
    wg_ip: Option<String>,
    #[serde(deserialize_with = "given")]
    port: Option<i64>,
    #[serde(deserialize_with = "flag")]
    healthy: Option<i64>,
    #[serde(deserialize_with = "flag")]
    drained: Option<i64>,
    #[serde(deserialize_with = "object")]
    limits: LimitFields,
    #[serde(deserialize_with = "given")]
    weight: Option<i64>,
    #[serde(deserialize_with = "given")]
    soft_limit: Option<i64>,
    #[serde(deserialize_with = "given")]
    hard_limit: Option<i64>,
    #[serde(deserialize_with = "heartbeat_secs")]
    heartbeat_secs: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct LimitFields {
    #[serde(deserialize_with = "given")]
    weight: Option<i64>,
    #[serde(deserialize_with = "given")]
    soft: Option<i64>,
    #[serde(deserialize_with = "given")]
    hard: Option<i64>,
}

fn country<'de, D: Deserializer<'de>>(field: D) -> Result<Option<String>, D::Error> {
    given_or(field, String::new())
}

fn heartbeat_secs<'de, D: Deserializer<'de>>(field: D) -> Result<Option<i64>, D::Error> {
    given_or(field, 0)
}

impl BackendFields {
    /// A row with the fields that were given. What each must be is checked with the row as a whole.
    ///
    /// # Errors
    /// An address that is none, or a field given twice, by both of its names.
    pub(super) fn into_raw(self) -> Result<RawBackend, Problem> {
        let (ip, port) = match self.addr.as_deref().map(parse_address).transpose()? {
            Some(addr) => (Some(addr.ip().to_string()), Some(addr.port().into())),
            None => (None, None),
        };
        Ok(RawBackend {
            id: self.id,
            app: self.app,
            region: self.region,
            country: self.country,
            wg_ip: either(("addr", ip), ("wg_ip", self.wg_ip))?,
            port: either(("addr", port), ("port", self.port))?,
            healthy: self.healthy,
            weight: either(("limits.weight", self.limits.weight), ("weight", self.weight))?,
            soft_limit: either(("limits.soft", self.limits.soft), ("soft_limit", self.soft_limit))?,
            hard_limit: either(("limits.hard", self.limits.hard), ("hard_limit", self.hard_limit))?,
            drained: self.drained,
            heartbeat_secs: self.heartbeat_secs,
        })
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, Problem> {
    let rule = || format!("{text:?} is not an IP address with a port (such as 10.50.1.1:80 or [fd00::1]:80)");
    text.parse().map_err(|_| Problem::field("addr", rule()))
}

fn either<T>(a: (&str, Option<T>), b: (&str, Option<T>)) -> Result<Option<T>, Problem> {
    match (a, b) {
        ((name, Some(_)), (other, Some(_))) => {
            Err(Problem::field(other, format!("says the same as {name}, which is given too; keep one")))
        }
        ((_, value), (_, other)) => Ok(value.or(other)),
    }
}
