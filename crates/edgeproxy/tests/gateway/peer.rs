//! A peer of a gateway: it registers over HTTP, and has a device and a TCP stack of its own.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use edgeproxy_overlay::{Device, DeviceSettings, Line, Netstack, OsRandom, PeerSettings, Stream};
use edgeproxy_tunnel::{PresharedKey, PrivateKey, Random};
use serde_json::json;

use crate::client::Client;
use crate::hub::Hub;

const MTU: usize = 1420;

pub(crate) struct Peer {
    /// Where the API has it.
    pub(crate) path: String,
    netstack: Arc<Netstack>,
    _device: Device,
}

impl Peer {
    /// Creates one, and brings its side up. Nothing is said yet.
    pub(crate) fn create(hub: &Hub, client: &mut Client) -> Self {
        let private = PrivateKey::from_bytes(OsRandom::new().bytes());
        let request = json!({ "public_key": private.public().to_string() });
        let peer = client.post("/api/v1/peers", &request).expect(201);
        let ip: IpAddr = peer["addresses"][0].as_str().unwrap().parse().unwrap();
        let (netstack, queues) = Netstack::start(&[format!("{ip}/16").parse().unwrap()], MTU, 1).unwrap();
        let settings = DeviceSettings::new(private, MTU, vec![ip]);
        let device = Device::start(settings, queues).unwrap();
        device.set_peer(PeerSettings {
            public: Hub::public(),
            preshared: PresharedKey::default(),
            endpoint: Some(SocketAddr::from(([127, 0, 0, 1], hub.port))),
            keepalive: None,
            allowed_ips: vec!["10.50.0.0/16".parse().unwrap()],
        });
        Self { path: format!("/api/v1/peers/{}", peer["id"].as_str().unwrap()), netstack, _device: device }
    }

    /// Is connected, within that time, or is not.
    pub(crate) fn dial(&self, to: &str, within: Duration) -> io::Result<Connection> {
        let Stream { fd, line } = self.netstack.dial(to.parse().unwrap())?;
        let mut socket = UnixStream::from(fd);
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(within))?;
        // The first byte says that the connection stands.
        socket.read_exact(&mut [0])?;
        Ok(Connection { socket, _line: line })
    }

    /// What a service answers.
    pub(crate) fn fetch(&self, from: &str, path: &str, within: Duration) -> io::Result<String> {
        let mut connection = self.dial(from, within)?;
        write!(connection.socket, "GET {path} HTTP/1.1\r\nHost: {from}\r\n\r\n")?;
        let mut answer = String::new();
        connection.socket.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// A connection of a peer.
pub(crate) struct Connection {
    pub(crate) socket: UnixStream,
    _line: Option<Line>,
}

impl Connection {
    /// Says something to a service that says it again.
    pub(crate) fn echo(&mut self, text: &[u8]) -> io::Result<()> {
        self.socket.write_all(text)?;
        let mut again = vec![0; text.len()];
        self.socket.read_exact(&mut again)?;
        assert_eq!(again, text);
        Ok(())
    }
}
