//! A row of the routing table, whatever another program wrote into it.
//!
//! - A row is refused in one line that quotes what it says, or is a backend that can be dialled.
//! - What passed, written back, passes again as the same backend.

use arbitrary::{Arbitrary, Unstructured};
use edgeproxy_route::{Backend, RawBackend};

#[derive(Arbitrary, Debug)]
struct Row {
    id: Option<String>,
    app: Option<String>,
    region: Option<String>,
    country: Option<String>,
    wg_ip: Option<Address>,
    port: Option<Number>,
    healthy: Option<Number>,
    weight: Option<Number>,
    limits: (Option<Number>, Option<Number>),
    drained: Option<Number>,
    heartbeat_secs: Option<Number>,
}

#[derive(Arbitrary, Debug)]
enum Address {
    Text(String),
    V4([u8; 4]),
    V6([u16; 8]),
    Mapped([u8; 4]),
}

/// Near the bounds of columns more often than chance has it.
#[derive(Arbitrary, Debug)]
enum Number {
    Small(u8),
    Medium(u16),
    Any(i64),
}

impl From<Number> for i64 {
    fn from(number: Number) -> Self {
        match number {
            Number::Small(number) => number.into(),
            Number::Medium(number) => number.into(),
            Number::Any(number) => number,
        }
    }
}

impl From<Row> for RawBackend {
    fn from(row: Row) -> Self {
        let number = |number: Option<Number>| number.map(i64::from);
        Self {
            id: row.id,
            app: row.app,
            region: row.region,
            country: row.country,
            wg_ip: row.wg_ip.map(|address| match address {
                Address::Text(text) => text,
                Address::V4(ip) => std::net::Ipv4Addr::from(ip).to_string(),
                Address::V6(ip) => std::net::Ipv6Addr::from(ip).to_string(),
                Address::Mapped(ip) => std::net::Ipv4Addr::from(ip).to_ipv6_mapped().to_string(),
            }),
            port: number(row.port),
            healthy: number(row.healthy),
            weight: number(row.weight),
            soft_limit: number(row.limits.0),
            hard_limit: number(row.limits.1),
            drained: number(row.drained),
            heartbeat_secs: number(row.heartbeat_secs),
        }
    }
}

/// Whatever bytes, taken as the fields of a row: see the head of this module.
pub fn backend_row(data: &[u8]) {
    let Ok(row) = Row::arbitrary(&mut Unstructured::new(data)) else { return };
    check(row.into());
}

/// Also for rows that came by another way.
pub(crate) fn check(raw: RawBackend) {
    match raw.check() {
        Err(error) => crate::assert_one_line(&error.to_string()),
        Ok(backend) => {
            let ip = backend.addr.0.ip().to_canonical();
            assert!(!ip.is_unspecified() && !ip.is_multicast() && backend.addr.0.port() != 0, "{}", backend.addr);
            for name in [&backend.id, &backend.app, &backend.region] {
                assert!((1..=128).contains(&name.len()));
                crate::assert_one_line(name);
            }
            let again = written_back(&backend).check();
            assert_eq!(again.as_ref(), Ok(&backend));
        }
    }
}

fn written_back(backend: &Backend) -> RawBackend {
    RawBackend {
        id: Some(backend.id.clone()),
        app: Some(backend.app.clone()),
        region: Some(backend.region.clone()),
        country: backend.country.map(|country| country.to_string()),
        wg_ip: Some(backend.addr.0.ip().to_string()),
        port: Some(backend.addr.0.port().into()),
        healthy: Some(backend.healthy.into()),
        weight: Some(backend.limits.weight.into()),
        soft_limit: Some(backend.limits.soft.into()),
        hard_limit: Some(backend.limits.hard.into()),
        drained: Some(backend.drained.into()),
        heartbeat_secs: backend.heartbeat_secs.map(i64::from),
    }
}
