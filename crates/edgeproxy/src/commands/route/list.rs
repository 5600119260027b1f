//! `list`: what the table holds.

use edgeproxy_route::{Backend, BackendError};
use serde::Serialize;

use super::Failure;
use super::source::{self, SourceFlags};
use crate::commands::{columns, say};

/// Shows the backends
#[derive(clap::Args)]
pub(super) struct List {
    /// Those of this app only
    #[arg(long, value_parser = source::name)]
    app: Option<String>,
    /// Those in this region only
    #[arg(long, value_name = "CODE", value_parser = source::name)]
    region: Option<String>,
    /// Answer in JSON, which `import` takes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: SourceFlags,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answer<'a> {
    items: Vec<Item<'a>>,
    /// Rows that no client is sent to.
    rejected: &'a [BackendError],
}

/// A backend by the table's column names.
#[derive(Serialize)]
struct Item<'a> {
    id: &'a str,
    app: &'a str,
    region: &'a str,
    /// Left out where the table has no such column: then each serves the country of its region, which null denies.
    #[serde(skip_serializing_if = "Option::is_none")]
    country: Option<Option<String>>,
    wg_ip: String,
    port: u16,
    healthy: bool,
    drained: bool,
    weight: u32,
    soft_limit: u32,
    hard_limit: u32,
    heartbeat_secs: Option<u32>,
    state: &'static str,
}

impl List {
    pub(super) fn run(self) -> Result<(), Failure> {
        let source = self.source.read()?;
        let mut loaded = source.load()?;
        loaded.backends.retain(|backend| {
            let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
            is(&self.app, &backend.app) && is(&self.region, &backend.region)
        });
        if self.json {
            let items = loaded.backends.iter().map(|backend| Item::of(backend, loaded.has_country)).collect();
            say::json(&Answer { items, rejected: &loaded.rejected });
            return Ok(());
        }
        let names = ["id", "app", "region", "country", "address", "state", "weight", "soft", "hard"];
        columns::print(names, &[6, 7, 8], loaded.backends.iter().map(row).collect());
        if loaded.backends.is_empty() {
            let which = if self.app.is_some() || self.region.is_some() { "such backends" } else { "backends" };
            say::note(format_args!("{} holds no {which}", source.db.display()));
        }
        source.tell_rejected(&loaded);
        source.tell_unknown_regions(&loaded.backends);
        Ok(())
    }
}

fn row(backend: &Backend) -> [String; 9] {
    [
        backend.id.clone(),
        backend.app.clone(),
        backend.region.clone(),
        backend.country.map_or_else(|| "-".to_owned(), |country| country.to_string()),
        backend.addr.to_string(),
        state(backend).to_owned(),
        backend.limits.weight.to_string(),
        backend.limits.soft.to_string(),
        backend.limits.hard.to_string(),
    ]
}

/// What the operator has said of it. What checks find is known to the running proxy only.
fn state(backend: &Backend) -> &'static str {
    match backend {
        Backend { healthy: false, .. } => "unhealthy",
        Backend { drained: true, .. } => "drained",
        b if b.limits.weight == 0 => "weight 0",
        _ => "in service",
    }
}

impl<'a> Item<'a> {
    fn of(backend: &'a Backend, has_country: bool) -> Self {
        Self {
            id: &backend.id,
            app: &backend.app,
            region: &backend.region,
            country: has_country.then(|| backend.country.map(|country| country.to_string())),
            wg_ip: backend.addr.0.ip().to_string(),
            port: backend.addr.0.port(),
            healthy: backend.healthy,
            drained: backend.drained,
            weight: backend.limits.weight,
            soft_limit: backend.limits.soft,
            hard_limit: backend.limits.hard,
            heartbeat_secs: backend.heartbeat_secs,
            state: state(backend),
        }
    }
}
