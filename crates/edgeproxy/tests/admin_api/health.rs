//! What supervisors, balancers and Prometheus ask.

use serde_json::json;

use crate::pop::{Backend, Client, Pop, eventually};

#[test]
fn readiness_needs_a_backend() {
    let pop = Pop::start();
    assert_eq!(pop.get("/readyz").expect(503), json!({ "ready": false, "reasons": ["no_backend_in_service"] }));
    for path in ["/healthz", "/health"] {
        assert_eq!(pop.get(path).text, "ok\n");
    }
    pop.add("b1", "fra", &Backend::start("b1"));
    assert_eq!(pop.get("/readyz").expect(200), json!({ "ready": true, "reasons": [] }));
    pop.send("PATCH", "/api/v1/backends/b1", &json!({ "weight": 0 })).expect(200);
    pop.get("/readyz").expect(503);
    assert!(pop.get("/metrics").text.contains("\nedge_ready 0\n"), "the metric says the same");
}

#[test]
fn a_pop_that_tries_backends_that_are_down_is_ready() {
    for (when_all_down, status) in [("refuse", 503), ("try", 200)] {
        let variables = [("EDGEPROXY_LISTENER_WHEN_ALL_DOWN", when_all_down)];
        let pop = Pop::start_with(None, &variables);
        let body =
            json!({ "id": "r1", "app": "web", "region": "fra", "ip": "127.0.0.1", "port": 9, "heartbeat_secs": 1 });
        pop.post("/api/v1/register", &body).expect(200);
        eventually("silence takes it down", || {
            (pop.get("/api/v1/backends/r1").expect(200)["down"] == true).then_some(())
        });
        pop.get("/readyz").expect(status);
    }
}

#[test]
fn metrics_tell_of_backends() {
    let pop = Pop::start();
    let before = pop.get("/metrics").text;
    assert!(before.contains("edge_connections_total"), "before the first client");
    assert!(before.contains(&format!("edge_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))));

    let backend = Backend::start("b1");
    pop.add("b\"1", "fra", &backend);
    let client = Client::of(&pop, "b1");
    let text = pop.get("/metrics").text;
    for line in [
        "edge_backend_connections{backend=\"b\\\"1\"} 1",
        "edge_backend_up{backend=\"b\\\"1\"} 1",
        "edge_backend_ejected{backend=\"b\\\"1\"} 0",
        "process_open_fds",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
    client.finish();
    eventually("the connection is no more", || {
        pop.get("/metrics").text.contains("edge_backend_connections{backend=\"b\\\"1\"} 0").then_some(())
    });
}

#[test]
fn the_format_is_the_one_that_is_accepted() {
    let pop = Pop::start();
    let kind = |accept: &str| {
        let reply = pop.ask("GET", "/metrics", &[&format!("Accept: {accept}")], "");
        reply.header("content-type").unwrap().to_owned()
    };
    assert!(kind("*/*").starts_with("text/plain; version=0.0.4"));
    let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    assert!(kind(prometheus).starts_with("application/openmetrics-text; version=1.0.0"));
}

#[test]
fn above_a_thousand_backends_are_summed_by_region() {
    let pop = Pop::start();
    let mut db = rusqlite::Connection::open(pop.table()).unwrap();
    let transaction = db.transaction().unwrap();
    for number in 0..1001 {
        let region = if number % 2 == 0 { "fra" } else { "nrt" };
        let sql = "INSERT INTO backends VALUES (?1, 'web', ?2, NULL, '127.0.0.1', 9, 1, 1, 100, 150, 0)";
        transaction.execute(sql, rusqlite::params![format!("b{number}"), region]).unwrap();
    }
    transaction.commit().unwrap();
    let text = eventually("the table is loaded", || {
        Some(pop.get("/metrics").text).filter(|text| text.contains("edge_table_backends 1001"))
    });
    assert!(text.contains("edge_backend_connections{region=\"nrt\"} 0"), "{text}");
    assert!(!text.contains("backend=\""));
}
