//! Sections `proxy` and `outlier`, and the settings of the data path as a whole.

use std::num::NonZero;
use std::thread;

use edgeproxy_proxy::ProxySettings;
use edgeproxy_route::OutlierPolicy;

use super::listener::{read_checks, read_listeners};
use super::reader::Reader;

pub(super) fn read(reader: &mut Reader<'_>) -> ProxySettings {
    let region = reader.section("").text("region").unwrap_or_default();
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
        listeners: read_listeners(reader),
        checks: read_checks(reader),
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
