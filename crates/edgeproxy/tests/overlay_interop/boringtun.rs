//! The binary together with `boringtun-cli`.

use std::io;
use std::time::{Duration, Instant};

use edgeproxy_world::LONG;

use crate::handshakes::THEY_KNOW;
use crate::traffic::{WE_KNOW, losses};
use crate::tunnel::{MIB, OUR_ADDRESS, Plan, Tunnel, ping, shown, transfer, until};
use crate::wireguard::{Program, run, write_private};

const SOME: u64 = 8 * MIB;
const TRANSFER: Duration = Duration::from_secs(60);

pub(crate) async fn it_answers() -> io::Result<()> {
    let tunnel = Tunnel::start(Plan { program: Program::Boringtun, our_peer: WE_KNOW, ..Plan::default() }).await?;
    let started = Instant::now();
    exchange(&tunnel).await?;
    println!("a backend reached and {SOME} bytes each way in {:?}", started.elapsed());
    tunnel.theirs.shaken().await?;
    tunnel.stop().await
}

pub(crate) async fn it_initiates() -> io::Result<()> {
    let plan = Plan { program: Program::Boringtun, their_peer: &THEY_KNOW, ..Plan::default() };
    let tunnel = Tunnel::start(plan).await?;
    // Nobody knows where the backend is.
    tunnel.refused().await?;
    assert_eq!(ping(OUR_ADDRESS), 64);
    until(&tunnel.pop, "a handshake", LONG, |shown| shown["peers"][0]["last_handshake_s"].as_f64()).await?;
    exchange(&tunnel).await?;
    tunnel.stop().await
}

pub(crate) async fn preshared() -> io::Result<()> {
    let key = run("wg", &["genpsk"]);
    let file = std::env::temp_dir().join("preshared");
    write_private(&file, &key);
    let our_peer = format!("PresharedKey = {key}\n{WE_KNOW}");
    let their_peer = ["preshared-key", file.to_str().unwrap()];
    let plan = Plan { program: Program::Boringtun, our_peer: &our_peer, their_peer: &their_peer, ..Plan::default() };
    let tunnel = Tunnel::start(plan).await?;
    exchange(&tunnel).await?;
    tunnel.stop().await
}

async fn exchange(tunnel: &Tunnel) -> io::Result<()> {
    let (client, server) = tunnel.connect().await?;
    let took = transfer(client, server, SOME, TRANSFER).await?;
    println!("{SOME} bytes each way in {took:?}; lost: {}", losses(&shown(&tunnel.pop).await?));
    Ok(())
}
