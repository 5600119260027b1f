//! Postgres from every region: ten of them behind a virtual WAN, a hub that publishes the primary, a POP in front, and two
//! replicas. Measured as the published benchmark does it, and then as it can be done.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeproxy_bench::db::{Mode, Operation, Plan};
use edgeproxy_bench::fleet::{Course, Fleet, News, Outcome, Row, Run, Site};
use edgeproxy_bench::{Summary, fleet};
use edgeproxy_postgres::Direct;
use edgeproxy_world::postgres::ScratchPostgres;
use edgeproxy_world::wan::{self, Link, TcpPath};
use edgeproxy_world::{LONG, Spoke, Star, eventually};
use serde::Serialize;

use super::stage::millis;

/// What the published benchmark found, in ms: the mean of the inserts and the least of the reads. From near to far.
const PUBLISHED: [(&str, Figures); 10] = [
    ("lhr", Figures { insert: 25.39, read: 11.89 }),
    ("cdg", Figures { insert: 37.61, read: 18.48 }),
    ("fra", Figures { insert: 54.17, read: 26.69 }),
    ("iad", Figures { insert: 173.16, read: 86.10 }),
    ("ord", Figures { insert: 244.20, read: 121.68 }),
    ("lax", Figures { insert: 285.52, read: 138.19 }),
    ("sin", Figures { insert: 332.65, read: 165.96 }),
    ("gru", Figures { insert: 396.09, read: 197.72 }),
    ("nrt", Figures { insert: 523.35, read: 261.36 }),
    ("syd", Figures { insert: 538.58, read: 268.85 }),
];

/// Where the primary is: in Ireland, as published.
const PRIMARY: &str = "dub";
/// Regions with a replica: one that is near the primary and the one that is farthest.
const REPLICAS: [&str; 2] = ["fra", "syd"];
/// Of chance, so that every demo is the same.
const SEED: u64 = 1;
/// Operations of each kind, as published; and to find out what the machine takes.
const ITERATIONS: usize = 10;
const TRIAL: usize = 5;
/// Reads of a replica.
const READS: usize = 100;

/// Everything that runs. Ends with its owner, in this order.
pub(super) struct Regions {
    pub(super) star: Star,
    replicas: Vec<(ScratchPostgres, TcpPath)>,
    pub(super) primary: ScratchPostgres,
    /// Distances are divided by it.
    scale: u32,
}

/// What was seen.
#[derive(Serialize)]
pub(super) struct Comparison {
    pub(super) regions: Vec<Region>,
    pub(super) replicas: Vec<Replica>,
    pub(super) ok: bool,
    /// The second of both, for the picture.
    #[serde(skip)]
    pub(super) run: Run,
}

/// One region.
#[derive(Serialize)]
pub(super) struct Region {
    pub(super) region: &'static str,
    pub(super) published: Figures,
    /// As the published benchmark sends its statements.
    pub(super) as_published: Option<Figures>,
    /// As we send them.
    pub(super) ours: Option<Figures>,
    /// An insert of ours in round trips.
    pub(super) round_trips: Option<f64>,
    /// Why something is missing.
    pub(super) failure: Option<String>,
}

/// In ms.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Figures {
    /// Mean.
    pub(super) insert: f64,
    /// Least.
    pub(super) read: f64,
}

/// A replica, from within its region.
#[derive(Serialize)]
pub(super) struct Replica {
    pub(super) region: &'static str,
    /// Median.
    pub(super) read_ms: f64,
    /// From the commit's acknowledgement in the primary's region until it is seen here.
    pub(super) seen_after_ms: f64,
}

impl Regions {
    /// Starts it all, without any distance yet.
    pub(super) async fn set(scale: u32) -> io::Result<Self> {
        let primary = ScratchPostgres::start(PRIMARY).await?;
        let binary = std::env::current_exe()?;
        let star = Star::start(&binary, &PUBLISHED.map(|(region, _)| region), primary.address(), SEED).await?;
        let mut replicas = Vec::new();
        for region in REPLICAS {
            let link = Link::half_of(distance(region, scale));
            let path = star.wan().tcp(primary.address(), link)?;
            replicas.push((primary.standby_through(region, path.address()).await?, path));
        }
        Ok(Self { star, replicas, primary, scale })
    }

    /// Puts every region as far away as it is. What this machine takes for a round trip without any distance is part of it:
    /// so it is of what was published.
    pub(super) async fn move_apart(&self) -> io::Result<()> {
        let plan = Plan { iterations: TRIAL, phases: false, ..Plan::default() };
        for spoke in self.star.spokes() {
            let run = self.run(&[spoke], plan.clone(), &|_| {}).await;
            let probe = run.rows.first().map(|row| summary(row, Operation::Probe)).unwrap_or_default();
            if probe.count == 0 {
                return Err(io::Error::other(why(run.rows.first())));
            }
            let distance = distance(spoke.region(), self.scale);
            spoke.path().set(Link::half_of(distance.saturating_sub(Duration::from_secs_f64(probe.min / 1000.0))));
        }
        Ok(())
    }

    /// Measures in all regions at once, in both ways one after the other; `told` hears how many regions are done.
    pub(super) async fn compare(&self, told: &dyn Fn(&str, usize)) -> io::Result<Comparison> {
        let all: Vec<&Spoke> = self.star.spokes().iter().collect();
        let plan = |mode| Plan { iterations: ITERATIONS, mode, phases: false, ..Plan::default() };
        let published = self.run(&all, plan(Mode::Pq), &|done| told("as published", done)).await;
        let ours = self.run(&all, plan(Mode::One), &|done| told("in one flight", done)).await;
        let regions: Vec<_> = PUBLISHED
            .into_iter()
            .map(|(region, figures)| {
                let (one, other) = (row(&ours, region), row(&published, region));
                Region {
                    region,
                    published: figures,
                    as_published: other.and_then(measured),
                    ours: one.and_then(measured),
                    round_trips: one.and_then(Row::measured).and_then(|it| it.round_trips(Operation::Insert)),
                    failure: [one, other].into_iter().find_map(failure),
                }
            })
            .collect();
        let mut replicas = Vec::new();
        for (region, (replica, _)) in REPLICAS.into_iter().zip(&self.replicas) {
            replicas.push(self.look(region, replica).await?);
        }
        let ok = regions.iter().all(|region| region.failure.is_none());
        Ok(Comparison { regions, replicas, ok, run: ours })
    }

    /// Ends it all.
    pub(super) async fn close(mut self, within: Duration) -> io::Result<()> {
        self.star.close(within).await?;
        for (replica, _) in &mut self.replicas {
            replica.stop().await?;
        }
        self.primary.stop().await
    }

    /// Asks these regions, each through the POP.
    async fn run(&self, spokes: &[&Spoke], plan: Plan, done: &dyn Fn(usize)) -> Run {
        let mut fleet = Fleet::default();
        fleet.sites.retain_mut(|site: &mut Site| {
            let spoke = spokes.iter().find(|spoke| spoke.region() == site.region);
            site.address = spoke.map(|spoke| spoke.front().to_string()).unwrap_or_default();
            spoke.is_some()
        });
        fleet.source = Some("10 regions of a virtual WAN".to_owned());
        fleet.database = Some("PostgreSQL beside the hub".to_owned());
        let course = Course { plan, requests: 1, parallel: fleet.sites.len() };
        let over = std::cell::Cell::new(0);
        fleet::run(&fleet, &course, Arc::new(Direct), |news| {
            if let News::Over(..) = news {
                over.set(over.get() + 1);
                done(over.get());
            }
        })
        .await
    }

    /// What a client in the region of a replica sees of it.
    async fn look(&self, region: &'static str, replica: &ScratchPostgres) -> io::Result<Replica> {
        let (here, there) = (replica.session().await?, self.primary.session().await?);
        let mut times = Vec::new();
        for _ in 0..READS {
            let asked = Instant::now();
            here.value("SELECT COUNT(*) FROM contacts").await?;
            times.push(asked.elapsed());
        }
        times.sort_unstable();
        let email = format!("{region}@demo.local");
        there.sql(&format!("INSERT INTO contacts (name, email) VALUES ('Demo', '{email}')")).await?;
        let committed = Instant::now();
        let look = format!("SELECT COUNT(*) FROM contacts WHERE email = '{email}'");
        eventually("a row at a replica", LONG, async || Ok((here.value(&look).await? == "1").then_some(()))).await?;
        let seen_after_ms = millis(committed.elapsed());
        there.sql(&format!("DELETE FROM contacts WHERE email = '{email}'")).await?;
        Ok(Replica { region, read_ms: millis(times[READS / 2]), seen_after_ms })
    }
}

fn distance(region: &str, scale: u32) -> Duration {
    wan::round_trip(region).unwrap_or_default() / scale
}

fn row<'a>(run: &'a Run, region: &str) -> Option<&'a Row> {
    run.rows.iter().find(|row| row.site.region == region)
}

fn summary(row: &Row, operation: Operation) -> Summary {
    row.measured().map(|measured| measured.sample(operation).summary()).unwrap_or_default()
}

/// The figures that the published table has.
fn measured(row: &Row) -> Option<Figures> {
    let (insert, read) = (summary(row, Operation::Insert), summary(row, Operation::Read));
    (insert.count > 0 && read.count > 0).then_some(Figures { insert: insert.mean, read: read.min })
}

fn failure(row: Option<&Row>) -> Option<String> {
    let good = row.and_then(Row::measured).is_some_and(|measured| measured.failures() == 0);
    (!good || row.and_then(measured).is_none()).then(|| why(row))
}

fn why(row: Option<&Row>) -> String {
    match row.map(|row| &row.outcome) {
        Some(Outcome::Failed(error)) => error.to_string(),
        Some(Outcome::Measured(measured)) => {
            let kinds = measured.errors.iter().map(|(kind, count)| format!("{count} x {kind}"));
            kinds.chain(measured.notes.iter().cloned()).collect::<Vec<_>>().join(", ")
        }
        None => "it was not asked".to_owned(),
    }
}
