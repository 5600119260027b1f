//! The overlay: how it is had, and how each peer is.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use edgeproxy_overlay::{Counters, Loss, Overlay, PeerStatus};
use serde::Serialize;

use super::problem::Problem;
use super::{Api, off_thread};

/// The overlay as the API shows it.
#[derive(Serialize)]
pub(super) struct Shown {
    mode: &'static str,
    reason: String,
    interface: String,
    addresses: Vec<String>,
    public_key: String,
    port: u16,
    peers: Vec<Peer>,
    /// Datagrams and packets that were not passed on, by cause; empty where the kernel does WireGuard.
    lost: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct Peer {
    public_key: String,
    endpoint: Option<String>,
    allowed_ips: Vec<String>,
    keepalive_s: Option<u64>,
    last_handshake_s: Option<f64>,
    bytes_received: u64,
    bytes_sent: u64,
}

pub(super) async fn show(State(api): State<Arc<Api>>) -> Result<Json<Shown>, Problem> {
    let none = || Problem::unknown("this process has no overlay; its log says why, if one is configured".to_owned());
    let overlay = api.running.overlay.clone().ok_or_else(none)?;
    off_thread(move || Shown::of(&overlay).map(Json)).await?.map_err(|error| Problem::internal(&error))
}

impl Shown {
    fn of(overlay: &Overlay) -> io::Result<Self> {
        let mut peers: Vec<Peer> = overlay.engine.peers()?.iter().map(Peer::of).collect();
        peers.sort_by(|a, b| a.public_key.cmp(&b.public_key));
        let (public, port) = overlay.engine.bearings();
        let lost = |counters: &Counters| Loss::ALL.iter().map(|loss| (loss.word(), counters.get(*loss))).collect();
        Ok(Self {
            mode: overlay.way.mode(),
            reason: overlay.way.reason.clone(),
            interface: overlay.interface.clone(),
            addresses: overlay.addresses.iter().map(ToString::to_string).collect(),
            public_key: public.to_string(),
            port,
            peers,
            lost: overlay.engine.counters().map(lost).unwrap_or_default(),
        })
    }
}

impl Peer {
    fn of(status: &PeerStatus) -> Self {
        let settings = &status.settings;
        Self {
            public_key: settings.public.to_string(),
            endpoint: settings.endpoint.map(|endpoint| endpoint.to_string()),
            allowed_ips: settings.allowed_ips.iter().map(ToString::to_string).collect(),
            keepalive_s: settings.keepalive.map(|interval| interval.as_secs()),
            last_handshake_s: status.last_handshake.map(|since| since.as_secs_f64()),
            bytes_received: status.received,
            bytes_sent: status.sent,
        }
    }
}
