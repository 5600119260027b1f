//! Uploads over the distance of each region: a link of one rate, real TCP in two network namespaces.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use edgeproxy_world::Bucket;
use edgeproxy_world::wan::{Link, REGION_ROUND_TRIPS, Wan};
use serde::Serialize;

use super::client::store;
use crate::failure::{Context, Failure};
use crate::progress::{self, Progress};
use crate::site::Site;

/// Bits per second: what five streams with a send buffer of 4 MiB each can fill over the longest way.
const RATE: u64 = 200_000_000;
/// Bytes of the object in one request; that in parts is the published one, 40 s of the link.
const SINGLE: &str = "100MB";
/// A tenth of a second of the link may wait.
const QUEUE: usize = 2_500_000;
/// What the headers of IP and TCP take of a packet of 1,500 bytes.
const PAYLOAD: f64 = 1448.0 / 1500.0;

/// One region.
#[derive(Debug, Serialize)]
pub(super) struct Region {
    pub(super) name: &'static str,
    pub(super) round_trip_ms: f64,
    pub(super) mb_per_second: f64,
    pub(super) goodput_mb_per_second: f64,
    /// Of what the link carries, in percent.
    pub(super) share_percent: f64,
    pub(super) share_single_percent: f64,
}

pub(super) fn measure(site: &Site, most: usize) -> Result<Vec<Region>, Failure> {
    let mut regions = Vec::new();
    if !site.edgeproxy.exists() {
        return Ok(regions);
    }
    let mut progress = Progress::new(REGION_ROUND_TRIPS.len().min(most));
    for (name, round_trip) in REGION_ROUND_TRIPS.into_iter().take(most) {
        progress.step(&format!("{name}: a link of {} Mbit/s", RATE / 1_000_000));
        match region(site, name, round_trip) {
            Ok(region) => regions.push(region),
            Err(failure) => progress::note(&format!("{name}: {failure}")),
        }
    }
    progress.finish();
    Ok(regions)
}

fn region(site: &Site, name: &'static str, round_trip: Duration) -> Result<Region, Failure> {
    let wan = Wan::start(1).context("no virtual network")?;
    let link = Link { rate: Some(RATE), queue: QUEUE, ..Link::half_of(round_trip) };
    let path = wan.tun(link).context("no path")?;
    let there = SocketAddr::from((path.far().address(), 7000));
    let bucket = path.far().within(move || Bucket::start_at(there)).context("no namespace")?;
    let bucket = bucket.context("cannot start the bucket")?;
    let upload = |mode: &str| -> Result<(f64, f64), Failure> {
        let mut command = Command::new(&site.edgeproxy);
        command.args(["bench", "storage", "--repeat", "1", "--retries", "0", "--no-sweep-old", "--json"]);
        command.args(["--mode", mode, "--size", SINGLE]);
        store(&mut command, &format!("http://{there}"));
        let output = path.near().within(move || command.output()).context("no namespace")?;
        let output = output.context("cannot run edgeproxy")?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
            .context(format!("no figures: {}", String::from_utf8_lossy(&output.stderr)))?;
        let run = &answer["report"]["settings"][0]["runs"][0];
        let figure = |name: &str| run[name].as_f64().unwrap_or(0.0);
        Ok((figure("mb_per_second"), figure("goodput_mb_per_second")))
    };
    let (rate, goodput) = upload("parts")?;
    let (single, _) = upload("single")?;
    drop(bucket);
    let carried = RATE as f64 / 8e6 * PAYLOAD;
    Ok(Region {
        name,
        round_trip_ms: round_trip.as_secs_f64() * 1000.0,
        mb_per_second: rate,
        goodput_mb_per_second: goodput,
        share_percent: 100.0 * rate / carried,
        share_single_percent: 100.0 * single / carried,
    })
}
