//! How a peer is made, and what is printed of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use edgeproxy_overlay::WgQuick;
use edgeproxy_tunnel::PrivateKey;

use crate::gateway::{Gateway, edgeproxy, private};

#[test]
fn a_file_and_nothing_else_is_printed_and_its_key_stays_here() {
    let gateway = Gateway::start();
    let said =
        gateway.peer(&["add", "--name", "ana", "--tag", "a", "--tag", "b", "--ttl", "10m", "--preshared"]).done();
    let config = WgQuick::parse("stdout", said.out.as_bytes()).unwrap();
    assert_eq!(config.notes, [""; 0]);
    assert!(config.peers[0].preshared_key.is_some() && config.peers[0].endpoint.is_some());
    assert_eq!(said.err, "peer 1: 10.50.0.2\n");
    let shown = gateway.peer(&["show", "1", "--json"]).done().json();
    assert_eq!(shown["public_key"], config.interface.private_key.public().to_string());
    assert_eq!((&shown["name"], &shown["tags"]), (&"ana".into(), &serde_json::json!(["a", "b"])));
    assert!(shown["expires"].is_string());
    assert_secret_is_kept(&gateway, &config.interface.private_key);

    // The same by the gateway's key.
    let said = gateway.peer(&["add", "--server-key", "--idempotency-key", "job-7"]).done();
    let again = gateway.peer(&["add", "--server-key", "--idempotency-key", "job-7"]).done();
    assert_eq!(said.out, again.out);
    let config = WgQuick::parse("stdout", said.out.as_bytes()).unwrap();
    assert_secret_is_kept(&gateway, &config.interface.private_key);
    gateway.peer(&["add", "--idempotency-key", "job-8"]).failed(2, "add --server-key, or --public-key");

    // And by one that nobody here knows.
    let key = private().public().to_string();
    let said =
        gateway.peer(&["add", "--public-key", &key, "--address", "10.50.7.7", "--prefix", "172.16.0.0/24"]).done();
    assert!(
        said.out.contains(&format!("# PrivateKey = the private key of {key}\nAddress = 10.50.7.7/32\n")),
        "{said:?}"
    );
    let again = gateway.peer(&["add", "--public-key", &key]).done();
    assert_eq!(again.out, said.out);
    assert!(again.err.starts_with("note: a peer with this public key was there before"), "{again:?}");
}

fn assert_secret_is_kept(gateway: &Gateway, key: &PrivateKey) {
    let secret = key.to_base64();
    assert!(!gateway.log().contains(&secret[..16]), "a private key is in the log");
    for name in ["peers.db", "peers.db-wal"] {
        let bytes = fs::read(gateway.file(name)).unwrap_or_default();
        assert!(!bytes.windows(32).any(|window| window == key.bytes()), "a private key is in {name}");
        assert!(!bytes.windows(16).any(|window| window == &secret.as_bytes()[..16]), "a private key is in {name}");
    }
}

#[test]
fn a_file_is_its_owners_and_never_written_over() {
    let gateway = Gateway::start();
    let said = gateway.peer(&["add", "--out", "wg0.conf"]).done();
    assert_eq!((said.out.as_str(), said.err.as_str()), ("1\n", "peer 1: 10.50.0.2\n"));
    let path = gateway.file("wg0.conf");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let before = fs::read_to_string(&path).unwrap();
    WgQuick::parse("wg0.conf", before.as_bytes()).unwrap();
    let again = gateway.peer(&["add", "--out", "wg0.conf"]);
    again.failed(1, "error: wg0.conf: already there, and keys are never overwritten, so nothing was done");
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    gateway.peer(&["add", "--out", "no/where"]).failed(1, "error: no/where: cannot be written: No such file");
    gateway.peer(&["add", "--name", "two words", "--out", "other.conf"]).failed(1, "name \"two words\" is not 1 to 63");
    assert!(!gateway.file("other.conf").exists(), "what was not made has no file");
    assert_eq!(gateway.peer(&["list", "--json"]).done().json()["items"].as_array().unwrap().len(), 1);

    let answer = gateway.peer(&["add", "--json"]).done().json();
    let config = WgQuick::parse("json", answer["config"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(answer["private_key"], config.interface.private_key.to_base64().as_str());
    let answer = gateway.peer(&["add", "--json", "--preshared", "--out", "third.conf"]).done().json();
    assert_eq!((&answer["id"], &answer["config"]), (&"3".into(), &serde_json::Value::Null));
    assert!(answer["private_key"].is_null() && answer["preshared_key"].is_null(), "{answer}");
}

#[test]
fn a_qr_code_is_printed_instead() {
    let gateway = Gateway::start();
    let said = gateway.peer(&["add", "--qr", "--out", "wg0.conf"]).done();
    let lines: Vec<&str> = said.out.lines().collect();
    let width = lines[0].chars().count();
    assert!(width > 60 && lines.iter().all(|line| line.chars().count() == width), "{said:?}");
    assert!(said.out.chars().all(|c| " █▀▄\n".contains(c)) && !said.out.contains("PrivateKey"), "{said:?}");
    assert!(fs::read_to_string(gateway.file("wg0.conf")).unwrap().contains("PrivateKey = "));
}

#[test]
fn mistakes_say_what_to_do() {
    let gateway = Gateway::start();
    gateway.peer(&["add", "--ttl", "soon"]).failed(2, "--ttl");
    gateway.peer(&["add", "--idle-ttl", "1m"]).failed(1, "idle_ttl is shorter than 180 s");
    gateway.peer(&["add", "--public-key", "x"]).failed(2, "--public-key");
    gateway.peer(&["add", "--address", "10.51.0.1"]).failed(1, "10.51.0.1 is in none of the networks of gateway.pools");
    gateway.peer(&["rm", "ana"]).failed(2, "`edgeproxy peer list --name NAME` finds it");
    gateway.peer(&["show", "7"]).failed(1, "there is no peer \"7\"");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    gateway.peer(&["list", "--admin", &nobody]).failed(1, "is `edgeproxy proxy` or `gateway` running there?");
    let said = edgeproxy().args(["peer", "list", "--config", "none.toml"]).output().unwrap();
    assert_eq!(said.status.code(), Some(2));
    // The gateway's own configuration says where it is as well.
    let config = gateway.file("here.toml");
    let text = format!("[admin]\nlisten = \"{}\"\n[overlay]\nconfig = \"hub.conf\"\n", gateway.admin);
    fs::write(&config, text).unwrap();
    let said = edgeproxy().args(["peer", "list", "-c"]).arg(config).output().unwrap();
    assert_eq!((said.status.code(), said.stdout.len()), (Some(0), 0));
    assert_eq!(String::from_utf8(said.stderr).unwrap(), "note: the gateway has no peers\n");
}
