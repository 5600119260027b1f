//! Sides that go away before everything was said: what was said still arrives, and nothing is held for ever.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, Instant};

use edgeproxy_world::{Backend, Behaviour, Client, Ending, Pattern, Pop, Site};
use socket2::SockRef;

mod support;

async fn pair() -> (Site, Backend, Pop, Client, Client) {
    let site = support::site();
    let backend = Backend::start("b1", Behaviour::HandOver).unwrap();
    site.add_backend("fra", &backend).unwrap();
    let pop = site.start("[[check]]\nkind = \"none\"\n").await.unwrap();
    let mut client = pop.connect().await.unwrap();
    let mut server = backend.next().await.unwrap();
    // Both know each other.
    client.send(b"hello").await.unwrap();
    assert_eq!(server.receive(5).await.unwrap(), b"hello");
    (site, backend, pop, client, server)
}

/// Sends until nobody takes any more.
async fn fill(sender: &mut Client) {
    while let Ok(sent) = tokio::time::timeout(Duration::from_millis(300), sender.send(&[7; 65_536])).await {
        sent.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_resets_while_its_backend_does_not_read_frees_the_slot() {
    let (_site, _backend, pop, mut client, server) = pair().await;
    fill(&mut client).await;
    assert_eq!(pop.count("edge_backend_connections", &[("backend", "b1")]).await.unwrap(), 1);
    client.abort().unwrap();
    let gone = Instant::now();
    assert_eq!(pop.logged(|line| line["event"] == "connection").await.unwrap()["close"], "client_reset");
    assert!(gone.elapsed() >= Duration::from_secs(9), "the backend may yet read: {:?}", gone.elapsed());
    pop.until_count("edge_backend_connections", &[("backend", "b1")], 0).await.unwrap();
    drop(server);
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn two_sides_that_wait_for_each_other_do_not_outlive_the_client() {
    let (_site, _backend, pop, mut client, mut server) = pair().await;
    fill(&mut server).await;
    fill(&mut client).await;
    client.abort().unwrap();
    assert_eq!(pop.logged(|line| line["event"] == "connection").await.unwrap()["close"], "client_reset");
    pop.until_count("edge_backend_connections", &[("backend", "b1")], 0).await.unwrap();
    drop(server);
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn when_both_are_gone_the_connection_is_too_whatever_was_left() {
    // The backend resets while its answer waits for a client that does not read; then the client resets as well.
    let (_site, _backend, pop, client, mut server) = pair().await;
    fill(&mut server).await;
    server.abort().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(pop.count("edge_connections_current", &[]).await.unwrap(), 1, "the client may yet read");
    let gone = Instant::now();
    client.abort().unwrap();
    assert_eq!(pop.logged(|line| line["event"] == "connection").await.unwrap()["close"], "backend_reset");
    assert!(gone.elapsed() < Duration::from_secs(5), "{:?}", gone.elapsed());

    // The client resets while its upload waits for a backend that does not read, and is then killed.
    let (_site, _backend, pop, mut client, server) = pair().await;
    fill(&mut client).await;
    client.abort().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.abort().unwrap();
    assert_eq!(pop.logged(|line| line["event"] == "connection").await.unwrap()["close"], "client_reset");
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_slow_client_gets_all_of_an_early_answer_and_then_the_reset() {
    let (_site, _backend, pop, mut client, mut server) = pair().await;
    let answer = Pattern::new(1).take(1 << 20);
    client.send(b"the beginning of a long upload").await.unwrap();
    server.send(&answer).await.unwrap();
    // All of it has left the backend, and most of it waits between us and the client.
    pop.until_count("edge_bytes_total", &[("direction", "out")], 1 << 20).await.unwrap();
    server.abort().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut received = Vec::new();
    while received.len() < answer.len() {
        received.extend(client.receive(answer.len() / 16).await.unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(received, answer);
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Reset), "it was no regular end");
    assert_eq!(pop.logged(|line| line["event"] == "connection").await.unwrap()["close"], "backend_reset");
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn urgent_bytes_arrive_in_their_place() {
    let (_site, _backend, pop, mut client, mut server) = pair().await;
    client.send(b"abc").await.unwrap();
    SockRef::from(&client.stream).send_out_of_band(b"d").unwrap();
    client.send(b"ef").await.unwrap();
    assert_eq!(server.receive(6).await.unwrap(), b"abcdef");
    // In bulk they are in the way of splice, and must not pass for the end.
    let mut pattern = Pattern::new(1);
    let (before, after) = (pattern.take(8 << 20), pattern.take(1 << 20));
    let sending = async {
        client.send(&before).await.unwrap();
        // Without room for it there is none that is urgent.
        client.stream.writable().await.unwrap();
        SockRef::from(&client.stream).send_out_of_band(b"!").unwrap();
        client.send(&after).await.unwrap();
        client.finish().await.unwrap();
    };
    let receiving = async {
        let received = server.receive(before.len() + 1 + after.len()).await.unwrap();
        assert!(received == [&before[..], b"!", &after[..]].concat());
        assert_eq!(server.ending().await.unwrap(), (vec![], Ending::Finished));
    };
    tokio::join!(sending, receiving);
    drop(server);
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}
