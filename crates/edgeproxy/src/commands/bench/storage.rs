//! `storage`: how fast an object store takes data, from here or from every region.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use clap::builder::RangedU64ValueParser;
use edgeproxy_bench::fleet::{Fleet, Origin, PORT, Site};
use edgeproxy_bench::storage::{
    self, Addressing, Checksum, Janitor, MB, Meter, Outcome, Patience, Plan, Question, RETRIES, Report, STREAMS_MOST,
    Setting, Settings, Shape, Store, TOKEN_VARIABLE, parse_size,
};
use parking_lot::Mutex;

use self::progress::Progress;
use super::tunnel::{Planned, Tunnel};
use crate::commands::{Failure, say, variable};
use crate::telemetry;

mod progress;
mod tables;

/// Objects are as large as that in a sweep, unless --size says otherwise.
const SWEEP_SIZE: u64 = 500 * MB;
/// What is left to abort or delete when a run was cut off may take so long.
const TIDY_WITHIN: Duration = Duration::from_secs(10);
/// No object of one run is larger.
const OBJECT_MOST: u64 = 1_000_000 * MB;
const REPEAT_MOST: u64 = 100;
/// This machine, in a folder with a wg-quick file for each region.
const LOCAL: &str = "local";

/// Measures how fast an object store takes data, from here or from every region
///
/// The store is told by the environment: AWS_ENDPOINT_URL_S3, AWS_REGION (auto), AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
/// S3_BUCKET or BUCKET_NAME. Uploads 10 parts of 100 MB, 5 at once, then 1 GB in one request, three times each; the objects
/// are deleted afterwards. With --fleet or --backend the services of regions (`edgeproxy backend`) upload from where they
/// are, with stores and keys of their own. Traffic and requests may cost money.
#[derive(clap::Args)]
pub(super) struct Storage {
    /// Upload in parts, in one request, or both
    #[arg(long, value_enum, default_value_t = Mode::Both)]
    mode: Mode,
    /// Parts of an object
    #[arg(long, value_name = "N", default_value_t = 10)]
    parts: u32,
    /// Bytes of a part; several for --sweep, separated by commas [default: 100MB; 8MiB,25MB,100MB in a sweep]
    #[arg(long, value_name = "SIZE", value_delimiter = ',', value_parser = parse_size)]
    part_size: Vec<u64>,
    /// Parts at once; several for --sweep [default: 5; 1,2,4,8,16 in a sweep]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = RangedU64ValueParser::<u64>::new().range(1..=STREAMS_MOST as u64))]
    streams: Vec<u64>,
    /// Bytes of an object in one request, or of each object of a sweep [default: 1GB; 500MB in a sweep]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,
    /// Every part size with every number of streams, and the best of them
    #[arg(long, conflicts_with_all = ["fleet", "backend"])]
    sweep: bool,
    /// Runs of each
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = RangedU64ValueParser::<u64>::new().range(1..=REPEAT_MOST))]
    repeat: u64,
    /// Further attempts after a failure that may pass; 0 measures without
    #[arg(long, value_name = "N", default_value_t = RETRIES, value_parser = clap::value_parser!(u32).range(0..=20))]
    retries: u32,
    /// Read the object again and compare every byte
    #[arg(long)]
    read_back: bool,
    /// Leave the objects there
    #[arg(long)]
    keep: bool,
    /// Leave what earlier runs left
    #[arg(long)]
    no_sweep_old: bool,
    /// Data of another kind: the same number makes the same bytes
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Have the store check what comes
    #[arg(long, value_enum)]
    checksum: Option<Check>,
    /// Congestion control instead of the system's own, for example cubic, bbr or reno
    #[arg(long, value_name = "NAME", conflicts_with_all = ["fleet", "backend"])]
    congestion: Option<String>,
    /// Instead of AWS_ENDPOINT_URL_S3
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Instead of AWS_REGION
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Instead of S3_BUCKET
    #[arg(long, value_name = "NAME")]
    bucket: Option<String>,
    /// How the bucket is named in requests
    #[arg(long, value_enum, default_value_t = Naming::Auto)]
    addressing: Naming,
    /// An authority beside the system's, in PEM
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Seconds that a request may take; larger bodies have more
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Ask the services of these regions: a TOML file with a [[site]] each
    #[arg(long, value_name = "FILE")]
    fleet: Option<PathBuf>,
    /// Ask this service; may be given several times
    #[arg(long, value_name = "URL", conflicts_with = "fleet")]
    backend: Vec<String>,
    #[command(flatten)]
    tunnel: Tunnel,
    /// Show parts, streams and seconds as well
    #[arg(long)]
    details: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    /// Save the figures, for --compare
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Compare with figures that were saved; exit code 1 when something is slower
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Percent slower that is no regression
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    allow: f64,
    /// Write a chart
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write a page with everything on it
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Parts,
    Single,
    Both,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Check {
    Crc64nvme,
    Crc32,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Naming {
    Auto,
    Path,
    VirtualHost,
}

impl Storage {
    pub(super) fn run(self) -> Result<(), Failure> {
        let plans = self.plans()?;
        let before = self.compare.as_deref().map(read).transpose()?;
        let sites = self.sites()?;
        // Before any thread is started.
        let tunnel = self.tunnel.plan(&sites, LOCAL)?;
        if tunnel.is_some() && sites.is_empty() {
            return Err(Failure::Usage("--overlay leads to services: name them by --fleet or --backend".to_owned()));
        }
        let level = variable("EDGEPROXY_LOG").and_then(|level| level.into_string().ok());
        telemetry::start_log(&telemetry::of_level(level.unwrap_or_else(|| "error".to_owned())));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
        let left = Arc::new(Mutex::new(Vec::new()));
        let janitor = Janitor::new({
            let left = Arc::clone(&left);
            move |stays| left.lock().push(stays)
        });
        let measured = match sites.is_empty() {
            true => runtime.block_on(self.measure(&plans, &janitor)),
            false => runtime.block_on(self.ask(&plans, &sites, tunnel)),
        };
        // However that ended.
        runtime.block_on(janitor.finish(TIDY_WITHIN));
        // Nobody waits for a look-up of a name that nobody wants any more.
        runtime.shutdown_background();
        let left = std::mem::take(&mut *left.lock());
        left.iter().for_each(say::note);
        let report = measured?;
        self.write(&report)?;
        let differences = before.map(|before| storage::compare(&before, &report, self.allow));
        if self.json {
            let comparison = differences.as_ref();
            say::json(&serde_json::json!({ "report": report, "comparison": comparison }));
        } else {
            tables::print(&report, self.details);
            differences.iter().for_each(|differences| tables::print_differences(differences));
        }
        // Told already what stays.
        let notes = report.notes().into_iter().filter(|note| !left.iter().any(|stays| note.ends_with(stays)));
        notes.for_each(say::note);
        if report.best().is_none() {
            return Err(Failure::Failed("nothing was measured".to_owned()));
        }
        if !left.is_empty() {
            return Err(Failure::Failed("measured, and not cleared away".to_owned()));
        }
        match differences.iter().flatten().filter(|difference| difference.regression).count() {
            0 => Ok(()),
            slower => Err(Failure::Failed(format!("{slower} slower than before"))),
        }
    }

    /// In the order they are measured.
    fn plans(&self) -> Result<Vec<Plan>, Failure> {
        let shapes = if self.sweep { self.swept() } else { self.named()? };
        for shape in &shapes {
            shape.check(OBJECT_MOST).map_err(Failure::Usage)?;
        }
        let plan = |shape| Plan {
            shape,
            seed: self.seed,
            keep: self.keep,
            read_back: self.read_back,
            sweep: !self.no_sweep_old,
        };
        Ok(shapes.into_iter().map(plan).collect())
    }

    fn named(&self) -> Result<Vec<Shape>, Failure> {
        if self.part_size.len() > 1 || self.streams.len() > 1 {
            return Err(Failure::Usage("several sizes of parts or numbers of streams are for --sweep".to_owned()));
        }
        let parts = Shape::Parts {
            count: self.parts,
            bytes: self.part_size.first().copied().unwrap_or(100 * MB),
            streams: self.streams.first().map_or(5, |streams| usize::try_from(*streams).unwrap_or(STREAMS_MOST)),
        };
        let single = self.size.map_or(Shape::SINGLE, |bytes| Shape::Single { bytes });
        Ok(match self.mode {
            Mode::Parts => vec![parts],
            Mode::Single => vec![single],
            Mode::Both => vec![parts, single],
        })
    }

    fn swept(&self) -> Vec<Shape> {
        let or = |given: &[u64], usual: &[u64]| if given.is_empty() { usual.to_vec() } else { given.to_vec() };
        let sizes = or(&self.part_size, &[8 << 20, 25 * MB, 100 * MB]);
        let streams = or(&self.streams, &[1, 2, 4, 8, 16]);
        let all = self.size.unwrap_or(SWEEP_SIZE);
        let shape = |bytes: u64, streams: u64| {
            let count = u32::try_from(all.div_ceil(bytes.max(1))).unwrap_or(u32::MAX).max(1);
            Shape::Parts { count, bytes, streams: usize::try_from(streams).unwrap_or(STREAMS_MOST) }
        };
        // More streams than parts are no other setting.
        let pairs = sizes.iter().flat_map(|bytes| streams.iter().map(move |streams| shape(*bytes, *streams)));
        pairs
            .filter(|shape| matches!(shape, Shape::Parts { count, streams, .. } if *streams <= *count as usize))
            .collect()
    }

    fn store(&self) -> Result<Store, Failure> {
        let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
        let mut settings = Settings::from_environment(text);
        settings.endpoint = self.endpoint.clone().or(settings.endpoint);
        settings.region = self.region.clone().or(settings.region);
        settings.bucket = self.bucket.clone().or(settings.bucket);
        settings.ca_file = self.ca_file.clone();
        settings.addressing = match self.addressing {
            Naming::Auto => Addressing::Auto,
            Naming::Path => Addressing::Path,
            Naming::VirtualHost => Addressing::VirtualHost,
        };
        settings.checksum = self.checksum.map(|check| match check {
            Check::Crc64nvme => Checksum::Crc64Nvme,
            Check::Crc32 => Checksum::Crc32,
        });
        settings.congestion = self.congestion.clone();
        let store = settings.store().map_err(|missing| Failure::Usage(missing.join("\nerror: ")))?;
        let patience = Patience { request: Duration::from_secs(self.timeout), ..store.patience };
        Ok(Store { retries: self.retries, patience, ..store })
    }

    /// Round by round, so that a slow minute falls on all of them.
    async fn measure(&self, plans: &[Plan], janitor: &Janitor) -> Result<Report, Failure> {
        let store = Arc::new(self.store()?);
        let started = now();
        let bytes: u64 = plans.iter().map(|plan| plan.shape.bytes() * (1 + u64::from(plan.read_back))).sum();
        let mut progress = Progress::new(bytes * self.repeat);
        let mut runs: Vec<(Vec<Outcome>, Vec<String>)> = vec![Default::default(); plans.len()];
        for round in 1..=self.repeat {
            for (plan, (outcomes, failures)) in plans.iter().zip(&mut runs) {
                let plan = Plan { sweep: plan.sweep && round == 1, ..plan.clone() };
                let meter = Meter::new();
                progress
                    .begin(&format!("round {round}/{}: {}", self.repeat, storage::size(plan.shape.bytes())), &meter);
                tokio::select! {
                    result = storage::upload(&store, &plan, &meter, janitor) => match result {
                        Ok(outcome) => outcomes.push(outcome),
                        Err(failure) => failures.push(format!("{failure}. {}", failure.advice())),
                    },
                    () = progress.watch() => {}
                    _ = tokio::signal::ctrl_c() => {
                        drop(progress);
                        say::aside("interrupted; clearing away what was uploaded");
                        return Err(Failure::Failed("interrupted".to_owned()));
                    }
                }
                progress.end();
                // Nothing will be better in the next round.
                if outcomes.is_empty() && !failures.is_empty() && round == 1 && plans.len() == 1 {
                    return Err(Failure::Failed(failures.concat()));
                }
            }
        }
        drop(progress);
        let settings =
            plans.iter().zip(runs).map(|(plan, (runs, failures))| Setting::new("", plan.shape, runs, failures));
        Ok(Report::new(started, store.endpoint.to_string(), store.region.clone(), settings.collect()))
    }

    fn sites(&self) -> Result<Vec<Site>, Failure> {
        if let Some(path) = &self.fleet {
            return Ok(Fleet::read(path).map_err(|error| Failure::Usage(error.to_string()))?.sites);
        }
        let site = |address: &String| {
            Origin::at(address, PORT).map_err(|error| Failure::Usage(error.to_string()))?;
            Ok(Site {
                name: address.clone(),
                region: address.clone(),
                address: address.clone(),
                location: String::new(),
                country: String::new(),
            })
        };
        self.backend.iter().map(site).collect()
    }

    async fn ask(&self, plans: &[Plan], sites: &[Site], tunnel: Planned) -> Result<Report, Failure> {
        let ways = tunnel.up()?;
        let started = now();
        let token = variable(TOKEN_VARIABLE).and_then(|token| token.into_string().ok());
        let mut progress = Progress::counting(plans.len() as u64 * sites.len() as u64 * self.repeat);
        let mut settings = Vec::new();
        for plan in plans {
            let question = Question {
                plan,
                token: token.as_deref(),
                within: Duration::from_secs(self.timeout) + Duration::from_secs(plan.shape.bytes() / MB),
                repeat: u32::try_from(self.repeat).unwrap_or(1),
            };
            let asked = storage::ask(sites, &question, &ways, |site| progress.answered(&site.name));
            tokio::select! {
                answers = asked => settings.extend(answers),
                _ = tokio::signal::ctrl_c() => return Err(Failure::Failed("interrupted; the services abort what they began".to_owned())),
            }
        }
        progress.end();
        Ok(Report::new(started, "stores of the services".to_owned(), String::new(), settings))
    }

    fn write(&self, report: &Report) -> Result<(), Failure> {
        if let Some(path) = &self.save {
            let text = serde_json::to_string_pretty(report).map_err(Failure::from_display)?;
            write(path, &text)?;
        }
        if let Some(path) = &self.svg {
            write(path, &storage::chart(report).map_err(Failure::Failed)?)?;
        }
        if let Some(path) = &self.html {
            let (columns, rows) = tables::settings(report);
            let mut notes = tables::facts(report);
            notes.extend(report.notes());
            let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
            write(path, &storage::page(report, &columns, &rows, &notes).map_err(Failure::Failed)?)?;
        }
        Ok(())
    }
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

fn read(path: &Path) -> Result<Report, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("{}: cannot be read: {error}", path.display())))?;
    let report: Result<Report, _> = serde_json::from_str(&text);
    let report = report.map_err(|error| Failure::Usage(format!("{}: is no saved run: {error}", path.display())))?;
    match report.version {
        1 => Ok(report),
        other => Err(Failure::Usage(format!("{}: has version {other}; this program reads 1", path.display()))),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| Failure::Failed(format!("{}: cannot be written: {error}", path.display())))
}
