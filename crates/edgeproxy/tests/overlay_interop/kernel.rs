//! The binary together with the WireGuard of the Linux kernel, which runs in a machine of its own.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use edgeproxy_route::RawBackend;
use edgeproxy_world::{Backend, Behaviour, Client, LONG, Pattern, Pop, Site, eventually, row, within};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::guest::{Guest, HOST, PORT};
use crate::stage;
use crate::traffic::losses;
use crate::tunnel::{OUR_ADDRESS, OUR_PORT, THEIR_ADDRESS, THEIR_PORT, shown, site, start, until};
use crate::wireguard::{Keys, run};

const SOME: usize = 8 << 20;
/// The port of the kernel's service inside.
pub(crate) const SERVICE: u16 = 7000;
/// The port of another, which says what it hears.
const ECHO: u16 = 7001;
/// The port of ours.
pub(crate) const PUBLISHED: u16 = 5432;
const TRANSFER: Duration = Duration::from_secs(60);
/// Sends what is in /run/blob, and writes down what came.
pub(crate) const EXCHANGE: &str =
    r"#!/bin/sh\ncat /run/blob &\nsha256sum | cut -c 1-64 >/run/coming\nmv /run/coming /run/came\nwait\n";

/// Where the kernel finds us.
fn they_know() -> String {
    format!("endpoint {HOST}:{OUR_PORT}")
}

fn we_know() -> String {
    format!("Endpoint = 127.0.0.1:{THEIR_PORT}\n")
}

/// Both ends, a service behind each of them, and a client's way to the kernel's.
struct Tunnel {
    guest: Guest,
    pop: Pop,
    service: Backend,
    /// What the POP is known by.
    public: String,
    /// What the service of the kernel sends.
    blob: String,
    site: Site,
}

impl Tunnel {
    /// With more lines of our section for the kernel, and more words of its `wg set ... peer` for us.
    async fn start(our_peer: &str, their_peer: &str) -> io::Result<Self> {
        let (ours, theirs) = (Keys::ours(), Keys::theirs());
        let mut guest = Guest::boot(&[]).await;
        guest.run(&format!("echo {} >/run/key", theirs.private)).await;
        let steps = [
            "ip link add wg0 type wireguard",
            &format!("wg set wg0 private-key /run/key listen-port {PORT}"),
            &format!("wg set wg0 peer {} allowed-ips 10.50.0.2/32,fd50::2/128", ours.public),
            &format!("ip addr add {THEIR_ADDRESS}/32 dev wg0"),
            "ip addr add fd50::1:1/128 dev wg0",
            "ip link set wg0 mtu 1420 up",
            "ip route add 10.50.0.0/16 dev wg0",
            "ip -6 route add fd50::/64 dev wg0",
            &format!("head -c {SOME} /dev/urandom >/run/blob"),
            &format!("printf '{EXCHANGE}' >/bin/exchange; chmod +x /bin/exchange"),
            &format!("nc -ll -p {SERVICE} -e /bin/exchange >/dev/null 2>&1 &"),
        ];
        for step in steps {
            guest.run(step).await;
        }
        let blob = guest.run("sha256sum </run/blob | cut -c 1-64").await;
        let service = Backend::start("service", Behaviour::HandOver)?;
        let site = site();
        site.add(row("b1", "fra", SocketAddr::new(THEIR_ADDRESS.into(), SERVICE)))?;
        let text = format!(
            "[Interface]\nPrivateKey = {}\nAddress = {OUR_ADDRESS}/32, fd50::2/128\nListenPort = {OUR_PORT}\n\
             [Peer]\nPublicKey = {}\nAllowedIPs = 10.50.1.0/24, fd50::1:0/112\n{our_peer}",
            ours.private, theirs.public
        );
        let toml = format!("[[publish]]\nlisten = \"{OUR_ADDRESS}:{PUBLISHED}\"\ntarget = \"{}\"\n", service.address());
        let pop = start(&site, &text, &toml).await?;
        // What it begins itself is answered by now: it would try again only after 5 seconds.
        let mut tunnel = Self { guest, pop, service, public: ours.public, blob, site };
        tunnel.set_peer(their_peer).await;
        Ok(tunnel)
    }

    async fn set_peer(&mut self, settings: &str) {
        self.guest.run(&format!("wg set wg0 peer {} {settings}", self.public)).await;
    }

    async fn set_preshared(&mut self, key: &str) {
        self.guest.run(&format!("echo {key} >/run/psk; wg set wg0 peer {} preshared-key /run/psk", self.public)).await;
    }

    /// When the kernel shook hands with us last, by its own clock; 0: never.
    async fn latest_handshake(&mut self) -> u64 {
        let said = self.guest.run("wg show wg0 latest-handshakes | cut -f 2").await;
        said.parse().unwrap_or_else(|_| panic!("latest handshakes: {said:?}"))
    }

    /// Through the POP to the kernel's service, both ways at once.
    async fn exchange(&mut self) -> io::Result<()> {
        let client = self.pop.connect().await?;
        let (took, came, sent) = exchange(client, SOME).await?;
        assert_eq!(came, self.blob, "from the kernel");
        assert_eq!(self.guest.run("cat /run/came").await, sent, "to the kernel");
        println!("{SOME} bytes each way in {took:?}, dialled by us; lost: {}", losses(&shown(&self.pop).await?));
        Ok(())
    }

    /// From the kernel to what we publish, both ways at once.
    async fn exchange_with_published(&mut self) -> io::Result<()> {
        let order = format!("nc {OUR_ADDRESS} {PUBLISHED} </run/blob | sha256sum | cut -c 1-64");
        let served = async {
            let client = within("a client of the service", LONG, self.service.next()).await?;
            exchange(client, SOME).await
        };
        let (there, served) = tokio::join!(self.guest.run(&order), served);
        let (took, came, sent) = served?;
        assert_eq!((came, there), (self.blob.clone(), sent));
        println!(
            "{SOME} bytes each way in {took:?}, dialled by the kernel; lost: {}",
            losses(&shown(&self.pop).await?)
        );
        Ok(())
    }

    async fn stop(self) -> io::Result<()> {
        self.pop.stop(Duration::from_secs(5)).await?;
        self.guest.stop();
        Ok(())
    }
}

/// Sends so many bytes of a pattern and reads to the end: how long it took, and the checksums of what came and what was sent.
pub(crate) async fn exchange(client: Client, bytes: usize) -> io::Result<(Duration, String, String)> {
    let started = Instant::now();
    let (mut reads, mut writes) = client.stream.into_split();
    let (sent, mut came) = (Pattern::new(1).take(bytes), Vec::new());
    let up = async {
        writes.write_all(&sent).await?;
        writes.shutdown().await
    };
    within("a transfer", TRANSFER, async { tokio::try_join!(up, reads.read_to_end(&mut came)) }).await?;
    Ok((started.elapsed(), checksum(&came), checksum(&sent)))
}

/// As `sha256sum` tells it.
fn checksum(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) async fn it_initiates() -> io::Result<()> {
    let mut tunnel = Tunnel::start("", "").await?;
    assert_eq!(tunnel.latest_handshake().await, 0);
    tunnel.set_peer(&they_know()).await;
    // The first begins the session.
    for address in [&OUR_ADDRESS.to_string(), "fd50::2"] {
        let said = tunnel.guest.run(&format!("ping -c 3 -i 0.2 -W 10 {address}")).await;
        println!("{}", said.lines().last().unwrap_or_default());
        assert!(said.contains("3 packets received"), "{said}");
    }
    assert!(tunnel.latest_handshake().await > 0);
    assert_eq!(shown(&tunnel.pop).await?["peers"][0]["endpoint"], format!("127.0.0.1:{THEIR_PORT}").as_str());
    tunnel.exchange_with_published().await?;
    tunnel.exchange().await?;
    tunnel.stop().await
}

pub(crate) async fn it_answers() -> io::Result<()> {
    // The kernel does not know where we are before.
    let mut tunnel = Tunnel::start(&we_know(), "").await?;
    assert_eq!(tunnel.latest_handshake().await, 0);
    assert_eq!(shown(&tunnel.pop).await?["peers"][0]["last_handshake_s"], Value::Null);
    tunnel.exchange().await?;
    assert!(tunnel.latest_handshake().await > 0);
    assert_eq!(tunnel.guest.run("wg show wg0 endpoints | cut -f 2").await, format!("{HOST}:{OUR_PORT}"));
    tunnel.stop().await
}

pub(crate) async fn preshared() -> io::Result<()> {
    let key = run("wg", &["genpsk"]);
    let mut tunnel = Tunnel::start(&format!("PresharedKey = {key}\n"), &they_know()).await?;
    tunnel.set_preshared(&run("wg", &["genpsk"])).await;
    let (said, status) = tunnel.guest.attempt(&format!("ping -c 1 -W 2 {OUR_ADDRESS}")).await;
    assert_ne!(status, 0, "answered in spite of another key: {said}");
    // We took its initiation, which says nothing of that key, and it did not take our answer.
    assert_eq!(tunnel.latest_handshake().await, 0);
    println!("with another key: no session");
    tunnel.set_preshared(&key).await;
    // The kernel tries again 5 seconds after it did first.
    tunnel.guest.run(&format!("ping -c 1 -W 15 {OUR_ADDRESS}")).await;
    assert!(tunnel.latest_handshake().await > 0);
    println!("with the same key: a session");
    tunnel.stop().await
}

/// Whoever moves is found again, at once and with nothing lost, and it is the same session.
pub(crate) async fn roaming() -> io::Result<()> {
    let mut tunnel = Tunnel::start(&we_know(), "").await?;
    let client = tunnel.pop.connect().await?;
    let interface = shown(&tunnel.pop).await?["interface"].as_str().unwrap_or_default().to_owned();
    let pop = &tunnel.pop;
    let guest = &mut tunnel.guest;
    let moves = async {
        for number in 1..=2_u16 {
            on_its_way(pop).await?;
            let port = OUR_PORT + 10 * number;
            run("wg", &["set", &interface, "listen-port", &port.to_string()]);
            let moved = Instant::now();
            let expected = format!("{HOST}:{port}");
            while guest.run("wg show wg0 endpoints | cut -f 2").await != expected {
                assert!(moved.elapsed() < LONG, "still not found at {expected}");
            }
            println!("the kernel found us at {expected} after {:?}", moved.elapsed());
            on_its_way(pop).await?;
            // Behind the translation of addresses, which is what it is to us, it gets another port as well.
            let before = shown(pop).await?["peers"][0]["endpoint"].clone();
            guest.run(&format!("wg set wg0 listen-port {}", PORT + number)).await;
            let moved = Instant::now();
            let there = |shown: &Value| (shown["peers"][0]["endpoint"] != before).then_some(());
            until(pop, "another endpoint", LONG, there).await?;
            println!("we found the kernel elsewhere after {:?}", moved.elapsed());
        }
        io::Result::Ok(())
    };
    let ((took, came, sent), ()) = tokio::try_join!(exchange(client, SOME), moves)?;
    assert_eq!(came, tunnel.blob, "from the kernel");
    assert_eq!(tunnel.guest.run("cat /run/came").await, sent, "to the kernel");
    println!("{SOME} bytes each way in {took:?}, while both sides moved twice");
    tunnel.stop().await
}

/// Waits for some more of a transfer.
async fn on_its_way(pop: &Pop) -> io::Result<()> {
    let received = |shown: &Value| shown["peers"][0]["bytes_received"].as_u64();
    let from = until(pop, "bytes", LONG, received).await?;
    let more = |shown: &Value| (received(shown)? > from + SOME as u64 / 16).then_some(());
    until(pop, "a transfer on its way", LONG, more).await
}

pub(crate) async fn it_renews() -> io::Result<()> {
    let mut tunnel = slow("", &they_know()).await?;
    tunnel.guest.run(&format!("ping -c 1 -W 10 {OUR_ADDRESS}")).await;
    tunnel.talk_past_a_renewal().await?;
    tunnel.stop().await
}

pub(crate) async fn it_takes_our_renewal() -> io::Result<()> {
    let mut tunnel = slow(&we_know(), "").await?;
    tunnel.talk_past_a_renewal().await?;
    tunnel.stop().await
}

/// Whoever began a session renews it after 120 seconds (REKEY_AFTER_TIME), and nothing shortens that.
const RENEWED: Duration = Duration::from_secs(120);

async fn slow(our_peer: &str, their_peer: &str) -> io::Result<Tunnel> {
    if std::env::var(crate::SLOW).as_deref() != Ok("1") {
        stage::skip(&format!("it takes more than {RENEWED:?}; {}=1 has it run", crate::SLOW));
    }
    Tunnel::start(our_peer, their_peer).await
}

impl Tunnel {
    /// One connection, on which something is said and answered all the time: a renewal is not noticed on it.
    async fn talk_past_a_renewal(&mut self) -> io::Result<()> {
        self.guest.run(&format!("nc -ll -p {ECHO} -e /bin/cat >/dev/null 2>&1 &")).await;
        self.site.set("b1", RawBackend { port: Some(ECHO.into()), ..RawBackend::default() })?;
        let mut client = eventually("a client of the other service", LONG, async || {
            let mut client = self.pop.connect().await?;
            client.send(b"hello").await?;
            Ok(client.receive(5).await.is_ok_and(|said| said == b"hello").then_some(client))
        })
        .await?;
        let first = self.latest_handshake().await;
        assert!(first > 0);
        let (started, mut slowest, mut rounds) = (Instant::now(), Duration::ZERO, 0_u32);
        while started.elapsed() < RENEWED + Duration::from_secs(10) {
            let sent = Instant::now();
            let bytes = rounds.to_be_bytes().repeat(1024);
            client.send(&bytes).await?;
            assert_eq!(client.receive(bytes.len()).await?, bytes);
            slowest = slowest.max(sent.elapsed());
            rounds += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(client);
        println!("{rounds} rounds, the slowest in {slowest:?}");
        let second = self.latest_handshake().await;
        println!("handshakes {} s apart", second - first);
        assert!((115..=125).contains(&(second - first)), "handshakes at {first} and {second}");
        let ours = shown(&self.pop).await?["peers"][0]["last_handshake_s"].as_f64();
        assert!(ours.is_some_and(|since| since < 15.0), "{ours:?}");
        Ok(())
    }
}
