//! Errors are counted and are no latencies; what is broken heals; nothing is left behind.

use std::time::Duration;

use edgeproxy_world::postgres::ScratchPostgres;
use edgeproxy_world::wan::{Link, Wan};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::stage::{Heard, Stage, numbers, postgres, service};

const RUN: &str = "/api/rds/benchmark?iterations=100&phases=off";

/// Begins a run and waits until it has come some way.
async fn begun(stage: Stage) -> TcpStream {
    let asked = stage.ask(RUN).await;
    let rounds = |heard: &Heard| {
        let line = heard.body.lines().find_map(|line| line.strip_prefix("edge_bench_rounds "));
        line.unwrap().parse::<usize>().unwrap()
    };
    stage.until("/metrics", |heard| rounds(heard) >= 5).await;
    asked
}

async fn rows(server: &ScratchPostgres) -> String {
    server.value("SELECT count(*) FROM contacts").await.unwrap()
}

#[tokio::test]
async fn one_run_at_a_time_and_who_hangs_up_leaves_nothing_behind() {
    let Some(server) = postgres().await else { return };
    let wan = Wan::start(1).unwrap();
    let path = wan.tcp(server.address(), Link::half_of(Duration::from_millis(10))).unwrap();
    let stage = service(path.address()).await;
    let asked = begun(stage).await;
    let busy = stage.get(RUN).await;
    assert_eq!(busy.status, 409);
    let busy = busy.json();
    assert_eq!((&busy["region"], &busy["error"]), (&json!("lhr"), &json!("A run is going on")));
    let running = &busy["running"];
    assert_eq!((&running["iterations"], &running["mode"]), (&json!(100), &json!("one")));
    assert!(running["run"].as_str().unwrap().starts_with("lhr-") && running["since"].as_str().unwrap().ends_with('Z'));
    assert_ne!(rows(&server).await, "0");
    drop(asked);
    // Goes on to its end, and removes its rows.
    stage.until("/metrics", |heard| heard.body.contains("edge_bench_running 0")).await;
    assert_eq!(rows(&server).await, "0");
    assert!(stage.get("/metrics").await.body.contains("edge_bench_runs_total 1"));
}

#[tokio::test]
async fn a_table_that_goes_away_is_counted_and_not_timed() {
    let Some(server) = postgres().await else { return };
    let wan = Wan::start(2).unwrap();
    let path = wan.tcp(server.address(), Link::half_of(Duration::from_millis(10))).unwrap();
    let stage = service(path.address()).await;
    let run = begun(stage).await;
    server.sql("ALTER TABLE contacts RENAME TO elsewhere").await.unwrap();
    let heard = Heard::read(run).await;
    let answer = heard.json();
    let failed = answer["errors"]["42P01"].as_u64().unwrap();
    let (reads, inserts) = (numbers(&answer["read_latencies"]), numbers(&answer["insert_latencies"]));
    assert_eq!(heard.status, 200);
    assert_eq!(reads.len() as u64 + inserts.len() as u64 + failed, 200, "{answer}");
    assert!(failed >= 100 && reads.len() >= 5, "{answer}");
    // A failure here takes as long as a success. It is told apart all the same.
    assert_eq!(answer["failures"]["count"].as_u64().unwrap(), failed);
    assert!(answer["cleanup"]["error"].as_str().unwrap().contains("42P01"), "{answer}");

    // From the start: nothing succeeds.
    let published = stage.get("/api/rds/benchmark?iterations=2").await;
    assert_eq!((published.status, &published.json()["error"]), (200, &json!("Nothing succeeded")));
    assert_eq!(published.json()["insert_avg_ms"], json!(0.0));
    assert_eq!(stage.get("/api/rds/benchmark?iterations=2&status=strict").await.status, 502);

    // Reads alone succeed.
    server.sql("CREATE VIEW contacts AS SELECT 1; GRANT SELECT ON contacts TO PUBLIC").await.unwrap();
    assert_eq!(stage.get("/api/rds/benchmark?iterations=2").await.status, 200);
    assert_eq!(stage.get("/api/rds/benchmark?iterations=2&status=strict").await.status, 502);
    server.sql("DROP VIEW contacts").await.unwrap();

    // Its rows are not forgotten.
    server.sql("ALTER TABLE elsewhere RENAME TO contacts").await.unwrap();
    assert_ne!(rows(&server).await, "0");
    let answer = stage.get("/api/rds/benchmark?iterations=2").await.json();
    assert!(answer["errors"] == json!({}) && answer["cleanup"]["error"].is_null(), "{answer}");
    assert_eq!(rows(&server).await, "0");
}

#[tokio::test]
async fn a_database_that_comes_later_is_found() {
    let Some(mut server) = postgres().await else { return };
    server.stop().await.unwrap();
    let stage = service(server.address()).await;
    let down = stage.get("/api/rds/benchmark?iterations=2").await;
    let body = down.json();
    assert_eq!((down.status, &body["error"]), (200, &json!("Database not configured")));
    assert!(body["message"].as_str().unwrap().contains("refused"), "{body}");
    assert_eq!(stage.get("/api/rds/benchmark?status=strict").await.status, 503);
    let health = stage.get("/api/rds/health").await;
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("error")));
    assert!(health.json()["message"].as_str().is_some_and(|message| !message.is_empty()));
    assert_eq!(stage.get("/").await.status, 503);

    server.restart().await.unwrap();
    // Without being asked.
    stage.until("/metrics", |heard| heard.body.contains("edge_bench_database_up 1")).await;
    assert_eq!(stage.get("/api/rds/health").await.json()["status"], json!("connected"));
    let answer = stage.get("/api/rds/benchmark?iterations=2").await.json();
    assert_eq!(numbers(&answer["insert_latencies"]).len(), 2, "{answer}");
}

#[tokio::test]
async fn a_database_that_dies_ends_the_run_and_its_rows_end_with_the_next() {
    let Some(mut server) = postgres().await else { return };
    let wan = Wan::start(3).unwrap();
    let path = wan.tcp(server.address(), Link::half_of(Duration::from_millis(10))).unwrap();
    let stage = service(path.address()).await;
    let run = begun(stage).await;
    server.kill().await.unwrap();
    let answer = Heard::read(run).await.json();
    assert!(answer["ended_early"].is_string() && answer["cleanup"]["error"].is_string(), "{answer}");
    let measured = numbers(&answer["insert_latencies"]).len();
    assert!((5..100).contains(&measured), "{answer}");
    assert!(answer["errors"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>() > 0);

    server.restart().await.unwrap();
    assert_ne!(rows(&server).await, "0");
    stage.until("/api/rds/health", |heard| heard.json()["status"] == json!("connected")).await;
    let answer = stage.get("/api/rds/benchmark?iterations=1").await.json();
    assert!(answer["cleanup"]["error"].is_null(), "{answer}");
    assert_eq!(rows(&server).await, "0");
}
