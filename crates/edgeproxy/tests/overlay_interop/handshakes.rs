//! Who begins, with which keys, and what keeps a session.

use std::io;
use std::time::{Duration, Instant};

use edgeproxy_world::LONG;

use crate::tunnel::{MIB, OUR_ADDRESS, Plan, Tunnel, ping, shown, transfer, until};
use crate::wireguard::run;

/// Where `wireguard-go` finds us.
pub(crate) const THEY_KNOW: [&str; 2] = ["endpoint", "127.0.0.1:51820"];
const SOME: u64 = 4 * MIB;

pub(crate) async fn they_initiate_by_keepalive() -> io::Result<()> {
    let their_peer = [&THEY_KNOW[..], &["persistent-keepalive", "1"]].concat();
    let tunnel = Tunnel::start(Plan { their_peer: &their_peer, ..Plan::default() }).await?;
    until(&tunnel.pop, "a handshake", LONG, |shown| shown["peers"][0]["last_handshake_s"].as_f64()).await?;
    assert_eq!(shown(&tunnel.pop).await?["peers"][0]["endpoint"], "127.0.0.1:51821");
    let (client, server) = tunnel.connect().await?;
    println!("{SOME} bytes each way in {:?}", transfer(client, server, SOME, LONG).await?);
    tunnel.stop().await
}

pub(crate) async fn they_initiate_by_a_packet() -> io::Result<()> {
    let tunnel = Tunnel::start(Plan { their_peer: &THEY_KNOW, ..Plan::default() }).await?;
    // Nobody knows where the backend is.
    tunnel.refused().await?;
    assert_eq!(tunnel.theirs.latest_handshake(), 0);
    let started = Instant::now();
    // Not a hop in between.
    assert_eq!(ping(OUR_ADDRESS), 64);
    println!("we answer a ping that began a session in {:?}", started.elapsed());
    let (client, server) = tunnel.connect().await?;
    println!("{SOME} bytes each way in {:?}", transfer(client, server, SOME, LONG).await?);
    tunnel.stop().await
}

pub(crate) async fn a_preshared_key_has_to_be_the_same() -> io::Result<()> {
    let key = run("wg", &["genpsk"]);
    let our_peer = format!("PresharedKey = {key}\nPersistentKeepalive = 1");
    let toml =
        "[[check]]\napp = \"web\"\nkind = \"tcp\"\ninterval = \"200ms\"\ntimeout = \"500ms\"\nrise = 1\nfall = 2";
    let tunnel = Tunnel::start(Plan { our_peer: &our_peer, toml, ..Plan::default() }).await?;
    let settings = [&["allowed-ips", "10.50.0.2/32", "persistent-keepalive", "1"], &THEY_KNOW[..]].concat();
    let up = |wanted| tunnel.pop.until_count("edge_backend_up", &[("backend", "b1")], wanted);

    tunnel.theirs.set_preshared(&tunnel.public, &key);
    tunnel.theirs.set_peer(&tunnel.public, &settings);
    up(1).await?;
    exchange(&tunnel).await?;
    println!("with the same key: served");

    // The session there is would go on for minutes: it is ended, and has to be agreed on anew.
    tunnel.theirs.set_peer(&tunnel.public, &["remove"]);
    tunnel.theirs.set_peer(&tunnel.public, &settings);
    tunnel.theirs.set_preshared(&tunnel.public, &run("wg", &["genpsk"]));
    let started = Instant::now();
    up(0).await?;
    println!("with another key: down after {:?}", started.elapsed());
    tunnel.refused().await?;
    // Two more attempts of theirs, which are 5 seconds apart, are of no use.
    tokio::time::sleep(Duration::from_secs(11).saturating_sub(started.elapsed())).await;
    assert_eq!(tunnel.theirs.latest_handshake(), 0);
    let since = shown(&tunnel.pop).await?["peers"][0]["last_handshake_s"].as_f64();
    assert!(since.is_some_and(|since| since >= started.elapsed().as_secs_f64() - 1.0), "a handshake {since:?} s ago");

    tunnel.theirs.set_preshared(&tunnel.public, &key);
    let started = Instant::now();
    up(1).await?;
    println!("with the same key again: up after {:?}", started.elapsed());
    exchange(&tunnel).await?;
    assert!(tunnel.theirs.latest_handshake() > 0);
    tunnel.stop().await
}

/// Past the connections of the checks, which the backend hands over as well.
async fn exchange(tunnel: &Tunnel) -> io::Result<()> {
    let mut client = tunnel.pop.connect().await?;
    client.send(b"hello").await?;
    loop {
        let mut server = tunnel.backend.next().await?;
        // A check says nothing.
        if server.receive(5).await.is_ok_and(|said| said == b"hello") {
            server.send(b"world").await?;
            assert_eq!(client.receive(5).await?, b"world");
            return Ok(());
        }
    }
}

pub(crate) async fn keepalives_are_sent_without_traffic() -> io::Result<()> {
    let our_peer = "Endpoint = 127.0.0.1:51821\nPersistentKeepalive = 1";
    let tunnel = Tunnel::start(Plan { our_peer, ..Plan::default() }).await?;
    until(&tunnel.pop, "a handshake", LONG, |shown| shown["peers"][0]["last_handshake_s"].as_f64()).await?;
    tunnel.theirs.shaken().await?;
    let (first, started) = (tunnel.theirs.received(), Instant::now());
    tokio::time::sleep(Duration::from_millis(5_500)).await;
    let grown = tunnel.theirs.received() - first;
    let took = started.elapsed();
    println!("wireguard-go got {grown} bytes in {took:?} of no traffic");
    // A keepalive is a header of 16 bytes and a tag of 16. What else there could be is of other sizes.
    assert!((3..=took.as_secs() + 1).contains(&(grown / 32)) && grown % 32 == 0, "{grown}");
    // And they lead back: a backend is reached at once, by the session that there is.
    let handshake = tunnel.theirs.latest_handshake();
    let (client, server) = tunnel.connect().await?;
    println!("{SOME} bytes each way in {:?}", transfer(client, server, SOME, LONG).await?);
    assert_eq!(tunnel.theirs.latest_handshake(), handshake);
    tunnel.stop().await
}
