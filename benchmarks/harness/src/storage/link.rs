//! Uploads over the distance of each region: a link of one rate, real TCP in two network namespaces.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use edgeproxy_world::Bucket;
use edgeproxy_world::wan::{Link, REGION_ROUND_TRIPS, Wan};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::client::store;
use crate::failure::{Context, Failure};
use crate::progress::{self, Progress};
use crate::site::Site;

/// Megabits per second of the links; the faster is about what five streams with a send buffer of 4 MiB each can fill over
/// the longest way.
pub(super) const RATES: [u64; 2] = [100, 200];
/// Bytes of the object in one request; that in parts is the published one.
const SINGLE: &str = "100MB";
/// What the headers of IP and TCP take of a packet of 1,500 bytes.
const PAYLOAD: f64 = 1448.0 / 1500.0;
/// Seconds at the beginning in which streams still grow.
const GROWING: f64 = 4.0;
/// How often it is looked what has arrived.
const LOOK: Duration = Duration::from_millis(50);

/// One region by one link.
#[derive(Debug, Serialize)]
pub(super) struct Region {
    pub(super) name: &'static str,
    pub(super) round_trip_ms: f64,
    pub(super) link_mbit: u64,
    pub(super) congestion_control: String,
    pub(super) mb_per_second: f64,
    /// Of what the link carries, in percent.
    pub(super) share_percent: f64,
    /// The same of what arrived after the first seconds, and while all streams had something to send.
    pub(super) share_of_all_percent: Option<f64>,
    pub(super) share_single_percent: f64,
}

pub(super) fn measure(site: &Site, most: usize) -> Result<Vec<Region>, Failure> {
    let mut regions = Vec::new();
    if !site.edgeproxy.exists() {
        return Ok(regions);
    }
    let mut progress = Progress::new(REGION_ROUND_TRIPS.len().min(most) * RATES.len());
    for (name, round_trip) in REGION_ROUND_TRIPS.into_iter().take(most) {
        for rate in RATES {
            progress.step(&format!("{name}: a link of {rate} Mbit/s"));
            match region(site, name, round_trip, rate) {
                Ok(region) => regions.push(region),
                Err(failure) => progress::note(&format!("{name}: {failure}")),
            }
        }
    }
    progress.finish();
    Ok(regions)
}

fn region(site: &Site, name: &'static str, round_trip: Duration, rate: u64) -> Result<Region, Failure> {
    let wan = Wan::start(1).context("no virtual network")?;
    let bits = rate * 1_000_000;
    // A tenth of a second of the link may wait.
    let queue = usize::try_from(bits / 80).unwrap_or(usize::MAX);
    let path = wan.tun(Link { rate: Some(bits), queue, ..Link::half_of(round_trip) }).context("no path")?;
    let there = SocketAddr::from((path.far().address(), 7000));
    let bucket = path.far().within(move || Bucket::start_at(there)).context("no namespace")?;
    let bucket = bucket.context("cannot start the bucket")?;
    let upload = |mode: &str| -> Result<Outcome, Failure> {
        let mut command = Command::new(&site.edgeproxy);
        command.args(["bench", "storage", "--repeat", "1", "--retries", "0", "--no-sweep-old", "--json"]);
        command.args(["--mode", mode, "--size", SINGLE]);
        store(&mut command, &format!("http://{there}"));
        let output = path.near().within(move || command.output()).context("no namespace")?;
        let output = output.context("cannot run edgeproxy")?;
        let answer: Value = serde_json::from_slice(&output.stdout)
            .context(format!("no figures: {}", String::from_utf8_lossy(&output.stderr)))?;
        let run = answer["report"]["settings"][0]["runs"][0].clone();
        serde_json::from_value(run).context("other figures than expected")
    };
    let (parts, arrived) = counted(&bucket, || upload("parts"));
    let parts = parts?;
    let single = upload("single")?;
    drop(bucket);
    let share = |mb_per_second: f64| 100.0 * mb_per_second / (bits as f64 / 8e6 * PAYLOAD);
    Ok(Region {
        name,
        round_trip_ms: round_trip.as_secs_f64() * 1000.0,
        link_mbit: rate,
        congestion_control: parts.sockets.first().map(|socket| socket.congestion_control.clone()).unwrap_or_default(),
        mb_per_second: parts.mb_per_second,
        share_percent: share(parts.mb_per_second),
        share_of_all_percent: parts.while_all_send(&arrived, round_trip).map(share),
        share_single_percent: share(single.mb_per_second),
    })
}

/// What comes of the work, and what had arrived in the bucket meanwhile: seconds since the first byte, and bytes.
fn counted<T>(bucket: &Bucket, work: impl FnOnce() -> T) -> (T, Vec<(f64, u64)>) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let (mut arrived, before) = (Vec::new(), bucket.received());
            let mut began = None;
            while !done.load(Relaxed) {
                thread::sleep(LOOK);
                let bytes = bucket.received() - before;
                if bytes > 0 {
                    let began = began.get_or_insert_with(Instant::now);
                    arrived.push((began.elapsed().as_secs_f64(), bytes));
                }
            }
            arrived
        });
        let result = work();
        done.store(true, Relaxed);
        (result, counting.join().unwrap_or_default())
    })
}

/// What is read of a run.
#[derive(Deserialize)]
struct Outcome {
    mb_per_second: f64,
    parts: Vec<Part>,
    sockets: Vec<Socket>,
}

#[derive(Deserialize)]
struct Part {
    stream: usize,
    attempt_began: f64,
    ended: f64,
}

#[derive(Deserialize)]
struct Socket {
    congestion_control: String,
}

impl Outcome {
    /// MB/s that arrived once all streams were grown and until the first of them had nothing more to send. The bucket's time
    /// begins half a round trip after the first part, and the last of a part comes half a round trip before its answer.
    fn while_all_send(&self, arrived: &[(f64, u64)], round_trip: Duration) -> Option<f64> {
        let last = |of: &Part| {
            let own = self.parts.iter().filter(|part| part.stream == of.stream);
            own.map(|part| part.ended).fold(0.0, f64::max)
        };
        let first_idle = self.parts.iter().map(last).min_by(f64::total_cmp)?;
        let began = self.parts.iter().map(|part| part.attempt_began).min_by(f64::total_cmp)?;
        let from = arrived.iter().find(|(at, _)| *at >= GROWING)?;
        let to = arrived.iter().rfind(|(at, _)| *at <= first_idle - began - round_trip.as_secs_f64())?;
        (to.0 > from.0).then(|| (to.1 - from.1) as f64 / (to.0 - from.0) / 1e6)
    }
}
