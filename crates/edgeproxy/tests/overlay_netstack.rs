//! A POP whose overlay ends in a TCP stack of its own; the backend is inside another's.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::spawn;
use std::time::Duration;

use edgeproxy_overlay::{Acceptor, Device, DeviceSettings, Line, Netstack, PeerSettings, Tenants};
use edgeproxy_route::RawBackend;
use edgeproxy_tunnel::{GateSettings, PresharedKey, PrivateKey};
use edgeproxy_world::{Ending, LONG, Pattern, Pop, Site, eventually, row};

mod support;

const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 2);
const MEGABYTE: usize = 1 << 20;
/// The base64 of bytes that are all 1.
const POP_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const UNCHECKED: &str = "[[check]]\nkind = \"none\"\n";
const CHECKED: &str = "[[check]]\nkind = \"http\"\ninterval = \"100ms\"\ntimeout = \"500ms\"\nrise = 1\nfall = 1\n";

struct Far {
    acceptor: Acceptor,
    _device: Device,
    _netstack: Arc<Netstack>,
}

/// The far end of the overlay, and a POP that dials into it.
async fn start(checks: &str) -> (Far, Pop, Site) {
    let own = PrivateKey::from_bytes([2; 32]);
    let (netstack, queues) = Netstack::start(&[format!("{INSIDE}/24").parse().unwrap()], 1420, 1).unwrap();
    let public = own.public();
    let settings = DeviceSettings {
        private: own,
        port: 0,
        mtu: 1420,
        addresses: vec![INSIDE.into()],
        forward: false,
        tenants: Tenants::default(),
        gate: GateSettings::default(),
        directory: None,
        awake_most: 0,
    };
    let device = Device::start(settings, queues).unwrap();
    device.set_peer(PeerSettings {
        public: PrivateKey::from_bytes([1; 32]).public(),
        preshared: PresharedKey::default(),
        endpoint: None,
        keepalive: None,
        allowed_ips: vec!["10.50.0.1".parse().unwrap()],
    });
    let acceptor = netstack.listen(SocketAddr::from((INSIDE, 80)), 64).unwrap();

    let site = support::site();
    let file = site.file("pop.conf");
    let interface = format!("[Interface]\nPrivateKey = {POP_KEY}\nAddress = 10.50.0.1/24\n");
    let endpoint = format!("127.0.0.1:{}", device.port());
    let peer = format!("[Peer]\nPublicKey = {public}\nAllowedIPs = {INSIDE}/32\nEndpoint = {endpoint}\n");
    fs::write(&file, format!("{interface}{peer}")).unwrap();
    for (id, port) in [("open", 80), ("closed", 81)] {
        let region = if id == "open" { "fra" } else { "cdg" };
        let address = SocketAddr::from((INSIDE, port));
        site.add(RawBackend { country: Some(String::new()), ..row(id, region, address) }).unwrap();
    }
    let config = format!("{checks}[overlay]\nconfig = {:?}\nmode = \"netstack\"\n", file.display().to_string());
    let pop = site.start(&config).await.unwrap();
    (Far { acceptor, _device: device, _netstack: netstack }, pop, site)
}

impl Far {
    async fn accept(self) -> (Self, UnixStream, Line) {
        tokio::task::spawn_blocking(move || {
            let (stream, _) = self.acceptor.accept().unwrap();
            let socket = UnixStream::from(stream.fd);
            socket.set_nonblocking(false).unwrap();
            (self, socket, stream.line.unwrap())
        })
        .await
        .unwrap()
    }
}

#[tokio::test]
async fn a_client_reaches_a_backend_inside() {
    let (far, pop, _site) = start(UNCHECKED).await;
    let mut client = pop.connect().await.unwrap();
    let (far, mut backend, _) = far.accept().await;
    let there = spawn(move || {
        let mut came = Vec::new();
        backend.read_to_end(&mut came).unwrap();
        backend.write_all(&Pattern::new(2).take(3 * MEGABYTE)).unwrap();
        backend.shutdown(Shutdown::Write).unwrap();
        came
    });
    client.send(&Pattern::new(1).take(3 * MEGABYTE)).await.unwrap();
    client.finish().await.unwrap();
    let (came, ending) = client.ending().await.unwrap();
    assert!(came == Pattern::new(2).take(3 * MEGABYTE));
    assert_eq!(ending, Ending::Finished);
    assert!(there.join().unwrap() == Pattern::new(1).take(3 * MEGABYTE));
    let line = pop.logged_of(client.address()).await.unwrap();
    assert_eq!((&line["close"], &line["backend"]), (&"client".into(), &"open".into()));

    // The backend resets: so is the client.
    let mut client = pop.connect().await.unwrap();
    let (far, backend, line) = far.accept().await;
    line.reset_on_close();
    drop(backend);
    assert_eq!(client.ending().await.unwrap().1, Ending::Reset);
    assert_eq!(pop.logged_of(client.address()).await.unwrap()["close"], "backend_reset");

    // The client resets: so is the backend.
    let client = pop.connect().await.unwrap();
    let (_far, mut backend, line) = far.accept().await;
    client.abort().unwrap();
    assert_eq!(backend.read(&mut [0]).unwrap(), 0);
    assert_eq!(line.error().unwrap().kind(), std::io::ErrorKind::ConnectionReset);
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn checks_reach_inside() {
    let (far, pop, _site) = start(CHECKED).await;
    spawn(move || {
        while let Ok((stream, _)) = far.acceptor.accept() {
            let mut socket = UnixStream::from(stream.fd);
            socket.set_nonblocking(false).unwrap();
            let _ = socket.read(&mut [0; 1024]);
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    for result in ["pass", "fail"] {
        eventually(result, LONG, async || {
            let count = pop.count("edge_checks_total", &[("result", result)]).await?;
            Ok((count >= 3).then_some(()))
        })
        .await
        .unwrap();
    }
    pop.stop(Duration::from_secs(5)).await.unwrap();
}
