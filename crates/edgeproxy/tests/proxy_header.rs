//! The PROXY protocol in front: from whom it is taken, and what happens to everything else.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use edgeproxy_world::{Backend, Behaviour, Client, Ending, Header, Pop, Site};
use serde_json::Value;

mod support;

/// Trusts 127.0.0.2 only, so that 127.0.0.1 is somebody else.
const TRUST_ONE: &str = "trust_proxy = [\"127.0.0.2/32\"]\nproxy_header_timeout = \"400ms\"";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

struct Door {
    pop: Pop,
    backend: Backend,
    _site: Site,
}

impl Door {
    async fn new(listener: &str) -> Self {
        let site = support::site();
        let backend = Backend::start("b1", Behaviour::HandOver).unwrap();
        site.add_backend("fra", &backend).unwrap();
        let toml = format!("[[check]]\nkind = \"none\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n{listener}\n");
        let pop = site.start(&toml).await.unwrap();
        Self { pop, backend, _site: site }
    }

    /// A connection of the peer that is trusted.
    async fn trusted(&self) -> Client {
        Client::connect_from(Some("127.0.0.2".parse().unwrap()), self.pop.address()).await.unwrap()
    }

    /// The client is refused for this reason, hears nothing, and no backend hears of it.
    async fn refuses(&self, mut client: Client, reason: &str) {
        assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Reset), "{reason}");
        let line = self.pop.logged_of(client.address()).await.unwrap();
        assert_eq!((&line["event"], &line["reason"]), (&Value::from("refused"), &Value::from(reason)));
        assert_eq!(self.backend.total(), 0, "{reason}");
    }

    /// Ends the connection and gives its line in the log.
    async fn line_of(&self, client: Client) -> Value {
        let address = client.address();
        drop(client);
        self.pop.logged_of(address).await.unwrap()
    }

    async fn stop(self) {
        self.pop.until_count("edge_connections_current", &[], 0).await.unwrap();
        self.pop.stop(Duration::from_secs(5)).await.unwrap();
    }
}

fn someone() -> SocketAddr {
    "198.51.100.7:5555".parse().unwrap()
}

/// A v2 header with a command byte, a family byte and a body of one's own.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [V2_SIGNATURE, &[0x20 | command, family], &length, body].concat()
}

const V2_ADDRESSES: [u8; 12] = [198, 51, 100, 7, 203, 0, 113, 1, 0x15, 0xb3, 0, 80];

#[tokio::test]
async fn what_follows_a_header_in_the_same_segment_reaches_the_backend() {
    let door = Door::new(TRUST_ONE).await;
    for header in [Header::V1(someone()), Header::V2(someone())] {
        let mut client = door.trusted().await;
        client.send(&[&header.bytes()[..], b"GET / HTTP/1.1\r\n"].concat()).await.unwrap();
        let mut server = door.backend.next().await.unwrap();
        assert_eq!(server.receive(16).await.unwrap(), b"GET / HTTP/1.1\r\n");
        server.send(b"200").await.unwrap();
        assert_eq!(client.receive(3).await.unwrap(), b"200");
        let via = client.address();
        client.finish().await.unwrap();
        drop(server);
        let line = door.line_of(client).await;
        assert_eq!((&line["client"], &line["via"]), (&Value::from("198.51.100.7:5555"), &Value::from(via.to_string())));
        assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&Value::from(16), &Value::from(3)), "payload only");
    }
    door.stop().await;
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let door = Door::new(TRUST_ONE).await;
    for header in [Header::V1(someone()), Header::V2(someone())] {
        let mut client = door.trusted().await;
        for byte in header.bytes() {
            client.send(&[byte]).await.unwrap();
            // A segment of its own: the proxy is to see each of them alone.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        client.send(b"payload").await.unwrap();
        let mut server = door.backend.next().await.unwrap();
        assert_eq!(server.receive(7).await.unwrap(), b"payload");
        drop(server);
        assert_eq!(door.line_of(client).await["client"], "198.51.100.7:5555");
    }
    door.stop().await;
}

#[tokio::test]
async fn a_header_about_the_sender_itself_leaves_it_the_client() {
    let door = Door::new(TRUST_ONE).await;
    for header in [v2(0, 0, b""), v2(0, 0x11, &V2_ADDRESSES), b"PROXY UNKNOWN\r\n".to_vec()] {
        let mut client = door.trusted().await;
        client.send(&[&header[..], b"check"].concat()).await.unwrap();
        let mut server = door.backend.next().await.unwrap();
        assert_eq!(server.receive(5).await.unwrap(), b"check");
        drop(server);
        let address = client.address().to_string();
        let line = door.line_of(client).await;
        assert_eq!((&line["client"], &line["via"]), (&Value::from(address), &Value::Null));
    }
    door.stop().await;
}

#[tokio::test]
async fn extensions_of_a_header_are_passed_over() {
    let door = Door::new(TRUST_ONE).await;
    let extensions = [&V2_ADDRESSES[..], &[0x05, 0, 3, b'i', b'd', b'1'], &[0x04, 0x02, 0], &[0; 512]].concat();
    let mut client = door.trusted().await;
    client.send(&[&v2(1, 0x11, &extensions)[..], b"payload"].concat()).await.unwrap();
    let mut server = door.backend.next().await.unwrap();
    assert_eq!(server.receive(7).await.unwrap(), b"payload");
    drop(server);
    assert_eq!(door.line_of(client).await["client"], "198.51.100.7:5555");
    door.stop().await;
}

#[tokio::test]
async fn a_broken_header_is_refused() {
    let door = Door::new(TRUST_ONE).await;
    let mut endless = v2(1, 0x11, &V2_ADDRESSES);
    endless[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    for header in [
        b"PROXY TCP4 198.51.100.7\r\n".to_vec(),
        b"PROXY TCP4 198.51.100.7 203.0.113.1 99999 80\r\n".to_vec(),
        b"PROXY TCP4 2001:db8::7 2001:db8::1 5555 80\r\n".to_vec(),
        [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat(),
        v2(1, 0x11, &[1, 2, 3]),
        v2(9, 0x11, &V2_ADDRESSES),
        endless,
    ] {
        let mut client = door.trusted().await;
        client.send(&header).await.unwrap();
        door.refuses(client, "proxy_header_malformed").await;
    }
    assert_eq!(door.pop.count("edge_refused_total", &[("reason", "proxy_header_malformed")]).await.unwrap(), 7);
    door.stop().await;
}

#[tokio::test]
async fn a_trusted_peer_without_a_header_is_refused() {
    let door = Door::new(TRUST_ONE).await;
    for first in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\x00", b"P\n"] {
        let mut client = door.trusted().await;
        client.send(first).await.unwrap();
        door.refuses(client, "proxy_header_missing").await;
    }
    for cut_short in [&b""[..], b"PROXY TCP4 198", V2_SIGNATURE] {
        let mut client = door.trusted().await;
        client.send(cut_short).await.unwrap();
        client.finish().await.unwrap();
        door.refuses(client, "proxy_header_missing").await;
    }
    door.stop().await;
}

#[tokio::test]
async fn a_header_that_does_not_come_in_time_is_refused() {
    let door = Door::new(TRUST_ONE).await;
    for part in [&b""[..], b"PROXY TCP4 198.51."] {
        let mut client = door.trusted().await;
        let started = Instant::now();
        client.send(part).await.unwrap();
        door.refuses(client, "proxy_header_timeout").await;
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(400) && took < Duration::from_millis(1500), "{took:?}");
    }
    door.stop().await;
}

#[tokio::test]
async fn a_trusted_peer_that_resets_within_its_header_is_gone() {
    let door = Door::new(TRUST_ONE).await;
    let mut client = door.trusted().await;
    client.send(b"PROXY TCP4 ").await.unwrap();
    let address = client.address();
    client.abort().unwrap();
    assert_eq!(door.pop.logged_of(address).await.unwrap()["reason"], "client_gone");
    assert_eq!(door.backend.total(), 0);
    door.stop().await;
}

#[tokio::test]
async fn a_header_of_somebody_else_is_refused_and_never_reaches_the_backend() {
    let door = Door::new(TRUST_ONE).await;
    for header in [Header::V1(someone()).bytes(), Header::V2(someone()).bytes(), b"PROXY NONSENSE\r\n".to_vec()] {
        for split in [0, 1, 7] {
            let mut client = door.pop.connect().await.unwrap();
            client.send(&header[..split]).await.unwrap();
            let mut server = door.backend.next().await.unwrap();
            client.send(&[&header[split..], b"secret"].concat()).await.unwrap();
            assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Reset));
            assert_eq!(server.ending().await.unwrap(), (vec![], Ending::Reset), "not a byte of it");
            let line = door.pop.logged_of(client.address()).await.unwrap();
            assert_eq!(
                (&line["event"], &line["reason"]),
                (&Value::from("refused"), &Value::from("proxy_header_untrusted"))
            );
        }
    }
    door.stop().await;
}

#[tokio::test]
async fn what_only_begins_like_a_header_passes_unchanged() {
    let door = Door::new(TRUST_ONE).await;
    for parts in [[&b"P"[..], b"ING\r\n"], [b"PROX", b"IMA\r\n"], [b"\r\n\r\n", b"\r\nQUIT"], [b"GET /", b" HTTP/1.1"]]
    {
        let mut client = door.pop.connect().await.unwrap();
        let mut server = door.backend.next().await.unwrap();
        client.send(parts[0]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.send(parts[1]).await.unwrap();
        let whole = parts.concat();
        assert_eq!(server.receive(whole.len()).await.unwrap(), whole);
        server.send(b"+PONG\r\n").await.unwrap();
        assert_eq!(client.receive(7).await.unwrap(), b"+PONG\r\n");
        drop(server);
        let line = door.line_of(client).await;
        assert_eq!(line["bytes_in"], whole.len());
    }
    // One that finishes within what could have become a header has sent what it sent.
    let mut client = door.pop.connect().await.unwrap();
    let mut server = door.backend.next().await.unwrap();
    client.send(b"PRO").await.unwrap();
    client.finish().await.unwrap();
    assert_eq!(server.ending().await.unwrap(), (b"PRO".to_vec(), Ending::Finished));
    drop(server);
    assert_eq!(door.line_of(client).await["bytes_in"], 3);
    door.stop().await;
}

#[tokio::test]
async fn who_begins_like_a_header_and_waits_is_refused() {
    // Passed on, the rest could follow later, and the backend would have a whole header.
    let door = Door::new(TRUST_ONE).await;
    let mut client = door.pop.connect().await.unwrap();
    let mut server = door.backend.next().await.unwrap();
    client.send(b"PROX").await.unwrap();
    // Whatever the backend says meanwhile.
    for _ in 0..3 {
        server.send(b"tick\n").await.unwrap();
        assert_eq!(client.line().await.unwrap(), "tick");
    }
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Reset));
    assert_eq!(server.ending().await.unwrap(), (vec![], Ending::Reset), "not a byte of it");
    assert_eq!(door.pop.logged_of(client.address()).await.unwrap()["reason"], "proxy_header_untrusted");
    drop((client, server));
    door.stop().await;
}

#[tokio::test]
async fn a_server_that_speaks_first_may_do_so_to_somebody_who_is_not_trusted() {
    let door = Door::new(TRUST_ONE).await;
    let mut client = door.pop.connect().await.unwrap();
    let mut server = door.backend.next().await.unwrap();
    server.send(b"220 ready\r\n").await.unwrap();
    assert_eq!(client.line().await.unwrap(), "220 ready\r");
    client.send(&Header::V1(someone()).bytes()).await.unwrap();
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Reset));
    assert_eq!(server.ending().await.unwrap(), (vec![], Ending::Reset));
    door.stop().await;
}

#[tokio::test]
async fn without_a_list_of_trusted_peers_first_bytes_are_not_looked_at() {
    let door = Door::new("").await;
    let header = Header::V1(someone()).bytes();
    let mut client = door.pop.connect().await.unwrap();
    client.send(&header).await.unwrap();
    let mut server = door.backend.next().await.unwrap();
    assert_eq!(server.receive(header.len()).await.unwrap(), header);
    drop(server);
    let address = client.address().to_string();
    assert_eq!(door.line_of(client).await["client"], address);
    door.stop().await;
}
