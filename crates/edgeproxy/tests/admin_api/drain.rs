//! Drains, by the API and by the command.

use serde_json::{Value, json};

use crate::pop::{Backend, Client, LONG, Pop, eventually};

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap().trim_end()
}

#[test]
fn a_drained_backend_keeps_whom_it_has_until_the_deadline() {
    let pop = Pop::start();
    let (near, far) = (Backend::start("near"), Backend::start("far"));
    pop.add("near", "fra", &near);
    pop.add("far", "nrt", &far);
    let mut client = Client::of(&pop, "near");

    let done = pop.command(&["drain", "backend", "near"]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(text(&done.stdout), "backend near takes no new clients; those connected may stay");
    assert_eq!(pop.get("/api/v1/backends/near").expect(200)["drained"], true);
    assert!(client.echoes(), "who is connected stays");
    let mut other = Client::of(&pop, "far");

    let done = pop.command(&["drain", "backend", "near", "--deadline", "100ms", "--json"]);
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(answer, json!({ "drained": 1 }));
    assert!(client.was_reset(), "cut at the deadline");
    assert!(other.echoes(), "the other backend's clients stay");

    let done = pop.command(&["drain", "backend", "near", "--undo"]);
    assert_eq!(text(&done.stdout), "backend near takes new clients again");
    assert_eq!(pop.get("/api/v1/backends/near").expect(200)["drained"], false);
}

#[test]
fn a_drain_undone_in_time_cuts_nobody() {
    let pop = Pop::start();
    let (b1, b2) = (Backend::start("b1"), Backend::start("b2"));
    pop.add("b1", "fra", &b1);
    let mut first = Client::of(&pop, "b1");
    pop.add("b2", "fra", &b2);
    let order = |name: &str, undo: bool, deadline: Option<&str>| {
        let body = json!({ "scope": "backend", "name": name, "undo": undo, "deadline": deadline });
        pop.post("/api/v1/drain", &body).expect(200)
    };
    order("b1", false, Some("2s"));
    let second = Client::of(&pop, "b2");
    // Undone by another program, and drained anew without a deadline: the first one's is off.
    pop.send("PATCH", "/api/v1/backends/b1", &json!({ "drained": false })).expect(200);
    order("b1", false, None);
    pop.send("PATCH", "/api/v1/backends/b1", &json!({ "drained": false })).expect(200);
    order("b1", false, Some("2s"));
    assert_eq!(order("b1", true, None), json!({ "undone": 1 }));
    order("b2", false, Some("3s"));
    assert!(second.was_reset(), "later than the deadlines that were undone");
    assert!(first.echoes());
}

#[test]
fn a_deadline_does_not_outlive_its_drain() {
    let pop = Pop::start();
    let (b1, b2) = (Backend::start("b1"), Backend::start("b2"));
    pop.add("b1", "fra", &b1);
    let mut first = Client::of(&pop, "b1");
    pop.add("b2", "fra", &b2);
    let drained = |yes: bool| {
        pop.send("PATCH", "/api/v1/backends/b1", &json!({ "drained": yes })).expect(200);
    };
    let order = |name: &str, deadline: &str| {
        pop.post("/api/v1/drain", &json!({ "scope": "backend", "name": name, "deadline": deadline })).expect(200)
    };
    order("b1", "2s");
    let second = Client::of(&pop, "b2");
    drained(false);
    // By another order than the API's own, which would call the timer off.
    drained(true);
    order("b2", "3s");
    assert!(second.was_reset(), "later than the first deadline");
    assert!(first.echoes(), "this drain has no deadline");
}

#[test]
fn an_order_whose_client_hangs_up_is_carried_out() {
    let pop = Pop::start();
    let backend = Backend::start("b1");
    pop.add("b1", "fra", &backend);
    let client = Client::of(&pop, "b1");
    pop.post_and_hang_up("/api/v1/drain", &json!({ "scope": "backend", "name": "b1", "deadline": "0s" }));
    assert!(client.was_reset(), "cut at the deadline");
    assert_eq!(pop.get("/api/v1/backends/b1").expect(200)["drained"], true);
}

#[test]
fn a_region_is_drained_as_a_whole() {
    let pop = Pop::start();
    let backends = ["f1", "f2", "tokyo"].map(Backend::start);
    for ((id, region), backend) in [("f1", "fra"), ("f2", "fra"), ("tokyo", "nrt")].into_iter().zip(&backends) {
        pop.add(id, region, backend);
    }
    let done = pop.command(&["drain", "region", "fra", "--deadline", "0s"]);
    let told = "region fra (2 backends) takes no new clients; those still connected after 0s are cut off";
    assert_eq!(text(&done.stdout), told);
    Client::of(&pop, "tokyo");
    assert_eq!(pop.post("/api/v1/drain", &json!({ "scope": "region", "name": "nrt" })).expect(200)["drained"], 1);
    assert_eq!(pop.get("/readyz").expect(503), json!({ "ready": false, "reasons": ["no_backend_in_service"] }));
    pop.command(&["drain", "region", "fra", "--undo"]);
    assert_ne!(Client::connect(&pop).expect("some are back").1, "tokyo");
}

#[test]
fn a_pop_drains_and_ends() {
    let mut pop = Pop::start();
    let backend = Backend::start("b1");
    pop.add("b1", "fra", &backend);
    let mut client = Client::of(&pop, "b1");
    let done = pop.command(&["drain", "self", "--deadline", "1h"]);
    assert_eq!(text(&done.stdout), "the proxy takes no more clients and ends within 1h; connections now: 1");
    eventually("it is not ready", || {
        let ready = pop.get("/readyz");
        (ready.status == 503).then(|| assert_eq!(ready.json()["reasons"], json!(["draining"])))
    });
    assert_eq!(pop.post("/api/v1/drain", &json!({ "scope": "self" })).status, 409, "draining already");
    assert_eq!(pop.get("/healthz").status, 200);
    assert!(client.echoes(), "who is connected stays");
    client.finish();
    assert_eq!(pop.wait().code(), Some(0));
}

#[test]
fn a_pop_without_connections_answers_before_it_ends() {
    let mut pop = Pop::start();
    let answer = pop.post("/api/v1/drain", &json!({ "scope": "self" })).expect(202);
    assert_eq!(answer, json!({ "draining": true, "connections": 0, "delay": "0s", "deadline": "30s" }));
    assert_eq!(pop.wait().code(), Some(0));
}

#[test]
fn a_pop_cuts_the_rest_at_its_deadline() {
    let mut pop = Pop::start();
    let backend = Backend::start("b1");
    pop.add("b1", "fra", &backend);
    let client = Client::of(&pop, "b1");
    pop.post("/api/v1/drain", &json!({ "scope": "self", "deadline": "50ms" })).expect(202);
    assert!(client.was_reset());
    assert_eq!(pop.wait().code(), Some(0));
}

#[test]
fn the_command_tells_what_is_wrong() {
    let pop = Pop::start();
    let unknown = pop.command(&["drain", "backend", "nobody"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("there is no backend \"nobody\""), "{unknown:?}");
    let usages: [&[&str]; 4] = [
        &["drain", "self", "--undo"],
        &["drain", "backend", "b1", "--undo", "--deadline", "1s"],
        &["drain", "backend", "b1", "--deadline", "soon"],
        &["drain"],
    ];
    for usage in usages {
        assert_eq!(pop.command(usage).status.code(), Some(2), "{usage:?}");
    }
    let started = std::time::Instant::now();
    let nobody = pop.command(&["drain", "self", "--admin", "127.0.0.1:1"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody.stderr).contains("is `edgeproxy proxy` or `gateway` running there?"), "{nobody:?}");
    assert!(started.elapsed() < LONG);
}
