//! Section `routing`: where backends and places come from.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use edgeproxy_route::{CustomRegion, Point};

use super::reader::Reader;

/// Sources of the routing table.
#[derive(Clone, Debug)]
pub(crate) struct RoutingSettings {
    /// The SQLite file.
    pub(crate) db: PathBuf,
    /// Time between two looks for a change that no event told of.
    pub(crate) poll: Duration,
    /// A MaxMind-format file; `None`: the table inside the binary.
    pub(crate) geoip: Option<PathBuf>,
    /// Regions beside the built-in ones.
    pub(crate) regions: Vec<CustomRegion>,
    /// Seconds a registered backend stays without a heartbeat, if it did not say.
    pub(crate) heartbeat_ttl: u32,
}

pub(super) fn read(reader: &mut Reader<'_>) -> RoutingSettings {
    let mut section = reader.section("routing");
    let db = section.path("db").unwrap_or_default();
    let poll = section.duration("poll");
    let geoip = section.path("geoip");
    let heartbeat = section.duration("heartbeat_ttl");
    if heartbeat.subsec_nanos() != 0 {
        section.complain("heartbeat_ttl", "is not a whole number of seconds".to_owned());
    }
    let heartbeat_ttl = u32::try_from(heartbeat.as_secs()).unwrap_or(u32::MAX);
    RoutingSettings { db, poll, geoip, regions: read_regions(reader), heartbeat_ttl }
}

fn read_regions(reader: &mut Reader<'_>) -> Vec<CustomRegion> {
    let tables = reader.count("routing.region");
    let mut seen = BTreeMap::new();
    let mut read = |index| {
        let mut section = reader.nth("routing.region", index);
        let code = section.text("code");
        let point = Point::from_degrees(section.number("latitude"), section.number("longitude"));
        let country = section.country("country");
        let code = code?;
        if let Some(other) = seen.insert(code.clone(), index) {
            section.complain("code", format!("{code:?} is declared by routing.region[{other}] already"));
        }
        Some(CustomRegion { code, point: point?, country: country? })
    };
    // Those left out have told why.
    (0..tables).filter_map(&mut read).collect()
}
