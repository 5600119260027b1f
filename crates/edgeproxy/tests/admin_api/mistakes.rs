//! Every mistake of a request is answered by a problem document that says what is wrong.

use serde_json::json;

use crate::pop::Pop;

#[test]
fn every_mistake_is_told_as_a_problem() {
    let pop = Pop::start();
    pop.post("/api/v1/backends", &json!({ "id": "b1", "region": "fra", "addr": "127.0.0.1:9" })).expect(201);
    let backends = "/api/v1/backends";
    let json_type = "Content-Type: application/json";
    let requests: &[(&str, &str, &str, u16, &str)] = &[
        ("GET", "/nothing", "", 404, "there is nothing at /nothing"),
        ("GET", "/api/v1/nothing", "", 404, "there is nothing at"),
        ("PUT", backends, "{}", 405, "does not take this method"),
        ("POST", "/metrics", "{}", 405, "does not take this method"),
        ("POST", backends, "{\"id\": \"b2\",", 400, "line 1 column 12"),
        ("POST", backends, "", 400, "EOF"),
        ("POST", backends, "[]", 422, "must be a JSON object"),
        ("POST", backends, "{\"limits\": []}", 422, "limits: invalid type: sequence"),
        ("POST", backends, "{\"limits\": {\"soft\": \"x\"}}", 422, "expected i64"),
        ("POST", backends, "{\"id\": 7}", 422, "id: invalid type: integer `7`, expected a string"),
        ("POST", backends, "{\"prot\": 7}", 422, "unknown field `prot`"),
        ("POST", backends, "{\"id\": \"b2\", \"addr\": \"127.0.0.1:9\"}", 422, "region is NULL"),
        (
            "POST",
            backends,
            "{\"id\": \"b2\", \"region\": \"fra\", \"addr\": \"here\"}",
            422,
            "addr \"here\" is not an IP",
        ),
        ("POST", backends, "{\"addr\": \"127.0.0.1:9\", \"port\": 9}", 422, "port says the same as addr"),
        ("PATCH", "/api/v1/backends/b1", "{\"port\": 70000}", 422, "port 70000 is not in 1 to 65535"),
        ("PATCH", "/api/v1/backends/b1", "{\"healthy\": 2}", 422, "healthy 2 is not in 0 to 1"),
        ("PATCH", "/api/v1/backends/b1", "{\"weight\": null}", 422, "weight: invalid type: null"),
        ("PATCH", "/api/v1/backends/b1", "{\"weight\": 99999999999999999999}", 422, "weight"),
        ("PATCH", "/api/v1/backends/b1", "{\"id\": \"b2\"}", 422, "id cannot be changed"),
        ("PATCH", "/api/v1/backends/%FF", "{}", 400, "UTF-8"),
        ("GET", "/api/v1/backends?limit=0", "", 422, "limit \"0\" is not a number from 1 to 1000"),
        ("GET", "/api/v1/backends?limit=x", "", 422, "limit \"x\""),
        ("GET", "/api/v1/backends?cursor=zz", "", 422, "cursor is none that this list gave out"),
        ("GET", "/api/v1/backends?apps=web", "", 422, "unknown field `apps`"),
        ("GET", "/api/v1/connections?cursor=-1", "", 422, "cursor"),
        ("DELETE", "/api/v1/connections/fra-0", "", 404, "there is no open connection \"fra-0\""),
        ("POST", "/api/v1/backends/nobody/heartbeat", "", 404, "there is no backend \"nobody\""),
        ("POST", "/api/v1/backends/b1/heartbeat", "", 409, "no heartbeat is expected"),
        ("POST", "/api/v1/heartbeat/nobody", "", 404, "there is no backend"),
        ("POST", "/api/v1/register", "{\"id\": \"r\"}", 422, "missing field"),
        ("GET", "/api/v1/explain", "", 422, "client is missing"),
        ("GET", "/api/v1/explain?client=there", "", 422, "client \"there\" is not an IP address"),
        ("GET", "/api/v1/explain?client=10.0.0.1&policy=best", "", 422, "policy \"best\" is none of"),
        ("POST", "/api/v1/drain", "{\"scope\": \"all\"}", 422, "unknown variant `all`"),
        ("POST", "/api/v1/drain", "{\"scope\": \"backend\"}", 422, "name is missing"),
        (
            "POST",
            "/api/v1/drain",
            "{\"scope\": \"backend\", \"name\": \"nobody\"}",
            404,
            "there is no backend \"nobody\"",
        ),
        ("POST", "/api/v1/drain", "{\"scope\": \"region\", \"name\": \"syd\"}", 404, "no backend"),
        ("POST", "/api/v1/drain", "{\"scope\": \"self\", \"undo\": true}", 409, "cannot be undone"),
        ("POST", "/api/v1/drain", "{\"scope\": \"self\", \"name\": \"x\"}", 422, "name makes no sense"),
        (
            "POST",
            "/api/v1/drain",
            "{\"scope\": \"self\", \"deadline\": \"soon\"}",
            422,
            "deadline \"soon\" is not a duration",
        ),
        (
            "POST",
            "/api/v1/drain",
            "{\"scope\": \"self\", \"deadline\": \"1year\"}",
            422,
            "deadline \"1year\" is more than 7days",
        ),
    ];
    for (method, path, body, status, detail) in requests {
        let reply = pop.ask(method, path, &[json_type], body);
        assert_eq!(reply.status, *status, "{method} {path} {body}: {reply:?}");
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{method} {path} {body}");
        let problem = reply.json();
        assert_eq!(problem["status"], *status);
        assert!(problem["type"].is_string() && problem["title"].is_string());
        let told = problem["detail"].as_str().unwrap();
        assert!(told.contains(detail), "{method} {path} {body}: {told:?} does not say {detail:?}");
    }
    assert_eq!(pop.ask("PUT", backends, &[], "").header("allow"), Some("GET,HEAD,POST"));
    assert_eq!(pop.send("PATCH", "/api/v1/backends/b1", &json!({ "port": 0 })).expect(422)["field"], "port");
    assert_eq!(pop.get("/healthz").status, 200, "still alive");
}

#[test]
fn bodies_are_json_and_not_too_long() {
    let pop = Pop::start();
    let reply = pop.ask("POST", "/api/v1/backends", &["Content-Type: text/plain"], "{}");
    assert_eq!((reply.status, reply.header("content-type")), (415, Some("application/problem+json")));
    let long = format!("{{\"id\": \"{}\"}}", "x".repeat(1024 * 1024));
    let reply = pop.ask("POST", "/api/v1/backends", &["Content-Type: application/json"], &long);
    assert_eq!((reply.status, reply.header("content-type")), (413, Some("application/problem+json")));
}

#[test]
fn the_root_lists_what_there_is() {
    let pop = Pop::start();
    let contents = pop.get("/").text;
    for line in ["GET    /metrics", "POST   /api/v1/drain", "DELETE /api/v1/backends/{id}"] {
        assert!(contents.contains(line), "{contents}");
    }
}
