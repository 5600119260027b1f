//! Sections `proxy` and `outlier`, and the settings of the data path as a whole.

use std::num::NonZero;
use std::thread;

use edgeproxy_proxy::ProxySettings;
use edgeproxy_route::OutlierPolicy;

use super::Role;
use super::listener::{check_roles, read_checks, read_listeners};
use super::reader::Reader;

/// A gateway's region where nobody says otherwise: it is told in its log only.
const GATEWAY: &str = "hub";

pub(super) fn read(reader: &mut Reader<'_>, role: Role) -> ProxySettings {
    let mut top = reader.section("");
    let region = match role {
        Role::Gateway if !top.is_set("region") => GATEWAY.to_owned(),
        _ => top.text("region").unwrap_or_default(),
    };
    let listeners = match role {
        Role::Proxy => read_listeners(reader),
        Role::Gateway => Vec::new(),
    };
    let checks = read_checks(reader);
    check_roles(reader, &listeners, &checks);
    let mut section = reader.section("proxy");
    ProxySettings {
        region,
        threads: match section.count("threads") {
            0 => thread::available_parallelism().map_or(1, NonZero::get),
            threads => threads,
        },
        max_connections: section.count("max_connections"),
        drain_timeout: section.duration("drain_timeout"),
        drain_delay: section.duration("drain_delay"),
        listeners,
        checks,
        outlier: read_outlier(reader),
    }
}

fn read_outlier(reader: &mut Reader<'_>) -> OutlierPolicy {
    let mut section = reader.section("outlier");
    let policy = OutlierPolicy {
        consecutive_failures: section.count("consecutive_failures"),
        failure_ratio: section.number("failure_ratio"),
        window_volume: section.count("window_volume"),
        window: section.duration("window"),
        base_pause: section.duration("base_pause"),
        max_pause: section.duration("max_pause"),
    };
    if !policy.max_pause.is_zero() && policy.base_pause > policy.max_pause {
        let message = format!(
            "{} is longer than max_pause ({})",
            humantime::format_duration(policy.base_pause),
            humantime::format_duration(policy.max_pause)
        );
        section.complain("base_pause", message);
    }
    policy
}
