//! A session: every case, round by round, the peers of a round one after the other in a rotating order.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::case::Case;
use crate::cpu::MachineCpu;
use crate::failure::{Context, Failure};
use crate::measurement::{Metrics, Sample, measure};
use crate::meter::Meter;
use crate::peer::{Peer, is_listening};
use crate::progress::Progress;
use crate::site::{self, Site};

/// Between two measurements; also the window in which the machine is watched for other work.
const REST: Duration = Duration::from_millis(300);
const BACKEND_START: Duration = Duration::from_secs(5);
/// Share of the machine's time that others may take before a measurement is made again.
pub(crate) const NOISY_PERCENT: f64 = 10.0;

pub(crate) struct Session<'a> {
    pub(crate) site: &'a Site,
    pub(crate) peers: &'a [Peer],
    pub(crate) rounds: u32,
    pub(crate) quick: bool,
    /// Longest wait for other work on the machine to end, before each measurement.
    pub(crate) quiet_wait: Duration,
    /// How often a measurement that others disturbed is made again.
    pub(crate) repeats: u32,
}

impl Session<'_> {
    /// Runs all cases. A peer that fails a measurement is reported in its sample; the session goes on.
    pub(crate) fn run(&self, cases: &[Case]) -> Result<Vec<Sample>, Failure> {
        let backend = Backend::start()?;
        // The first round warms up the machine and is not counted.
        let first = u32::from(self.quick);
        let steps = cases.len() * self.peers.len() * (self.rounds + 1 - first) as usize;
        let mut progress = Progress::new(steps);
        let mut samples = Vec::new();
        for case in cases {
            for round in first..=self.rounds {
                for peer in self.order(round) {
                    progress.step(&format!("{} round {round}/{}: {}", case.name, self.rounds, peer.label));
                    if round == 0 {
                        self.attempt(case, round, peer, &backend);
                    } else {
                        samples.push(self.least_disturbed(case, round, peer, &backend));
                    }
                }
            }
        }
        progress.finish();
        Ok(samples)
    }

    /// Each round begins with another peer, so that no one always runs in the wake of the same neighbour.
    fn order(&self, round: u32) -> impl Iterator<Item = &Peer> {
        let shift = round as usize % self.peers.len().max(1);
        self.peers[shift..].iter().chain(&self.peers[..shift])
    }

    /// Measures again while others disturb, and keeps the attempt that they disturbed least: the choice never looks
    /// at the figures of the peer itself.
    fn least_disturbed(&self, case: &Case, round: u32, peer: &Peer, backend: &Backend) -> Sample {
        let disturbance = |sample: &Sample| sample.metrics.get("other_percent").copied().unwrap_or(0.0);
        let mut best = self.attempt(case, round, peer, backend);
        let mut attempts = 1;
        while attempts <= self.repeats && disturbance(&best) > NOISY_PERCENT {
            let mut other = self.attempt(case, round, peer, backend);
            attempts += 1;
            if !other.metrics.is_empty() && disturbance(&other) < disturbance(&best) {
                std::mem::swap(&mut best, &mut other);
            }
            best.count_errors(&other.errors);
        }
        best.metrics.insert("attempts", f64::from(attempts));
        best
    }

    fn attempt(&self, case: &Case, round: u32, peer: &Peer, backend: &Backend) -> Sample {
        let load = if self.quick { &case.quick } else { &case.load };
        let dir = self.site.scratch.join(format!("{}-{round}-{}", case.name, peer.name));
        let mut sample = Sample {
            case: case.name.clone(),
            round,
            peer: peer.name.clone(),
            metrics: Metrics::new(),
            errors: BTreeMap::new(),
            clock: None,
        };
        self.rest();
        let measured = peer.start(self.site, dir).and_then(|running| {
            let mut meter = Meter::new(&running, backend.child.id(), self.site.cores);
            measure(load, &mut meter, &mut sample)
        });
        if let Err(failure) = measured {
            *sample.errors.entry(failure.to_string()).or_default() += 1;
        }
        sample
    }

    /// Lets the machine come to rest, for a bounded time.
    fn rest(&self) {
        let began = Instant::now();
        loop {
            let before = MachineCpu::read();
            std::thread::sleep(REST);
            let busy = MachineCpu::read().busy_since(&before).as_secs_f64();
            let share = 100.0 * busy / (REST.as_secs_f64() * self.site.cores as f64);
            if share < NOISY_PERCENT || began.elapsed() >= self.quiet_wait {
                return;
            }
        }
    }
}

/// The backend in a process of its own.
struct Backend {
    child: Child,
}

impl Backend {
    fn start() -> Result<Self, Failure> {
        let myself = std::env::current_exe().context("cannot find the harness binary")?;
        let address = site::BACKEND.to_string();
        let child = Command::new(myself)
            .args(["backend", "--listen", &address])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the backend")?;
        let backend = Self { child };
        let began = Instant::now();
        while !is_listening(site::BACKEND) {
            if began.elapsed() > BACKEND_START {
                return Err(Failure::new("the backend does not listen"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(backend)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
