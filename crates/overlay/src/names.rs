//! Endpoints that are names: looked up at the start, again while that fails, and again when a peer does not answer, as a
//! name may lead elsewhere tomorrow.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use edgeproxy_tunnel::PublicKey;

use crate::engine::Engine;

/// Time between two looks at how the peers are.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A peer whose last handshake is so long ago does not answer where it was.
const SILENT: Duration = Duration::from_secs(190);

/// The thread that looks names up. It ends when this is dropped, once the system has answered.
pub(crate) struct Names {
    /// Hung up to end the thread.
    _stop: Option<Sender<()>>,
}

impl Names {
    /// Looks after these peers.
    pub(crate) fn start(engine: &Arc<Engine>, peers: Vec<(PublicKey, String, u16)>) -> io::Result<Self> {
        if peers.is_empty() {
            return Ok(Self { _stop: None });
        }
        let (stop, stopped) = channel();
        let engine = Arc::downgrade(engine);
        std::thread::Builder::new().name("wg-names".to_owned()).spawn(move || {
            // Bytes sent to each when it was last looked at.
            let mut sent = vec![0; peers.len()];
            while let Some(engine) = engine.upgrade() {
                for ((peer, name, port), sent) in peers.iter().zip(&mut sent) {
                    look_up(&engine, peer, name, *port, sent);
                }
                drop(engine);
                if stopped.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        Ok(Self { _stop: Some(stop) })
    }
}

/// Looks a name up if nobody knows where the peer is, or if it is spoken to and does not answer.
fn look_up(engine: &Engine, peer: &PublicKey, name: &str, port: u16, sent: &mut u64) {
    let Some(status) = engine.peer(peer) else { return };
    let here = status.settings.endpoint;
    let spoken_to = std::mem::replace(sent, status.sent) != status.sent;
    let answers = status.last_handshake.is_some_and(|since| since < SILENT);
    if here.is_some() && (answers || !spoken_to) {
        return;
    }
    let found: io::Result<Vec<SocketAddr>> = (name, port).to_socket_addrs().map(Iterator::collect);
    match found {
        Ok(addresses) => {
            if let Some(first) = addresses.first()
                && here.is_none_or(|here| !addresses.contains(&here))
            {
                tracing::info!(%peer, name, endpoint = %first, "endpoint found");
                engine.set_endpoint(peer, *first);
            }
        }
        Err(error) => tracing::warn!(%peer, name, %error, "endpoint not found, looking again in 10 s"),
    }
}
