//! Backends: what is written is in the file, and clients go by it.

use serde_json::{Value, json};

use crate::pop::{Backend, Client, Pop};

/// One column of a row, straight from the file.
fn stored(pop: &Pop, id: &str, column: &str) -> Option<String> {
    let db = rusqlite::Connection::open(pop.table()).unwrap();
    let sql = format!("SELECT CAST({column} AS TEXT) FROM backends WHERE id = ?1");
    db.query_row(&sql, [id], |row| row.get(0)).unwrap()
}

#[test]
fn a_backend_lives_and_dies_by_the_api() {
    let pop = Pop::start();
    let backend = Backend::start("b1");
    assert!(Client::connect(&pop).is_none(), "no backend yet");

    let body = json!({
        "id": "b1", "app": "web", "region": "fra", "wg_ip": "127.0.0.1", "port": backend.address.port(),
        "healthy": 1, "weight": 2,
    });
    let created = pop.post("/api/v1/backends", &body);
    assert_eq!(created.header("location"), Some("/api/v1/backends/b1"));
    let created = created.expect(201);
    assert_eq!(created["addr"], backend.address.to_string());
    assert_eq!(created["limits"], json!({ "weight": 2, "soft": 100, "hard": 150 }));
    assert_eq!(created["country"], "DE", "that of its region");
    assert_eq!(stored(&pop, "b1", "wg_ip").as_deref(), Some("127.0.0.1"));

    // In effect once it is answered, without a pause.
    let mut client = Client::of(&pop, "b1");
    let shown = pop.get("/api/v1/backends/b1").expect(200);
    assert_eq!((&shown["connections"], &shown["served"]), (&json!(1), &json!(1)));
    assert_eq!(pop.post("/api/v1/backends", &body).status, 409);

    let changed = json!({ "limits": { "hard": 7 }, "country": null, "soft_limit": 5 });
    let changed = pop.send("PATCH", "/api/v1/backends/b1", &changed).expect(200);
    assert_eq!(changed["limits"], json!({ "weight": 2, "soft": 5, "hard": 7 }));
    assert_eq!(changed["country"], Value::Null);
    assert_eq!(stored(&pop, "b1", "hard_limit").as_deref(), Some("7"));
    pop.send("PATCH", "/api/v1/backends/b1", &json!({ "healthy": false })).expect(200);
    assert!(Client::connect(&pop).is_none(), "marked unhealthy");

    pop.delete("/api/v1/backends/b1").expect(204);
    assert_eq!(stored(&pop, "b1", "deleted").as_deref(), Some("1"), "a tombstone");
    assert!(client.echoes(), "who is connected stays");
    pop.get("/api/v1/backends/b1").expect(404);
    pop.delete("/api/v1/backends/b1").expect(404);
    pop.send("PATCH", "/api/v1/backends/b1", &json!({ "weight": 1 })).expect(404);
    pop.post("/api/v1/backends", &body).expect(201);
    assert!(Client::connect(&pop).is_some(), "back again");
}

#[test]
fn what_other_programs_write_shows_as_well() {
    let pop = Pop::start();
    let db = rusqlite::Connection::open(pop.table()).unwrap();
    db.execute_batch("INSERT INTO backends VALUES ('x', 'web', 'nrt', 'JP', '127.0.0.1', 9, 1, 1, 100, 150, 0)")
        .unwrap();
    let region = crate::pop::eventually("the row shows", || {
        Some(pop.get("/api/v1/backends/x"))
            .filter(|reply| reply.status == 200)
            .map(|reply| reply.json()["region"].clone())
    });
    assert_eq!(region, "nrt");
}

#[test]
fn lists_come_in_pages() {
    let pop = Pop::start();
    for (id, region) in [("b3", "fra"), ("b1", "fra"), ("b/ö", "nrt"), ("b2", "nrt"), ("a", "fra")] {
        let app = if id == "a" { "db" } else { "web" };
        let body = json!({ "id": id, "app": app, "region": region, "addr": "127.0.0.1:9" });
        pop.post("/api/v1/backends", &body).expect(201);
    }
    let ids = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    let mut seen = Vec::new();
    let mut path = "/api/v1/backends?limit=2".to_owned();
    loop {
        let page = pop.get(&path).expect(200);
        assert!(ids(&page).len() <= 2);
        seen.extend(ids(&page));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/backends?limit=2&cursor={next}");
    }
    assert_eq!(seen, ["a", "b/ö", "b1", "b2", "b3"]);
    assert_eq!(ids(&pop.get("/api/v1/backends?region=nrt").expect(200)), ["b/ö", "b2"]);
    assert_eq!(ids(&pop.get("/api/v1/backends?app=web&region=fra").expect(200)), ["b1", "b3"]);
    assert_eq!(pop.get("/api/v1/backends/b%2F%C3%B6").expect(200)["id"], "b/ö");
}

#[test]
fn a_request_sent_again_is_done_once() {
    let pop = Pop::start();
    let create = |key: &str, body: &Value| {
        let key = format!("Idempotency-Key: {key}");
        pop.ask("POST", "/api/v1/backends", &["Content-Type: application/json", &key], &body.to_string())
    };
    let body = json!({ "id": "b1", "region": "fra", "addr": "127.0.0.1:9" });
    let first = create("k1", &body);
    let again = create("k1", &body);
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.header("location"), again.header("location"));
    assert_eq!(first.json(), again.json());
    assert_eq!(create("k2", &body).status, 409, "another request");
    let other = json!({ "id": "b2", "region": "fra", "addr": "127.0.0.1:9" });
    let reused = create("k1", &other).expect(422);
    assert_eq!(reused["field"], "Idempotency-Key");
    pop.get("/api/v1/backends/b2").expect(404);
    assert_eq!(create("", &other).status, 422);
}

#[test]
fn the_explain_command_asks_for_the_policy_that_serves() {
    let pop = Pop::start_with(None, &[("EDGEPROXY_LISTENER_POLICY", "latency"), ("EDGEPROXY_LISTENER_APP", "web")]);
    let (admin, backend) = (pop.admin.to_string(), Backend::start("b1"));
    pop.add("b1", "fra", &backend);
    // As the README has it.
    let command = ["route", "explain", "203.0.113.7", "--admin", &admin];
    let explained = |more: &[&str]| {
        let done = pop.command(&[&command[..], more].concat());
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    assert!(explained(&[]).contains("reached fra, policy latency\n"), "{}", explained(&[]));
    assert!(explained(&["--policy", "score"]).contains("policy score\n"));
}

#[test]
fn explain_tells_where_a_client_goes() {
    let pop = Pop::start();
    for (id, region) in [("tokyo", "nrt"), ("frankfurt", "fra")] {
        let body = json!({ "id": id, "app": "web", "region": region, "addr": "127.0.0.1:9", "healthy": true });
        pop.post("/api/v1/backends", &body).expect(201);
    }
    // The University of Tokyo, for decades.
    let explained = pop.get("/api/v1/explain?client=133.11.0.1").expect(200);
    let client = json!({ "ip": "133.11.0.1", "country": "JP", "area": "ap", "precise": false });
    assert_eq!(explained["client"], client);
    assert_eq!(
        (&explained["pop"], &explained["app"], &explained["policy"]),
        (&json!("fra"), &Value::Null, &json!("geo"))
    );
    assert_eq!(explained["candidates"][0]["id"], "tokyo");
    assert_eq!(explained["candidates"][0]["band_reason"], "same country");
    assert_eq!(explained["candidates"][1]["id"], "frankfurt");

    let explained = pop.get("/api/v1/explain?client=::ffff:133.11.0.1&app=db&policy=score").expect(200);
    assert_eq!((&explained["client"]["ip"], &explained["policy"]), (&json!("133.11.0.1"), &json!("score")));
    assert_eq!(explained["candidates"][0]["standing"], "other_app");
}
