//! Side by side benchmarks of edgeproxy, nginx stream and HAProxy, in a network namespace of their own.
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
mod package;
mod peer;
mod poll;
mod progress;
mod run_folder;
mod session;
mod site;
mod socket;
mod statistics;
mod summary;
mod table;
mod turn;

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::failure::{Context, Failure};
use crate::machine::Machine;
use crate::peer::Peer;
use crate::run_folder::{RunFolder, today};
use crate::session::Session;
use crate::site::Site;
use crate::summary::{CaseSummary, Summary};
use crate::turn::Turn;

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
        Command::Run(run) => in_namespace(&run.common, |site| measure(&run, site)),
        Command::Correctness(correctness) => in_namespace(&correctness.common, |site| check(&correctness.common, site)),
    }
}

/// Outside: packages, which need a network, then this program again inside. Inside: the work.
fn in_namespace(common: &Common, work: impl FnOnce(&Site) -> Result<(), Failure>) -> Result<ExitCode, Failure> {
    if !namespace::is_inside() {
        let peers = peer::read_all(&common.root.join("peers"), &common.peers)?;
        if !common.no_install {
            package::provide(&peers)?;
        }
        return namespace::enter();
    }
    namespace::configure()?;
    let root = common.root.canonicalize().context(format!("cannot find {}", common.root.display()))?;
    let site = Site::prepare(&root, &common.edgeproxy, common.scratch.as_deref())?;
    let _turn = Turn::take()?;
    work(&site)?;
    Ok(ExitCode::SUCCESS)
}

fn measure(run: &Run, site: &Site) -> Result<(), Failure> {
    let machine = Machine::read(site.cores);
    let cases = case::read_all(&site.root.join("cases"), &run.case)?;
    let (peers, left_out) = present_peers(&run.common, site)?;
    let quick = run.common.quick;
    let rounds = if quick { 1 } else { run.rounds };
    let session = Session {
        site,
        peers: &peers,
        rounds,
        quick,
        quiet_wait: Duration::from_secs(if quick { 0 } else { run.quiet_wait }),
        repeats: if quick { 0 } else { run.repeats },
    };
    let samples = session.run(&cases)?;
    let summary = Summary {
        date: today(),
        machine: machine.title(),
        rounds,
        quick,
        cases: cases.iter().map(|case| CaseSummary::of(case, &peers, &samples)).collect(),
        left_out,
    };
    let folder = folder(&run.common, site, &summary.date, &machine)?;
    folder.write_session(&samples, &summary, &machine.to_markdown(site, &peers))?;
    let markdown = summary.to_markdown();
    print_result(&run.common, &summary, &markdown, &folder)
}

fn check(common: &Common, site: &Site) -> Result<(), Failure> {
    let machine = Machine::read(site.cores);
    let (peers, left_out) = present_peers(common, site)?;
    let report = correctness::check(site, &peers, common.quick, left_out)?;
    let folder = folder(common, site, &today(), &machine)?;
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

fn folder(common: &Common, site: &Site, date: &str, machine: &Machine) -> Result<RunFolder, Failure> {
    match &common.out {
        Some(path) => RunFolder::at(path.clone()),
        // Figures that mean nothing do not belong among the runs.
        None if common.quick => RunFolder::at(std::env::temp_dir().join("edgeproxy-benchmarks-quick")),
        None => RunFolder::make(&site.root.join("runs"), date, &machine.tag()),
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
