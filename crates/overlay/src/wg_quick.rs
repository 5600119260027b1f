//! A wg-quick file, understood as it stands: what is our part of it is read, what would run a command is refused.
//!
//! Only `reader` knows the file's form and only `value` what may stand behind a `=`; `writer` makes files that the
//! `wg-quick` tool takes as well.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use edgeproxy_tunnel::{Prefix, PresharedKey, PrivateKey, PublicKey};
use zeroize::Zeroizing;

mod endpoint;
mod mistake;
mod peers;
mod reader;
#[cfg(test)]
mod tests;
mod value;
mod writer;

pub use endpoint::{Endpoint, EndpointError, Host};
pub use mistake::Mistake;
pub use peers::{FoundPeer, PeersOf};

/// What a wg-quick file says.
#[derive(Clone, Debug)]
pub struct WgQuick {
    /// This machine.
    pub interface: Interface,
    /// Whom it talks to, in the order of the file. No two have the same key or the same prefix.
    pub peers: Vec<PeerConfig>,
    /// What stops nothing and should be known, each with its place: `wg0.conf:4: ignored: ...`.
    pub notes: Vec<String>,
}

/// What a file says of its own machine.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its identity.
    pub private_key: PrivateKey,
    /// Its addresses, and how many of their first bits its neighbours share; 32 or 128 where the file does not say.
    pub addresses: Vec<(IpAddr, u8)>,
    /// UDP port; `None`: any that is free.
    pub listen_port: Option<u16>,
    /// Largest packet inside the tunnel, 576 to 65455 bytes.
    pub mtu: Option<u16>,
    /// Mark of the packets outside the tunnel.
    pub fwmark: Option<u32>,
    /// Where `wg-quick` would add routes.
    pub table: RoutingTable,
}

/// A table of routes, as `wg-quick` names one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum RoutingTable {
    /// The usual one.
    #[default]
    Auto,
    /// No routes are added.
    Off,
    /// This one, by number or name.
    Other(String),
}

/// What a file says of a peer.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// What the comment right below `[Peer]` calls it, if that is one word of at most 32 letters, digits, `-`, `_` and
    /// `.`. For people alone.
    pub name: Option<String>,
    /// Its identity.
    pub public_key: PublicKey,
    /// Mixed into each handshake.
    pub preshared_key: Option<PresharedKey>,
    /// What is sent to it, and accepted from it. Each once.
    pub allowed_ips: Vec<Prefix>,
    /// Where it is found; `None`: it comes to us.
    pub endpoint: Option<Endpoint>,
    /// Seconds of silence after which it is sent an empty packet.
    pub persistent_keepalive: Option<NonZeroU16>,
}

impl WgQuick {
    /// Reads a file. That others may read its keys gives a note.
    ///
    /// # Errors
    /// Every mistake in it, in the order of its lines.
    pub fn read(path: &Path) -> Result<Self, Vec<Mistake>> {
        let name = path.display().to_string();
        let content = content(path)
            .map_err(|error| vec![Mistake::of_file(&name, format!("cannot be read: {error}; name a wg-quick file"))]);
        let (bytes, is_exposed) = content?;
        let mut config = Self::parse(&name, &bytes)?;
        if is_exposed {
            let note = format!("{name}: holds a private key and is open to other users; close it with `chmod 600`");
            config.notes.insert(0, note);
        }
        Ok(config)
    }

    /// Reads the content of a file; `name` is what mistakes call it.
    ///
    /// # Errors
    /// Every mistake in it, in the order of its lines.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, Vec<Mistake>> {
        reader::read(name, bytes)
    }
}

/// Its bytes, and whether its group or everybody can get at them.
fn content(path: &Path) -> io::Result<(Zeroizing<Vec<u8>>, bool)> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    // Room for all of it at once: a buffer that grows leaves copies of the key behind.
    let room = usize::try_from(metadata.len()).unwrap_or(0).saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::new());
    bytes.try_reserve_exact(room)?;
    file.read_to_end(&mut bytes)?;
    Ok((bytes, metadata.is_file() && metadata.permissions().mode() & 0o077 != 0))
}
