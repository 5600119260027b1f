//! A run over several services, of which some are not as they should be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use edgeproxy_bench::db::{Operation, Plan};
use edgeproxy_bench::fleet::{AskError, Course, Fleet, News, Outcome, Site, run};
use edgeproxy_bench::report::{Marks, honest, notes, table};
use edgeproxy_postgres::Direct;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::stage::{postgres, service, with};

fn site(region: &str, address: impl ToString) -> Site {
    Site {
        name: region.to_owned(),
        region: region.to_owned(),
        address: address.to_string(),
        location: String::new(),
        country: String::new(),
    }
}

/// Answers the first request by this body, as a service that knows the published fields alone.
async fn older_service(body: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    });
    address
}

#[tokio::test]
async fn who_does_not_answer_is_a_row_and_the_run_goes_on() {
    let Some(server) = postgres().await else { return };
    let nobody = {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        taken.local_addr().unwrap()
    };
    let older = older_service(
        "{\"region\":\"old\",\"db_host\":\"10.50.0.1\",\"iterations\":2,\"read_avg_ms\":38.775,\"read_min_ms\":12.1,\
         \"read_max_ms\":65.45,\"insert_avg_ms\":25.295,\"insert_min_ms\":24.97,\"insert_max_ms\":25.62,\
         \"read_latencies\":[65.45,12.10],\"insert_latencies\":[24.97,25.62],\"timestamp\":\"2025-12-07T15:48:02Z\"}",
    )
    .await;
    let sites = vec![
        site("lhr", service(server.address()).await.0),
        site("gone", nobody),
        site("bare", with(&[]).await.0),
        site("old", older),
        site("odd", older_service("<html>").await),
    ];
    let fleet = Fleet { source: Some("here".to_owned()), database: None, sites };
    let course = Course { plan: Plan { iterations: 3, ..Plan::default() }, requests: 1, parallel: 2 };
    let over = AtomicUsize::new(0);
    let tell = |news: News<'_>| {
        if matches!(news, News::Over(..)) {
            over.fetch_add(1, Ordering::Relaxed);
        }
    };
    let found = run(&fleet, &course, Arc::new(Direct), tell).await;
    assert_eq!(over.load(Ordering::Relaxed), 5);
    let measured = found.rows[0].measured().unwrap();
    assert_eq!(measured.sample(Operation::Insert).count(), 3);
    assert!(matches!(&found.rows[1].outcome, Outcome::Failed(AskError::Unreachable(_))), "{:?}", found.rows[1]);
    assert_eq!(found.rows[2].outcome, Outcome::Failed(AskError::Refused("Database not configured".to_owned())));
    assert!(matches!(&found.rows[4].outcome, Outcome::Failed(AskError::Broken(_))), "{:?}", found.rows[4]);

    let text = table(&found, Marks::Ascii);
    assert!(text.starts_with("=== RDS Benchmark: here -> 127.0.0.1 ===\n\n"), "{text}");
    assert!(text.contains("| gone   |               |     TIMEOUT |   TIMEOUT |"), "{text}");
    assert!(
        text.contains("| old    |               |       25.30 |     12.10 |") || text.contains("|       25.29 |"),
        "{text}"
    );
    assert_eq!(honest(&found).rows.len(), 5);
    assert!(notes(&found).iter().any(|note| note.starts_with("gone: not reached: ")), "{:?}", notes(&found));
}

#[tokio::test]
async fn requests_to_one_site_are_put_together() {
    let Some(server) = postgres().await else { return };
    let stage = service(server.address()).await;
    let fleet = Fleet { source: None, database: None, sites: vec![site("lhr", stage.0)] };
    let course = Course { plan: Plan { iterations: 100, phases: false, ..Plan::default() }, requests: 3, parallel: 1 };
    let found = run(&fleet, &course, Arc::new(Direct), |_| ()).await;
    let measured = found.rows[0].measured().unwrap();
    assert_eq!(measured.sample(Operation::Insert).count(), 300);
    assert_eq!(measured.connect.count(), 3);
    assert_eq!(measured.removed, 3 * (100 + 3));
    assert!(measured.sample(Operation::Insert).summary().p99.is_some());
    assert_eq!(server.value("SELECT count(*) FROM contacts").await.unwrap(), "0");
}
