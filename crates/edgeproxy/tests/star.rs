//! Ten regions around a hub: each service reaches the database through its own tunnel, and each is reached through the
//! POP.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may panic, and tells what it skips"
)]

use std::path::Path;
use std::time::Duration;

use edgeproxy_world::postgres::{Binaries, ScratchPostgres};
use edgeproxy_world::wan::{Link, REGION_ROUND_TRIPS};
use edgeproxy_world::{Client, LONG, Spoke, Star, within};
use serde_json::Value;

/// What the machine may take beside the way, on a busy day.
const MACHINE: Duration = Duration::from_millis(500);

/// Asks the service of a region through the POP.
async fn ask(spoke: &Spoke, query: &str) -> Value {
    let request = format!("GET /api/rds/benchmark?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answer = within("an answer", 2 * LONG, async {
        let mut client = Client::connect(spoke.front()).await?;
        client.send(request.as_bytes()).await?;
        Ok(client.ending().await?.0)
    });
    let answer = String::from_utf8(answer.await.unwrap()).unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    serde_json::from_str(body).unwrap()
}

#[tokio::test]
async fn every_region_measures_the_database_through_its_tunnel() {
    if let Err(missing) = Binaries::find() {
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("SKIPPED: {missing}");
        return;
    }
    let primary = ScratchPostgres::start("dub").await.unwrap();
    let regions = REGION_ROUND_TRIPS.map(|(region, _)| region);
    let star = Star::start(Path::new(env!("CARGO_BIN_EXE_edgeproxy")), &regions, primary.address(), 1).await.unwrap();
    println!("inside: {:?}", star.inside());
    for (spoke, (region, round_trip)) in star.spokes().iter().zip(REGION_ROUND_TRIPS) {
        let round_trip = round_trip / 10;
        spoke.path().set(Link::half_of(round_trip));
        let answer = ask(spoke, "iterations=3&phases=off").await;
        assert_eq!((&answer["region"], &answer["iterations"]), (&Value::from(region), &Value::from(3)), "{answer}");
        assert_eq!(answer["insert_latencies"].as_array().map(Vec::len), Some(3), "{answer}");
        let least = Duration::from_secs_f64(answer["read_min_ms"].as_f64().unwrap() / 1000.0);
        println!("{region}: {round_trip:?} configured, {least:?} measured");
        assert!(least >= round_trip - Duration::from_micros(1), "{region}: {least:?}");
        assert!(least < round_trip + MACHINE, "{region}: {least:?}");
    }
    assert_eq!(primary.value("SELECT count(*) FROM contacts").await.unwrap(), "0", "rows of a run are removed");
    star.close(LONG).await.unwrap();
}
