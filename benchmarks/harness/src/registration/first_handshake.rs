//! How soon a peer that has just been created is answered, by other implementations: boringtun's, and wireguard-go itself.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding};
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use serde::Deserialize;

use super::gateway::UDP;
use super::http::Http;
use super::load::{Times, keys, nanos};
use crate::failure::{Context, Failure};
use crate::overlay::{Daemon, wg};
use crate::site::ADMIN;

const PATIENCE: Duration = Duration::from_secs(3);
/// How messages of handshakes begin.
const INITIATION: u8 = 1;
const INITIATION_LENGTH: usize = 148;
const RESPONSE: u8 = 2;

#[derive(Deserialize)]
struct Overlay {
    public_key: String,
}

/// From the first datagram of each to the answer; an initiation that nobody answers is an error.
pub(super) fn measure(count: usize) -> Result<Times, Failure> {
    let mut http = Http::connect(ADMIN)?;
    let mut gateway = [0; 32];
    Base64::decode(gateway_key(&mut http)?, &mut gateway).context("the gateway's key")?;
    let socket = socket()?;
    socket.connect(UDP).context("no UDP socket")?;
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

/// The same by wireguard-go, which is a new peer each time. Between the two is a socket that passes on what comes, and so
/// sees when: wireguard-go's own work before its initiation and after the answer does not count.
pub(super) fn measure_wireguard_go(program: &Path, folder: &Path, count: usize) -> Result<Times, Failure> {
    let daemon = Daemon::start(program, folder)?;
    let mut http = Http::connect(ADMIN)?;
    let gateway = gateway_key(&mut http)?;
    let (near, far) = (socket()?, socket()?);
    far.connect(UDP).context("no UDP socket")?;
    let endpoint = near.local_addr().context("no UDP socket")?.to_string();
    let mut times = Times::with_capacity(count);
    for secret in keys(count)? {
        let public = PublicKey::from(&StaticSecret::from(secret.0));
        let body = format!("{{\"public_key\":\"{}\"}}", Base64::encode_string(public.as_bytes()));
        http.post("/api/v1/peers", &body)?.done()?;
        wg(&["set", daemon.interface, "peer", &gateway, "remove"], "")?;
        let peer = ["set", daemon.interface, "private-key", "/dev/stdin", "peer", &gateway, "endpoint", &endpoint];
        // Has it begin at once.
        let peer = [&peer[..], &["allowed-ips", "10.98.0.0/16", "persistent-keepalive", "25"]].concat();
        wg(&peer, &Base64::encode_string(&secret.0))?;
        let mut datagram = [0; 2048];
        let from = loop {
            let (length, from) = near.recv_from(&mut datagram).context("wireguard-go does not begin")?;
            if (datagram[0], length) == (INITIATION, INITIATION_LENGTH) {
                break from;
            }
        };
        let began = Instant::now();
        far.send(&datagram[..INITIATION_LENGTH]).context("cannot send an initiation")?;
        let length = loop {
            let length = far.recv(&mut datagram).context("the first initiation is not answered")?;
            if datagram[0] == RESPONSE {
                break length;
            }
        };
        times.push(nanos(began.elapsed()));
        near.send_to(&datagram[..length], from).context("cannot pass an answer on")?;
        let length = near.recv(&mut datagram).context("wireguard-go does not take the answer")?;
        far.send(&datagram[..length]).context("cannot confirm a session")?;
    }
    times.sort_unstable();
    Ok(times)
}

fn gateway_key(http: &mut Http) -> Result<String, Failure> {
    let overlay: Overlay =
        serde_json::from_str(&http.get("/api/v1/overlay")?.done()?.body).context("/api/v1/overlay")?;
    Ok(overlay.public_key)
}

fn socket() -> Result<UdpSocket, Failure> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("no UDP socket")?;
    socket.set_read_timeout(Some(PATIENCE)).context("no UDP socket")?;
    Ok(socket)
}
