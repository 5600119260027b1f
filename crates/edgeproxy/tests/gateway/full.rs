//! A disk without room: creating fails and says so, nothing is kept of it, and goes on when there is room.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::client::{Client, Reply};
use crate::figures::metric;
use crate::hub::{Folder, Hub};

/// In namespaces where the folder of its file is a disk of 1 MiB.
fn start_on_small_disk(folder: &Folder) -> Hub {
    let script = "mount -t tmpfs -o size=1m tmpfs \"$1\" && exec \"$2\" gateway -c \"$3\"";
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", script, "sh"]).arg(folder.path().join("db"));
    command.arg(env!("CARGO_BIN_EXE_edgeproxy")).arg(folder.config());
    Hub::run(command)
}

/// Takes all the room there is.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}

/// The disk as the gateway sees it.
fn inside(hub: &Hub, folder: &Folder) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", hub.pid()));
    root.join(folder.path().strip_prefix("/").unwrap()).join("db")
}

#[test]
fn a_full_disk_is_told_and_survived() {
    if !Command::new("unshare").args(["-Urm", "true"]).status().is_ok_and(|status| status.success()) {
        println!("skipped: user namespaces are not allowed here");
        return;
    }
    let folder = Folder::new();
    let hub = start_on_small_disk(&folder);
    let mut client = hub.client();
    let kept = client.post("/api/v1/peers", &json!({})).expect(201);
    let filler = inside(&hub, &folder).join("filler");
    fill(&filler);

    // What is left of the last page of the log may take some more.
    let (mut request, mut failed) = (json!({}), None);
    for number in 1..=100_u8 {
        let key = edgeproxy_tunnel::PublicKey([number; 32]).to_string();
        request = json!({ "public_key": key, "addresses": [format!("10.50.7.{number}")], "prefixes": [format!("192.168.{number}.0/24")] });
        let before = figures(&mut client);
        let reply = client.post("/api/v1/peers", &request);
        if reply.status != 201 {
            assert_eq!(figures(&mut client), before, "nothing is kept of it");
            failed = Some(reply);
            break;
        }
    }
    told(failed.expect("the disk is full"));
    let path = format!("/api/v1/peers/{}", kept["id"].as_str().unwrap());
    told(client.delete(&path));
    told(client.post(&format!("{path}/rotate"), &json!({})));
    let shown = client.get(&path).expect(200);
    assert_eq!(shown["public_key"], kept["public_key"], "what there is, is as it was");
    let mut batch = || {
        let body = json!({ "peers": [{ "public_key": edgeproxy_tunnel::PublicKey([200; 32]).to_string() }, {}] });
        let key = "Idempotency-Key: batch";
        client.ask("POST", "/api/v1/peers:batch", &[key], &body.to_string()).unwrap().expect(200)
    };
    let failed = batch();
    assert!(failed["items"].as_array().unwrap().iter().all(|item| item["status"] == 507), "{failed}");

    fs::remove_file(&filler).unwrap();
    // The same request again: that nothing could be done is not remembered.
    let done = batch();
    assert!(done["items"].as_array().unwrap().iter().all(|item| item["existing"] == false), "{done}");
    assert_eq!(batch(), done, "what was done is");
    let created = client.post("/api/v1/peers", &request).expect(201);
    assert_eq!(created["addresses"][0], request["addresses"][0], "address, key and network are free again");
    client.delete(&path).expect(204);
    assert_eq!(client.get(&path).status, 404);
    client.get(&format!("/api/v1/peers/{}", created["id"].as_str().unwrap())).expect(200);
    assert!(hub.stop().success());
}

/// It is said what is wrong and what would help.
#[track_caller]
fn told(reply: Reply) {
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{reply:?}");
    let problem: Value = reply.expect(507);
    assert!(problem["detail"].as_str().unwrap().contains("no room is left"), "{problem}");
}

/// Peers, addresses taken, addresses that rest.
fn figures(client: &mut Client) -> [u64; 4] {
    let text = client.get("/metrics").text;
    [
        metric(&text, "edge_gateway_peers"),
        metric(&text, "edge_gateway_addresses_taken{pool=\"10.50.0.0/16\"}"),
        metric(&text, "edge_gateway_addresses_taken{pool=\"fd00:50::/64\"}"),
        metric(&text, "edge_gateway_addresses_resting"),
    ]
}
