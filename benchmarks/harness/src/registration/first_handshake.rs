//! How soon a peer that has just been created is answered, by another implementation: boringtun's.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding};
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use serde::Deserialize;

use super::gateway::UDP;
use super::http::Http;
use super::load::{Times, keys, nanos};
use crate::failure::{Context, Failure};
use crate::site::ADMIN;

const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Deserialize)]
struct Overlay {
    public_key: String,
}

/// From the first datagram of each to the answer; an initiation that nobody answers is an error.
pub(super) fn measure(count: usize) -> Result<Times, Failure> {
    let mut http = Http::connect(ADMIN)?;
    let overlay: Overlay =
        serde_json::from_str(&http.get("/api/v1/overlay")?.done()?.body).context("/api/v1/overlay")?;
    let mut gateway = [0; 32];
    Base64::decode(&overlay.public_key, &mut gateway).context("the gateway's key")?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("no UDP socket")?;
    socket.set_read_timeout(Some(PATIENCE)).and_then(|()| socket.connect(UDP)).context("no UDP socket")?;
    let mut times = Times::with_capacity(count);
    for (number, secret) in (0..).zip(keys(count)?) {
        let secret = StaticSecret::from(secret.0);
        let public = PublicKey::from(&secret);
        let mut tunnel = Tunn::new(secret, PublicKey::from(gateway), None, None, number, None);
        let body = format!("{{\"public_key\":\"{}\"}}", Base64::encode_string(public.as_bytes()));
        http.post("/api/v1/peers", &body)?.done()?;
        let (mut sent, mut came) = ([0; 2048], [0; 2048]);
        let TunnResult::WriteToNetwork(initiation) = tunnel.format_handshake_initiation(&mut sent, false) else {
            return Err(Failure::new("boringtun makes no initiation"));
        };
        let began = Instant::now();
        socket.send(initiation).context("cannot send an initiation")?;
        let length = socket.recv(&mut came).context("the first initiation is not answered")?;
        times.push(nanos(began.elapsed()));
        let mut room = [0; 2048];
        let TunnResult::WriteToNetwork(confirmation) = tunnel.decapsulate(None, &came[..length], &mut room) else {
            return Err(Failure::new("boringtun does not take the answer"));
        };
        socket.send(confirmation).context("cannot confirm a session")?;
    }
    times.sort_unstable();
    Ok(times)
}
