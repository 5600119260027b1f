//! Backends that register themselves, as the older tool's agents do.

use serde_json::json;

use crate::pop::{Backend, Client, Pop, eventually};

#[test]
fn a_registered_backend_serves_while_it_shows_signs_of_life() {
    let pop = Pop::start_with(None, &[("EDGEPROXY_HEARTBEAT_TTL_SECS", "2")]);
    let backend = Backend::start("r1");
    let body = json!({
        "id": "r1", "app": "web", "region": "fra", "ip": "127.0.0.1", "port": backend.address.port(),
    });
    assert_eq!(pop.post("/api/v1/register", &body).expect(200), json!({ "registered": true, "id": "r1" }));
    // At once: an agent's first heartbeat may follow its registration without a pause.
    assert_eq!(pop.ask("POST", "/api/v1/heartbeat/r1", &[], "").expect(200), json!({ "status": "ok" }));
    let shown = pop.get("/api/v1/backends/r1").expect(200);
    assert_eq!(shown["heartbeat_secs"], 2);
    assert_eq!(shown["limits"], json!({ "weight": 2, "soft": 100, "hard": 150 }));
    Client::of(&pop, "r1");

    let is_down = || pop.get("/api/v1/backends/r1").expect(200)["down"] == true;
    eventually("silence takes it down", || is_down().then_some(()));
    assert!(Client::connect(&pop).is_none());
    pop.ask("POST", "/api/v1/backends/r1/heartbeat", &[], "").expect(204);
    eventually("a heartbeat brings it back", || (!is_down()).then_some(()));
    eventually("silence takes it down again", || is_down().then_some(()));
    pop.post("/api/v1/register", &body).expect(200);
    eventually("so does another registration", || (!is_down()).then_some(()));
}

#[test]
fn registering_again_leaves_the_operators_word() {
    let pop = Pop::start();
    let body = json!({ "id": "r1", "app": "web", "region": "fra", "ip": "127.0.0.1", "port": 9, "country": null });
    pop.post("/api/v1/register", &body).expect(200);
    let operators = json!({ "weight": 7, "drained": true, "healthy": false });
    pop.send("PATCH", "/api/v1/backends/r1", &operators).expect(200);
    let moved = json!({ "id": "r1", "app": "web", "region": "nrt", "ip": "127.0.0.2", "port": 10, "soft_limit": 50 });
    pop.post("/api/v1/register", &moved).expect(200);
    let shown = pop.get("/api/v1/backends/r1").expect(200);
    assert_eq!((&shown["addr"], &shown["region"]), (&json!("127.0.0.2:10"), &json!("nrt")));
    assert_eq!(shown["limits"], json!({ "weight": 7, "soft": 50, "hard": 150 }));
    assert_eq!((&shown["drained"], &shown["healthy"]), (&json!(true), &json!(false)));

    let broken = json!({ "id": "r2", "app": "web", "region": "fra", "ip": "here", "port": 9 });
    let problem = pop.post("/api/v1/register", &broken).expect(422);
    assert_eq!(problem["field"], "ip", "by the name that the request has for it: {problem}");
}
