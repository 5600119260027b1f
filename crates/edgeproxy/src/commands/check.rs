//! `edgeproxy check`: reads everything `proxy` would, tells every mistake, and binds nothing.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use edgeproxy_route::{BackendError, GeoTable, Regions};
use edgeproxy_store::{Loaded, RoutingDb};
use serde::Serialize;

use super::say;
use crate::config::{Config, Problem, ProxyFlags, Setting, reference};

/// Exit code of bad usage or configuration.
const BAD_CONFIG: u8 = 2;

/// Reads the configuration and the files it names, and tells every mistake; if there is none, what applies and who set
/// it. Nothing is bound. Takes the flags of `proxy`.
#[derive(clap::Args)]
pub(crate) struct Check {
    #[command(flatten)]
    flags: ProxyFlags,
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
        let report = match Config::load(&self.flags, std::env::vars_os()) {
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
            _ => ExitCode::from(BAD_CONFIG),
        }
    }
}

impl Report {
    fn of(config: Config) -> Self {
        let mut notices = config.notices.clone();
        let loaded = RoutingDb::open(&config.routing.db).and_then(|db| db.load());
        if let Ok(loaded) = &loaded {
            notices.extend(unreached(&config, loaded));
        }
        let routing = Routing::of(config.routing.db, loaded.map_err(|error| error.to_string()));
        let geo = Geo::of(config.routing.geoip);
        let ok = routing.error.is_none() && routing.rejected.is_empty() && geo.error.is_none();
        let settings = config.settings;
        Self { ok, problems: Vec::new(), settings, routing: Some(routing), geo: Some(geo), notices }
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
fn unreached(config: &Config, loaded: &Loaded) -> Vec<String> {
    let listeners = config.proxy.listeners.iter().enumerate().map(|(i, listener)| ("listener", i, &listener.app));
    let checks = config.proxy.checks.iter().enumerate().map(|(i, check)| ("check", i, &check.app));
    let without_backend = listeners.chain(checks).filter_map(|(what, i, app)| {
        let app = app.as_ref().filter(|app| !loaded.backends.iter().any(|backend| backend.app == **app))?;
        Some(format!("{what}[{i}] is for app {app:?}, which no backend has"))
    });
    let regions = Regions::with(config.routing.regions.iter().cloned());
    let mut nowhere: Vec<&str> = loaded.backends.iter().map(|backend| backend.region.as_str()).collect();
    nowhere.retain(|region| regions.get(region).point.is_none());
    nowhere.sort_unstable();
    nowhere.dedup();
    let without_place = nowhere.into_iter().map(|region| {
        format!("backends are in region {region:?}, of which nothing is known: declare it by [[routing.region]]")
    });
    without_backend.chain(without_place).collect()
}

impl Routing {
    fn of(path: PathBuf, loaded: Result<Loaded, String>) -> Self {
        match loaded {
            Ok(loaded) => {
                let rejected = loaded.rejected.into_iter().map(Rejected::from).collect();
                Self { path, backends: loaded.backends.len(), rejected, error: None }
            }
            Err(error) => Self { path, backends: 0, rejected: Vec::new(), error: Some(error) },
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
        let table = match &path {
            None => Ok(GeoTable::embedded()),
            Some(path) => fs::read(path)
                .map_err(|error| format!("{}: cannot be read: {error}", path.display()))
                .and_then(|bytes| GeoTable::from_mmdb(bytes).map_err(|error| format!("{}: {error}", path.display()))),
        };
        match table {
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
