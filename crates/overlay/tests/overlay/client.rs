//! A peer made of the protocol's parts: it does what a test says, be it what no peer should do.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use edgeproxy_overlay::PeerSettings;
use edgeproxy_tunnel::{
    CookieJar, Identity, Initiated, MacKey, Message, Moment, PresharedKey, PrivateKey, PublicKey, ReceivingHalf,
    SendingHalf, SharedSecret, TRANSPORT_HEADER, TRANSPORT_TAG, Tai64N, Transport, halves,
};

use crate::support::{Host, LONG, private};

const NOW: Moment = Moment::from_millis(1);

pub(crate) struct Client {
    identity: Identity,
    shared: SharedSecret,
    /// The device it speaks to.
    device: PublicKey,
    pub(crate) to: SocketAddr,
    pub(crate) socket: UdpSocket,
    jar: CookieJar,
    /// Handshakes begun so far.
    begun: u8,
    session: Option<(Arc<SendingHalf>, ReceivingHalf)>,
}

impl Client {
    /// With the key of the host of this number, whose place it takes.
    pub(crate) fn new(number: u8, host: &Host) -> Self {
        let (identity, device) = (Identity::new(private(number)), host.device.public());
        Self {
            shared: identity.shared_with(&device).unwrap(),
            identity,
            device,
            to: host.address(),
            socket: socket("127.0.0.1"),
            jar: CookieJar::default(),
            begun: 0,
            session: None,
        }
    }

    /// The same, registered with these addresses.
    pub(crate) fn known(number: u8, host: &Host, allowed_ips: &[&str]) -> Self {
        let client = Self::new(number, host);
        client.register(host, allowed_ips);
        client
    }

    pub(crate) fn register(&self, host: &Host, allowed_ips: &[&str]) {
        host.device.set_peer(PeerSettings {
            public: self.public(),
            preshared: PresharedKey::default(),
            endpoint: None,
            keepalive: None,
            allowed_ips: allowed_ips.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        });
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.identity.public()
    }

    /// An initiation of this moment.
    pub(crate) fn initiation(&mut self, at: Tai64N) -> ([u8; 148], Initiated) {
        self.begun += 1;
        let ephemeral = PrivateKey::from_bytes([self.begun; 32]);
        let (mut message, initiated) =
            self.identity.initiate(&self.device, &self.shared, at, ephemeral, self.begun.into()).unwrap();
        self.jar.sign(&mut message, &MacKey::of(&self.device), NOW);
        (message, initiated)
    }

    /// Takes a response, and has the session that follows.
    pub(crate) fn finish(&mut self, initiated: &Initiated, response: &[u8]) {
        let Some(Message::Response(response)) = Message::parse(response) else { panic!("no response") };
        let keys = self.identity.finish(initiated, response, &PresharedKey::default()).unwrap();
        let (send, receive) = halves(keys, NOW);
        self.session = Some((Arc::new(send), receive));
    }

    /// Has a session, and says so.
    pub(crate) fn connect(&mut self) {
        let until = Instant::now() + LONG;
        while Instant::now() < until {
            // Two within what the timestamp tells apart would be one.
            let at = SystemTime::now() + Duration::from_millis(100) * u32::from(self.begun);
            let (message, initiated) = self.initiation(Tai64N::of(at));
            self.send(&message);
            // One that follows the last too closely is not answered.
            while let Some(answer) = self.receive_within(Duration::from_millis(100)) {
                if let Some(Message::Response(_)) = Message::parse(&answer) {
                    self.finish(&initiated, &answer);
                    self.send(&self.seal(&[], 0));
                    return;
                }
            }
        }
        panic!("no response comes");
    }

    /// A packet as it goes on its way, followed by so many zeros.
    pub(crate) fn seal(&self, packet: &[u8], padding: usize) -> Vec<u8> {
        let mut datagram = vec![0; TRANSPORT_HEADER + packet.len() + padding + TRANSPORT_TAG];
        datagram[TRANSPORT_HEADER..][..packet.len()].copy_from_slice(packet);
        let (send, _) = self.session.as_ref().expect("it has a session");
        Arc::clone(send).sealer(NOW).unwrap().seal(&mut datagram).unwrap();
        datagram
    }

    pub(crate) fn send(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.to).unwrap();
    }

    /// The next datagram that comes.
    pub(crate) fn receive_within(&self, time: Duration) -> Option<Vec<u8>> {
        receive(&self.socket, time)
    }

    /// The next message of the session: its number and what was in it. Others are passed over.
    pub(crate) fn open_within(&mut self, time: Duration) -> Option<(u64, Vec<u8>)> {
        let until = Instant::now() + time;
        loop {
            let left = until.checked_duration_since(Instant::now())?;
            let mut datagram = receive(&self.socket, left)?;
            let (Some(header), Some((_, receive))) = (Transport::parse(&datagram), self.session.as_mut()) else {
                continue;
            };
            if header.receiver == receive.local {
                let opened = receive.opener(NOW).unwrap().open(header, &mut datagram).unwrap();
                return Some((header.counter, opened.packet.to_vec()));
            }
        }
    }
}

/// A socket at any port of this address.
pub(crate) fn socket(host: &str) -> UdpSocket {
    UdpSocket::bind((host, 0)).unwrap()
}

pub(crate) fn receive(socket: &UdpSocket, time: Duration) -> Option<Vec<u8>> {
    socket.set_read_timeout(Some(time.max(Duration::from_millis(1)))).unwrap();
    let mut buffer = vec![0; 70_000];
    match socket.recv(&mut buffer) {
        Ok(length) => Some(buffer[..length].to_vec()),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        Err(error) => panic!("{error}"),
    }
}
