//! Bytes both ways between a client and a backend, and how their ends are passed on.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and tells what it measured")]

use std::time::Duration;

use edgeproxy_world::{Backend, Behaviour, Client, Ending, LONG, Pattern, Pop, Site, eventually};

mod support;

const UNCHECKED: &str = "[[check]]\nkind = \"none\"\n";

/// A POP before one backend whose connections the test holds itself.
struct Line {
    pop: Pop,
    backend: Backend,
    _site: Site,
}

impl Line {
    async fn new() -> Self {
        let site = support::site();
        let backend = Backend::start("b1", Behaviour::HandOver).unwrap();
        site.add_backend("fra", &backend).unwrap();
        let pop = site.start(UNCHECKED).await.unwrap();
        Self { pop, backend, _site: site }
    }

    /// Both ends of a connection through the POP.
    async fn connection(&self) -> (Client, Client) {
        let client = self.pop.connect().await.unwrap();
        let backend = self.backend.next().await.unwrap();
        (client, backend)
    }

    /// How the connection ended, by the log, and how many bytes went each way.
    async fn outcome(&self) -> (String, u64, u64) {
        let line = self.pop.logged(|line| line["event"] == "connection").await.unwrap();
        let bytes = |field: &str| line[field].as_u64().unwrap();
        (line["close"].as_str().unwrap().to_owned(), bytes("bytes_in"), bytes("bytes_out"))
    }

    async fn stop(self) {
        self.pop.until_count("edge_connections_current", &[], 0).await.unwrap();
        self.pop.stop(Duration::from_secs(5)).await.unwrap();
    }
}

#[tokio::test]
async fn the_two_directions_do_not_depend_on_each_other() {
    let line = Line::new().await;
    let (mut client, mut backend) = line.connection().await;
    let (mut up, mut down) = (Pattern::new(1), Pattern::new(2));
    // Each side sends three times before the other answers at all.
    for size in [1, 700, 65_536] {
        client.send(&up.take(size)).await.unwrap();
    }
    for size in [40_000, 3] {
        backend.send(&down.take(size)).await.unwrap();
    }
    assert_eq!(Pattern::new(1).check(&backend.receive(66_237).await.unwrap()), None);
    assert_eq!(Pattern::new(2).check(&client.receive(40_003).await.unwrap()), None);
    client.finish().await.unwrap();
    assert_eq!(backend.ending().await.unwrap(), (vec![], Ending::Finished));
    drop(backend);
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Finished));
    assert_eq!(line.outcome().await, ("client".to_owned(), 66_237, 40_003));
    line.stop().await;
}

#[tokio::test]
async fn a_client_that_has_finished_still_hears_the_backend_out() {
    let line = Line::new().await;
    let (mut client, mut backend) = line.connection().await;
    client.send(b"question").await.unwrap();
    client.finish().await.unwrap();
    assert_eq!(backend.ending().await.unwrap(), (b"question".to_vec(), Ending::Finished));
    for part in [&b"one "[..], b"two ", b"three"] {
        backend.send(part).await.unwrap();
        assert_eq!(client.receive(part.len()).await.unwrap(), part);
    }
    assert_eq!(line.pop.count("edge_connections_current", &[]).await.unwrap(), 1, "half-closed is open");
    backend.finish().await.unwrap();
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Finished));
    assert_eq!(line.outcome().await, ("client".to_owned(), 8, 13));
    line.stop().await;
}

#[tokio::test]
async fn a_backend_that_has_finished_still_hears_the_client_out() {
    let line = Line::new().await;
    let (mut client, mut backend) = line.connection().await;
    backend.send(b"goodbye").await.unwrap();
    backend.finish().await.unwrap();
    assert_eq!(client.ending().await.unwrap(), (b"goodbye".to_vec(), Ending::Finished));
    for part in [&b"one "[..], b"two ", b"three"] {
        client.send(part).await.unwrap();
        assert_eq!(backend.receive(part.len()).await.unwrap(), part);
    }
    client.finish().await.unwrap();
    assert_eq!(backend.ending().await.unwrap(), (vec![], Ending::Finished));
    assert_eq!(line.outcome().await, ("backend".to_owned(), 13, 7));
    line.stop().await;
}

#[tokio::test]
async fn bytes_sent_just_before_the_end_all_arrive() {
    let line = Line::new().await;
    let (mut client, mut backend) = line.connection().await;
    let sending = async {
        client.send(&Pattern::new(3).take(1 << 20)).await.unwrap();
        client.finish().await.unwrap();
        client.ending().await.unwrap()
    };
    let serving = async {
        let (received, ending) = backend.ending().await.unwrap();
        backend.send(&Pattern::new(4).take(1 << 20)).await.unwrap();
        drop(backend);
        (received, ending)
    };
    let (down, up) = tokio::join!(sending, serving);
    for ((received, ending), seed) in [(up, 3), (down, 4)] {
        assert_eq!((received.len(), ending), (1 << 20, Ending::Finished));
        assert_eq!(Pattern::new(seed).check(&received), None);
    }
    assert_eq!(line.outcome().await, ("client".to_owned(), 1 << 20, 1 << 20));
    line.stop().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_and_leaves_is_served_too() {
    let line = Line::new().await;
    let (client, mut backend) = line.connection().await;
    drop(client);
    assert_eq!(backend.ending().await.unwrap(), (vec![], Ending::Finished));
    drop(backend);
    assert_eq!(line.outcome().await, ("client".to_owned(), 0, 0));
    line.stop().await;
}

#[tokio::test]
async fn a_reset_by_the_client_reaches_the_backend_as_a_reset() {
    let line = Line::new().await;
    let (mut client, mut backend) = line.connection().await;
    client.send(b"half a mess").await.unwrap();
    assert_eq!(backend.receive(11).await.unwrap(), b"half a mess");
    client.abort().unwrap();
    assert_eq!(backend.ending().await.unwrap(), (vec![], Ending::Reset));
    assert_eq!(line.outcome().await, ("client_reset".to_owned(), 11, 0));
    assert_eq!(line.pop.count("edge_closed_total", &[("reason", "client_reset")]).await.unwrap(), 1);
    line.stop().await;
}

#[tokio::test]
async fn a_reset_by_the_backend_reaches_the_client_as_a_reset() {
    let line = Line::new().await;
    let (mut client, mut backend) = line.connection().await;
    backend.send(b"half an ans").await.unwrap();
    assert_eq!(client.receive(11).await.unwrap(), b"half an ans");
    backend.abort().unwrap();
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Reset));
    assert_eq!(line.outcome().await, ("backend_reset".to_owned(), 0, 11));
    assert_eq!(line.pop.count("edge_closed_total", &[("reason", "backend_reset")]).await.unwrap(), 1);
    line.stop().await;
}

#[tokio::test]
async fn a_client_that_has_finished_and_then_resets_is_told_to_the_backend() {
    let line = Line::new().await;
    let (mut client, mut backend) = line.connection().await;
    client.send(b"long query").await.unwrap();
    client.finish().await.unwrap();
    assert_eq!(backend.ending().await.unwrap(), (b"long query".to_vec(), Ending::Finished));
    client.abort().unwrap();
    // The backend is still at work and has nothing to send.
    assert_eq!(line.outcome().await, ("client_reset".to_owned(), 10, 0));
    is_reset(&backend).await;
    line.stop().await;
}

#[tokio::test]
async fn a_backend_that_has_finished_and_then_resets_is_told_to_the_client() {
    let line = Line::new().await;
    let (mut client, mut backend) = line.connection().await;
    backend.finish().await.unwrap();
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Finished));
    backend.abort().unwrap();
    assert_eq!(line.outcome().await, ("backend_reset".to_owned(), 0, 0));
    is_reset(&client).await;
    line.stop().await;
}

/// A reset that comes after the end of what the other side sends shows as a broken pipe (tcp(7), CLOSE_WAIT).
async fn is_reset(side: &Client) {
    let error = eventually("a reset", LONG, async || side.stream.take_error()).await;
    assert_eq!(error.unwrap().kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let site = support::site();
    let backend = Backend::start("mail", Behaviour::Speak(b"220 mail ready\r\n".to_vec())).unwrap();
    site.add_backend("fra", &backend).unwrap();
    let pop = site.start("").await.unwrap();
    let mut client = pop.connect().await.unwrap();
    assert_eq!(client.line().await.unwrap(), "220 mail ready\r");
    client.exchange(b"EHLO there\r\n").await.unwrap();
    client.finish().await.unwrap();
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Finished));
    let logged = pop.logged(|line| line["event"] == "connection").await.unwrap();
    assert_eq!((logged["bytes_in"].as_u64(), logged["bytes_out"].as_u64()), (Some(12), Some(28)));
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn single_bytes_are_passed_on_at_once() {
    let line = Line::new().await;
    let (mut client, mut backend) = line.connection().await;
    let started = std::time::Instant::now();
    for byte in Pattern::new(5).take(2000) {
        client.send(&[byte]).await.unwrap();
        assert_eq!(backend.receive(1).await.unwrap(), [byte]);
        backend.send(&[!byte]).await.unwrap();
        assert_eq!(client.receive(1).await.unwrap(), [!byte]);
    }
    println!("a round trip of one byte: {:?}", started.elapsed() / 2000);
    drop(client);
    drop(backend);
    let (_, bytes_in, bytes_out) = line.outcome().await;
    assert_eq!((bytes_in, bytes_out), (2000, 2000));
    line.stop().await;
}
