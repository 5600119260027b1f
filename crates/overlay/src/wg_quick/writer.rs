//! Files that this crate and the `wg-quick` tool both read.

use std::fmt::Write;

use zeroize::Zeroizing;

use super::{PeerConfig, RoutingTable, WgQuick, value};

/// More than the lines of an interface take, without its addresses and its table.
const INTERFACE_ROOM: usize = 256;
/// More than the lines of a peer take, without its prefixes and its endpoint.
const PEER_ROOM: usize = 320;
/// More than an address with its length takes, or what it is separated by.
const PREFIX_ROOM: usize = 64;
/// More than a name or a table takes.
const NAME_ROOM: usize = 256;

impl WgQuick {
    /// The file, private key included. Notes are not written.
    pub fn to_text(&self) -> Zeroizing<String> {
        // Room for all of it at once: a text that grows leaves copies of the keys behind.
        let mut text = Zeroizing::new(String::with_capacity(self.room()));
        self.write(&mut text).expect("a String takes every write");
        text
    }

    pub(super) fn room(&self) -> usize {
        let peers = self.peers.iter().map(|peer| PEER_ROOM + NAME_ROOM + PREFIX_ROOM * peer.allowed_ips.len());
        INTERFACE_ROOM + NAME_ROOM + PREFIX_ROOM * self.interface.addresses.len() + peers.sum::<usize>()
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let interface = &self.interface;
        writeln!(out, "[Interface]\nPrivateKey = {}", *interface.private_key.to_base64())?;
        list(out, "Address", interface.addresses.iter().map(|(address, length)| format!("{address}/{length}")))?;
        optional(out, "ListenPort", interface.listen_port)?;
        optional(out, "MTU", interface.mtu)?;
        optional(out, "FwMark", interface.fwmark.map(|mark| format!("{mark:#x}")))?;
        match &interface.table {
            RoutingTable::Auto => {}
            RoutingTable::Off => optional(out, "Table", Some("off"))?,
            RoutingTable::Other(table) => optional(out, "Table", Some(table))?,
        }
        self.peers.iter().try_for_each(|peer| write_peer(out, peer))
    }
}

fn write_peer(out: &mut String, peer: &PeerConfig) -> std::fmt::Result {
    writeln!(out, "\n[Peer]")?;
    // Anything else could end the comment's line.
    if let Some(name) = peer.name.as_ref().filter(|name| value::is_name(name)) {
        writeln!(out, "# {name}")?;
    }
    writeln!(out, "PublicKey = {}", peer.public_key)?;
    if let Some(key) = &peer.preshared_key {
        writeln!(out, "PresharedKey = {}", *key.to_base64())?;
    }
    list(out, "AllowedIPs", peer.allowed_ips.iter())?;
    optional(out, "Endpoint", peer.endpoint.as_ref())?;
    optional(out, "PersistentKeepalive", peer.persistent_keepalive)
}

fn list(out: &mut String, key: &str, items: impl Iterator<Item = impl std::fmt::Display>) -> std::fmt::Result {
    let mut before = format!("{key} = ");
    for item in items {
        write!(out, "{before}{item}")?;
        before = ", ".to_owned();
    }
    if before == ", " { writeln!(out) } else { Ok(()) }
}

fn optional(out: &mut String, key: &str, value: Option<impl std::fmt::Display>) -> std::fmt::Result {
    value.map_or(Ok(()), |value| writeln!(out, "{key} = {value}"))
}
