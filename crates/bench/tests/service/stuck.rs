//! A table that nobody can write to, and a run that is told to stop: neither leaves sessions or rows behind.

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use edgeproxy_bench::db::{Operation, Plan, Record, RunId, Subject, measure};
use edgeproxy_postgres::{Direct, Server};
use edgeproxy_world::postgres::{DATABASE, PASSWORD, ScratchPostgres, USER};
use edgeproxy_world::wan::{Link, Wan};
use edgeproxy_world::{LONG, eventually};
use serde_json::json;
use tokio::sync::watch;

use crate::stage::{Heard, postgres, started};

async fn measured(server: Server, plan: Plan, stop: watch::Receiver<bool>) -> Record {
    let done = AtomicUsize::new(0);
    let subject = Subject { server: &server, near: None, reach: &Direct, done: &done, stop };
    measure(&subject, &plan, &RunId::new("lhr"), &[]).await
}

fn database(address: std::net::SocketAddr) -> Server {
    Server::new(address.ip().to_string(), address.port()).user(USER).password(PASSWORD).database(DATABASE)
}

/// Waits until so many sessions of a run are as this condition says.
async fn sessions(server: &ScratchPostgres, count: &str, condition: &str) {
    let look = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'edgeproxy' AND {condition}");
    let session = server.session().await.unwrap();
    eventually(condition, LONG, async || Ok((session.value(&look).await? == count).then_some(()))).await.unwrap();
}

async fn rows(server: &ScratchPostgres) -> String {
    server.value("SELECT count(*) FROM contacts").await.unwrap()
}

#[tokio::test]
async fn a_table_that_is_locked_ends_the_run_and_piles_up_no_sessions() {
    let Some(server) = postgres().await else { return };
    let lock = server.session().await.unwrap();
    // Reads go on, writes wait, and so does whoever prepares one.
    lock.sql("BEGIN; LOCK TABLE contacts IN SHARE MODE").await.unwrap();
    let plan = Plan { iterations: 100, warm_up: false, patience: Duration::from_millis(300), ..Plan::default() };
    let (_tell, stop) = watch::channel(false);
    let run = tokio::spawn(measured(database(server.address()), plan, stop));
    // The removal waits for the lock; what was given up before does not.
    sessions(&server, "1", "wait_event_type = 'Lock' AND query LIKE 'DELETE%'").await;
    sessions(&server, "0", "wait_event_type = 'Lock' AND query LIKE 'INSERT%'").await;
    sessions(&server, "1", "true").await;
    lock.sql("COMMIT").await.unwrap();
    let record = run.await.unwrap();
    assert_eq!(record.ended_early.as_deref(), Some("no answer in time, 3 times in a row"), "{record:?}");
    assert_eq!((record.timeouts, record.errors.values().sum()), (3, 3), "{record:?}");
    assert_eq!((record.sample(Operation::Read).count(), record.sample(Operation::Prepared).count()), (1, 0));
    assert!(record.cleanup.error.is_none(), "{record:?}");
    assert_eq!(rows(&server).await, "0");
}

#[tokio::test]
async fn a_service_that_stops_ends_its_run_and_removes_its_rows() {
    let Some(server) = postgres().await else { return };
    let wan = Wan::start(6).unwrap();
    let path = wan.tcp(server.address(), Link::half_of(Duration::from_millis(10))).unwrap();
    let (host, port) = (path.address().ip().to_string(), path.address().port().to_string());
    let (stage, service) = started(&[("DB_HOST", &host), ("DB_PORT", &port)]).await;
    let asked = stage.ask("/api/rds/benchmark?iterations=100").await;
    stage.until("/metrics", |heard| heard.body.contains("edge_bench_running 1")).await;
    eventually("a row", LONG, async || Ok((rows(&server).await != "0").then_some(()))).await.unwrap();
    service.settle().await;
    assert_eq!(rows(&server).await, "0");
    let answer = Heard::read(asked).await.json();
    assert_eq!(answer["ended_early"], json!("stopping"), "{answer}");
    let refused = stage.get("/api/rds/benchmark?iterations=1").await;
    assert_eq!((refused.status, &refused.json()["error"]), (503, &json!("Stopping")));
}

#[tokio::test]
async fn a_transaction_that_is_interrupted_does_not_keep_the_rows() {
    let Some(server) = postgres().await else { return };
    let wan = Wan::start(7).unwrap();
    let path = wan.tcp(server.address(), Link::half_of(Duration::from_millis(100))).unwrap();
    let (tell, stop) = watch::channel(false);
    let plan = Plan { iterations: 10, ..Plan::default() };
    let run = tokio::spawn(measured(database(path.address()), plan, stop));
    sessions(&server, "1", "state = 'idle in transaction'").await;
    tell.send_replace(true);
    let record = run.await.unwrap();
    assert_eq!((record.ended_early.as_deref(), &record.cleanup.error), (Some("stopping"), &None), "{record:?}");
    assert!(record.cleanup.deleted > 0, "{record:?}");
    assert_eq!(rows(&server).await, "0");
}
