//! `edgeproxy check`: reads everything `proxy` or `gateway` would, tells every mistake, and binds nothing.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use edgeproxy_route::{BackendError, Regions, StatePool, Table, TableBuilder};
use edgeproxy_store::RoutingDb;
use serde::Serialize;

mod hub;

use super::{BAD_USAGE, say, unknown_region};
use crate::config::{Config, ConnectionLog, Problem, ProxyFlags, Role, Setting, reference};
use crate::running::load_geo;
use hub::Hub;

/// Reads the configuration and the files it names, and tells every mistake; if there is none, what applies and who set
/// it. Nothing is bound. Takes the flags of `proxy`; those of them that `gateway` has mean the same with --gateway.
#[derive(clap::Args)]
pub(crate) struct Check {
    #[command(flatten)]
    flags: ProxyFlags,
    /// Check what `edgeproxy gateway` would read, instead of `edgeproxy proxy`
    #[arg(long)]
    gateway: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    /// Print the reference page of all settings, in Markdown, and nothing else
    #[arg(long)]
    reference: bool,
}

/// What `--json` prints.
#[derive(Serialize, Default)]
struct Report {
    ok: bool,
    /// Mistakes of the configuration. When there are any, the rest is empty.
    problems: Vec<Problem>,
    settings: Vec<Setting>,
    routing: Option<Routing>,
    geo: Option<Geo>,
    /// What a gateway reads instead of a routing table.
    gateway: Option<Hub>,
    /// Why the connection log cannot be written to its file.
    connection_log_error: Option<String>,
    /// What stops nothing and should be known.
    notices: Vec<String>,
}

/// What the routing table is worth.
#[derive(Serialize)]
struct Routing {
    path: PathBuf,
    backends: usize,
    rejected: Vec<Rejected>,
    /// Why the file as a whole is of no use.
    error: Option<String>,
}

#[derive(Serialize)]
struct Rejected {
    id: String,
    field: &'static str,
    rule: String,
}

/// What the geo table is worth.
#[derive(Serialize)]
struct Geo {
    /// `None`: the table inside the binary.
    path: Option<PathBuf>,
    description: Option<String>,
    error: Option<String>,
}

impl Check {
    /// Exit code 0 when all is well, 1 when a file is of no use or has bad rows, 2 when the configuration is bad.
    pub(crate) fn run(self) -> ExitCode {
        if self.reference {
            say::line(reference().trim_end());
            return ExitCode::SUCCESS;
        }
        let role = if self.gateway { Role::Gateway } else { Role::Proxy };
        let report = match Config::load(role, &self.flags, std::env::vars_os()) {
            Ok(config) => Report::of(config),
            Err(problems) => Report { problems, ..Report::default() },
        };
        if self.json {
            say::json(&report);
        } else {
            report.print();
        }
        match report {
            Report { ok: true, .. } => ExitCode::SUCCESS,
            Report { problems, .. } if problems.is_empty() => ExitCode::FAILURE,
            _ => ExitCode::from(BAD_USAGE),
        }
    }
}

impl Report {
    fn of(config: Config) -> Self {
        let mut notices = config.notices.clone();
        let (routing, gateway) = match config.role {
            Role::Proxy => {
                let (routing, table) = Routing::of(&config);
                notices.extend(table.iter().flat_map(|table| unreached(&config, table)));
                (Some(routing), None)
            }
            Role::Gateway => (None, Some(Hub::of(&config))),
        };
        notices.extend(gateway.iter().flat_map(|hub| hub.notes.clone()));
        let connection_log_error = unwritable(&config.log.connections);
        let geo = Geo::of(config.routing.geoip);
        let routing_is_good =
            routing.as_ref().is_none_or(|routing| routing.error.is_none() && routing.rejected.is_empty());
        let gateway_is_good = gateway.as_ref().is_none_or(|hub| hub.errors.is_empty());
        let ok = routing_is_good && gateway_is_good && geo.error.is_none() && connection_log_error.is_none();
        let (problems, settings, geo) = (Vec::new(), config.settings, Some(geo));
        Self { ok, problems, settings, routing, geo, gateway, connection_log_error, notices }
    }

    fn print(&self) {
        for problem in &self.problems {
            say::mistake(problem);
        }
        let rows: Vec<[String; 3]> = self.settings.iter().map(row).collect();
        say::table(["setting", "value", "from"], &rows);
        if let Some(routing) = &self.routing {
            routing.print();
        }
        if let Some(geo) = &self.geo {
            geo.print();
        }
        if let Some(hub) = &self.gateway {
            hub.print();
        }
        if let Some(error) = &self.connection_log_error {
            say::mistake(format_args!("connection log: {error}"));
        }
        for notice in &self.notices {
            say::line(format_args!("note: {notice}"));
        }
    }
}

fn row(setting: &Setting) -> [String; 3] {
    let value = setting.value.clone().unwrap_or_else(|| format!("({})", setting.meaning));
    [setting.key.clone(), value, setting.origin.to_string()]
}

/// Apps without a backend and regions without a place: both are served badly, and neither is an error, as rows come and
/// go while we run.
fn unreached(config: &Config, table: &Table) -> Vec<String> {
    let listeners = config.proxy.listeners.iter().enumerate().map(|(i, listener)| ("listener", i, &listener.app));
    let checks = config.proxy.checks.iter().enumerate().map(|(i, check)| ("check", i, &check.app));
    let without_backend = listeners.chain(checks).filter_map(|(what, i, app)| {
        let app = app.as_ref().filter(|app| !table.backends().any(|(backend, _)| backend.app == **app))?;
        Some(format!("{what}[{i}] is for app {app:?}, which no backend has"))
    });
    without_backend.chain(table.unknown_regions().into_iter().map(unknown_region)).collect()
}

/// What keeps the connection log from its file, as far as can be told without making one.
fn unwritable(log: &ConnectionLog) -> Option<String> {
    let ConnectionLog::File(path) = log else { return None };
    let error = if path.exists() {
        OpenOptions::new().append(true).open(path).err()?
    } else {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).err()?.into()
    };
    Some(format!("{}: cannot be written: {error}", path.display()))
}

impl Routing {
    fn of(config: &Config) -> (Self, Option<Table>) {
        let path = config.routing.db.clone();
        let loaded = match RoutingDb::open(&path).and_then(|db| db.load()) {
            Ok(loaded) => loaded,
            Err(error) => {
                let error = Some(error.to_string());
                return (Self { path, backends: 0, rejected: Vec::new(), error }, None);
            }
        };
        let backends = loaded.backends.len();
        let rejected = loaded.rejected.into_iter().map(Rejected::from).collect();
        let builder = TableBuilder {
            pop_region: config.proxy.region.clone(),
            regions: Regions::with(config.routing.regions.iter().cloned()),
            has_country: loaded.has_country,
            states: Arc::new(StatePool::default()),
        };
        match builder.build(loaded.backends) {
            Ok(table) => (Self { path, backends, rejected, error: None }, Some(table)),
            Err(error) => (Self { path, backends, rejected, error: Some(error.to_string()) }, None),
        }
    }

    fn print(&self) {
        if let Some(error) = &self.error {
            return say::mistake(format_args!("routing table: {error}"));
        }
        let path = self.path.display();
        say::line(format_args!("routing table: {path}, {} backends, {} rejected", self.backends, self.rejected.len()));
        for Rejected { id, field, rule } in &self.rejected {
            say::mistake(format_args!("{path}: backend {id:?}: {field} {rule}"));
        }
    }
}

impl From<BackendError> for Rejected {
    fn from(BackendError { id, field, rule }: BackendError) -> Self {
        Self { id, field, rule }
    }
}

impl Geo {
    fn of(path: Option<PathBuf>) -> Self {
        match load_geo(path.as_deref()) {
            Ok(table) => Self { path, description: Some(table.description()), error: None },
            Err(error) => Self { path, description: None, error: Some(error) },
        }
    }

    fn print(&self) {
        match (&self.description, &self.error) {
            (_, Some(error)) => say::mistake(format_args!("geo table: {error}")),
            (Some(description), None) => say::line(format_args!("geo table: {description}")),
            (None, None) => {}
        }
    }
}
