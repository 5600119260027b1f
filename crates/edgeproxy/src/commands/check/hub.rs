//! What a gateway's files are worth.

use std::path::PathBuf;

use edgeproxy_overlay::WgQuick;
use edgeproxy_store::peers::PeerPages;
use serde::Serialize;

use super::super::say;
use crate::config::Config;
use crate::overlay;

/// The wg-quick file and the file of the peers. Neither is written; a gateway may run meanwhile.
#[derive(Serialize, Default)]
pub(super) struct Hub {
    overlay: Option<PathBuf>,
    /// Its own addresses inside.
    addresses: Vec<String>,
    /// Peers of the wg-quick file.
    peers: usize,
    db: Option<PathBuf>,
    /// Peers of the database; `None`: there is none yet.
    registered: Option<u64>,
    /// Why a file is of no use.
    pub(super) errors: Vec<String>,
    #[serde(skip)]
    pub(super) notes: Vec<String>,
}

impl Hub {
    pub(super) fn of(config: &Config) -> Self {
        let mut hub = Self::default();
        if let Some(path) = &config.overlay.config {
            match overlay::file(path, &config.proxy.region) {
                Ok(file) => hub.read_overlay(file),
                Err(error) => hub.errors.push(error),
            }
        }
        if let Some(gateway) = &config.gateway {
            let path = &gateway.peers.db;
            match PeerPages::count(path) {
                Ok(count) => hub.registered = count,
                Err(error) => hub.errors.push(error.to_string()),
            }
            hub.db = Some(path.clone());
        }
        hub
    }

    fn read_overlay(&mut self, file: PathBuf) {
        match WgQuick::read(&file) {
            Ok(read) => {
                let addresses = read.interface.addresses.iter();
                self.addresses = addresses.map(|(ip, length)| format!("{ip}/{length}")).collect();
                self.peers = read.peers.len();
                self.notes.extend(read.notes.iter().map(ToString::to_string));
            }
            Err(mistakes) => self.errors.extend(mistakes.iter().map(ToString::to_string)),
        }
        self.overlay = Some(file);
    }

    pub(super) fn print(&self) {
        for error in &self.errors {
            say::mistake(format_args!("gateway: {error}"));
        }
        if !self.errors.is_empty() {
            return;
        }
        if let Some(path) = &self.overlay {
            let (path, addresses) = (path.display(), self.addresses.join(", "));
            say::line(format_args!("overlay: {path}, addresses {addresses}, {} peers of its own", self.peers));
        }
        match (&self.db, self.registered) {
            (Some(db), Some(count)) => say::line(format_args!("peers: {}, {count} registered", db.display())),
            (Some(db), None) => say::line(format_args!("peers: {}, made at the first start", db.display())),
            (None, _) => say::line("peers: gateway.db is not set, so none are handed out"),
        }
    }
}
