//! What a device says of itself.

use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use edgeproxy_tunnel::{KEY, PrivateKey};
use zeroize::{Zeroize, Zeroizing};

use crate::registry::PeerStatus;

/// Bytes that are written at once.
const CHUNK: usize = 64 * 1024;

/// Writes what concerns the device as a whole.
///
/// # Errors
/// Those of `out`.
pub fn write_device(out: &mut impl Write, private: Option<&PrivateKey>, port: u16, mark: u32) -> io::Result<()> {
    if let Some(private) = private {
        writeln!(out, "private_key={}", Hex(private.bytes()))?;
    }
    writeln!(out, "listen_port={port}")?;
    if mark != 0 {
        writeln!(out, "fwmark={mark}")?;
    }
    Ok(())
}

/// Writes what is known of a peer.
///
/// # Errors
/// Those of `out`.
pub fn write_peer(out: &mut impl Write, status: &PeerStatus) -> io::Result<()> {
    let settings = &status.settings;
    writeln!(out, "public_key={}", Hex(&settings.public.0))?;
    writeln!(out, "preshared_key={}", Hex(settings.preshared.bytes()))?;
    writeln!(out, "protocol_version=1")?;
    if let Some(endpoint) = settings.endpoint {
        writeln!(out, "endpoint={endpoint}")?;
    }
    let handshake = status.last_handshake_at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    writeln!(out, "last_handshake_time_sec={}", handshake.as_secs())?;
    writeln!(out, "last_handshake_time_nsec={}", handshake.subsec_nanos())?;
    writeln!(out, "tx_bytes={}", status.sent)?;
    writeln!(out, "rx_bytes={}", status.received)?;
    let keepalive = settings.keepalive.as_ref().map_or(0, Duration::as_secs);
    writeln!(out, "persistent_keepalive_interval={keepalive}")?;
    settings.allowed_ips.iter().try_for_each(|prefix| writeln!(out, "allowed_ip={prefix}"))
}

/// Writes the end of an answer: how it went.
pub(crate) fn write_end(out: &mut impl Write, errno: i32) -> io::Result<()> {
    write!(out, "errno={errno}\n\n")?;
    out.flush()
}

/// A key as the protocol writes it.
struct Hex<'a>(&'a [u8; KEY]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Gathers what is written, and leaves nothing of it in memory.
pub(crate) struct Gathered<W> {
    to: W,
    /// Never grows: that would leave copies.
    bytes: Zeroizing<Vec<u8>>,
}

impl<W: Write> Gathered<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to, bytes: Zeroizing::new(Vec::with_capacity(CHUNK)) }
    }
}

impl<W: Write> Write for Gathered<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() == CHUNK {
            self.flush()?;
        }
        let taken = bytes.len().min(CHUNK - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let sent = self.to.write_all(&self.bytes);
        self.bytes.as_mut_slice().zeroize();
        self.bytes.clear();
        sent
    }
}
