//! Connections that idle, and go on.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use edgeproxy_world::{Backend, Behaviour, Client, Ending, Pattern, Pop, Site};

mod support;

const UNCHECKED: &str = "[[check]]\nkind = \"none\"\n";
/// Long enough for everything that was under way to have come to rest.
const REST: Duration = Duration::from_millis(100);

struct Idle {
    pop: Pop,
    _backend: Backend,
    _site: Site,
    client: Client,
    server: Client,
}

impl Idle {
    /// A connection that has exchanged bytes both ways and idles.
    async fn new(listener: &str) -> Self {
        let site = support::site();
        let backend = Backend::start("b1", Behaviour::HandOver).unwrap();
        site.add_backend("fra", &backend).unwrap();
        let pop = site.start(&format!("{UNCHECKED}{listener}")).await.unwrap();
        let mut client = pop.connect().await.unwrap();
        let mut server = backend.next().await.unwrap();
        client.send(b"hello").await.unwrap();
        assert_eq!(server.receive(5).await.unwrap(), b"hello");
        server.send(b"world").await.unwrap();
        assert_eq!(client.receive(5).await.unwrap(), b"world");
        tokio::time::sleep(REST).await;
        Self { pop, _backend: backend, _site: site, client, server }
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
        pop.until_count("edge_connections_current", &[], 0).await.unwrap();
        pop.stop(Duration::from_secs(5)).await.unwrap();
    }
}

#[tokio::test]
async fn either_side_wakes_an_idle_connection_with_all_bytes() {
    let mut idle = Idle::new("").await;
    let (mut up, mut down) = (Pattern::new(1), Pattern::new(2));
    for size in [1, 100_000, 3] {
        let bytes = up.take(size);
        idle.client.send(&bytes).await.unwrap();
        assert_eq!(idle.server.receive(size).await.unwrap(), bytes);
        tokio::time::sleep(REST).await;
        let bytes = down.take(size);
        idle.server.send(&bytes).await.unwrap();
        assert_eq!(idle.client.receive(size).await.unwrap(), bytes);
        tokio::time::sleep(REST).await;
    }
    assert_eq!(idle.pop.count("edge_connections_current", &[]).await.unwrap(), 1);
    idle.client.finish().await.unwrap();
    assert_eq!(idle.server.ending().await.unwrap(), (vec![], Ending::Finished));
    idle.server.finish().await.unwrap();
    assert_eq!(idle.client.ending().await.unwrap(), (vec![], Ending::Finished));
    assert_eq!(idle.outcome().await, ("client".to_owned(), 100_009, 100_009));
    assert_eq!(idle.pop.count("edge_bytes_total", &[("direction", "in")]).await.unwrap(), 100_009);
    assert_eq!(idle.pop.count("edge_bytes_total", &[("direction", "out")]).await.unwrap(), 100_009);
    idle.stop().await;
}

#[tokio::test]
async fn an_idle_client_may_finish_and_still_hear_the_backend() {
    let mut idle = Idle::new("").await;
    idle.client.finish().await.unwrap();
    assert_eq!(idle.server.ending().await.unwrap(), (vec![], Ending::Finished));
    // Half-closed, it idles: the finished side must not keep the loop awake.
    tokio::time::sleep(REST).await;
    idle.server.send(b"late answer").await.unwrap();
    assert_eq!(idle.client.receive(11).await.unwrap(), b"late answer");
    tokio::time::sleep(REST).await;
    idle.server.finish().await.unwrap();
    assert_eq!(idle.client.ending().await.unwrap(), (vec![], Ending::Finished));
    assert_eq!(idle.outcome().await, ("client".to_owned(), 5, 16));
    idle.stop().await;
}

#[tokio::test]
async fn an_idle_backend_may_finish_and_still_hear_the_client() {
    let mut idle = Idle::new("").await;
    idle.server.finish().await.unwrap();
    assert_eq!(idle.client.ending().await.unwrap(), (vec![], Ending::Finished));
    tokio::time::sleep(REST).await;
    idle.client.send(b"late word").await.unwrap();
    assert_eq!(idle.server.receive(9).await.unwrap(), b"late word");
    tokio::time::sleep(REST).await;
    idle.client.finish().await.unwrap();
    assert_eq!(idle.server.ending().await.unwrap(), (vec![], Ending::Finished));
    assert_eq!(idle.outcome().await, ("backend".to_owned(), 14, 5));
    idle.stop().await;
}

#[tokio::test]
async fn a_reset_of_an_idle_connection_is_passed_on_from_either_side() {
    let idle = Idle::new("").await;
    let Idle { pop, client, mut server, _backend, _site } = idle;
    client.abort().unwrap();
    assert_eq!(server.ending().await.unwrap(), (vec![], Ending::Reset));
    pop.logged(|line| line["close"] == "client_reset").await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();

    let idle = Idle::new("").await;
    let Idle { pop, mut client, server, _backend, _site } = idle;
    server.abort().unwrap();
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Reset));
    pop.logged(|line| line["close"] == "backend_reset").await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_client_that_resets_after_finishing_ends_its_connection() {
    let Idle { pop, mut client, mut server, _backend, _site } = Idle::new("").await;
    client.finish().await.unwrap();
    assert_eq!(server.ending().await.unwrap(), (vec![], Ending::Finished));
    client.abort().unwrap();
    pop.logged(|line| line["close"] == "client_reset").await.unwrap();
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn many_idle_connections_wake_at_once() {
    const MANY: usize = 300;
    let site = support::site();
    let backend = Backend::start("b1", Behaviour::Echo).unwrap();
    site.add_backend("fra", &backend).unwrap();
    let pop = site.start(UNCHECKED).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..MANY {
        clients.push(pop.connect().await.unwrap());
    }
    let many = i64::try_from(MANY).unwrap();
    for round in 0..3_u8 {
        tokio::time::sleep(REST).await;
        for client in &mut clients {
            client.send(&[round; 10]).await.unwrap();
        }
        for client in &mut clients {
            assert_eq!(client.receive(10).await.unwrap(), [round; 10]);
        }
    }
    drop(clients);
    pop.until_count("edge_closed_total", &[("reason", "client")], many).await.unwrap();
    for line in pop.connections.all_json() {
        assert_eq!((line["bytes_in"].as_u64(), line["bytes_out"].as_u64()), (Some(30), Some(30)));
    }
    pop.stop(Duration::from_secs(5)).await.unwrap();
}
