//! What each token opens.

use serde_json::{Value, json};

use crate::client::Client;
use crate::figures::metric;
use crate::hub::{Folder, Hub, eventually};

const PEERS: &str = "/api/v1/peers";

fn folder() -> Folder {
    let token = |name: &str, scope: &str, rate: u32| {
        format!("[[gateway.token]]\nname = \"{name}\"\nfile = \"{name}.token\"\nscope = \"{scope}\"\nrate = {rate}\n")
    };
    let tokens = [
        token("monitor", "read", 0),
        token("ci", "create", 0),
        token("cd", "create", 0),
        token("slow", "create", 2),
        token("operator", "manage", 0),
    ];
    let folder = Folder::with(&tokens.concat());
    for name in ["monitor", "ci", "cd", "slow", "operator"] {
        folder.write(&format!("{name}.token"), &format!("{name}-secret\n"));
    }
    folder
}

fn path_of(peer: &Value) -> String {
    format!("{PEERS}/{}", peer["id"].as_str().unwrap())
}

#[test]
fn a_token_opens_what_its_scope_says() {
    let folder = folder();
    let hub = Hub::start(&folder);
    let with = |name: &str| Client::with(hub.admin, &format!("{name}-secret"));
    let [mut monitor, mut ci, mut cd, mut operator] = ["monitor", "ci", "cd", "operator"].map(with);

    let mine = ci.post(PEERS, &json!({ "preshared": true })).expect(201);
    let mine_too = ci.post(PEERS, &json!({})).expect(201);
    let its = operator.post(PEERS, &json!({})).expect(201);
    assert_eq!((&mine["owner"], &its["owner"]), (&json!("ci"), &json!("operator")));
    for client in [&mut monitor, &mut ci, &mut cd, &mut operator] {
        assert_eq!(client.get(PEERS).expect(200)["items"].as_array().unwrap().len(), 3);
        assert!(client.get(&path_of(&mine)).expect(200).get("preshared_key").is_none());
    }
    let too_small = |reply: crate::client::Reply, scope: &str| {
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
        let detail = reply.expect(403)["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(&format!("needs scope {scope}")), "{detail}");
    };
    too_small(monitor.post(PEERS, &json!({})), "create");
    too_small(monitor.post("/api/v1/peers:batch", &json!({ "peers": [] })), "create");
    too_small(monitor.delete(&path_of(&mine)), "create");
    too_small(monitor.post("/api/v1/peers:collect", &json!({ "dry_run": true })), "create");
    too_small(ci.post("/api/v1/peers:collect", &json!({ "dry_run": true })), "manage");
    too_small(ci.delete(&path_of(&its)), "manage");
    too_small(cd.delete(&path_of(&mine)), "manage");
    too_small(cd.post(&format!("{}/rotate", path_of(&mine)), &json!({})), "manage");
    // Somebody else's peer is not told again, with its preshared key, to whoever knows its public key.
    let again = json!({ "public_key": mine["public_key"] });
    assert_eq!(cd.post(PEERS, &again).status, 409);
    assert_eq!(ci.post(PEERS, &again).expect(200)["preshared_key"], mine["preshared_key"]);

    ci.post(&format!("{}/rotate", path_of(&mine)), &json!({})).expect(200);
    ci.delete(&path_of(&mine)).expect(204);
    operator.delete(&path_of(&mine_too)).expect(204);
    operator.post("/api/v1/peers:collect", &json!({})).expect(200);

    let line = |message: &str, token: &str| {
        eventually(message, || {
            let told = hub.told("audit");
            told.into_iter().find(|line| line["message"] == message && line["token"] == token)
        })
    };
    assert_eq!(line("peer created", "ci")["peer"], mine["id"]);
    assert!(line("peer removed", "operator")["from"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(line("peer has another key", "ci")["peer"], mine["id"]);
    assert_eq!(line("refused", "monitor")["needed"], "create");
}

#[test]
fn without_a_token_peers_are_closed_and_the_rest_is_as_it_was() {
    let folder = folder();
    let hub = Hub::start(&folder);
    for token in ["", "ci-secre", "ci-secret2", "CI-SECRET", "x"] {
        let mut client = Client::with(hub.admin, token);
        for (method, path) in
            [("GET", PEERS), ("POST", PEERS), ("DELETE", "/api/v1/peers/1"), ("GET", "/api/v1/peersx")]
        {
            let reply = client.ask(method, path, &[], "").unwrap();
            assert_eq!(reply.status, 401, "{token:?} {method} {path}");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"edgeproxy\""));
            assert!(reply.text.contains("gateway.token") && !reply.text.contains("\\\"ci\\\""), "{reply:?}");
        }
    }
    let mut client = hub.client();
    for path in ["/healthz", "/metrics", "/api/v1/openapi.json", "/api/v1/overlay"] {
        assert_eq!(client.get(path).status, 200, "{path}");
    }
    assert_eq!(client.get("/api/v1/backends").status, 404);
    assert!(metric(&client.get("/metrics").text, "edge_gateway_refusals_total{reason=\"token\"}") >= 20);
}

#[test]
fn the_admin_s_token_opens_all_and_the_others_peers_alone() {
    let folder = folder();
    folder.write("admin.token", "admin-secret\n");
    let file = folder.path().join("admin.token");
    let mut command = crate::hub::edgeproxy();
    command.args(["gateway", "-c"]).arg(folder.config()).env("EDGEPROXY_ADMIN_TOKEN_FILE", file);
    let hub = Hub::run(command);
    let mut admin = Client::with(hub.admin, "admin-secret");
    let peer = admin.post(PEERS, &json!({})).expect(201);
    assert_eq!(peer["owner"], Value::Null);
    admin.get("/api/v1/overlay").expect(200);
    admin.post("/api/v1/peers:collect", &json!({})).expect(200);
    let mut operator = Client::with(hub.admin, "operator-secret");
    assert_eq!(operator.get("/api/v1/overlay").status, 403);
    assert_eq!(operator.post("/api/v1/drain", &json!({ "scope": "self" })).status, 403);
    assert_eq!(hub.client().get("/api/v1/overlay").status, 401);
    operator.delete(&path_of(&peer)).expect(204);
}

#[test]
fn a_token_s_rate_is_kept_and_told() {
    let folder = folder();
    let hub = Hub::start(&folder);
    let mut slow = Client::with(hub.admin, "slow-secret");
    let batch: Vec<Value> = (0..20).map(|_| json!({})).collect();
    slow.post("/api/v1/peers:batch", &json!({ "peers": batch })).expect(200);
    let refused = slow.post(PEERS, &json!({}));
    let wait: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((5..=10).contains(&wait), "20 at 2 a second: {refused:?}");
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    refused.expect(429);
    assert_eq!(slow.delete("/api/v1/peers/1").status, 429);
    slow.get(PEERS).expect(200);
    Client::with(hub.admin, "ci-secret").post(PEERS, &json!({})).expect(201);
    let text = hub.client().get("/metrics").text;
    assert_eq!(metric(&text, "edge_gateway_refusals_total{reason=\"rate\"}"), 2);
}

#[test]
fn an_answer_is_repeated_to_whom_it_was_given() {
    let folder = folder();
    let hub = Hub::start(&folder);
    let ask = |name: &str| {
        let mut client = Client::with(hub.admin, &format!("{name}-secret"));
        client.ask("POST", PEERS, &["Idempotency-Key: k1"], "{}").unwrap().expect(201)
    };
    let first = ask("ci");
    assert_eq!(ask("ci")["private_key"], first["private_key"]);
    assert_ne!(ask("cd")["id"], first["id"]);
}
