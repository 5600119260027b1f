//! What is known of one connection, from its backend's answer to its log line.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use edgeproxy_route::{Backend, ClientAddr, Country};
use serde::Serialize;

use crate::listener::Listener;

/// The facts that are settled when a connection is established.
pub(crate) struct Record {
    pub(crate) id: u64,
    pub(crate) listener: Arc<Listener>,
    pub(crate) client: ClientAddr,
    /// The socket's peer, where a PROXY header gave another client.
    pub(crate) via: Option<Box<SocketAddr>>,
    pub(crate) backend: Arc<Backend>,
    pub(crate) started: Instant,
    pub(crate) score: f32,
    pub(crate) queue_us: u32,
    pub(crate) connect_us: u32,
    pub(crate) country: Option<Country>,
    pub(crate) band: u8,
    pub(crate) attempts: u8,
    pub(crate) affine: bool,
}

impl Record {
    /// Where the client's socket is, whomever it speaks for.
    pub(crate) fn from(&self) -> IpAddr {
        self.via.as_ref().map_or(self.client.ip(), |via| via.ip())
    }
}

/// One live connection, as the admin API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct LiveConnection {
    /// `<pop>-<hex>`, as in the log.
    pub id: String,
    /// Where it came in.
    pub listener: String,
    /// Real client.
    pub client: String,
    /// Country of the client.
    pub country: Option<Country>,
    /// Backend's id.
    pub backend: String,
    /// Backend's region.
    pub region: String,
    /// Bytes from the client so far.
    pub bytes_in: u64,
    /// Bytes to the client so far.
    pub bytes_out: u64,
    /// Age in ms.
    pub age_ms: u64,
    /// Sort key of the list: the numeric part of the id.
    #[serde(skip)]
    pub(crate) number: u64,
}

impl LiveConnection {
    /// Where a listing that ended with this connection goes on.
    pub fn cursor(&self) -> u64 {
        self.number
    }

    pub(crate) fn of(record: &Record, (bytes_in, bytes_out): (u64, u64), pop: &str) -> Self {
        Self {
            id: connection_id(pop, record.id),
            listener: record.listener.name.clone(),
            client: record.client.to_string(),
            country: record.country,
            backend: record.backend.id.clone(),
            region: record.backend.region.clone(),
            bytes_in,
            bytes_out,
            age_ms: u64::try_from(record.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            number: record.id,
        }
    }
}

pub(crate) fn connection_id(pop: &str, number: u64) -> String {
    format!("{pop}-{number:x}")
}

/// The numeric part of an id of this POP.
pub(crate) fn connection_number(pop: &str, id: &str) -> Option<u64> {
    let digits = id.strip_prefix(pop)?.strip_prefix('-')?;
    u64::from_str_radix(digits, 16).ok()
}
