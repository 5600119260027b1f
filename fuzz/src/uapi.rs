//! Requests over a device's configuration socket.
//!
//! - However the bytes are cut into reads, the same requests come of them, and each takes at least a byte.
//! - A refusal has a positive number and one line of words.
//! - A change written as text is read as the same change.

use std::fmt::Write;
use std::time::Duration;

use edgeproxy_overlay::uapi::{Refusal, Request, RequestReader};
use edgeproxy_overlay::{AllowedIp, DeviceChange, PeerChange};

/// Whatever bytes: see the head of this module.
pub fn uapi(data: &[u8]) {
    let whole = read(data, data.len().max(1));
    // The cuts are the input's own.
    let pace = data.iter().fold(1_usize, |pace, byte| (pace * 31 + usize::from(*byte)) % 97 + 1);
    for pace in [1, pace] {
        assert_eq!(read(data, pace), whole, "in pieces of {pace} bytes");
    }
    assert!(whole.len() <= data.len());
    for request in &whole {
        match request {
            Ok(Request::Get) => {}
            Ok(Request::Set(change)) => {
                let text = text(change);
                assert_eq!(read(text.as_bytes(), text.len()), [Ok(Request::Set(change.clone()))], "{text}");
            }
            Err(refusal) => {
                assert!(refusal.errno() > 0);
                crate::assert_one_line(&refusal.to_string());
            }
        }
    }
}

fn read(data: &[u8], pace: usize) -> Vec<Result<Request, Refusal>> {
    let mut reader = RequestReader::default();
    let mut requests = Vec::new();
    for mut bytes in data.chunks(pace) {
        requests.extend(std::iter::from_fn(|| reader.read(&mut bytes)));
        assert!(bytes.is_empty());
    }
    requests
}

/// As `wg` would write it.
fn text(change: &DeviceChange) -> String {
    let mut out = "set=1\n".to_owned();
    if let Some(private) = &change.private {
        line(&mut out, "private_key", hex(&private.as_ref().map_or([0; 32], |private| *private.bytes())));
    }
    if let Some(port) = change.port {
        line(&mut out, "listen_port", port);
    }
    if let Some(mark) = change.mark {
        line(&mut out, "fwmark", mark);
    }
    if change.replace_peers {
        line(&mut out, "replace_peers", true);
    }
    change.peers.iter().for_each(|peer| add_peer(&mut out, peer));
    out + "\n"
}

fn add_peer(out: &mut String, peer: &PeerChange) {
    line(out, "public_key", hex(&peer.public.0));
    if peer.remove {
        line(out, "remove", true);
    }
    if peer.update_only {
        line(out, "update_only", true);
    }
    if let Some(preshared) = &peer.preshared {
        line(out, "preshared_key", hex(preshared.bytes()));
    }
    if let Some(endpoint) = peer.endpoint {
        line(out, "endpoint", endpoint);
    }
    if let Some(keepalive) = peer.keepalive {
        line(out, "persistent_keepalive_interval", keepalive.as_ref().map_or(0, Duration::as_secs));
    }
    if peer.replace_allowed_ips {
        line(out, "replace_allowed_ips", true);
    }
    for allowed in &peer.allowed_ips {
        match allowed {
            AllowedIp::Added(prefix) => line(out, "allowed_ip", prefix),
            AllowedIp::Removed(prefix) => line(out, "allowed_ip", format_args!("-{prefix}")),
        }
    }
}

fn line(out: &mut String, key: &str, value: impl std::fmt::Display) {
    writeln!(out, "{key}={value}").expect("a string takes all");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
