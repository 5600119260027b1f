//! How peers are listed, shown, given other keys, and ended.

use std::collections::BTreeSet;

use edgeproxy_overlay::WgQuick;

use crate::gateway::{Gateway, eventually};

#[test]
fn lists_come_in_pages() {
    let gateway = Gateway::start();
    // In two batches of the API.
    let hub: String =
        (0..1200).map(|_| format!("[Peer]\nPublicKey = {}\n", crate::gateway::private().public())).collect();
    gateway.peer_with(&["import", "-", "--tag", "many"], &hub).done();
    gateway.peer(&["add", "--name", "ana", "--region", "fra"]).done();
    let count = |arguments: &[&str]| {
        let said = gateway.peer(&[&["list", "--json"], arguments].concat()).done().json();
        let ids: BTreeSet<String> =
            said["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids.len(), said["items"].as_array().unwrap().len(), "each once");
        (ids.len(), said["next"].is_string())
    };
    assert_eq!(count(&[]), (100, true));
    assert_eq!(count(&["--limit", "1150"]), (1150, true));
    assert_eq!(count(&["--limit", "1201"]), (1201, false));
    assert_eq!(count(&["--all"]), (1201, false));
    assert_eq!(count(&["--tag", "many", "--all"]), (1200, false));
    assert_eq!(count(&["--name", "ana", "--region", "fra"]), (1, false));

    let said = gateway.peer(&["list", "--name", "ana"]).done();
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(lines[0].starts_with("  id  name  region  addresses") && lines.len() == 2, "{said:?}");
    assert!(lines[1].starts_with("1201  ana   fra     10.50."), "{said:?}");
    let said = gateway.peer(&["list", "--limit", "3"]).done();
    assert_eq!(
        (said.out.lines().count(), said.err.as_str()),
        (4, "note: there are more; --limit N shows so many, --all shows all\n")
    );
    let said = gateway.peer(&["list", "--name", "bob"]).done();
    assert_eq!((said.out.as_str(), said.err.as_str()), ("", "note: the gateway has no such peers\n"));
    gateway.peer(&["list", "--limit", "0"]).failed(2, "--limit");
}

#[test]
fn a_peer_is_shown_by_number_and_by_key() {
    let gateway = Gateway::start();
    // Keys with every letter of the alphabet of base64, sooner or later.
    for number in 1..=8 {
        let config = gateway.peer(&["add", "--keep"]).done().out;
        let key = WgQuick::parse("f", config.as_bytes()).unwrap().interface.private_key.public().to_string();
        let said = gateway.peer(&["show", &key]).done();
        assert!(said.out.contains(&format!("\n{:<19}{number}\n", "id")), "{said:?}");
        assert!(said.out.contains(&format!("\n{:<19}never ends it\n", "being idle")), "{said:?}");
    }
}

#[test]
fn another_key_has_another_file() {
    let gateway = Gateway::start();
    let first = WgQuick::parse("f", gateway.peer(&["add"]).done().out.as_bytes()).unwrap();
    let said = gateway.peer(&["rotate", "1", "--overlap", "5m", "--out", "second.conf"]).done();
    assert_eq!(said.out, "1\n");
    let second = WgQuick::read(&gateway.file("second.conf")).unwrap();
    assert_eq!(second.interface.addresses, first.interface.addresses);
    let shown = gateway.peer(&["show", "1", "--json"]).done().json();
    assert_eq!(shown["public_key"], second.interface.private_key.public().to_string());
    assert_eq!(shown["former_public_key"], first.interface.private_key.public().to_string());
    assert_ne!(shown["public_key"], shown["former_public_key"]);
    gateway.peer(&["rotate", "1", "--overlap", "0s"]).done();
    assert!(gateway.peer(&["show", "1", "--json"]).done().json()["former_public_key"].is_null());
    gateway.peer(&["rotate", "9"]).failed(1, "there is no peer");
    assert!(!gateway.log().contains(&second.interface.private_key.to_base64()[..16]), "a private key is in the log");
}

#[test]
fn each_is_removed_for_itself() {
    let gateway = Gateway::start();
    for _ in 0..4 {
        gateway.peer(&["add"]).done();
    }
    let said = gateway.peer(&["rm", "1", "9", "2"]).failed(1, "1 of 3 peers were not there; --if-exists takes that");
    assert_eq!(said.out, "removed 1\nremoved 2\n");
    assert!(said.err.starts_with("note: there is no peer 9\n"), "{said:?}");
    let said = gateway.peer(&["rm", "1", "3", "--if-exists", "--json"]).done();
    assert_eq!(said.json(), serde_json::json!({ "removed": ["3"], "absent": ["1"] }));
    assert_eq!(gateway.peer(&["list", "--json"]).done().json()["items"][0]["id"], "4");
}

#[test]
fn what_is_over_is_collected() {
    // So long that the gateway does not come first.
    let gateway = Gateway::start_with("grace = \"1h\"");
    gateway.peer(&["add"]).done();
    assert_eq!(gateway.peer(&["gc", "--dry-run"]).done().err, "no peer would end\n");
    gateway.peer(&["add", "--ttl", "1s"]).done();
    // It may be gone by itself before anybody sees that it is due.
    eventually("its end", || {
        gateway.peer(&["gc", "--dry-run"]).done();
        let said = gateway.peer(&["gc", "--json"]).done().json();
        let is_gone = gateway.peer(&["show", "2"]).code == Some(1);
        assert!(is_gone || said["ended"] == serde_json::json!([]), "{said}");
        is_gone
    });
    assert_eq!(gateway.peer(&["show", "1"]).code, Some(0));
}

#[test]
fn a_process_without_peers_says_so() {
    let gateway = Gateway::start_bare();
    for arguments in [&["list"][..], &["rm", "1", "--if-exists"], &["add"]] {
        gateway.peer(arguments).failed(1, "this process hands out no peers");
    }
}
