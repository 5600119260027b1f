//! What each statement costs in round trips, over a way of 100 ms: far more than what a busy machine adds.

use std::time::Duration;

use edgeproxy_world::wan::{Link, Wan};
use serde_json::Value;

use crate::stage::{postgres, service, with};

const ROUND_TRIP: Duration = Duration::from_millis(100);

fn trips(answer: &Value, operation: &str) -> f64 {
    answer["round_trips"][operation].as_f64().unwrap_or_else(|| panic!("{operation} in {answer}"))
}

/// So many, and not one more or less, with room for a machine that does other things beside.
fn assert_about(answer: &Value, operation: &str, expected: f64) {
    let found = trips(answer, operation);
    assert!((found - expected).abs() < 0.5, "{operation}: {found} round trips instead of {expected}");
}

#[tokio::test]
async fn an_insert_is_one_round_trip_and_two_as_lib_pq_does_it() {
    let Some(server) = postgres().await else { return };
    let wan = Wan::start(4).unwrap();
    let path = wan.tcp(server.address(), Link::half_of(ROUND_TRIP)).unwrap();
    let stage = service(path.address()).await;
    let ours = stage.get("/api/rds/benchmark?iterations=6").await.json();
    for (operation, expected) in
        [("read", 1.0), ("insert", 1.0), ("prepared", 1.0), ("transaction", 1.0), ("transaction_awaited", 3.0)]
    {
        assert_about(&ours, operation, expected);
    }
    let probe = ours["round_trip_ms"].as_f64().unwrap();
    assert!((99.0..160.0).contains(&probe), "{probe}");
    // TCP, startup, two for the password.
    let connect = ours["connect_ms"].as_f64().unwrap() / probe;
    assert!((3.5..6.0).contains(&connect), "{connect}");

    let theirs = stage.get("/api/rds/benchmark?iterations=6&mode=pq&phases=off").await.json();
    assert_about(&theirs, "read", 1.0);
    assert_about(&theirs, "insert", 2.0);
}

#[tokio::test]
async fn a_read_nearby_costs_no_round_trip_to_the_primary() {
    let Some(server) = postgres().await else { return };
    let replica = server.standby("lhr").await.unwrap();
    let wan = Wan::start(5).unwrap();
    let path = wan.tcp(server.address(), Link::half_of(ROUND_TRIP)).unwrap();
    // Where the region's own replica is, as there is no room for a second server at port 5433 here.
    let url = replica.url();
    let (host, port) = (path.address().ip().to_string(), path.address().port().to_string());
    let stage = with(&[("DB_HOST", &host), ("DB_PORT", &port), ("DATABASE_URL", &url)]).await;
    let answer = stage.get("/api/rds/benchmark?iterations=6&reads=near&phases=off").await.json();
    assert!(answer["read_db"].as_str().unwrap().ends_with(&replica.address().port().to_string()), "{answer}");
    assert_about(&answer, "insert", 1.0);
    assert!(trips(&answer, "read") < 0.5, "{answer}");
}
