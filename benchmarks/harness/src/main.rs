//! Side by side benchmarks in a network namespace of their own: edgeproxy, nginx stream and HAProxy as proxies, and
//! edgeproxy's overlay beside other WireGuards.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the tables and failures of a command line program")]

mod backend;
mod case;
mod chart;
mod correctness;
mod cpu;
mod failure;
mod load;
mod machine;
mod measurement;
mod memory;
mod meter;
mod namespace;
mod overlay;
mod package;
mod peer;
mod poll;
mod progress;
mod registration;
mod run_folder;
mod schedule;
mod session;
mod site;
mod socket;
mod statistics;
mod storage;
mod summary;
mod table;
mod turn;

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::case::Load;
use crate::failure::{Context, Failure};
use crate::machine::{Described, Machine};
use crate::peer::Peer;
use crate::run_folder::{RunFolder, today};
use crate::schedule::Schedule;
use crate::session::Session;
use crate::site::Site;
use crate::summary::{CaseSummary, Entrant, Subject, Summary};
use crate::turn::Turn;

const SUBJECT: Subject = Subject { title: "Benchmark", method: "", chart: "What one operation costs the proxy" };

/// What `machine.md` says below the peers.
const CLOSING: &str = "Templates of their configuration are in `benchmarks/peers/`. CPU is the scheduler's run time of \
                       all threads of a peer (`/proc/PID/task/*/schedstat`), machine CPU is user, system, irq and \
                       softirq of `/proc/stat`.";

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure CPU, latency, throughput and memory.
    Run(Run),
    /// Check what each peer does with half closes, resets, slow readers and large streams.
    Correctness(Correctness),
    /// Measure the overlay beside other WireGuards: CPU, throughput, a hub, latency.
    Overlay(Overlay),
    /// Measure how a gateway creates peers beside few and beside very many.
    Peers(Overlay),
    /// Measure uploads to an object store beside other programs.
    Storage(Overlay),
    /// Serve as the backend of the other commands.
    #[command(hide = true)]
    Backend {
        #[arg(long)]
        listen: SocketAddrV4,
    },
}

#[derive(Args)]
struct Common {
    /// The edgeproxy binary; its peers are left out when it is not there.
    #[arg(long, default_value = "target/release/edgeproxy")]
    edgeproxy: PathBuf,
    /// Names from peers.toml, separated by commas; all by default.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// A short smoke test whose figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Folder for the result, instead of a new one in the runs folder.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The benchmarks folder, with cases and peers.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/.."))]
    root: PathBuf,
    /// Keep configuration and output of every started peer in this folder.
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// Do not install missing packages.
    #[arg(long)]
    no_install: bool,
}

#[derive(Args)]
struct Run {
    /// Names of case folders, separated by commas; all by default.
    #[arg(long, value_delimiter = ',')]
    case: Vec<String>,
    /// Counted rounds; 1 with --quick.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Longest wait in seconds, before each measurement, for other work on the machine to end.
    #[arg(long, default_value_t = 10)]
    quiet_wait: u64,
    /// How often a measurement that other work disturbed is made again.
    #[arg(long, default_value_t = 1)]
    repeats: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Overlay {
    /// Folder of the programs that are fetched or built for comparison [default: edgeproxy-benchmarks in the user's
    /// cache folder].
    #[arg(long)]
    cache: Option<PathBuf>,
    #[command(flatten)]
    run: Run,
}

#[derive(Args)]
struct Correctness {
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    match execute(Arguments::parse().command) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Backend { listen } => backend::serve(listen).map(|()| ExitCode::SUCCESS),
        Command::Run(run) => in_namespace(&run.common, || provide_peers(&run.common), |site| measure(&run, site)),
        Command::Correctness(Correctness { common }) => {
            in_namespace(&common, || provide_peers(&common), |site| check(&common, site))
        }
        Command::Overlay(Overlay { cache, run }) => {
            let cache = cache.unwrap_or_else(overlay::default_cache);
            let prepare = || {
                if run.common.no_install {
                    return Ok(());
                }
                overlay::prepare(&run.common.root, &run.common.peers, &cache)
            };
            in_namespace(&run.common, prepare, |site| measure_overlay(&run, &cache, site))
        }
        Command::Peers(Overlay { cache, run }) => {
            let cache = cache.unwrap_or_else(overlay::default_cache);
            let prepare = || {
                if run.common.no_install {
                    return Ok(());
                }
                overlay::prepare(&run.common.root, &["wireguard-go".to_owned()], &cache)
            };
            in_namespace(&run.common, prepare, |site| measure_peers(&run, &cache, site))
        }
        Command::Storage(Overlay { cache, run }) => {
            let cache = cache.unwrap_or_else(overlay::default_cache);
            let prepare = || if run.common.no_install { Ok(()) } else { storage::prepare(&cache) };
            in_namespace(&run.common, prepare, |site| measure_storage(&run, &cache, site))
        }
    }
}

/// Outside: what needs a network, then this program again inside. Inside: the work.
fn in_namespace(
    common: &Common,
    prepare: impl FnOnce() -> Result<(), Failure>,
    work: impl FnOnce(&Site) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    if !namespace::is_inside() {
        prepare()?;
        return namespace::enter();
    }
    namespace::configure()?;
    let root = common.root.canonicalize().context(format!("cannot find {}", common.root.display()))?;
    let site = Site::prepare(&root, &common.edgeproxy, common.scratch.as_deref())?;
    let _turn = Turn::take()?;
    work(&site)?;
    Ok(ExitCode::SUCCESS)
}

fn provide_peers(common: &Common) -> Result<(), Failure> {
    let peers = peer::read_all(&common.root.join("peers"), &common.peers)?;
    if common.no_install {
        return Ok(());
    }
    package::provide(peers.iter().flat_map(|peer| peer.packages.iter().map(String::as_str)))
}

fn measure(run: &Run, site: &Site) -> Result<(), Failure> {
    let machine = Machine::read(site.cores);
    let cases = case::read_all::<Load>(&site.root.join("cases"), &case::ORDER, &run.case)?;
    let (peers, left_out) = present_peers(&run.common, site)?;
    let session = Session { site, peers: &peers, schedule: schedule(run, site) };
    let samples = session.run(&cases)?;
    let entrants: Vec<Entrant> = peers.iter().map(Entrant::from).collect();
    let summary = Summary {
        subject: &SUBJECT,
        date: today(),
        machine: machine.title(),
        rounds: session.schedule.rounds,
        quick: session.schedule.quick,
        cases: cases.iter().map(|case| CaseSummary::of(case, &entrants, &samples)).collect(),
        left_out,
        versions: BTreeMap::new(),
    };
    let described: Vec<Described> = peers.iter().map(|peer| describe(peer, site)).collect();
    let folder = folder(&run.common, site, &summary.date, &machine.tag())?;
    folder.write_session(&samples, &summary, &machine.to_markdown(site, &described, CLOSING))?;
    let markdown = summary.to_markdown();
    print_result(&run.common, &summary, &markdown, &folder)
}

fn measure_overlay(run: &Run, cache: &Path, site: &Site) -> Result<(), Failure> {
    let machine = Machine::read(site.cores);
    let schedule = schedule(run, site);
    let (samples, summary, described) = overlay::run(site, &run.common.peers, &run.case, cache, &machine, schedule)?;
    let folder = folder(&run.common, site, &summary.date, &format!("{}-overlay", machine.tag()))?;
    folder.write_session(&samples, &summary, &described)?;
    print_result(&run.common, &summary, &summary.to_markdown(), &folder)
}

fn measure_peers(run: &Run, cache: &Path, site: &Site) -> Result<(), Failure> {
    let machine = Machine::read(site.cores);
    let other = registration::wireguard_go(cache);
    let plan = registration::Plan::new(run.rounds, run.common.quick);
    let report = registration::run(site, &plan, other.as_deref())?;
    let date = today();
    let folder = folder(&run.common, site, &date, &format!("{}-peers", machine.tag()))?;
    let markdown = report.to_markdown(&date, &machine.title());
    folder.write("summary.md", &markdown)?;
    folder.write("summary.json", &serde_json::to_string_pretty(&report).context("cannot write JSON")?)?;
    folder.write("machine.md", &machine.to_markdown(site, &[], CLOSING))?;
    print_result(&run.common, &report, &markdown, &folder)
}

fn measure_storage(run: &Run, cache: &Path, site: &Site) -> Result<(), Failure> {
    let machine = Machine::read(site.cores);
    let report = storage::run(site, &storage::Plan::new(run.rounds, run.common.quick, &run.case)?, cache)?;
    let date = today();
    let folder = folder(&run.common, site, &date, &format!("{}-storage", machine.tag()))?;
    let markdown = report.to_markdown(&date, &machine.title());
    folder.write("summary.md", &markdown)?;
    folder.write("summary.json", &serde_json::to_string_pretty(&report).context("cannot write JSON")?)?;
    folder.write("machine.md", &machine.to_markdown(site, &[], CLOSING))?;
    print_result(&run.common, &report, &markdown, &folder)
}

fn schedule(run: &Run, site: &Site) -> Schedule {
    let quick = run.common.quick;
    Schedule {
        rounds: if quick { 1 } else { run.rounds },
        quick,
        quiet_wait: Duration::from_secs(if quick { 0 } else { run.quiet_wait }),
        repeats: if quick { 0 } else { run.repeats },
        cores: site.cores,
    }
}

fn describe(peer: &Peer, site: &Site) -> Described {
    let version = peer.version(site).unwrap_or_else(|| "no process".to_owned());
    Described { label: peer.label.clone(), version, command: peer.command_line() }
}

fn check(common: &Common, site: &Site) -> Result<(), Failure> {
    let machine = Machine::read(site.cores);
    let (peers, left_out) = present_peers(common, site)?;
    let report = correctness::check(site, &peers, common.quick, left_out)?;
    let folder = folder(common, site, &today(), &machine.tag())?;
    let markdown = report.to_markdown();
    folder.write("correctness.md", &markdown)?;
    print_result(common, &report, &markdown, &folder)
}

type LeftOut = BTreeMap<String, String>;

/// The wanted peers that can be started here, and the others with the reason.
fn present_peers(common: &Common, site: &Site) -> Result<(Vec<Peer>, LeftOut), Failure> {
    let mut peers = peer::read_all(&site.peers_folder(), &common.peers)?;
    let mut left_out = LeftOut::new();
    peers.retain(|peer| match peer.missing(site) {
        Some(reason) => {
            progress::note(&format!("{} is left out: {reason}", peer.label));
            left_out.insert(peer.label.clone(), reason);
            false
        }
        None => true,
    });
    if peers.is_empty() {
        return Err(Failure::new("no peer can be started"));
    }
    Ok((peers, left_out))
}

fn folder(common: &Common, site: &Site, date: &str, machine: &str) -> Result<RunFolder, Failure> {
    match &common.out {
        Some(path) => RunFolder::at(path.clone()),
        // Figures that mean nothing do not belong among the runs.
        None if common.quick => RunFolder::at(std::env::temp_dir().join("edgeproxy-benchmarks-quick")),
        None => RunFolder::make(&site.root.join("runs"), date, machine),
    }
}

fn print_result(
    common: &Common,
    result: &impl serde::Serialize,
    markdown: &str,
    folder: &RunFolder,
) -> Result<(), Failure> {
    if common.json {
        println!("{}", serde_json::to_string_pretty(result).context("cannot write JSON")?);
    } else {
        println!("{markdown}");
        progress::note(&format!("written to {}", folder.path().display()));
    }
    Ok(())
}
