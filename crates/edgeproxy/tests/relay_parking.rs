//! Connections that idle long enough to be parked, and go on.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use edgeproxy_world::{Backend, Behaviour, Client, Ending, Pattern, Pop, Site};

mod support;

const PARKS_SOON: &str = "[proxy]\npark_after = \"100ms\"\n[[check]]\nkind = \"none\"\n";

struct Parked {
    pop: Pop,
    _backend: Backend,
    _site: Site,
    client: Client,
    server: Client,
}

impl Parked {
    /// A connection that has exchanged bytes both ways and is parked.
    async fn new(listener: &str) -> Self {
        let site = support::site();
        let backend = Backend::start("b1", Behaviour::HandOver).unwrap();
        site.add_backend("fra", &backend).unwrap();
        let pop = site.start(&format!("{PARKS_SOON}{listener}")).await.unwrap();
        let mut client = pop.connect().await.unwrap();
        let mut server = backend.next().await.unwrap();
        client.send(b"hello").await.unwrap();
        assert_eq!(server.receive(5).await.unwrap(), b"hello");
        server.send(b"world").await.unwrap();
        assert_eq!(client.receive(5).await.unwrap(), b"world");
        pop.until_count("edge_connections_parked", &[], 1).await.unwrap();
        Self { pop, _backend: backend, _site: site, client, server }
    }

    async fn is_parked(&self) {
        self.pop.until_count("edge_connections_parked", &[], 1).await.unwrap();
    }

    /// Log fields `close`, `bytes_in` and `bytes_out`.
    async fn outcome(&self) -> (String, u64, u64) {
        let line = self.pop.logged(|line| line["event"] == "connection").await.unwrap();
        let bytes = |field: &str| line[field].as_u64().unwrap();
        (line["close"].as_str().unwrap().to_owned(), bytes("bytes_in"), bytes("bytes_out"))
    }

    async fn stop(self) {
        let Self { pop, client, server, .. } = self;
        drop((client, server));
        pop.until_count("edge_connections_parked", &[], 0).await.unwrap();
        pop.until_count("edge_connections_current", &[], 0).await.unwrap();
        pop.stop(Duration::from_secs(5)).await.unwrap();
    }
}

#[tokio::test]
async fn either_side_wakes_a_parked_connection_with_all_bytes() {
    let mut parked = Parked::new("").await;
    let (mut up, mut down) = (Pattern::new(1), Pattern::new(2));
    for size in [1, 100_000, 3] {
        let bytes = up.take(size);
        parked.client.send(&bytes).await.unwrap();
        assert_eq!(parked.server.receive(size).await.unwrap(), bytes);
        parked.is_parked().await;
        let bytes = down.take(size);
        parked.server.send(&bytes).await.unwrap();
        assert_eq!(parked.client.receive(size).await.unwrap(), bytes);
        parked.is_parked().await;
    }
    assert_eq!(parked.pop.count("edge_connections_current", &[]).await.unwrap(), 1, "parked is open");
    parked.client.finish().await.unwrap();
    assert_eq!(parked.server.ending().await.unwrap(), (vec![], Ending::Finished));
    parked.server.finish().await.unwrap();
    assert_eq!(parked.client.ending().await.unwrap(), (vec![], Ending::Finished));
    assert_eq!(parked.outcome().await, ("client".to_owned(), 100_009, 100_009));
    assert_eq!(parked.pop.count("edge_bytes_total", &[("direction", "in")]).await.unwrap(), 100_009);
    assert_eq!(parked.pop.count("edge_bytes_total", &[("direction", "out")]).await.unwrap(), 100_009);
    parked.stop().await;
}

#[tokio::test]
async fn a_parked_client_may_finish_and_still_hear_the_backend() {
    let mut parked = Parked::new("").await;
    parked.client.finish().await.unwrap();
    assert_eq!(parked.server.ending().await.unwrap(), (vec![], Ending::Finished));
    // Half-closed, it idles and is parked again: the finished side must not keep it awake.
    parked.is_parked().await;
    parked.server.send(b"late answer").await.unwrap();
    assert_eq!(parked.client.receive(11).await.unwrap(), b"late answer");
    parked.is_parked().await;
    parked.server.finish().await.unwrap();
    assert_eq!(parked.client.ending().await.unwrap(), (vec![], Ending::Finished));
    assert_eq!(parked.outcome().await, ("client".to_owned(), 5, 16));
    parked.stop().await;
}

#[tokio::test]
async fn a_parked_backend_may_finish_and_still_hear_the_client() {
    let mut parked = Parked::new("").await;
    parked.server.finish().await.unwrap();
    assert_eq!(parked.client.ending().await.unwrap(), (vec![], Ending::Finished));
    parked.is_parked().await;
    parked.client.send(b"late word").await.unwrap();
    assert_eq!(parked.server.receive(9).await.unwrap(), b"late word");
    parked.is_parked().await;
    parked.client.finish().await.unwrap();
    assert_eq!(parked.server.ending().await.unwrap(), (vec![], Ending::Finished));
    assert_eq!(parked.outcome().await, ("backend".to_owned(), 14, 5));
    parked.stop().await;
}

#[tokio::test]
async fn a_reset_of_a_parked_connection_is_passed_on_from_either_side() {
    let parked = Parked::new("").await;
    let Parked { pop, client, mut server, _backend, _site } = parked;
    client.abort().unwrap();
    assert_eq!(server.ending().await.unwrap(), (vec![], Ending::Reset));
    pop.logged(|line| line["close"] == "client_reset").await.unwrap();
    pop.until_count("edge_connections_parked", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();

    let parked = Parked::new("").await;
    let Parked { pop, mut client, server, _backend, _site } = parked;
    server.abort().unwrap();
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Reset));
    pop.logged(|line| line["close"] == "backend_reset").await.unwrap();
    pop.until_count("edge_connections_parked", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_client_that_resets_after_finishing_ends_its_parked_connection() {
    let Parked { pop, mut client, mut server, _backend, _site } = Parked::new("").await;
    client.finish().await.unwrap();
    assert_eq!(server.ending().await.unwrap(), (vec![], Ending::Finished));
    pop.until_count("edge_connections_parked", &[], 1).await.unwrap();
    client.abort().unwrap();
    pop.logged(|line| line["close"] == "client_reset").await.unwrap();
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn many_parked_connections_wake_at_once() {
    const MANY: usize = 300;
    let site = support::site();
    let backend = Backend::start("b1", Behaviour::Echo).unwrap();
    site.add_backend("fra", &backend).unwrap();
    let pop = site.start(PARKS_SOON).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..MANY {
        clients.push(pop.connect().await.unwrap());
    }
    let many = i64::try_from(MANY).unwrap();
    for round in 0..3_u8 {
        pop.until_count("edge_connections_parked", &[], many).await.unwrap();
        for client in &mut clients {
            client.send(&[round; 10]).await.unwrap();
        }
        for client in &mut clients {
            assert_eq!(client.receive(10).await.unwrap(), [round; 10]);
        }
    }
    pop.until_count("edge_connections_parked", &[], many).await.unwrap();
    drop(clients);
    pop.until_count("edge_closed_total", &[("reason", "client")], many).await.unwrap();
    assert_eq!(pop.count("edge_connections_parked", &[]).await.unwrap(), 0);
    for line in pop.connections.all_json() {
        assert_eq!((line["bytes_in"].as_u64(), line["bytes_out"].as_u64()), (Some(30), Some(30)));
    }
    pop.stop(Duration::from_secs(5)).await.unwrap();
}
