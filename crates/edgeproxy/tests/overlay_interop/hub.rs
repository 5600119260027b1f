//! Two `wireguard-go` in two networks that reach each other through us.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use edgeproxy_world::{Backend, Behaviour, Client, LONG, within};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::traffic::losses;
use crate::tunnel::{
    MIB, OUR_ADDRESS, OUR_PORT, Plan, THEIR_ADDRESS, THEIR_PORT, Tunnel, ping, shown, site, start, transfer, until,
};
use crate::wireguard::{Daemon, Keys, Program, run};

const HUB: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 1);
const ANNEX_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 50, 2, 1);
/// Hops a packet may take as the kernel sends it.
const HOPS: u8 = 64;

/// Another network namespace, joined to ours by a cable: 192.0.2.1 on our side, 192.0.2.2 on its own.
struct Annex(File);

impl Annex {
    fn new() -> Self {
        let namespace = std::thread::spawn(|| {
            // SAFETY: no descriptor table is unshared.
            #[allow(unsafe_code, reason = "unsafe only for another of its flags")]
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let annex = Self(namespace.join().unwrap());
        annex.within(|| {
            // This process is the first of its process namespace.
            run("ip", &["link", "add", "inner", "type", "veth", "peer", "name", "outer", "netns", "1"]);
            run("ip", &["addr", "add", "192.0.2.2/24", "dev", "inner"]);
            run("ip", &["link", "set", "inner", "up"]);
        });
        run("ip", &["addr", "add", "192.0.2.1/24", "dev", "outer"]);
        run("ip", &["link", "set", "outer", "up"]);
        annex
    }

    /// Does something there. What it makes stays there: sockets, and programs that it starts.
    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let work = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(work).join()).unwrap()
    }
}

pub(crate) async fn a_hub_passes_packets_on() -> io::Result<()> {
    let ours = Keys::ours();
    let annex = Annex::new();
    let here = Daemon::start(Program::WireGuardGo, "wgb", THEIR_ADDRESS, THEIR_PORT).await;
    let mut there = annex.within(|| Daemon::launch(Program::WireGuardGo, "wgc"));
    there.listening().await;
    annex.within(|| there.configure(ANNEX_ADDRESS, THEIR_PORT));
    let text = format!(
        "[Interface]\nPrivateKey = {}\nAddress = {HUB}/24\nListenPort = {OUR_PORT}\n\
         [Peer]\nPublicKey = {}\nAllowedIPs = 10.50.1.0/24\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.50.2.0/24\n",
        ours.private,
        here.public(),
        there.public()
    );
    let site = site();
    let pop = start(&site, &text, "forward = \"on\"").await?;
    for (spoke, address) in [(&here, "127.0.0.1"), (&there, "192.0.2.1")] {
        let endpoint = format!("{address}:{OUR_PORT}");
        let settings = ["allowed-ips", "10.50.0.0/16", "endpoint", &endpoint, "persistent-keepalive", "1"];
        spoke.set_peer(&ours.public, &settings);
    }
    let all = |shown: &serde_json::Value| {
        let peers = shown["peers"].as_array()?;
        peers.iter().all(|peer| peer["last_handshake_s"].is_f64()).then_some(())
    };
    until(&pop, "handshakes with both", LONG, all).await?;

    for (what, to, hops) in [("the hub", HUB, HOPS), ("the other", THEIR_ADDRESS, HOPS - 1)] {
        let left = annex.within(|| ping(to));
        println!("{what} answers with {left} hops left");
        assert_eq!(left, hops);
    }
    let listener = TcpListener::bind((THEIR_ADDRESS, 0))?;
    let address = listener.local_addr()?;
    let accepted = tokio::task::spawn_blocking(move || listener.accept());
    let client = annex.within(|| TcpStream::connect_timeout(&address, LONG))?;
    let (server, from) = within("a connection through the hub", LONG, async { accepted.await? }).await?;
    assert_eq!(from, SocketAddr::new(ANNEX_ADDRESS.into(), client.local_addr()?.port()));
    let took = transfer(asynchronous(client)?, asynchronous(server)?, 10 * MIB, Duration::from_secs(60)).await?;
    println!("10 MiB each way through the hub in {took:?}");
    println!("lost: {}", losses(&shown(&pop).await?));
    pop.stop(Duration::from_secs(5)).await?;
    here.stop();
    there.stop();
    Ok(())
}

/// A service of our network is offered on our address inside, to whoever is in the overlay.
pub(crate) async fn a_service_is_published() -> io::Result<()> {
    let service = Backend::start("service", Behaviour::HandOver)?;
    let published = SocketAddr::new(OUR_ADDRESS.into(), 5432);
    let toml = format!(
        "[[publish]]\nlisten = \"{published}\"\ntarget = \"localhost:{}\"\n\
         [[publish]]\nlisten = \"127.0.0.1:5432\"\ntarget = \"{}\"\n",
        service.address().port(),
        service.address()
    );
    let endpoint = format!("127.0.0.1:{OUR_PORT}");
    let tunnel = Tunnel::start(Plan { toml: &toml, their_peer: &["endpoint", &endpoint], ..Plan::default() }).await?;
    let client = within("a connection to the service", LONG, tokio::net::TcpStream::connect(published)).await?;
    let client = Client::try_from(client)?;
    let server = service.next().await?;
    let took = transfer(client, server, 10 * MIB, Duration::from_secs(60)).await?;
    println!("10 MiB each way with the service in {took:?}");
    // Nothing is offered where others than those in the overlay could reach it.
    assert!(TcpStream::connect(("127.0.0.1", 5432)).is_err());
    assert!(tunnel.pop.log.holds("not published: no address of ours inside"), "{}", tunnel.pop.log.tail());
    tunnel.stop().await
}

fn asynchronous(stream: TcpStream) -> io::Result<Client> {
    stream.set_nonblocking(true)?;
    Client::try_from(tokio::net::TcpStream::from_std(stream)?)
}
