//! A POP whose overlay ends in a TCP stack of its own, and somebody inside who has another: as a backend, as a client.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::thread::spawn;
use std::time::Duration;

use edgeproxy_overlay::{
    Acceptor, Device, DeviceSettings, Line, ListenSettings, Netstack, PeerSettings, Sockets, Stream,
};
use edgeproxy_route::RawBackend;
use edgeproxy_tunnel::{PresharedKey, PrivateKey};
use edgeproxy_world::{Backend, Behaviour, Ending, LONG, Pattern, Pop, Site, eventually, row};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

mod support;

const MEGABYTE: usize = 1 << 20;
/// The base64 of bytes that are all 1.
const POP_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const UNCHECKED: &str = "[[check]]\nkind = \"none\"\n";
const CHECKED: &str = "[[check]]\nkind = \"http\"\ninterval = \"100ms\"\ntimeout = \"500ms\"\nrise = 1\nfall = 1\n";

/// Addresses inside.
#[derive(Clone, Copy)]
struct Network {
    pop: &'static str,
    far: &'static str,
    length: u8,
}

const V4: Network = Network { pop: "10.50.0.1", far: "10.50.0.2", length: 24 };
const V6: Network = Network { pop: "fd50::1", far: "fd50::2", length: 64 };

impl Network {
    fn at_pop(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.pop.parse().unwrap(), port)
    }

    fn far(self) -> IpAddr {
        self.far.parse().unwrap()
    }
}

struct Far {
    sockets: Sockets,
    acceptor: Acceptor,
    _device: Device,
}

/// The far end of the overlay, and a POP that dials into it.
async fn start(checks: &str) -> (Far, Pop, Site) {
    start_in(V4, checks).await
}

async fn start_in(network: Network, toml: &str) -> (Far, Pop, Site) {
    let Network { pop, far, length } = network;
    let own = PrivateKey::from_bytes([2; 32]);
    let (netstack, queues) = Netstack::start(&[format!("{far}/{length}").parse().unwrap()], 1420, 1).unwrap();
    let public = own.public();
    let settings = DeviceSettings::new(own, 1420, vec![network.far()]);
    let device = Device::start(settings, queues).unwrap();
    let sockets = Sockets::Netstack(netstack);
    let (_, mut acceptors) = sockets.listen(&ListenSettings::at(SocketAddr::new(network.far(), 80))).unwrap();

    let site = support::site();
    let file = site.file("pop.conf");
    let interface = format!("[Interface]\nPrivateKey = {POP_KEY}\nAddress = {pop}/{length}\n");
    let endpoint = format!("127.0.0.1:{}", device.port());
    let peer = format!("[Peer]\nPublicKey = {public}\nAllowedIPs = {far}\nEndpoint = {endpoint}\n");
    fs::write(&file, format!("{interface}{peer}")).unwrap();
    for (id, port) in [("open", 80), ("closed", 81)] {
        let region = if id == "open" { "fra" } else { "cdg" };
        let address = SocketAddr::new(network.far(), port);
        site.add(RawBackend { country: Some(String::new()), ..row(id, region, address) }).unwrap();
    }
    let config = format!("[overlay]\nconfig = {:?}\nmode = \"netstack\"\n{toml}", file.display().to_string());
    let pop = site.start(&config).await.unwrap();
    let shown: serde_json::Value = serde_json::from_str(&pop.get("/api/v1/overlay").await.unwrap().1).unwrap();
    device.set_peer(PeerSettings {
        public: PrivateKey::from_bytes([1; 32]).public(),
        preshared: PresharedKey::default(),
        endpoint: Some(SocketAddr::from(([127, 0, 0, 1], u16::try_from(shown["port"].as_u64().unwrap()).unwrap()))),
        keepalive: None,
        allowed_ips: vec![network.pop.parse().unwrap()],
    });
    (Far { sockets, acceptor: acceptors.pop().unwrap(), _device: device }, pop, site)
}

impl Far {
    /// The next client; whoever waits for it does so on a thread of its own.
    fn next(&self) -> (UnixStream, Line) {
        let patience = Timespec::try_from(LONG).unwrap();
        let there = poll(&mut [PollFd::new(&self.acceptor, PollFlags::IN)], Some(&patience)).unwrap();
        assert_eq!(there, 1, "nobody comes");
        blocking(self.acceptor.accept().unwrap().0)
    }

    async fn accept(self) -> (Self, UnixStream, Line) {
        apart(move || {
            let (socket, line) = self.next();
            (self, socket, line)
        })
        .await
    }

    /// Dials, and waits until the connection stands.
    async fn connect(&self, to: SocketAddr) -> io::Result<(UnixStream, Line)> {
        let (mut socket, line) = blocking(self.sockets.dial(to)?);
        apart(move || {
            let read = socket.read(&mut [0])?;
            line.settled(read)?;
            Ok((socket, line))
        })
        .await
    }
}

fn blocking(stream: Stream) -> (UnixStream, Line) {
    let socket = UnixStream::from(stream.fd);
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.set_write_timeout(Some(LONG)).unwrap();
    (socket, stream.line.unwrap())
}

/// Does what blocks.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
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
        loop {
            let (mut socket, _) = far.next();
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

/// A service of this machine that is published inside, and a listener of the proxy there.
async fn published(network: Network) -> (Far, Pop, Site, Backend) {
    let service = Backend::start("service", Behaviour::HandOver).unwrap();
    let publish =
        format!("[[publish]]\nlisten = \"{}\"\ntarget = \"{}\"\n{UNCHECKED}", network.at_pop(5432), service.address());
    let listeners =
        format!("[[listener]]\nbind = \"127.0.0.1:0\"\n[[listener]]\nbind = \"{}\"\n", network.at_pop(8080));
    let (far, pop, site) = start_in(network, &format!("{publish}{listeners}")).await;
    (far, pop, site, service)
}

#[tokio::test]
async fn a_service_is_published_inside() {
    for network in [V4, V6] {
        let (far, pop, _site, service) = published(network).await;
        let descriptors = async || pop.count("process_open_fds", &[]).await;
        let before = descriptors().await.unwrap();
        let (near, line) = far.connect(network.at_pop(5432)).await.unwrap();
        let mut server = service.next().await.unwrap();
        let there = apart(move || {
            let mut writing = near.try_clone().unwrap();
            let writer = spawn(move || {
                writing.write_all(&Pattern::new(1).take(3 * MEGABYTE)).unwrap();
                writing.shutdown(Shutdown::Write).unwrap();
            });
            let mut came = Vec::new();
            (&near).read_to_end(&mut came).unwrap();
            writer.join().unwrap();
            came
        });
        let here = async {
            let came = server.receive(3 * MEGABYTE).await.unwrap();
            assert!(came == Pattern::new(1).take(3 * MEGABYTE));
            assert_eq!(server.ending().await.unwrap(), (vec![], Ending::Finished));
            server.send(&Pattern::new(2).take(3 * MEGABYTE)).await.unwrap();
            server.finish().await.unwrap();
        };
        let (came, ()) = tokio::join!(there, here);
        assert!(came == Pattern::new(2).take(3 * MEGABYTE));
        assert!(line.error().is_none());
        let logged = pop.logged(|line| line["event"] == "connection").await.unwrap();
        assert_eq!(logged["listener"], network.at_pop(5432).to_string());
        assert!(logged["client"].as_str().unwrap().contains(network.far), "{logged}");

        // Resets go both ways.
        let (mut near, line) = far.connect(network.at_pop(5432)).await.unwrap();
        service.next().await.unwrap().abort().unwrap();
        apart(move || assert_eq!(near.read(&mut [0]).unwrap(), 0)).await;
        assert_eq!(line.error().unwrap().kind(), io::ErrorKind::ConnectionReset);
        let (near, line) = far.connect(network.at_pop(5432)).await.unwrap();
        let mut server = service.next().await.unwrap();
        line.reset_on_close();
        drop(near);
        assert_eq!(server.ending().await.unwrap(), (vec![], Ending::Reset));

        // Where nobody listens.
        let refused = far.connect(network.at_pop(5433)).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

        // Nothing is left of many that came and went.
        for _ in 0..50 {
            let (near, _) = far.connect(network.at_pop(5432)).await.unwrap();
            let mut server = service.next().await.unwrap();
            drop(near);
            assert_eq!(server.ending().await.unwrap().0, b"");
        }
        eventually("the descriptors of before", LONG, async || {
            // The name of the service may be looked up, and the metrics are asked for, meanwhile.
            Ok((descriptors().await? <= before + 4).then_some(()))
        })
        .await
        .unwrap();
        pop.stop(Duration::from_secs(5)).await.unwrap();
    }
}

#[tokio::test]
async fn a_listener_of_the_proxy_may_be_inside() {
    let (far, pop, _site, _service) = published(V4).await;
    // Through the overlay, and through it again to the backend.
    let (mut near, _) = far.connect(V4.at_pop(8080)).await.unwrap();
    let (far, mut backend, _) = far.accept().await;
    apart(move || {
        near.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        backend.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        drop(backend);
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
    })
    .await;
    let logged = pop.logged(|line| line["event"] == "connection").await.unwrap();
    assert_eq!((&logged["listener"], &logged["backend"]), (&"10.50.0.1:8080".into(), &"open".into()));
    pop.stop(Duration::from_secs(5)).await.unwrap();
    drop(far);
}

#[tokio::test]
async fn a_slow_client_inside_gets_all_of_an_early_answer_and_then_the_reset() {
    let (far, pop, _site, service) = published(V4).await;
    let answer = Pattern::new(1).take(MEGABYTE);
    let (mut near, line) = far.connect(V4.at_pop(5432)).await.unwrap();
    let mut server = service.next().await.unwrap();
    near.write_all(b"the beginning of a long upload").unwrap();
    assert_eq!(server.receive(30).await.unwrap(), b"the beginning of a long upload");
    let sending = answer.clone();
    let sender = tokio::spawn(async move {
        server.send(&sending).await.unwrap();
        server
    });
    let half = apart(move || {
        let mut half = vec![0; MEGABYTE / 2];
        near.read_exact(&mut half).unwrap();
        (near, half)
    });
    let (mut near, mut received) = half.await;
    let server = sender.await.unwrap();
    pop.until_count("edge_bytes_total", &[("direction", "out")], MEGABYTE as i64).await.unwrap();
    server.abort().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let received = apart(move || {
        while received.len() < MEGABYTE {
            let mut next = vec![0; MEGABYTE / 16];
            near.read_exact(&mut next).unwrap();
            received.extend(next);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
        received
    });
    assert!(received.await == answer);
    assert_eq!(line.error().unwrap().kind(), io::ErrorKind::ConnectionReset, "it was no regular end");
    assert_eq!(pop.logged(|line| line["event"] == "connection").await.unwrap()["close"], "backend_reset");
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_client_inside_that_resets_while_its_backend_does_not_read_is_not_held() {
    let (far, pop, _site, service) = published(V4).await;
    let (near, line) = far.connect(V4.at_pop(5432)).await.unwrap();
    let _server = service.next().await.unwrap();
    apart(move || {
        near.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        while (&near).write_all(&[7; 65_536]).is_ok() {}
        line.reset_on_close();
    })
    .await;
    assert_eq!(pop.logged(|line| line["event"] == "connection").await.unwrap()["close"], "client_reset");
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

/// Nor can another process of the same user read its memory. (Without an overlay there are no keys, and whoever looks for
/// the cause of a crash has what he needs.)
#[tokio::test]
async fn a_process_with_an_overlay_leaves_no_core_dump() {
    let folder = tempfile::TempDir::new().unwrap();
    let wrapper = folder.path().join("dumping-edgeproxy");
    // Where the system has dumps in a file, that is one of this folder.
    let script = format!(
        "#!/bin/sh\nulimit -c unlimited; cd '{}'; exec '{}' \"$@\"\n",
        folder.path().display(),
        env!("CARGO_BIN_EXE_edgeproxy")
    );
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let site = Site::new(&wrapper).unwrap();
    let file = site.file("pop.conf");
    fs::write(&file, format!("[Interface]\nPrivateKey = {POP_KEY}\nAddress = 10.50.0.1/24\n")).unwrap();
    let overlay = format!("[overlay]\nconfig = {:?}\nmode = \"netstack\"\n", file.display().to_string());
    for (what, config, leaves_one) in [("without", "", true), ("with", &overlay[..], false)] {
        let mut pop = site.start(&format!("{UNCHECKED}{config}")).await.unwrap();
        pop.signal(Signal::ABORT).unwrap();
        let ended = pop.exit().await.unwrap();
        assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()));
        if leaves_one && !ended.core_dumped() {
            println!("skipped: this system has no core dumps");
            return;
        }
        assert_eq!(ended.core_dumped(), leaves_one, "{what} an overlay");
    }
}
