//! The binary with the overlay's mode "kernel", in a machine of its own; here it runs with its own WireGuard.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use edgeproxy_world::{Backend, Behaviour, LONG, row, within};
use serde_json::{Value, json};

use crate::guest::{Guest, HOST, PORT};
use crate::kernel::{EXCHANGE, PUBLISHED, SERVICE, exchange};
use crate::stage;
use crate::tunnel::{OUR_ADDRESS, OUR_PORT, THEIR_ADDRESS, THEIR_PORT, site, start};
use crate::wireguard::{Keys, run};

/// Where their POP has its clients, and what it publishes.
const CLIENTS: u16 = 8080;
const THEY_PUBLISH: u16 = 7200;
const SOME: usize = 2 << 20;
const INTERFACES: &str = "wg show interfaces";

pub(crate) async fn it_is_run_by_us() -> io::Result<()> {
    let (ours, theirs) = (Keys::ours(), Keys::theirs());
    // What a debugger needs is most of it, and would have to be held in memory.
    let stripped = std::env::temp_dir().join("edgeproxy");
    run("strip", &["-o", stripped.to_str().unwrap(), stage::binary().to_str().unwrap()]);
    let mut guest = Guest::boot(&[("/bin/edgeproxy", &stripped)]).await;
    configure(&mut guest, &ours, &theirs).await;
    let service = Backend::start("service", Behaviour::HandOver)?;
    let site = site();
    site.add(row("b1", "fra", SocketAddr::new(THEIR_ADDRESS.into(), THEY_PUBLISH)))?;
    let text = format!(
        "[Interface]\nPrivateKey = {}\nAddress = {OUR_ADDRESS}/32\nListenPort = {OUR_PORT}\n\
         [Peer]\nPublicKey = {}\nAllowedIPs = 10.50.1.0/24\nEndpoint = 127.0.0.1:{THEIR_PORT}\n",
        ours.private, theirs.public
    );
    let toml = format!("[[publish]]\nlisten = \"{OUR_ADDRESS}:{PUBLISHED}\"\ntarget = \"{}\"\n", service.address());
    let pop = start(&site, &text, &toml).await?;
    // What it begins itself is answered by now: it would try again only after 5 seconds.
    start_theirs(&mut guest).await;
    assert_eq!(guest.run(INTERFACES).await, "edge0");

    // A client there reaches what we publish: they dial.
    let order = format!("nc 127.0.0.1 {CLIENTS} </run/blob | sha256sum | cut -c 1-64");
    let served = async { exchange(within("a client of the service", LONG, service.next()).await?, SOME).await };
    let (there, served) = tokio::join!(guest.run(&order), served);
    let (took, came, sent) = served?;
    let blob = guest.run("sha256sum </run/blob | cut -c 1-64").await;
    assert_eq!((&came, &there), (&blob, &sent));
    println!("{SOME} bytes each way in {took:?}, dialled by them");
    // A client here reaches what they publish: they listen.
    let (took, came, sent) = exchange(pop.connect().await?, SOME).await?;
    assert_eq!((came, guest.run("cat /run/came").await), (blob, sent));
    println!("{SOME} bytes each way in {took:?}, dialled by us");

    let shown: Value = serde_json::from_str(&guest.run("wget -qO- http://127.0.0.1:9090/api/v1/overlay").await)?;
    let known = json!([shown["mode"], shown["interface"], shown["public_key"], shown["port"], shown["lost"]]);
    assert_eq!(known, json!(["kernel", "edge0", theirs.public, PORT, {}]));
    let peer = &shown["peers"][0];
    let known = json!([peer["public_key"], peer["endpoint"], peer["allowed_ips"], peer["keepalive_s"]]);
    assert_eq!(known, json!([ours.public, format!("{HOST}:{OUR_PORT}"), ["10.50.0.0/24"], 25]));
    assert!(peer["last_handshake_s"].as_f64().is_some_and(|since| since < 120.0), "{peer}");
    let bytes = |which: &str| peer[which].as_u64().unwrap();
    assert!(bytes("bytes_received") > 2 * SOME as u64 && bytes("bytes_sent") > 2 * SOME as u64, "{peer}");
    guest.run("wget -qO- http://127.0.0.1:9090/metrics | grep -qx 'edge_overlay_peers 1'").await;
    pop.stop(Duration::from_secs(5)).await?;

    interfaces_come_and_go(&mut guest).await;
    guest.stop();
    Ok(())
}

async fn configure(guest: &mut Guest, ours: &Keys, theirs: &Keys) {
    let overlay = format!(
        "[Interface]\\nPrivateKey = {}\\nAddress = {THEIR_ADDRESS}/32\\nListenPort = {PORT}\\n\
         [Peer]\\nPublicKey = {}\\nAllowedIPs = 10.50.0.0/24\\nPersistentKeepalive = 25\\nEndpoint = {HOST}:{OUR_PORT}\\n",
        theirs.private, ours.public
    );
    let config = format!(
        "region = \"fra\"\\n[[check]]\\nkind = \"none\"\\n[overlay]\\nconfig = \"/run/overlay.conf\"\\nmode = \"kernel\"\\n\
         [[publish]]\\nlisten = \"{THEIR_ADDRESS}:{THEY_PUBLISH}\"\\ntarget = \"127.0.0.1:{SERVICE}\"\\n"
    );
    let steps = [
        "umask 077",
        &format!("printf '{overlay}' >/run/overlay.conf"),
        &format!("printf '{config}' >/run/edgeproxy.toml"),
        &format!("edgeproxy route add b1 --region fra --addr {OUR_ADDRESS}:{PUBLISHED} --db /run/routing.db"),
        &format!("head -c {SOME} /dev/urandom >/run/blob"),
        &format!("printf '{EXCHANGE}' >/bin/exchange; chmod +x /bin/exchange"),
        &format!("nc -ll -p {SERVICE} -e /bin/exchange >/dev/null 2>&1 &"),
    ];
    for step in steps {
        guest.run(step).await;
    }
}

async fn start_theirs(guest: &mut Guest) {
    let arguments = format!("--config /run/edgeproxy.toml --db /run/routing.db --listen 127.0.0.1:{CLIENTS}");
    guest.run(&format!("edgeproxy proxy {arguments} >/run/log 2>&1 & pid=$!")).await;
    let (_, status) =
        guest.attempt("timeout 30 sh -c 'until grep -q \\\"ready\\\" /run/log; do sleep 0.1; done'").await;
    assert_eq!(status, 0, "{}", guest.run("cat /run/log").await);
}

/// Nothing is left behind but by a process that is killed, and that by no more than one.
async fn interfaces_come_and_go(guest: &mut Guest) {
    guest.run("kill -KILL $pid; wait $pid; true").await;
    assert_eq!(guest.run(INTERFACES).await, "edge0");
    start_theirs(guest).await;
    guest.run("grep -q 'left behind' /run/log").await;
    assert_eq!(guest.run(INTERFACES).await, "edge1");
    guest.run("kill -TERM $pid; wait $pid").await;
    assert_eq!(guest.run(INTERFACES).await, "");

    // Another has the port.
    guest.run(&format!("ip link add wg0 type wireguard; wg set wg0 listen-port {PORT}; ip link set wg0 up")).await;
    start_theirs(guest).await;
    let log = guest.run("grep 'no overlay' /run/log").await;
    println!("{log}");
    assert!(log.contains("its UDP port is taken"), "{log}");
    assert_eq!(guest.run(INTERFACES).await, "wg0");
    guest.run("kill -TERM $pid; wait $pid").await;
}
