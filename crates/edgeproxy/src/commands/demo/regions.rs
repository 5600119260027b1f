//! Postgres from every region: ten of them behind a virtual WAN, a hub that publishes the primary, a POP in front, and two
//! replicas. Measured as the published benchmark does it, and then as it can be done.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeproxy_bench::db::{Mode, Operation, Order, Plan};
use edgeproxy_bench::fleet::{Course, Fleet, News, Outcome, Row, Run, Site};
use edgeproxy_bench::{Summary, fleet};
use edgeproxy_postgres::Direct;
use edgeproxy_world::postgres::ScratchPostgres;
use edgeproxy_world::wan::{self, Link, TcpPath};
use edgeproxy_world::{LONG, Star, eventually};
use serde::Serialize;

use super::stage::millis;

/// Mean of the inserts that the published benchmark found, in ms, from near to far. Its least reads, less [`ANSWERED_IN`],
/// are the distances of the virtual WAN.
const PUBLISHED_INSERTS: [(&str, f64); 10] = [
    ("lhr", 25.39),
    ("cdg", 37.61),
    ("fra", 54.17),
    ("iad", 173.16),
    ("ord", 244.20),
    ("lax", 285.52),
    ("sin", 332.65),
    ("gru", 396.09),
    ("nrt", 523.35),
    ("syd", 538.58),
];

/// What the published benchmark's server and tunnel are taken to have had of its least reads. Nobody measured it; no server
/// at the end of a tunnel takes less than a few tenths of a millisecond.
const ANSWERED_IN: Duration = Duration::from_micros(300);
/// The region whose published insert holds 9 ms that two of its reads do not explain.
const ODD: &str = "lax";
/// Where the primary is: in Ireland, as published.
const PRIMARY: &str = "dub";
/// Regions with a replica: one that is near the primary and the one that is farthest.
const REPLICAS: [&str; 2] = ["fra", "syd"];
/// Of chance, so that every demo is the same.
const SEED: u64 = 1;
/// Operations of each kind in a run, as published; each way has two runs.
const ITERATIONS: usize = 10;
/// Operations behind a figure.
pub(super) const COUNT: usize = 2 * ITERATIONS;
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
    /// Ours, for the picture.
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

impl Comparison {
    /// How far the inserts sent as published come out from the published ones at most, as a share; without [`ODD`]. It tells
    /// whether the distances are right.
    pub(super) fn pattern_off(&self) -> Option<f64> {
        let off = |region: &Region| Some((region.as_published?.insert / region.published.insert - 1.0).abs());
        let regions = self.regions.iter().filter(|region| region.region != ODD);
        regions.map(off).try_fold(0.0, |most: f64, off| Some(most.max(off?)))
    }
}

impl Regions {
    /// Starts it all, without any distance yet.
    pub(super) async fn set(scale: u32) -> io::Result<Self> {
        let primary = ScratchPostgres::start(PRIMARY).await?;
        let binary = std::env::current_exe()?;
        let star = Star::start(&binary, &PUBLISHED_INSERTS.map(|(region, _)| region), primary.address(), SEED).await?;
        let mut replicas = Vec::new();
        for region in REPLICAS {
            let link = Link::half_of(distance(region, scale)?);
            let path = star.wan().tcp(primary.address(), link)?;
            replicas.push((primary.standby_through(region, path.address()).await?, path));
        }
        Ok(Self { star, replicas, primary, scale })
    }

    /// Puts every region at its distance. Nothing is taken off for what tunnels and machine take here: that is in every
    /// figure.
    pub(super) fn move_apart(&self) -> io::Result<()> {
        for spoke in self.star.spokes() {
            spoke.path().set(Link::half_of(distance(spoke.region(), self.scale)?));
        }
        Ok(())
    }

    /// Measures in all regions at once, in both ways with the same warm-up and in the same order; `told` hears how many
    /// regions are done. There and back (pq, one, one, pq), so that what changes steadily meanwhile changes both alike.
    pub(super) async fn compare(&self, told: &dyn Fn(&str, usize)) -> io::Result<Comparison> {
        let run = async |mode, what| {
            let (order, warm_up) = (Order::Interleaved, true);
            let plan = Plan { iterations: ITERATIONS, mode, order, warm_up, phases: false, ..Plan::default() };
            self.run(plan, &|done| told(what, done)).await
        };
        let published = run(Mode::Pq, "as published").await;
        let ours = run(Mode::One, "in one flight").await;
        let ours = ours.joined(run(Mode::One, "in one flight, again").await);
        let published = published.joined(run(Mode::Pq, "as published, again").await);
        let regions = PUBLISHED_INSERTS.into_iter().map(|(region, insert)| {
            let (one, other) = (row(&ours, region), row(&published, region));
            Ok(Region {
                region,
                published: Figures { insert, read: millis(published_read(region)?) },
                as_published: other.and_then(measured),
                ours: one.and_then(measured),
                round_trips: one.and_then(Row::measured).and_then(|it| it.round_trips(Operation::Insert)),
                failure: [one, other].into_iter().find_map(failure),
            })
        });
        let regions = regions.collect::<io::Result<Vec<_>>>()?;
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

    /// Asks all regions, each through the POP.
    async fn run(&self, plan: Plan, done: &dyn Fn(usize)) -> Run {
        let mut fleet = Fleet::default();
        fleet.sites.retain_mut(|site: &mut Site| {
            let spoke = self.star.spokes().iter().find(|spoke| spoke.region() == site.region);
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

fn published_read(region: &str) -> io::Result<Duration> {
    wan::round_trip(region).ok_or_else(|| io::Error::other(format!("{region}: nobody knows how far it is")))
}

fn distance(region: &str, scale: u32) -> io::Result<Duration> {
    Ok(published_read(region)?.saturating_sub(ANSWERED_IN) / scale)
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
    let good = row.and_then(Row::measured).is_some_and(|it| it.failures() == 0 && it.notes.is_empty());
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
