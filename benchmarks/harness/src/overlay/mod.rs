//! `overlay`: edgeproxy's WireGuard beside others, between network namespaces that are joined by veth.

mod implementation;
mod iperf;
mod measurement;
mod network;
mod origin;
mod path;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::case::{self, Case};
use crate::failure::{Context, Failure};
use crate::machine::{Described, Machine};
use crate::measurement::Sample;
use crate::progress::{self, Progress};
use crate::run_folder::today;
use crate::schedule::Schedule;
use crate::site::Site;
use crate::summary::{CaseSummary, Entrant, Subject, Summary};
use crate::{LeftOut, package};

use implementation::{Engine, Implementation};
use measurement::Load;
use path::Workshop;

pub(crate) use implementation::{Daemon, wg};
pub(crate) use origin::{default_cache, program};

/// Order of the tables.
const ORDER: [&str; 4] = ["one-stream", "four-streams", "hub", "latency"];

const SUBJECT: Subject = Subject {
    title: "Overlay benchmark",
    method: "Two network namespaces joined by veth, one end of a tunnel in each (three for the hub), MTU 1420, fresh \
             processes for every measurement; iperf3 or kept exchanges go through the tunnel, round by round with the \
             peers in a rotating order. CPU is the scheduler's run time of all threads of an end (`sender`, \
             `receiver`, `hub`), machine CPU that of everything, iperf3 included.",
    chart: "What one GiB, or one round trip, costs through a tunnel",
};

/// What `machine.md` says below the peers.
const CLOSING: &str = "All run at their own defaults; command lines are in `benchmarks/overlay/peers.toml`. CPU is the \
                       scheduler's run time of all threads of an end (`/proc/PID/task/*/schedstat`), machine CPU is \
                       user, system, irq and softirq of `/proc/stat`.";

/// Outside the namespace, where there is a network: tools, and the programs of the others.
pub(crate) fn prepare(root: &Path, wanted: &[String], cache: &Path) -> Result<(), Failure> {
    let wanted = implementation::read_all(&root.join("overlay"), wanted)?;
    let packages = wanted.iter().flat_map(|one| one.packages.iter().map(String::as_str));
    package::provide(packages.chain(["iperf3", "wireguard-tools", "coreutils"]))?;
    origin::provide(&wanted, cache)
}

/// Inside: all cases.
pub(crate) fn run(
    site: &Site,
    wanted: &[String],
    cases: &[String],
    cache: &Path,
    machine: &Machine,
    schedule: Schedule,
) -> Result<(Vec<Sample>, Summary, String), Failure> {
    own_run_folder()?;
    let folder = site.root.join("overlay");
    let cases = case::read_all::<Load>(&folder.join("cases"), &ORDER, cases)?;
    let mut left_out = LeftOut::new();
    let mut described = Vec::new();
    let mut present = Vec::new();
    let provided = origin::provided(cache)?;
    for one in implementation::read_all(&folder, wanted)? {
        match origin::find(&one, &site.edgeproxy, &provided) {
            Ok((program, version)) => {
                let command = one.command_line();
                described.push(Described { label: one.label.clone(), version, command });
                present.push((one, program));
            }
            Err(reason) => {
                progress::note(&format!("{} is left out: {reason}", one.label));
                left_out.insert(one.label.clone(), reason.to_string());
            }
        }
    }
    if present.is_empty() {
        return Err(Failure::new("no peer can be started"));
    }
    let workshop = Workshop::new(site, present)?;
    let samples = measure_all(&workshop, &cases, &schedule)?;
    let summaries = cases.iter().map(|case| CaseSummary::of(case, &entrants(&workshop, case), &samples));
    let summary = Summary {
        subject: &SUBJECT,
        date: today(),
        machine: machine.title(),
        rounds: schedule.rounds,
        quick: schedule.quick,
        cases: summaries.collect(),
        left_out,
        versions: described.iter().map(|one| (one.label.clone(), one.version.clone())).collect(),
    };
    let machine = machine.to_markdown(site, &described, CLOSING);
    Ok((samples, summary, machine))
}

fn measure_all(workshop: &Workshop, cases: &[Case<Load>], schedule: &Schedule) -> Result<Vec<Sample>, Failure> {
    let steps = cases.iter().map(|case| schedule.steps(entrants(workshop, case).len())).sum();
    let mut progress = Progress::new(steps);
    let mut samples = Vec::new();
    for case in cases {
        let load = if schedule.quick { &case.quick } else { &case.load };
        let entrants = entrants(workshop, case);
        samples.extend(schedule.run(&case.name, &entrants, &mut progress, |round, entrant| {
            let mut sample = Sample::empty(&case.name, round, &entrant.name);
            let dir = workshop.site.scratch.join(format!("{}-{round}-{}", case.name, entrant.name));
            let measured =
                folder(&dir).and_then(|dir| measurement::measure(load, workshop, &entrant.name, &dir, &mut sample));
            if let Err(failure) = measured {
                *sample.errors.entry(failure.to_string()).or_default() += 1;
            }
            sample
        }));
    }
    progress.finish();
    Ok(samples)
}

/// Whoever takes part in a case: a hub needs a tunnel.
fn entrants(workshop: &Workshop, case: &Case<Load>) -> Vec<Entrant> {
    let is_hub = matches!(case.load, Load::Forward(_));
    let takes_part = |one: &&Implementation| !is_hub || one.engine != Engine::None;
    workshop.implementations.iter().map(|(one, _)| one).filter(takes_part).map(Implementation::entrant).collect()
}

fn folder(path: &Path) -> Result<PathBuf, Failure> {
    fs::create_dir_all(path).context(format!("cannot make {}", path.display()))?;
    Ok(path.to_path_buf())
}

/// The control sockets of the ends lie in /run, where those of other tunnels lie outside.
pub(crate) fn own_run_folder() -> Result<(), Failure> {
    let mounted = Command::new("mount").args(["-t", "tmpfs", "none", "/run"]).status().context("cannot run mount")?;
    if !mounted.success() {
        return Err(Failure::new("cannot mount a /run of its own"));
    }
    folder(Path::new(implementation::SOCKETS)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_parses_and_its_metrics_are_columns() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../overlay/cases");
        let cases = case::read_all::<Load>(&folder, &ORDER, &[]).unwrap();
        let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names, ORDER);
        for case in cases {
            let is_column = |metric: &str| case.columns.iter().any(|column| column.metric == metric);
            assert!(is_column(&case.primary), "{}", case.name);
            assert!(case.goals.iter().all(|goal| is_column(&goal.metric)), "{}", case.name);
        }
    }
}
