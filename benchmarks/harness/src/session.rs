//! A session: each case, round by round, with a fresh process of the peer for every measurement.

use std::net::SocketAddrV4;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::case::{Case, Load};
use crate::failure::{Context, Failure};
use crate::measurement::{Sample, measure};
use crate::meter::Meter;
use crate::peer::{Peer, is_listening};
use crate::progress::Progress;
use crate::schedule::Schedule;
use crate::site::{self, Site};
use crate::summary::Entrant;

const BACKEND_START: Duration = Duration::from_secs(5);

pub(crate) struct Session<'a> {
    pub(crate) site: &'a Site,
    pub(crate) peers: &'a [Peer],
    pub(crate) schedule: Schedule,
}

impl Session<'_> {
    /// Runs all cases. A peer that fails a measurement is reported in its sample; the session goes on.
    pub(crate) fn run(&self, cases: &[Case<Load>]) -> Result<Vec<Sample>, Failure> {
        let backend = Backend::start(site::BACKEND)?;
        let entrants: Vec<Entrant> = self.peers.iter().map(Entrant::from).collect();
        let mut progress = Progress::new(cases.len() * self.schedule.steps(entrants.len()));
        let mut samples = Vec::new();
        for case in cases {
            samples.extend(self.schedule.run(&case.name, &entrants, &mut progress, |round, entrant| {
                self.attempt(case, round, entrant, &backend)
            }));
        }
        progress.finish();
        Ok(samples)
    }

    fn attempt(&self, case: &Case<Load>, round: u32, entrant: &Entrant, backend: &Backend) -> Sample {
        let load = if self.schedule.quick { &case.quick } else { &case.load };
        let dir = self.site.scratch.join(format!("{}-{round}-{}", case.name, entrant.name));
        let mut sample = Sample::empty(&case.name, round, &entrant.name);
        let peer = self.peers.iter().find(|peer| peer.name == entrant.name);
        let started = peer.context("no such peer").and_then(|peer| peer.start(self.site, dir));
        let measured = started.and_then(|running| {
            let mut meter = Meter::new(&running, backend.child.id(), self.site.cores);
            measure(load, &mut meter, &mut sample)
        });
        if let Err(failure) = measured {
            *sample.errors.entry(failure.to_string()).or_default() += 1;
        }
        sample
    }
}

/// The backend in a process of its own.
pub(crate) struct Backend {
    child: Child,
}

impl Backend {
    /// In the network namespace of the calling thread.
    pub(crate) fn start(at: SocketAddrV4) -> Result<Self, Failure> {
        let myself = std::env::current_exe().context("cannot find the harness binary")?;
        let address = at.to_string();
        let child = Command::new(myself)
            .args(["backend", "--listen", &address])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the backend")?;
        let backend = Self { child };
        let began = Instant::now();
        while !is_listening(at) {
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
