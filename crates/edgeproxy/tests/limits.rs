//! Hard and soft limits of backends, under everybody coming at once.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and tells what it measured")]

use std::time::Duration;

use edgeproxy_route::RawBackend;
use edgeproxy_world::{Backend, Behaviour, LONG, eventually, row};

#[path = "support/pool.rs"]
mod pool;
mod support;

use pool::{UNCHECKED, arrive, peaks, pool};

async fn until_current(pool: &[Backend], wanted: usize) {
    eventually("connections of the backends", LONG, async || {
        Ok((pool.iter().map(Backend::current).sum::<usize>() == wanted).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_thousand_clients_at_once_fill_every_backend_exactly_to_its_hard_limit() {
    let (_site, pool, pop) = pool(8, 40, 50, "").await;
    let (mut served, refused) = arrive(&pop, 1000).await;
    assert_eq!((served.len(), refused), (400, 600));
    assert_eq!(peaks(&pool), [50; 8]);
    assert_eq!(pop.count("edge_refused_total", &[("reason", "all_full")]).await.unwrap(), 600);
    assert_eq!(pop.count("edge_refused_total", &[]).await.unwrap(), 600);
    assert_eq!(pop.count("edge_connections_current", &[]).await.unwrap(), 400);
    for client in &mut served {
        client.exchange(b"served for good").await.unwrap();
    }

    // As many as leave can come in, and no more.
    for client in served.drain(..100) {
        drop(client);
    }
    until_current(&pool, 300).await;
    pop.until_count("edge_connections_current", &[], 300).await.unwrap();
    let (newcomers, refused) = arrive(&pop, 150).await;
    assert_eq!((newcomers.len(), refused), (100, 50));
    assert_eq!(peaks(&pool), [50; 8]);
    assert_eq!(pop.count("edge_refused_total", &[("reason", "all_full")]).await.unwrap(), 650);
    drop((served, newcomers));
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_full_region_spills_to_the_next_nearest() {
    let site = support::site();
    let mut backends = Vec::new();
    // From Frankfurt: Paris is 450 km away, London 640.
    for (region, hard) in [("fra", 3), ("cdg", 3), ("lhr", 100)] {
        let backend = Backend::start(region, Behaviour::Greet).unwrap();
        let limits = RawBackend {
            soft_limit: Some(hard),
            hard_limit: Some(hard),
            country: Some(String::new()),
            ..row(region, region, backend.address())
        };
        site.add(limits).unwrap();
        backends.push(backend);
    }
    let pop =
        site.start(&format!("{UNCHECKED}[[listener]]\nbind = \"127.0.0.1:0\"\naffinity_ttl = \"0s\"\n")).await.unwrap();
    let mut clients = Vec::new();
    let mut reached = Vec::new();
    for _ in 0..8 {
        let mut client = pop.connect().await.unwrap();
        reached.push(client.line().await.unwrap());
        clients.push(client);
    }
    assert_eq!(reached, ["fra", "fra", "fra", "cdg", "cdg", "cdg", "lhr", "lhr"]);
    // One leaves Frankfurt: the next is served there again.
    drop(clients.remove(0));
    pop.until_count("edge_connections_current", &[], 7).await.unwrap();
    let mut client = pop.connect().await.unwrap();
    assert_eq!(client.line().await.unwrap(), "fra");
    drop((client, clients));
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn past_its_soft_limit_a_backend_takes_clients_only_when_the_others_are_worse_off() {
    let site = support::site();
    let mut backends = Vec::new();
    for (id, soft) in [("small", 2), ("large", 4)] {
        let backend = Backend::start(id, Behaviour::Greet).unwrap();
        site.add(RawBackend { soft_limit: Some(soft), hard_limit: Some(100), ..row(id, "fra", backend.address()) })
            .unwrap();
        backends.push(backend);
    }
    let pop =
        site.start(&format!("{UNCHECKED}[[listener]]\nbind = \"127.0.0.1:0\"\naffinity_ttl = \"0s\"\n")).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..12 {
        let mut client = pop.connect().await.unwrap();
        client.line().await.unwrap();
        clients.push(client);
    }
    // Load is connections by soft limit: 12 clients on 2 + 4 make both twice as full as is comfortable.
    assert_eq!([backends[0].current(), backends[1].current()], [4, 8]);
    drop(clients);
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn more_connections_than_the_machine_takes_are_refused() {
    let site = support::site();
    let backend = Backend::start("b1", Behaviour::Greet).unwrap();
    site.add_backend("fra", &backend).unwrap();
    let pop = site.start(&format!("{UNCHECKED}[proxy]\nmax_connections = 20\n")).await.unwrap();
    let (served, refused) = arrive(&pop, 50).await;
    assert_eq!((served.len(), refused), (20, 30));
    assert_eq!(pop.count("edge_refused_total", &[("reason", "too_many_connections")]).await.unwrap(), 30);
    let line = pop.logged(|line| line["event"] == "refused").await.unwrap();
    assert_eq!(line["reason"], "too_many_connections");
    drop(served);
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    let (served, refused) = arrive(&pop, 20).await;
    assert_eq!((served.len(), refused), (20, 0));
    drop(served);
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}
