//! How creating a peer fares beside ten others and beside a million: `bench-peers`.

mod first_handshake;
mod gateway;
mod http;
mod load;
mod report;
mod wireguard_go;

use std::path::{Path, PathBuf};

use self::gateway::Gateway;
use self::report::{Report, Round};
use crate::failure::Failure;
use crate::memory;
use crate::progress::Progress;
use crate::site::Site;

/// How much is done at each size.
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    /// Registered peers, ascending.
    pub(crate) sizes: Vec<usize>,
    /// Peers created one after the other.
    pub(crate) steps: usize,
    /// Clients at once, and peers of each.
    pub(crate) crowd: (usize, usize),
    pub(crate) handshakes: usize,
}

impl Plan {
    pub(crate) fn new(rounds: u32, quick: bool) -> Self {
        match quick {
            true => Self { rounds: 1, sizes: vec![10, 1000], steps: 50, crowd: (8, 20), handshakes: 10 },
            false => Self {
                rounds,
                sizes: vec![10, 1000, 100_000, 1_000_000],
                steps: 2000,
                crowd: (64, 500),
                handshakes: 200,
            },
        }
    }
}

/// Where wireguard-go is, if it can be had.
pub(crate) fn wireguard_go(cache: &Path) -> Option<PathBuf> {
    crate::overlay::program(cache, "wireguard-go").or_else(|| crate::peer::find_program("wireguard-go"))
}

/// Round by round: a gateway that grows, and beside it a wireguard-go with as many peers as it takes.
pub(crate) fn run(site: &Site, plan: &Plan, other: Option<&Path>) -> Result<Report, Failure> {
    crate::overlay::own_run_folder()?;
    let mut progress = Progress::new(plan.rounds as usize * plan.sizes.len() * 2);
    let mut rounds = Vec::new();
    for number in 1..=plan.rounds {
        let folder = gateway::make_folder(site, &format!("round-{number}"))?;
        let mut registered = 0;
        for &size in &plan.sizes {
            progress.step(&format!("round {number}/{}: edgeproxy with {size} peers", plan.rounds));
            let gateway = Gateway::start(site, &folder)?;
            load::fill(size - registered)?;
            registered = size;
            let steps = load::step_by_step(plan.steps, plan.steps / 10)?;
            let crowd = load::crowd(plan.crowd.0, plan.crowd.1)?;
            let handshakes = first_handshake::measure(plan.handshakes)?;
            let by_other = |program| first_handshake::measure_wireguard_go(program, &folder, plan.handshakes);
            let by_other = other.map(by_other).transpose()?;
            registered += plan.handshakes * if other.is_some() { 2 } else { 1 };
            gateway.stop()?;
            // What it holds after a start is what its peers take; before, there is what the requests left.
            let again = Gateway::start(site, &folder)?;
            let (ready, resident) = (again.ready, memory::resident(again.pid()));
            again.stop()?;
            progress.step(&format!("round {number}/{}: wireguard-go with {size} peers", plan.rounds));
            let other = other.filter(|_| size < wireguard_go::PEERS_MOST || size == 100_000);
            let of_other = size.min(wireguard_go::PEERS_MOST - 2);
            let other = other.map(|program| wireguard_go::measure(program, &folder, of_other, plan.steps / 20 + 1));
            rounds.push(Round {
                size,
                steps,
                crowd,
                handshakes,
                by_other,
                ready,
                resident,
                other: other.transpose()?,
                of_other,
            });
        }
        // A million peers take some 150 MB of disk.
        let _ = std::fs::remove_dir_all(&folder);
    }
    progress.finish();
    Ok(Report::of(plan, &rounds))
}
