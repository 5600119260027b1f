//! The published interface, and what stands beside it.

use serde_json::{Value, json};

use crate::stage::{numbers, postgres, service, with};

#[tokio::test]
async fn a_run_has_every_published_field() {
    let Some(server) = postgres().await else { return };
    let stage = service(server.address()).await;
    let heard = stage.get("/api/rds/benchmark?iterations=7").await;
    assert_eq!(heard.status, 200);
    assert!(heard.head.contains("content-type: application/json"), "{}", heard.head);
    assert!(heard.head.contains("x-fly-region: lhr"), "{}", heard.head);
    let answer = heard.json();
    assert_eq!(
        (&answer["region"], &answer["db_host"], &answer["iterations"]),
        (&json!("lhr"), &json!("127.0.0.1"), &json!(7))
    );
    for kind in ["read", "insert"] {
        let latencies = numbers(&answer[format!("{kind}_latencies")]);
        assert_eq!(latencies.len(), 7);
        let figure = |name: &str| answer[format!("{kind}_{name}_ms")].as_f64().unwrap();
        let mean = latencies.iter().sum::<f64>() / 7.0;
        assert!((figure("avg") - mean).abs() < 1e-6);
        assert_eq!(figure("min"), latencies.iter().copied().fold(f64::INFINITY, f64::min));
        assert_eq!(figure("max"), latencies.iter().copied().fold(0.0, f64::max));
        // Whole microseconds.
        assert!(latencies.iter().all(|ms| ((ms * 1000.0).round() - ms * 1000.0).abs() < 1e-6 && *ms > 0.0));
    }
    let timestamp = answer["timestamp"].as_str().unwrap();
    assert!(timestamp.len() == "2025-12-07T15:48:02Z".len() && timestamp.ends_with('Z'), "{timestamp}");
    for (name, is_right) in [
        (
            "percentiles",
            answer["percentiles"]["insert"]["p50"].is_f64() && answer["percentiles"]["insert"]["p99"].is_null(),
        ),
        ("errors", answer["errors"] == json!({}) && answer["timeouts"] == json!(0)),
        ("round_trips", answer["round_trips"]["probe"] == json!(1.0)),
        ("phases", answer["phases"]["login_ms"].as_f64().unwrap() > 0.0),
        ("connect_ms", answer["connect_ms"].as_f64().unwrap() > answer["phases"]["login_ms"].as_f64().unwrap()),
        ("first_ms", answer["first_ms"].as_f64().unwrap() > 0.0),
        ("transactions", answer["operations"]["transaction"]["count"] == json!(7)),
        ("cleanup", answer["cleanup"]["error"].is_null()),
    ] {
        assert!(is_right, "{name}: {answer}");
    }
    let fallback = stage.get("/api/rds/benchmark?iterations=101&phases=off").await.json();
    assert_eq!(fallback["iterations"], json!(10));
    let bad = stage.get("/api/rds/benchmark?mode=fast").await;
    assert!(bad.status == 400 && bad.body.contains("it is one of"), "{bad:?}");
}

#[tokio::test]
async fn rows_look_as_published_and_only_those_of_the_benchmark_are_removed() {
    let Some(server) = postgres().await else { return };
    let row = |name: &str, email: &str, notes: &str, age: &str| {
        format!(
            "INSERT INTO contacts (name, email, notes, created_at) VALUES ('{name}', '{email}', '{notes}', now() - interval '{age}')"
        )
    };
    for sql in [
        row("Ada", "ada@example.org", "Benchmark", "9 days"),
        row("Bench-lhr-1-0", "bench-1@test.local", "mine", "9 days"),
        row("Bench-lhr-17-0", "bench-17@test.local", "Benchmark", "1 hour"),
        row("Bench-syd-18-0", "bench-18@test.local", "Benchmark", "25 hours"),
    ] {
        server.sql(&sql).await.unwrap();
    }
    // What is written, by a trigger that remembers it.
    server
        .sql("CREATE TABLE seen AS SELECT * FROM contacts WHERE false; GRANT INSERT ON seen TO PUBLIC")
        .await
        .unwrap();
    server.sql("CREATE RULE remember AS ON INSERT TO contacts DO ALSO INSERT INTO seen VALUES (NEW.*)").await.unwrap();
    let stage = service(server.address()).await;
    let answer = stage.get("/api/rds/benchmark?iterations=4&mode=pq&phases=off").await.json();
    server.sql("DROP RULE remember ON contacts").await.unwrap();
    assert_eq!(answer["cleanup"], json!({ "deleted": 4, "leftovers": 1, "error": null }), "{answer}");
    let left = server.value("SELECT string_agg(name, ' ' ORDER BY name) FROM contacts").await.unwrap();
    assert_eq!(left, "Ada Bench-lhr-1-0 Bench-lhr-17-0");
    let form = "SELECT count(*) FROM seen WHERE name ~ '^Bench-lhr-[0-9]{19}-[0-9]+$' AND notes = 'Benchmark' \
                AND email ~ '^bench-[0-9]{19}@test\\.local$'";
    assert_eq!(server.value(form).await.unwrap(), "4");
}

#[tokio::test]
async fn without_a_database_everything_still_answers() {
    let stage = with(&[]).await;
    let expected = json!({ "error": "Database not configured", "region": "lhr", "db_host": "not configured" });
    let benchmark = stage.get("/api/rds/benchmark").await;
    assert_eq!((benchmark.status, benchmark.json()), (200, expected.clone()));
    assert!(benchmark.head.contains("x-fly-region: lhr"));
    let strict = stage.get("/api/rds/benchmark?status=strict").await;
    assert_eq!((strict.status, strict.json()), (503, expected));
    let health = stage.get("/api/rds/health").await.json();
    assert_eq!(health, json!({ "region": "lhr", "db_host": "not configured", "status": "disabled" }));
    assert_eq!(stage.get("/api/info").await.json(), json!({ "region": "lhr", "hostname": "d8912345" }));
    // Well without one, and telling what else there is to ask.
    let overview = stage.get("/").await;
    assert_eq!((overview.status, &overview.json()["status"]), (200, &json!("ok")));
    assert!(overview.json()["endpoints"].as_array().is_some_and(|endpoints| !endpoints.is_empty()));
    assert_eq!(stage.get("/healthz").await.body, "ok\n");
    assert!(stage.get("/metrics").await.body.contains("edge_bench_database_up 0"));
}

#[tokio::test]
async fn the_trivial_query_goes_where_the_url_leads() {
    let Some(server) = postgres().await else { return };
    let url = server.url();
    // In the primary's own region, and where no region is told.
    for regions in [[("PRIMARY_REGION", "lhr"), ("FLY_REGION", "lhr")], [("PRIMARY_REGION", ""), ("FLY_REGION", "lhr")]]
    {
        let variables: Vec<_> = regions.iter().copied().chain([("DATABASE_URL", url.as_str())]).collect();
        let stage = with(&variables).await;
        let heard = stage.get("/").await;
        assert_eq!((heard.status, &heard.json()["status"]), (200, &json!("ok")));
        assert!(heard.head.contains("content-type: application/json"));
    }
    // The measured one, if there is no other.
    let stage = service(server.address()).await;
    assert_eq!(stage.get("/").await.json()["status"], json!("ok"));
    let health = stage.get("/api/rds/health").await.json();
    assert_eq!(health, json!({ "region": "lhr", "db_host": "127.0.0.1", "status": "connected" }));
    let refused = stage.get("/api/rds/benchmark?reads=near").await;
    assert!(refused.status == 400 && refused.body.contains("DATABASE_URL"), "{refused:?}");
    let found: Value = refused.json();
    assert_eq!(found["error"], json!("Bad parameter"));
}
