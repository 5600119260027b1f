//! One row of the routing table, checked field by field.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::place::Country;

/// Longest `id`, `app` or `region` accepted, in bytes: they are repeated in every log line and metric label.
const MAX_NAME_BYTES: usize = 128;
/// Largest weight accepted. The ratio of two weights is what counts, so more range than this is a typing mistake.
const MAX_WEIGHT: i64 = 1_000;
/// Largest connection limit accepted, 150 times what one source address can hold open to one port: more is a typing
/// mistake.
const MAX_LIMIT: i64 = 10_000_000;

/// The address we dial.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct BackendAddr(pub SocketAddr);

impl fmt::Display for BackendAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How much a backend takes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Limits {
    /// Share of the load beside its neighbours; 0 drains: no new client.
    pub weight: u32,
    /// Comfortable number of connections; past it the next nearest backend is preferred.
    pub soft: u32,
    /// Most connections at any time; exact.
    pub hard: u32,
}

/// A backend that can be dialled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Backend {
    /// Name, unique in the table.
    pub id: String,
    /// Group of interchangeable backends.
    pub app: String,
    /// Region code; need not be a known one.
    pub region: String,
    /// Country it serves first; `None` where the table does not say.
    pub country: Option<Country>,
    /// What to dial.
    pub addr: BackendAddr,
    /// The operator's word. What checks find is kept apart, in the [`StatePool`](crate::StatePool).
    pub healthy: bool,
    /// Operator's drain mark: as weight 0, with the weight kept for its return.
    pub drained: bool,
    /// Connection limits and weight.
    pub limits: Limits,
    /// Seconds without a heartbeat after which a self-registered backend counts as down; `None`: not expected.
    pub heartbeat_secs: Option<u32>,
}

impl Backend {
    /// Whether the operator lets new clients in.
    pub fn accepts_new(&self) -> bool {
        self.healthy && !self.drained && self.limits.weight > 0
    }
}

/// A row as the database gave it: nothing checked yet.
#[derive(Clone, Debug, Default)]
pub struct RawBackend {
    /// `id`
    pub id: Option<String>,
    /// `app`; NULL is the app named "default".
    pub app: Option<String>,
    /// `region`
    pub region: Option<String>,
    /// `country`; NULL or empty: not said.
    pub country: Option<String>,
    /// `wg_ip`
    pub wg_ip: Option<String>,
    /// `port`
    pub port: Option<i64>,
    /// `healthy`
    pub healthy: Option<i64>,
    /// `weight`
    pub weight: Option<i64>,
    /// `soft_limit`
    pub soft_limit: Option<i64>,
    /// `hard_limit`
    pub hard_limit: Option<i64>,
    /// `drained` (ours, optional)
    pub drained: Option<i64>,
    /// `heartbeat_secs` (ours, optional)
    pub heartbeat_secs: Option<i64>,
}

/// Why a row was rejected: which backend, which field, which rule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize)]
#[error("backend {id:?}: {field} {rule}")]
pub struct BackendError {
    /// The row's `id`, or its row number when it has none.
    pub id: String,
    /// Column name.
    pub field: &'static str,
    /// What the column must be, and what it was.
    pub rule: String,
}

impl RawBackend {
    /// Checks every field.
    ///
    /// # Errors
    /// The first field that breaks its rule.
    pub fn check(self) -> Result<Backend, BackendError> {
        let id = self.id.clone().unwrap_or_default();
        self.check_fields().map_err(|(field, rule)| BackendError { id, field, rule })
    }

    fn check_fields(self) -> Result<Backend, (&'static str, String)> {
        Ok(Backend {
            id: name("id", self.id)?,
            app: match self.app {
                None => "default".to_owned(),
                app => name("app", app)?,
            },
            region: name("region", self.region)?,
            country: match self.country.as_deref().map(str::trim) {
                None | Some("") => None,
                Some(code) => Some(code.parse().map_err(|rule| ("country", rule))?),
            },
            addr: BackendAddr(SocketAddr::new(ip(self.wg_ip)?, port(self.port)?)),
            healthy: flag("healthy", self.healthy)?,
            drained: flag("drained", Some(self.drained.unwrap_or(0)))?,
            limits: Limits {
                weight: number("weight", self.weight, 0, MAX_WEIGHT)?,
                soft: number("soft_limit", self.soft_limit, 1, MAX_LIMIT)?,
                hard: number("hard_limit", self.hard_limit, 1, MAX_LIMIT)?,
            },
            heartbeat_secs: match self.heartbeat_secs {
                None => None,
                secs => Some(number("heartbeat_secs", secs, 1, 86_400)?),
            },
        })
    }
}

type Broken = (&'static str, String);

fn name(field: &'static str, value: Option<String>) -> Result<String, Broken> {
    let value = value.ok_or_else(|| (field, "is NULL; it must be a name".to_owned()))?;
    if value.is_empty() {
        return Err((field, "is empty; it must be a name".to_owned()));
    }
    if value.len() > MAX_NAME_BYTES {
        return Err((field, format!("has {} bytes; at most {MAX_NAME_BYTES} are allowed", value.len())));
    }
    if value.chars().any(|c| c.is_control()) {
        return Err((field, format!("{value:?} holds a control character")));
    }
    Ok(value)
}

fn ip(value: Option<String>) -> Result<IpAddr, Broken> {
    let text = value.ok_or_else(|| ("wg_ip", "is NULL; it must be an IP address".to_owned()))?;
    let ip: IpAddr = text
        .trim()
        .parse()
        .map_err(|_| ("wg_ip", format!("{text:?} is not an IP address (such as 10.50.1.1 or fd00::1)")))?;
    // An IPv4 address in IPv6 clothes is dialled as what it is, and told by one spelling in logs.
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip.is_multicast() {
        return Err(("wg_ip", format!("{ip} cannot be dialled")));
    }
    Ok(ip)
}

fn port(value: Option<i64>) -> Result<u16, Broken> {
    number("port", value, 1, i64::from(u16::MAX)).map(|port| u16::try_from(port).expect("bounded by u16::MAX above"))
}

fn flag(field: &'static str, value: Option<i64>) -> Result<bool, Broken> {
    number(field, value, 0, 1).map(|flag| flag == 1)
}

fn number(field: &'static str, value: Option<i64>, low: i64, high: i64) -> Result<u32, Broken> {
    let value = value.ok_or_else(|| (field, format!("is NULL; it must be a number from {low} to {high}")))?;
    if !(low..=high).contains(&value) {
        return Err((field, format!("{value} is not in {low} to {high}")));
    }
    Ok(u32::try_from(value).expect("bounded by the range above, which lies within u32"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> RawBackend {
        RawBackend {
            id: Some("b1".into()),
            app: Some("web".into()),
            region: Some("fra".into()),
            country: Some("de".into()),
            wg_ip: Some("10.50.3.2".into()),
            port: Some(8080),
            healthy: Some(1),
            weight: Some(2),
            soft_limit: Some(100),
            hard_limit: Some(150),
            ..RawBackend::default()
        }
    }

    #[test]
    fn a_good_row_passes() {
        let backend = row().check().unwrap();
        assert_eq!(backend.addr.to_string(), "10.50.3.2:8080");
        assert_eq!(backend.country.unwrap().as_str(), "DE");
        assert!(backend.accepts_new());
    }

    #[test]
    fn each_broken_field_is_named_with_its_rule() {
        let broken: [(RawBackend, &str); 12] = [
            (RawBackend { id: None, ..row() }, "backend \"\": id is NULL; it must be a name"),
            (RawBackend { region: Some(String::new()), ..row() }, "backend \"b1\": region is empty; it must be a name"),
            (
                RawBackend { country: Some("Germany".into()), ..row() },
                "backend \"b1\": country \"Germany\" is not an ISO 3166-1 alpha-2 country code (two letters, such as DE)",
            ),
            (
                RawBackend { wg_ip: Some("10.50.3".into()), ..row() },
                "backend \"b1\": wg_ip \"10.50.3\" is not an IP address (such as 10.50.1.1 or fd00::1)",
            ),
            (RawBackend { wg_ip: Some("0.0.0.0".into()), ..row() }, "backend \"b1\": wg_ip 0.0.0.0 cannot be dialled"),
            (RawBackend { port: Some(0), ..row() }, "backend \"b1\": port 0 is not in 1 to 65535"),
            (RawBackend { port: Some(70_000), ..row() }, "backend \"b1\": port 70000 is not in 1 to 65535"),
            (RawBackend { port: None, ..row() }, "backend \"b1\": port is NULL; it must be a number from 1 to 65535"),
            (RawBackend { healthy: Some(2), ..row() }, "backend \"b1\": healthy 2 is not in 0 to 1"),
            (RawBackend { weight: Some(-1), ..row() }, "backend \"b1\": weight -1 is not in 0 to 1000"),
            (RawBackend { soft_limit: Some(0), ..row() }, "backend \"b1\": soft_limit 0 is not in 1 to 10000000"),
            (
                RawBackend { hard_limit: Some(i64::MAX), ..row() },
                "backend \"b1\": hard_limit 9223372036854775807 is not in 1 to 10000000",
            ),
        ];
        for (raw, message) in broken {
            assert_eq!(raw.check().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn weight_zero_and_the_drain_mark_keep_new_clients_out() {
        assert!(!RawBackend { weight: Some(0), ..row() }.check().unwrap().accepts_new());
        assert!(!RawBackend { drained: Some(1), ..row() }.check().unwrap().accepts_new());
        assert!(!RawBackend { healthy: Some(0), ..row() }.check().unwrap().accepts_new());
    }
}
