//! What a peer does with a connection when things are not simple: each check holds both ends of it.

mod duplex;
mod endings;
mod ends;
mod exchanges;
mod greeting;
mod slow_reader;

use std::collections::BTreeMap;
use std::net::TcpListener;

use serde::Serialize;

use crate::correctness::ends::Bench;
use crate::failure::{Context, Failure};
use crate::peer::Peer;
use crate::progress::Progress;
use crate::site::{self, Site};
use crate::table::Table;

/// Every check against every peer.
#[derive(Serialize)]
pub(crate) struct Report {
    peers: Vec<String>,
    checks: Vec<Check>,
    left_out: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    /// By peer, in the order of the report.
    verdicts: Vec<Verdict>,
}

/// What a check found, and whether that is right; `None` where there is only a figure to report.
#[derive(Serialize)]
struct Verdict {
    passed: Option<bool>,
    found: String,
}

impl Verdict {
    fn new(passed: bool, found: impl Into<String>) -> Self {
        Self { passed: Some(passed), found: found.into() }
    }
}

type Run = fn(&Bench) -> Result<Verdict, Failure>;

/// The last one takes the backend away, so it stays the last.
const CHECKS: [(&str, Run); 11] = [
    ("200 exchanges with separate half closes", exchanges::separate_half_closes),
    ("half close by the client", exchanges::client_half_close),
    ("half close by the backend", exchanges::backend_half_close),
    ("reset by the client reaches the backend", endings::client_reset),
    ("reset by the backend reaches the client", endings::backend_reset),
    ("client pushes 2 s, backend does not read", slow_reader::client_pushes),
    ("backend pushes 2 s, client does not read", slow_reader::backend_pushes),
    ("random bytes both ways at once", duplex::both_ways),
    ("backend speaks first", greeting::backend_speaks_first),
    ("backend does not listen", greeting::backend_down),
    ("relays again when the backend is back", greeting::backend_back),
];

/// Runs all checks, with a fresh process per peer.
pub(crate) fn check(
    site: &Site,
    peers: &[Peer],
    quick: bool,
    left_out: BTreeMap<String, String>,
) -> Result<Report, Failure> {
    let mut checks: Vec<Check> = CHECKS.iter().map(|&(name, _)| Check { name, verdicts: Vec::new() }).collect();
    let mut progress = Progress::new(peers.len() * CHECKS.len());
    for peer in peers {
        let listener = TcpListener::bind(site::BACKEND).context("cannot listen as the backend")?;
        let running = peer.start(site, site.scratch.join(format!("correctness-{}", peer.name)));
        let bench = running.as_ref().map(|running| Bench::new(running.target, listener, quick));
        for (check, (name, run)) in checks.iter_mut().zip(CHECKS) {
            progress.step(&format!("{}: {name}", peer.label));
            let verdict = match &bench {
                Ok(bench) => run(bench).unwrap_or_else(|failure| Verdict::new(false, failure.to_string())),
                Err(failure) => Verdict::new(false, failure.to_string()),
            };
            check.verdicts.push(verdict);
        }
    }
    progress.finish();
    Ok(Report { peers: peers.iter().map(|peer| peer.label.clone()).collect(), checks, left_out })
}

impl Report {
    pub(crate) fn to_markdown(&self) -> String {
        let mut headings = vec![String::new()];
        headings.extend(self.peers.iter().cloned());
        let mut table = Table::new(headings);
        for check in &self.checks {
            let mut cells = vec![check.name.to_owned()];
            cells.extend(check.verdicts.iter().map(Verdict::to_cell));
            table.add(cells);
        }
        let mut text = format!("# Correctness\n\n{}", table.to_markdown());
        for (peer, reason) in &self.left_out {
            text.push_str(&format!("\nNot checked: {peer} ({reason}).\n"));
        }
        text
    }
}

impl Verdict {
    fn to_cell(&self) -> String {
        match self.passed {
            Some(true) => format!("pass: {}", self.found),
            Some(false) => format!("FAIL: {}", self.found),
            None => self.found.clone(),
        }
    }
}
