//! Initiations as somebody on the way would record them, each of a moment that the test says.

use std::net::UdpSocket;

use edgeproxy_tunnel::{CookieJar, Identity, MacKey, Moment, PrivateKey, PublicKey, SharedSecret, Tai64N};

use crate::support::{A_WHILE, Client, LONG, Served};

pub(crate) struct Recorder {
    identity: Identity,
    shared: SharedSecret,
    gateway: PublicKey,
    socket: UdpSocket,
}

impl Recorder {
    /// Of what this client says to this gateway.
    pub(crate) fn new(client: &Client, served: &Served) -> Self {
        let (identity, gateway) = (Identity::new(client.private.clone()), served.gateway.device().public());
        let shared = identity.shared_with(&gateway).unwrap();
        Self { identity, shared, gateway, socket: UdpSocket::bind("127.0.0.1:0").unwrap() }
    }

    pub(crate) fn initiation(&mut self, moment: u8) -> [u8; 148] {
        let ephemeral = PrivateKey::from_bytes([moment; 32]);
        let at = Tai64N([moment; 12]);
        let (mut message, _) =
            self.identity.initiate(&self.gateway, &self.shared, at, ephemeral, moment.into()).unwrap();
        CookieJar::default().sign(&mut message, &MacKey::of(&self.gateway), Moment::default());
        message
    }

    pub(crate) fn send(&self, served: &Served, message: &[u8]) {
        self.socket.send_to(message, served.below).unwrap();
    }

    pub(crate) fn is_answered(&self, served: &Served, message: &[u8]) -> bool {
        // Two that follow too closely are not both answered.
        std::thread::sleep(A_WHILE);
        self.send(served, message);
        self.socket.set_read_timeout(Some(LONG)).unwrap();
        self.socket.recv(&mut [0; 2048]).is_ok_and(|length| length == 92)
    }
}
