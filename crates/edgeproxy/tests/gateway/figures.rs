//! What `/metrics` says of a gateway.

use serde_json::json;

use crate::hub::{Folder, Hub, eventually};

/// The value of a series.
#[track_caller]
pub(crate) fn metric(text: &str, series: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {series} in:\n{text}")).parse().unwrap()
}

#[test]
fn what_is_done_is_counted() {
    let folder = Folder::new();
    let hub = Hub::start(&folder);
    let mut client = hub.client();
    let before = client.get("/metrics").text;
    let taken = "edge_gateway_addresses_taken{pool=\"10.50.0.0/16\"}";
    assert_eq!(metric(&before, "edge_gateway_addresses{pool=\"10.50.0.0/16\"}"), 1 << 16);
    assert_eq!(metric(&before, taken), 3, "the network's own, the broadcast address, and the gateway's");

    let first = client.post("/api/v1/peers", &json!({})).expect(201);
    let path = format!("/api/v1/peers/{}", first["id"].as_str().unwrap());
    client.post("/api/v1/peers:batch", &json!({ "peers": [{}, { "name": "two words" }] })).expect(200);
    client.post("/api/v1/peers", &json!({ "ttl_s": 1 })).expect(201);
    let rotated = client.post(&format!("{path}/rotate"), &json!({ "overlap_s": 0 })).expect(200);
    // Asked again, because the answer was lost, it is not changed again.
    let again = client.post(&format!("{path}/rotate"), &json!({ "public_key": rotated["public_key"] })).expect(200);
    assert_eq!((&rotated["existing"], &again["existing"]), (&json!(false), &json!(true)));
    client.delete(&path).expect(204);
    assert_eq!(client.get(&path).status, 404);
    assert_eq!(client.post("/api/v1/peers", &json!({ "public_key": "x" })).status, 422);
    assert_eq!(client.post("/api/v1/peers", &json!({ "addresses": ["10.50.0.1"] })).status, 409);
    eventually("one has expired", || {
        let text = client.get("/metrics").text;
        (metric(&text, "edge_gateway_changes_total{change=\"expired\"}") == 1).then_some(())
    });

    let text = client.get("/metrics").text;
    let counted = |series: &str| metric(&text, series);
    assert_eq!(counted("edge_gateway_peers"), 1);
    assert_eq!(counted("edge_gateway_peers_awake"), 0);
    assert_eq!(counted("edge_gateway_addresses_resting"), 4);
    assert_eq!(counted(taken), 6);
    for (change, count) in [("created", 3), ("removed", 1), ("rotated", 1), ("idle", 0)] {
        assert_eq!(counted(&format!("edge_gateway_changes_total{{change=\"{change}\"}}")), count, "{change}");
    }
    for (reason, count) in [("unknown", 1), ("rule", 2), ("conflict", 1)] {
        assert_eq!(counted(&format!("edge_gateway_refusals_total{{reason=\"{reason}\"}}")), count, "{reason}");
    }
    assert_eq!(counted("edge_gateway_create_seconds_count"), 2);
    assert_eq!(counted("edge_gateway_create_seconds_bucket{le=\"+Inf\"}"), 2);
    assert!(text.contains("edge_gateway_create_seconds_bucket{le=\"0.00005\"}"), "{text}");
}
