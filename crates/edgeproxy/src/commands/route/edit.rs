//! `add`, `set` and `rm`.

use std::net::SocketAddr;

use edgeproxy_route::{Backend, RawBackend};
use edgeproxy_store::RoutingEditor;

use super::Failure;
use super::source::{self, Source, SourceFlags};
use crate::commands::say;

/// Adds a backend; makes the table if there is none
#[derive(clap::Args)]
pub(super) struct Add {
    /// Name, unique in the table
    #[arg(value_parser = source::name)]
    id: String,
    /// Region code, such as fra
    #[arg(long, value_name = "CODE", value_parser = source::name)]
    region: String,
    /// What to dial
    #[arg(long, value_name = "IP:PORT")]
    addr: SocketAddr,
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    source: SourceFlags,
}

/// Changes a backend: what is given, and nothing else
#[derive(clap::Args)]
pub(super) struct Set {
    /// Its name
    #[arg(value_parser = source::name)]
    id: String,
    /// Region code, such as fra
    #[arg(long, value_name = "CODE", value_parser = source::name)]
    region: Option<String>,
    /// What to dial
    #[arg(long, value_name = "IP:PORT")]
    addr: Option<SocketAddr>,
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    source: SourceFlags,
}

/// Removes backends: all of these, or none when one of them is not there. Their open connections go on
#[derive(clap::Args)]
pub(super) struct Rm {
    /// Their names
    #[arg(required = true, value_name = "ID", value_parser = source::name)]
    ids: Vec<String>,
    #[command(flatten)]
    source: SourceFlags,
}

/// What a backend may have beside its region and address.
#[derive(clap::Args, PartialEq, Default)]
struct Fields {
    /// Group of interchangeable backends [new ones: default]
    #[arg(long, value_parser = source::name)]
    app: Option<String>,
    /// Country it serves first, two letters, or '' for none [new ones: that of the region]
    #[arg(long, value_name = "CC", value_parser = source::country)]
    country: Option<String>,
    /// Share of the load beside its neighbours, 0 to 1000; 0: no new clients [new ones: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    weight: Option<i64>,
    /// Connections from which on the next nearest is preferred [new ones: 100]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    soft: Option<i64>,
    /// Most connections at any time [new ones: 150]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    hard: Option<i64>,
    /// Whether it may get clients [new ones: true]
    #[arg(long, value_name = "BOOL")]
    healthy: Option<bool>,
    /// Whether it gets no new clients while those it has stay [new ones: false]
    #[arg(long, value_name = "BOOL")]
    drained: Option<bool>,
    /// Seconds without a heartbeat after which it counts as down; 0: none is expected [new ones: 0]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    heartbeat: Option<i64>,
}

impl Add {
    pub(super) fn run(self) -> Result<(), Failure> {
        let source = self.source.read()?;
        let is_new = !source.db.exists();
        let editor = RoutingEditor::create(&source.db).map_err(Failure::from_display)?;
        if is_new {
            say::note(format_args!("{} is new", source.db.display()));
        }
        let raw = RawBackend { id: Some(self.id), ..self.fields.raw(Some(self.region), Some(self.addr)) };
        let added = editor.with_regions(source.regions.clone()).add(raw).map_err(Failure::from_display)?;
        tell(&source, "added", &added);
        Ok(())
    }
}

impl Set {
    pub(super) fn run(self) -> Result<(), Failure> {
        let source = self.source.read()?;
        if self.region.is_none() && self.addr.is_none() && self.fields == Fields::default() {
            return Err(Failure::Usage("nothing to set; name what to change, such as --weight 2".to_owned()));
        }
        let fields = self.fields.raw(self.region, self.addr);
        let set = editor(&source)?.set(&self.id, fields).map_err(Failure::from_display)?;
        tell(&source, "set", &set);
        Ok(())
    }
}

impl Rm {
    pub(super) fn run(self) -> Result<(), Failure> {
        let source = self.source.read()?;
        let ids: Vec<&str> = self.ids.iter().map(String::as_str).collect();
        editor(&source)?.remove(&ids).map_err(Failure::from_display)?;
        for id in ids {
            say::line(format_args!("removed {id}"));
        }
        Ok(())
    }
}

impl Fields {
    fn raw(self, region: Option<String>, addr: Option<SocketAddr>) -> RawBackend {
        RawBackend {
            id: None,
            app: self.app,
            region,
            country: self.country,
            wg_ip: addr.map(|addr| addr.ip().to_string()),
            port: addr.map(|addr| addr.port().into()),
            healthy: self.healthy.map(i64::from),
            weight: self.weight,
            soft_limit: self.soft,
            hard_limit: self.hard,
            drained: self.drained.map(i64::from),
            heartbeat_secs: self.heartbeat,
        }
    }
}

fn editor(source: &Source) -> Result<RoutingEditor, Failure> {
    let editor = RoutingEditor::open(&source.db).map_err(Failure::from_display)?;
    Ok(editor.with_regions(source.regions.clone()))
}

fn tell(source: &Source, done: &str, backend: &Backend) {
    let Backend { id, app, addr, limits, .. } = backend;
    let place = source::place_of(&source.regions, &backend.region);
    let country = backend.country.map_or_else(|| "no country".to_owned(), |country| format!("country {country}"));
    say::line(format_args!(
        "{done} {id}: {addr} in {place}, {country}, app {app}, weight {}, soft {}, hard {}",
        limits.weight, limits.soft, limits.hard
    ));
    source.tell_unknown_regions([backend]);
}
