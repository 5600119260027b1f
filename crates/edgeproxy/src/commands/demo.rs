//! `edgeproxy demo`: the product on one machine, in a few seconds.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use edgeproxy_world::TEN_REGIONS;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::say;

mod acts;
mod page;
mod stage;
mod visitors;

use acts::Act;
use page::Page;
use stage::{Stage, Visit};
use visitors::VISITORS;

/// How long the POP may take to end.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Shows what edgeproxy does: ten regions and a POP on this machine, clients from all over the world
///
/// Needs no root and no network: backends, POP and clients are on loopback, and clients tell by the PROXY protocol from
/// where they come. Exit code 1 when a client reached another backend than it should.
#[derive(Args)]
pub(crate) struct Demo {
    /// Region of the POP
    #[arg(long, value_name = "REGION", default_value = "fra", value_parser = PossibleValuesParser::new(TEN_REGIONS.map(|place| place.region)))]
    region: String,
    /// Leave it running until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    /// No flags, no marks, no accents
    #[arg(long)]
    ascii: bool,
}

/// Everything that was seen.
#[derive(Serialize)]
struct Seen {
    pop: String,
    proxy: SocketAddr,
    admin: SocketAddr,
    visits: Vec<Visit>,
    acts: Vec<Act>,
    ok: bool,
}

impl Demo {
    /// Exit code 0: everything as expected.
    pub(crate) fn run(self) -> ExitCode {
        match self.on_runtime() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                say::mistake(format_args!("edgeproxy demo: {error}"));
                ExitCode::FAILURE
            }
        }
    }

    fn on_runtime(&self) -> io::Result<bool> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let page = Page::new(self.json, self.ascii);
            let (mut stage, seen) = tokio::select! {
                shown = self.show(&page) => shown?,
                // Dropping the stage ends the POP and removes its directory.
                asked = asked_to_stop() => return asked.and(Err(io::Error::other("stopped"))),
            };
            if self.keep {
                stage.restore()?;
                page.kept(&stage);
            } else {
                page.next_steps();
            }
            if self.json {
                say::json(&seen);
            }
            if self.keep {
                asked_to_stop().await?;
            }
            stage.close(STOP_WITHIN).await?;
            Ok(seen.ok)
        })
    }

    async fn show(&self, page: &Page) -> io::Result<(Stage, Seen)> {
        page.progress("starting ten backends and a POP …");
        let mut stage = Stage::set(&self.region).await?;
        page.title(&self.region, VISITORS.len());
        let mut visits = Vec::new();
        // All stay until the last has come, so that load tells equally near backends apart.
        let mut guests = Vec::new();
        for visitor in &VISITORS {
            let before = visits.iter().filter(|visit: &&Visit| visit.country == visitor.country).count();
            let (visit, guest) = stage.visit(visitor, before).await?;
            page.visit(&visit);
            visits.push(visit);
            guests.push(guest);
        }
        drop(guests);
        stage.emptied().await?;

        page.acts();
        let mut acts = Vec::new();
        let mut seen = |act: Act| {
            page.act(&act);
            acts.push(act);
        };
        seen(acts::a_backend_dies(&mut stage).await?);
        seen(acts::a_row_changes(&stage).await?);
        seen(acts::a_crowd_comes(&stage).await?);
        let ok = visits.iter().all(|visit| visit.ok) && acts.iter().all(|act| act.ok);
        page.verdict(ok);
        let (proxy, admin) = (stage.pop.address(), stage.pop.admin());
        Ok((stage, Seen { pop: self.region.clone(), proxy, admin, visits, acts, ok }))
    }
}

/// Resolves at Ctrl-C, when a service manager ends us, or when the terminal is closed.
async fn asked_to_stop() -> io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}
