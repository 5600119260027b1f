//! What a peer is for: somebody reaches something through it, until it is removed.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use edgeproxy_route::RawBackend;
use edgeproxy_world::{Site, row};

use crate::gateway::{BINARY, Gateway, Said, eventually};
use crate::inside::{Inside, PORT};

/// So long nothing comes where nothing will.
const A_WHILE: Duration = Duration::from_millis(300);
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/examples/ci-service.sh");

/// A gateway, and a peer of it that echoes.
fn served() -> (Gateway, Inside) {
    let gateway = Gateway::start();
    gateway.peer(&["add", "--name", "service", "--keep", "--out", "service.conf"]).done();
    let service = Inside::up(&gateway.file("service.conf"));
    service.echo();
    (gateway, service)
}

#[test]
fn who_has_the_file_is_heard_until_it_is_removed() {
    let (gateway, service) = served();
    let id = gateway.peer(&["add", "--preshared", "--out", "wg0.conf"]).done().out;
    let client = Inside::up(&gateway.file("wg0.conf"));
    eventually("an echo", || client.hears(service.ip, A_WHILE));
    let shown = gateway.peer(&["show", id.trim(), "--json"]).done().json();
    assert!(shown["awake"] == true && shown["last_handshake"].is_string(), "{shown}");
    gateway.peer(&["rm", id.trim()]).done();
    assert!(!client.hears(service.ip, A_WHILE), "a peer that is removed is heard");
    let log = gateway.log();
    for name in ["service.conf", "wg0.conf"] {
        let file = std::fs::read_to_string(gateway.file(name)).unwrap();
        let keys = file.lines().filter(|line| line.starts_with("PrivateKey") || line.starts_with("PresharedKey"));
        for key in keys.filter_map(|line| line.split_once(" = ")) {
            assert!(!log.contains(&key.1[..16]), "a secret is in the log");
        }
    }
}

#[tokio::test]
async fn a_proxy_with_the_file_reaches_the_service() {
    let (gateway, service) = served();
    gateway.peer(&["add", "--out", "wg0.conf"]).done();
    let site = Site::new(Path::new(BINARY)).unwrap();
    site.add(RawBackend { country: Some(String::new()), ..row("service", "fra", (service.ip, PORT).into()) }).unwrap();
    let overlay = gateway.file("wg0.conf").display().to_string();
    let toml = format!("[[check]]\nkind = \"none\"\n[overlay]\nconfig = {overlay:?}\nmode = \"netstack\"\n");
    let pop = site.start(&toml).await.unwrap();
    let mut client = pop.connect().await.unwrap();
    client.send(b"hello\n").await.unwrap();
    assert_eq!(client.line().await.unwrap(), "hello");
    drop(client);
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[test]
fn the_script_for_ci_does_what_it_says() {
    let (gateway, service) = served();
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let script = |local: &str, command: &[&str]| {
        let path = format!("{}:{}", Path::new(BINARY).parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut script = Command::new(SCRIPT);
        script.args(command).env("PATH", path).env("EDGEPROXY_ADMIN_ADDR", gateway.admin.to_string());
        script.env("SERVICE", format!("{}:{PORT}", service.ip)).env("LOCAL", local).env("READY", free());
        Said::of(script.env("NAME", "ci-job").env("TMPDIR", gateway.file("")).output().unwrap())
    };
    let local = free();
    // As much of a client as bash has: says a line, and hears it.
    let port = local.rsplit_once(':').unwrap().1;
    let talk = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}; echo hello >&3; read -r -t 20 line <&3; echo \"heard $line\"; exit 7"
    );
    let said = script(&local, &["bash", "-c", &talk]);
    assert_eq!((said.code, said.out.as_str()), (Some(7), "heard hello\n"), "{said:?}");
    let left = gateway.peer(&["list", "--json"]).done().json();
    assert_eq!((left["items"].as_array().unwrap().len(), &left["items"][0]["name"]), (1, &"service".into()), "{left}");
    assert!(gateway.log().contains("\"ci-job\""), "it had a peer of its own");
    let names = std::fs::read_dir(gateway.file("")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with("tmp.")), "nothing is left behind");
    let said = Said::of(Command::new(SCRIPT).arg("true").env_remove("SERVICE").output().unwrap());
    assert!(said.code != Some(0) && said.err.contains("SERVICE"), "{said:?}");
}
