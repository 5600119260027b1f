//! Peers of other hubs.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use edgeproxy_tunnel::{PresharedKey, PrivateKey};
use serde_json::json;

use crate::gateway::{Gateway, edgeproxy, private, write_private};

#[test]
fn what_wg_showconf_prints_is_taken() {
    let gateway = Gateway::start();
    let keys: Vec<String> = (0..4).map(|_| private().public().to_string()).collect();
    let psk = PresharedKey::from_bytes(*private().bytes()).to_base64();
    let hub = format!(
        "[Interface]\nListenPort = 51820\nPrivateKey = {}\nPostUp = iptables -A FORWARD\n\n# Name = Ana's phone\n[Peer]\n\
         PublicKey = {}\nPresharedKey = {}\nAllowedIPs = 10.50.9.1/32, 10.50.9.2/32, 172.16.3.0/24\n\
         Endpoint = 192.0.2.1:7\nPersistentKeepalive = 25\n\n[Peer]\n# gru\nPublicKey = {}\nAllowedIPs = 10.50.9.9/32\n\n\
         [Peer]\nPublicKey = {}\nAllowedIPs = 192.168.0.7/32\n\n[Peer]\nPublicKey = {}\n",
        *private().to_base64(),
        keys[0],
        *psk,
        keys[1],
        keys[2],
        keys[3]
    );
    write_private(&gateway.file("old.conf"), &hub);
    let said = gateway.peer(&["import", "old.conf", "--dry-run"]).done();
    assert_eq!((said.out.as_str(), said.err.as_str()), ("4 would be sent, 0 failed; nothing was done\n", ""));
    assert_eq!(gateway.peer(&["list", "--json"]).done().json()["items"], json!([]));

    // 10.50.9.2 is in a pool and not the peer's first: as a network behind it, it overlaps the pool.
    let said = gateway.peer(&["import", "old.conf", "--tag", "old"]);
    let said = said.failed(1, "old.conf:7: 10.50.9.2/32 overlaps 10.50.0.0/16");
    assert_eq!(said.out, "3 created, 0 there before, 1 failed\n");
    assert!(said.err.ends_with("error: 1 of 4 peers cannot be imported\n"), "{said:?}");
    let mended = hub.replace("10.50.9.2/32, ", "");
    let said = gateway.peer_with(&["import", "-", "--json"], &mended).done();
    assert_eq!(said.json(), json!({ "dry_run": false, "created": 1, "existing": 3, "failed": 0, "failures": [] }));
    let said = gateway.peer_with(&["import", "-"], &mended).done();
    assert_eq!(said.out, "0 created, 4 there before, 0 failed\n");

    let show = |key: &str| gateway.peer(&["show", key, "--json"]).done().json();
    let ana = show(&keys[0]);
    assert_eq!((&ana["name"], &ana["preshared"]), (&"Ana-s-phone".into(), &true.into()));
    assert_eq!((&ana["addresses"], &ana["prefixes"]), (&json!(["10.50.9.1"]), &json!(["172.16.3.0/24"])));
    let gru = show(&keys[1]);
    assert_eq!(
        (&gru["name"], &gru["addresses"], &gru["tags"]),
        (&"gru".into(), &json!(["10.50.9.9"]), &json!(["old"]))
    );
    assert_eq!(show(&keys[2])["prefixes"], json!(["192.168.0.7/32"]));
    assert_eq!(show(&keys[3])["addresses"].as_array().unwrap().len(), 1, "one without any gets an address");
    let log = gateway.log();
    assert!(!log.contains(&psk[..16]), "a preshared key is in the log");
}

#[test]
fn the_files_of_overlay_init_are_taken() {
    let gateway = Gateway::start();
    let init = edgeproxy().args(["overlay", "init", "--hub", "127.0.0.1:1", "--dir"]).arg(gateway.file("o")).output();
    assert!(init.unwrap().status.success());
    let said = gateway.peer(&["import", "o/hub.conf"]).done();
    assert_eq!(said.out, "10 created, 0 there before, 0 failed\n");
    let gru = gateway.peer(&["list", "--name", "gru", "--json"]).done().json();
    assert_eq!(gru["items"][0]["addresses"], json!(["10.50.1.1"]));
}

#[test]
fn every_failure_has_its_place() {
    let gateway = Gateway::start_with("max_peers = 3");
    let keys: Vec<String> = (0..6).map(|_| private().public().to_string()).collect();
    let one = format!(
        "[Peer]\nPublicKey = {}\nAllowedIPs = 10.50.0.7\n[Peer]\nAllowedIPs = x\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.50.0.7\n",
        keys[0], keys[1]
    );
    let two = format!(
        "[Peer]\nPublicKey = {}\n[Peer]\nPublicKey = {}\n[Peer]\nPublicKey = {}\n[Peer]\nPublicKey = {}\n",
        keys[0], keys[2], keys[3], keys[4]
    );
    fs::write(gateway.file("one"), one).unwrap();
    fs::write(gateway.file("two"), two).unwrap();
    fs::write(gateway.file("none"), "[Interface]\n").unwrap();
    let said = gateway.peer(&["import", "one", "two", "none"]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), "3 created, 0 there before, 4 failed\n"), "{said:?}");
    let lines: BTreeSet<&str> = said.err.lines().collect();
    for expected in [
        "one:4: this [Peer] has no PublicKey; ask it for that, or remove it",
        "one:5: AllowedIPs: \"x\" is not an IP address, alone or with a length its family has (such as 10.50.0.0/24)",
        "one:6: 10.50.0.7 belongs to another peer, or to this gateway",
        "two:1: is the peer of one:1 again; join the two",
        "two:7: there are 3 peers, as many as gateway.max_peers allows",
        "note: none: has no [Peer]",
        "error: 4 of 7 peers cannot be imported",
    ] {
        assert!(lines.contains(expected), "{expected}: {said:?}");
    }
    assert_eq!(lines.len(), 7, "{said:?}");
    let said = gateway.peer(&["import", "two", "--json"]);
    assert_eq!((said.code, &said.json()["failures"][0]["line"]), (Some(1), &7.into()), "{said:?}");
    gateway.peer(&["import", "one", "gone"]).failed(1, "error: gone: cannot be read: No such file");
}

#[test]
fn ten_thousand_take_moments() {
    let gateway = Gateway::start();
    let keys: BTreeSet<String> = (0..10_000_u64).map(key).collect();
    let hub: String = keys
        .iter()
        .enumerate()
        .map(|(n, key)| {
            format!("[Peer]\n# p{n}\nPublicKey = {key}\nAllowedIPs = 10.50.{}.{}/32\n", 1 + n / 250, 1 + n % 250)
        })
        .collect();
    fs::write(gateway.file("hub.conf.old"), hub).unwrap();
    let began = Instant::now();
    let said = gateway.peer(&["import", "hub.conf.old"]).done();
    println!("10,000 peers imported in {:?}", began.elapsed());
    assert_eq!((said.out.as_str(), said.err.as_str()), ("10000 created, 0 there before, 0 failed\n", ""));
    let listed = gateway.peer(&["list", "--all", "--json"]).done().json();
    let there: BTreeSet<String> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["public_key"].as_str().unwrap().to_owned())
        .collect();
    assert!(there == keys, "{} of {}", there.len(), keys.len());
    assert_eq!(
        gateway.peer(&["list", "--name", "p9999", "--json"]).done().json()["items"][0]["addresses"],
        json!(["10.50.40.250"])
    );
    let said = gateway.peer(&["import", "hub.conf.old"]).done();
    assert_eq!(said.out, "0 created, 10000 there before, 0 failed\n");
}

/// The public key of a private key that is this number.
fn key(number: u64) -> String {
    let mut bytes = [1; 32];
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    PrivateKey::from_bytes(bytes).public().to_string()
}
