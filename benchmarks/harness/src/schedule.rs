//! The order of measurements: round by round, the entrants of a round one after the other, on a machine at rest.

use std::time::{Duration, Instant};

use crate::cpu::MachineCpu;
use crate::measurement::Sample;
use crate::progress::Progress;
use crate::summary::Entrant;

/// Between two measurements; also the window in which the machine is watched for other work.
const REST: Duration = Duration::from_millis(300);
/// Share of the machine's time that others may take before a measurement is made again.
pub(crate) const NOISY_PERCENT: f64 = 10.0;

pub(crate) struct Schedule {
    /// Counted ones.
    pub(crate) rounds: u32,
    pub(crate) quick: bool,
    /// Longest wait for other work on the machine to end, before each measurement.
    pub(crate) quiet_wait: Duration,
    /// How often a measurement that others disturbed is made again.
    pub(crate) repeats: u32,
    pub(crate) cores: usize,
}

impl Schedule {
    /// How many steps of progress a case with so many entrants takes.
    pub(crate) fn steps(&self, entrants: usize) -> usize {
        entrants * (self.rounds + 1 - self.first_round()) as usize
    }

    /// All rounds of one case. `attempt` makes one measurement; its errors are in the sample, and the case goes on.
    pub(crate) fn run(
        &self,
        case: &str,
        entrants: &[Entrant],
        progress: &mut Progress,
        mut attempt: impl FnMut(u32, &Entrant) -> Sample,
    ) -> Vec<Sample> {
        let mut samples = Vec::new();
        for round in self.first_round()..=self.rounds {
            for entrant in order(entrants, round) {
                progress.step(&format!("{case} round {round}/{}: {}", self.rounds, entrant.label));
                let mut rested = || {
                    self.rest();
                    attempt(round, entrant)
                };
                if round == 0 {
                    rested();
                } else {
                    samples.push(self.least_disturbed(rested));
                }
            }
        }
        samples
    }

    /// Round 0 warms up the machine and is not counted; a smoke test leaves it out.
    fn first_round(&self) -> u32 {
        u32::from(self.quick)
    }

    /// Measures again while others disturb, and keeps the attempt that they disturbed least: the choice never looks
    /// at the figures of the peer itself.
    fn least_disturbed(&self, mut attempt: impl FnMut() -> Sample) -> Sample {
        let disturbance = |sample: &Sample| sample.metrics.get("other_percent").copied().unwrap_or(0.0);
        let mut best = attempt();
        let mut attempts = 1;
        while attempts <= self.repeats && disturbance(&best) > NOISY_PERCENT {
            let mut other = attempt();
            attempts += 1;
            if !other.metrics.is_empty() && disturbance(&other) < disturbance(&best) {
                std::mem::swap(&mut best, &mut other);
            }
            best.count_errors(&other.errors);
        }
        best.metrics.insert("attempts", f64::from(attempts));
        best
    }

    /// Lets the machine come to rest, for a bounded time.
    fn rest(&self) {
        let began = Instant::now();
        loop {
            let before = MachineCpu::read();
            std::thread::sleep(REST);
            let busy = MachineCpu::read().busy_since(&before).as_secs_f64();
            let share = 100.0 * busy / (REST.as_secs_f64() * self.cores as f64);
            if share < NOISY_PERCENT || began.elapsed() >= self.quiet_wait {
                return;
            }
        }
    }
}

/// Each round begins with another entrant, so that no one always runs in the wake of the same neighbour.
fn order(entrants: &[Entrant], round: u32) -> impl Iterator<Item = &Entrant> {
    let shift = round as usize % entrants.len().max(1);
    entrants[shift..].iter().chain(&entrants[..shift])
}
