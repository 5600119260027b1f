//! `edgeproxy demo`: the product on one machine, in a minute and a half.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use edgeproxy_world::TEN_REGIONS;
use edgeproxy_world::postgres::Binaries;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::say;

mod acts;
mod easel;
mod page;
mod regions;
mod stage;
mod visitors;

use acts::Act;
use easel::Easel;
use page::Page;
use regions::{Comparison, Regions};
use stage::{Stage, Visit};
use visitors::VISITORS;

/// How long the POP may take to end.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// The picture, where nobody says: in the folder for temporary files.
const PICTURE: &str = "edgeproxy-demo.svg";

/// Shows what edgeproxy does: ten regions and a POP on this machine, clients from all over the world, and their database
///
/// Needs no root and no network: backends, POP and clients are on loopback, and clients tell by the PROXY protocol from
/// where they come. Then ten regions are as far from a PostgreSQL as the published benchmark found them, by a virtual WAN
/// between WireGuard tunnels, and measure it; that takes a minute, and PostgreSQL's programs. Exit code 1 when a client
/// reached another backend than it should, or a region did not reach the database.
#[derive(Args)]
pub(crate) struct Demo {
    /// Region of the POP
    #[arg(long, value_name = "REGION", default_value = "fra", value_parser = PossibleValuesParser::new(TEN_REGIONS.map(|place| place.region)))]
    region: String,
    /// Only who is served where, of a few seconds: no database
    #[arg(long)]
    short: bool,
    /// Distances are divided by this
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    scale: u32,
    /// Where the picture of what was measured is left [default: edgeproxy-demo.svg in the folder for temporary files]
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
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
    postgres: Database,
    ok: bool,
}

/// What was seen of the database.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Database {
    /// It was measured.
    Measured {
        #[serde(flatten)]
        comparison: Comparison,
        /// Where it is; `None`: it could not be left.
        picture: Option<PathBuf>,
    },
    /// It cannot be here; what would help.
    Missing(String),
    /// Nobody asked for it.
    Skipped,
}

/// What runs until the end.
struct Running {
    stage: Stage,
    regions: Option<Regions>,
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
            let (mut running, seen) = tokio::select! {
                shown = self.show(&page) => shown?,
                // Dropping what runs ends it and removes its directories.
                asked = asked_to_stop() => return asked.and(Err(io::Error::other("stopped"))),
            };
            if self.keep {
                running.stage.restore()?;
                page.kept(&running.stage, running.regions.as_ref());
            } else {
                page.next_steps();
            }
            if self.json {
                say::json(&seen);
            }
            if self.keep {
                asked_to_stop().await?;
            }
            if let Some(regions) = running.regions {
                regions.close(STOP_WITHIN).await?;
            }
            running.stage.close(STOP_WITHIN).await?;
            Ok(seen.ok)
        })
    }

    async fn show(&self, page: &Page) -> io::Result<(Running, Seen)> {
        // A place that was asked for is looked at before minutes are spent.
        let easel = self.picture.clone().filter(|_| !self.short).map(Easel::at).transpose()?;
        let (stage, visits, acts) = self.show_routing(page).await?;
        let (regions, postgres) = self.show_database(page, easel).await?;
        let reached = !matches!(&postgres, Database::Measured { comparison, .. } if !comparison.ok);
        let ok = reached && visits.iter().all(|visit| visit.ok) && acts.iter().all(|act| act.ok);
        page.verdict(ok);
        let (proxy, admin) = (stage.pop.address(), stage.pop.admin());
        let seen = Seen { pop: self.region.clone(), proxy, admin, visits, acts, postgres, ok };
        Ok((Running { stage, regions }, seen))
    }

    async fn show_database(&self, page: &Page, easel: Option<Easel>) -> io::Result<(Option<Regions>, Database)> {
        if self.short {
            return Ok((None, Database::Skipped));
        }
        page.database();
        if let Err(missing) = Binaries::find() {
            page.missing(&missing.to_string());
            return Ok((None, Database::Missing(missing.to_string())));
        }
        page.progress("starting PostgreSQL with two replicas, a hub, ten regions and a POP …");
        let regions = Regions::set(self.scale).await?;
        page.progress("putting the regions as far apart as they are …");
        regions.move_apart()?;
        let told = |what: &str, done: usize| page.measuring(what, done);
        told("as published", 0);
        let comparison = regions.compare(&told).await?;
        page.measured_all();
        page.comparison(&comparison, regions.star.inside(), self.scale);
        let picture = match easel {
            Some(easel) => Some(easel.draw(&comparison.run)?),
            None => {
                let drawn = Easel::at(std::env::temp_dir().join(PICTURE)).and_then(|easel| easel.draw(&comparison.run));
                drawn.map_err(|error| page.no_picture(&error)).ok()
            }
        };
        if let Some(picture) = &picture {
            page.picture(picture);
        }
        Ok((Some(regions), Database::Measured { comparison, picture }))
    }

    async fn show_routing(&self, page: &Page) -> io::Result<(Stage, Vec<Visit>, Vec<Act>)> {
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
        Ok((stage, visits, acts))
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
