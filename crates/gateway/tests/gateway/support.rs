//! Both ends: TCP stacks instead of interfaces, UDP over loopback.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::spawn;
use std::time::{Duration, Instant};

use edgeproxy_gateway::{Flows, Gateway, GatewaySettings, Opened, PeerRequest, PoolSettings};
use edgeproxy_overlay::{
    Device, DeviceSettings, Line, ListenSettings, Netstack, OsRandom, PeerSettings, Sockets, Stream,
};
use edgeproxy_store::peers::PeerRecord;
use edgeproxy_tunnel::{Prefix, PresharedKey, PrivateKey, PublicKey, Random};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Longer than anything here may take.
pub(crate) const LONG: Duration = Duration::from_secs(10);
/// So long nothing comes where nothing will.
pub(crate) const A_WHILE: Duration = Duration::from_millis(300);
const PORT: u16 = 5432;
const MTU: usize = 1420;

pub(crate) struct Served {
    pub(crate) gateway: Arc<Gateway>,
    _netstack: Arc<Netstack>,
    ip: IpAddr,
    /// Where its device is.
    pub(crate) below: SocketAddr,
}

impl Served {
    /// A gateway with this file, that echoes.
    pub(crate) fn start(db: &Path, awake_most: usize) -> Self {
        Self::start_with(settings(db), awake_most)
    }

    pub(crate) fn start_with(settings: GatewaySettings, awake_most: usize) -> Self {
        let ip: IpAddr = "10.50.0.1".parse().unwrap();
        let opened = Opened::open(settings, &[Prefix::host(ip)]).unwrap();
        let (netstack, queues) = Netstack::start(&["10.50.0.1/16".parse().unwrap()], MTU, 1).unwrap();
        // The same again after a restart.
        let key = PrivateKey::from_bytes([9; 32]);
        let own = DeviceSettings { directory: Some(opened.directory()), awake_most, ..device(key, ip) };
        let device = Arc::new(Device::start(own, queues).unwrap());
        let below = SocketAddr::from(([127, 0, 0, 1], device.port()));
        let listening = Sockets::Netstack(Arc::clone(&netstack)).listen(&ListenSettings::at((ip, PORT).into()));
        let acceptor = listening.unwrap().1.pop().unwrap();
        let flows = Arc::new(Echoes::default());
        let echoes = Arc::clone(&flows);
        spawn(move || {
            loop {
                match acceptor.accept() {
                    Ok((stream, from)) => echoes.begin(stream, from),
                    Err(Errno::AGAIN) => _ = poll(&mut [PollFd::new(&acceptor, PollFlags::IN)], None),
                    Err(_) => break,
                }
            }
        });
        Self { gateway: Arc::new(opened.serve(device, flows)), _netstack: netstack, ip, below }
    }
}

/// What is open to the service here.
#[derive(Default)]
struct Echoes(Mutex<Vec<(SocketAddr, Line, UnixStream)>>);

impl Echoes {
    fn begin(&self, stream: Stream, from: SocketAddr) {
        let mut socket = UnixStream::from(stream.fd);
        socket.set_nonblocking(false).unwrap();
        self.0.lock().unwrap().push((from, stream.line.unwrap(), socket.try_clone().unwrap()));
        spawn(move || {
            // Ends with the connection, however that ends.
            let _ = io::copy(&mut socket.try_clone().unwrap(), &mut socket);
        });
    }
}

impl Flows for Echoes {
    fn any(&self) -> bool {
        true
    }

    fn cut(&self, of: &[Prefix]) {
        self.0.lock().unwrap().retain(|(from, line, socket)| {
            let ends = of.iter().any(|prefix| prefix.contains(from.ip()));
            if ends {
                line.reset_on_close();
                // One that has ended is as good.
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }
            !ends
        });
    }
}

/// What is served here is the test's own.
pub(crate) struct NoFlows;

impl Flows for NoFlows {
    fn any(&self) -> bool {
        false
    }

    fn cut(&self, _: &[Prefix]) {}
}

pub(crate) fn settings(db: &Path) -> GatewaySettings {
    let pool = |network: &str| PoolSettings { network: network.parse().unwrap(), region: None };
    GatewaySettings {
        db: db.to_owned(),
        pools: vec![pool("10.50.0.0/16"), pool("fd00:50::/64")],
        quarantine: Duration::from_secs(60),
        grace: Duration::ZERO,
        max_peers: 1000,
    }
}

/// What a peer has on its side.
pub(crate) struct Client {
    pub(crate) private: PrivateKey,
    pub(crate) ip: IpAddr,
}

impl Client {
    /// Creates a peer, and is it.
    pub(crate) async fn create(served: &Served, request: PeerRequest) -> Self {
        let private = private();
        let request = PeerRequest { public: Some(private.public()), ..request };
        let created = served.gateway.create(request).await.unwrap();
        Self { private, ip: created.peer.row.v4.unwrap().into() }
    }

    pub(crate) fn with(private: PrivateKey, peer: &PeerRecord) -> Self {
        Self { private, ip: peer.row.v4.unwrap().into() }
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.private.public()
    }

    /// Brings its side up.
    pub(crate) fn up(&self, served: &Served) -> Up {
        let network = format!("{}/16", self.ip).parse().unwrap();
        let (netstack, queues) = Netstack::start(&[network], MTU, 1).unwrap();
        let device = Device::start(device(self.private.clone(), self.ip), queues).unwrap();
        device.set_peer(PeerSettings {
            public: served.gateway.device().public(),
            preshared: PresharedKey::default(),
            endpoint: Some(served.below),
            keepalive: None,
            allowed_ips: vec!["10.50.0.0/16".parse().unwrap()],
        });
        Up { netstack, _device: device, to: (served.ip, PORT).into() }
    }
}

/// A client that runs.
pub(crate) struct Up {
    netstack: Arc<Netstack>,
    _device: Device,
    to: SocketAddr,
}

impl Up {
    /// Whether what is said through the tunnel comes back within that time.
    pub(crate) fn is_heard(&self, within: Duration) -> bool {
        self.try_echo(within).is_ok()
    }

    fn try_echo(&self, within: Duration) -> io::Result<()> {
        let stream = self.netstack.dial(self.to)?;
        let mut socket = UnixStream::from(stream.fd);
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(within))?;
        // The first byte says that the connection stands.
        socket.read_exact(&mut [0])?;
        socket.write_all(b"hello")?;
        socket.read_exact(&mut [0; 5])
    }
}

pub(crate) fn private() -> PrivateKey {
    PrivateKey::from_bytes(OsRandom::new().bytes())
}

pub(crate) fn device(private: PrivateKey, ip: IpAddr) -> DeviceSettings {
    DeviceSettings::new(private, MTU, vec![ip])
}

/// A folder that ends with the test, and the file in it.
pub(crate) fn file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("peers.db");
    (folder, db)
}

pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < until, "{what}: not within {LONG:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
