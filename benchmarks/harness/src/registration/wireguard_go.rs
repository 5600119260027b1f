//! The way that gateways usually go: `wg set` and `wg syncconf` on a device that has all peers.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding};

use super::load::{Times, keys, nanos};
use crate::failure::{Context, Failure};
use crate::overlay::{Daemon, wg};

/// What its own code allows.
pub(super) const PEERS_MOST: usize = 65_536;

pub(super) struct Steps {
    pub(super) set: Times,
    /// One peer more, by a file of all of them.
    pub(super) syncconf: Duration,
}

/// With so many peers: adds and removes single ones, then one by its file.
pub(super) fn measure(program: &Path, folder: &Path, peers: usize, steps: usize) -> Result<Steps, Failure> {
    let daemon = Daemon::start(program, folder)?;
    let mut file = format!("[Interface]\nPrivateKey = {}\n", wg(&["genkey"], "")?);
    for (number, key) in (0_u32..).zip(keys(peers)?) {
        file.push_str(&section(number, &Base64::encode_string(&key.0)));
    }
    let path = folder.join("all.conf");
    let write = |text: &str| fs::write(&path, text).context("cannot write a file of peers");
    write(&file)?;
    let (name, path_text) = (daemon.interface, path.display().to_string());
    wg(&["setconf", name, &path_text], "")?;
    let mut set = Times::with_capacity(steps);
    for key in keys(steps)? {
        let key = Base64::encode_string(&key.0);
        let began = Instant::now();
        wg(&["set", name, "peer", &key, "allowed-ips", "192.0.2.1/32"], "")?;
        set.push(nanos(began.elapsed()));
        wg(&["set", name, "peer", &key, "remove"], "")?;
    }
    set.sort_unstable();
    file.push_str(&section(u32::try_from(peers).unwrap_or(0), &Base64::encode_string(&keys(1)?[0].0)));
    write(&file)?;
    let began = Instant::now();
    wg(&["syncconf", name, &path_text], "")?;
    Ok(Steps { set, syncconf: began.elapsed() })
}

fn section(number: u32, key: &str) -> String {
    let [_, a, b, c] = number.to_be_bytes();
    format!("[Peer]\nPublicKey = {key}\nAllowedIPs = 10.{a}.{b}.{c}/32\n")
}
