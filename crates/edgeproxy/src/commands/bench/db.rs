//! `db`: what a database takes, from every region.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use clap::builder::RangedU64ValueParser;
use edgeproxy_bench::Summary;
use edgeproxy_bench::db::{ITERATIONS_DEFAULT, ITERATIONS_MOST, Mode, Order, Plan, ReadKind};
use edgeproxy_bench::fleet::{self, Course, Fleet, Measured, Origin, PARALLEL, PORT, Run, Site};
use edgeproxy_bench::report::{self, Marks};
use tokio::signal::unix::{SignalKind, signal};

use super::progress::Progress;
use super::tunnel::{Planned, Tunnel};
use crate::commands::{Failure, columns, say, variable};
use crate::telemetry;

/// Measures a database from every region by the services there (`edgeproxy backend`)
///
/// Without --fleet the ten regions at the addresses that `edgeproxy overlay init` gives them. One that does not answer is a
/// row as well. Exit code 1 when none does.
#[derive(clap::Args)]
pub(super) struct Db {
    /// Who is asked: a TOML file with region, address, location and country of each [[site]]
    #[arg(long, value_name = "FILE")]
    fleet: Option<PathBuf>,
    #[command(flatten)]
    tunnel: Tunnel,
    /// Region of this machine, for a folder given by --overlay
    #[arg(long, value_name = "CODE", default_value = "local")]
    region: String,
    /// Ask whoever a proxy chooses for this machine
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["backend", "fleet"])]
    via: Option<String>,
    /// Ask this one service
    #[arg(long, value_name = "URL", conflicts_with = "fleet")]
    backend: Option<String>,
    /// Reads, and inserts, of a request
    #[arg(long, value_name = "N", default_value_t = ITERATIONS_DEFAULT as u64, value_parser = RangedU64ValueParser::<u64>::new().range(1..=ITERATIONS_MOST as u64))]
    iterations: u64,
    /// Requests to each site, one after another
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<u64>::new().range(1..=1000))]
    requests: u64,
    /// Sites that are asked at once; they begin at the same moment
    #[arg(long, value_name = "N", default_value_t = PARALLEL as u64, value_parser = RangedU64ValueParser::<u64>::new().range(1..=1000))]
    parallel: u64,
    /// How statements are sent: in one flight, or as lib/pq does
    #[arg(long, value_enum, default_value_t = ModeFlag::One)]
    mode: ModeFlag,
    /// What is read: the number of rows, or 1
    #[arg(long, value_enum, default_value_t = ReadFlag::Count)]
    read: ReadFlag,
    /// Where reads go: to the database, or to the replica that is near each service
    #[arg(long, value_enum, default_value_t = ReadsFlag::Primary)]
    reads: ReadsFlag,
    /// Reads and inserts in turn, or one after the other [default: interleaved; blocks with --mode pq]
    #[arg(long, value_enum)]
    order: Option<OrderFlag>,
    /// Three rounds before those that count [default: on; off with --mode pq]
    #[arg(long, value_enum)]
    warm_up: Option<Switch>,
    /// Only reads and inserts
    #[arg(long)]
    no_phases: bool,
    /// What the sites are together, for the title
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
    /// Where the database is, for the title
    #[arg(long, value_name = "TEXT")]
    database: Option<String>,
    /// No flags and no arrows
    #[arg(long)]
    ascii: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    /// Write a line for each site and operation
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the charts
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write a page with everything on it
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Save the run and all its forms, for `bench compare`
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeFlag {
    One,
    Pq,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReadFlag {
    Count,
    One,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReadsFlag {
    Primary,
    Near,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OrderFlag {
    Interleaved,
    Blocks,
}

impl Db {
    pub(super) fn run(self) -> Result<(), Failure> {
        let fleet = self.fleet()?;
        // Before any thread is started.
        let tunnel = self.tunnel.plan(&fleet.sites, &self.region)?;
        let level = variable("EDGEPROXY_LOG").and_then(|level| level.into_string().ok());
        telemetry::start_log(&telemetry::of_level(level.unwrap_or_else(|| "warn".to_owned())));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
        let run = runtime.block_on(self.measure(&fleet, tunnel))?;
        let run = if self.via.is_some() { located(run) } else { run };
        // First of all: what was measured must not be lost with a file that cannot be written.
        if self.json {
            say::json(&run);
        } else {
            self.print(&run);
        }
        report::notes(&run).into_iter().for_each(say::note);
        self.write(&run)?;
        match run.rows.iter().filter(|row| row.measured().is_some()).count() {
            0 => Err(Failure::Failed("nothing was measured".to_owned())),
            _ => Ok(()),
        }
    }

    fn fleet(&self) -> Result<Fleet, Failure> {
        let mut fleet = match (&self.fleet, self.via.as_ref().or(self.backend.as_ref())) {
            (Some(path), _) => Fleet::read(path).map_err(|error| Failure::Usage(error.to_string()))?,
            (None, Some(address)) => {
                Origin::at(address, PORT).map_err(|error| Failure::Usage(error.to_string()))?;
                let site = Site {
                    name: address.clone(),
                    region: String::new(),
                    address: address.clone(),
                    location: String::new(),
                    country: String::new(),
                };
                Fleet { source: None, database: None, sites: vec![site] }
            }
            (None, None) => Fleet::default(),
        };
        fleet.source = self.source.clone().or(fleet.source);
        fleet.database = self.database.clone().or(fleet.database);
        Ok(fleet)
    }

    fn course(&self) -> Course {
        let mode = if self.mode == ModeFlag::Pq { Mode::Pq } else { Mode::One };
        let order = match (self.order, mode) {
            (Some(OrderFlag::Interleaved), _) | (None, Mode::One) => Order::Interleaved,
            _ => Order::Blocks,
        };
        let plan = Plan {
            iterations: usize::try_from(self.iterations).unwrap_or(ITERATIONS_MOST),
            mode,
            read: if self.read == ReadFlag::One { ReadKind::One } else { ReadKind::Count },
            near: self.reads == ReadsFlag::Near,
            order,
            warm_up: self.warm_up.map_or(mode == Mode::One, |switch| switch == Switch::On),
            phases: !self.no_phases,
            ..Plan::default()
        };
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Course { plan, requests: count(self.requests), parallel: count(self.parallel) }
    }

    async fn measure(&self, fleet: &Fleet, tunnel: Planned) -> Result<Run, Failure> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::from_display)?;
        let ways = Arc::new(tunnel.up()?);
        let course = self.course();
        let progress = Progress::new(fleet.sites.len(), course.requests);
        tokio::select! {
            run = fleet::run(fleet, &course, ways, |news| progress.tell(&news)) => Ok(run),
            _ = interrupt.recv() => {
                drop(progress);
                let advice = "stopped; nothing is saved, and the services remove their rows by themselves";
                Err(Failure::Failed(advice.to_owned()))
            }
        }
    }

    fn write(&self, run: &Run) -> Result<(), Failure> {
        let put = |path: &Path, text: String| {
            fs::write(path, text).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
        };
        if let Some(path) = &self.csv {
            put(path, report::csv(run))?;
        }
        if let Some(path) = &self.svg {
            put(path, report::chart(run).map_err(Failure::from_display)?)?;
        }
        if let Some(path) = &self.html {
            put(path, report::page(run).map_err(Failure::from_display)?)?;
        }
        if let Some(folder) = &self.out {
            report::save(run, folder).map_err(Failure::from_display)?;
        }
        Ok(())
    }

    fn print(&self, run: &Run) {
        let marks = if self.ascii { Marks::Ascii } else { Marks::Unicode };
        if self.backend.is_some() {
            let rows = run.rows.iter().filter_map(|row| row.measured()).map(summary).collect();
            columns::print(["region", "insert_avg_ms", "read_avg_ms"], &[1, 2], rows);
        } else {
            say::line(report::table(run, marks));
            say::line(report::ranked(run, marks).trim_end());
        }
        say::line(format_args!("\nLike beside like, in ms; n/a: the sample does not carry it.\n"));
        say::line(report::honest(run).markdown().trim_end());
    }
}

/// Averages, as published for a single backend; of what has failed there is none.
fn summary(measured: &Measured) -> [String; 3] {
    use edgeproxy_bench::db::Operation::{Insert, Read};
    let mean = |operation| match measured.sample(operation).summary() {
        Summary { count: 0, .. } => "ERROR".to_owned(),
        Summary { mean, .. } => format!("{mean:.2}"),
    };
    [measured.region.clone(), mean(Insert), mean(Read)]
}

/// What a proxy has chosen stands where its region does in the world.
fn located(mut run: Run) -> Run {
    let fleet = Fleet::default();
    for row in &mut run.rows {
        if let Some(region) = row.measured().map(|measured| measured.region.clone()) {
            row.site = fleet.site_of(&region, &row.site.address);
        }
    }
    run
}
