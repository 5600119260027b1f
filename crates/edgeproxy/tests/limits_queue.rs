//! Clients that wait for a full app to have room.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and tells what it measured")]

use std::time::Duration;

use edgeproxy_route::RawBackend;
use edgeproxy_world::{Backend, Behaviour, Client, Ending, row};

#[path = "support/pool.rs"]
mod pool;
mod support;

use pool::{UNCHECKED, arrive, peaks, pool};

#[tokio::test]
async fn with_a_queue_a_thousand_clients_are_all_served_in_the_end() {
    let (_site, pool, pop) = pool(8, 40, 50, "queue = 1000\nqueue_timeout = \"15s\"").await;
    let address = pop.address();
    let visits: Vec<_> = (0..1000)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::connect(address).await?;
                client.line().await?;
                client.exchange(b"one short visit").await?;
                client.finish().await?;
                client.ending().await
            })
        })
        .collect();
    for visit in visits {
        assert_eq!(visit.await.unwrap().unwrap(), (vec![], Ending::Finished));
    }
    assert!(peaks(&pool).iter().all(|peak| *peak <= 50), "{:?}", peaks(&pool));
    assert_eq!(pool.iter().map(Backend::total).sum::<usize>(), 1000);
    assert_eq!(pop.count("edge_refused_total", &[]).await.unwrap(), 0);
    pop.until_count("edge_closed_total", &[("reason", "client")], 1000).await.unwrap();
    assert_eq!(pop.count("edge_queue_waiting", &[]).await.unwrap(), 0);
    let waited = pop.count("edge_queue_wait_ms_count", &[]).await.unwrap();
    println!("{waited} of 1000 clients had to wait");
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn who_waits_gets_the_next_free_slot_and_the_log_says_how_long() {
    let (_site, _pool, pop) = pool(1, 1, 1, "queue = 10\nqueue_timeout = \"15s\"").await;
    let (mut first, _) = arrive(&pop, 1).await;
    let mut second = pop.connect().await.unwrap();
    pop.until_count("edge_queue_waiting", &[], 1).await.unwrap();
    first[0].exchange(b"still at it").await.unwrap();
    drop(first);
    assert_eq!(second.line().await.unwrap(), "b0");
    assert_eq!(pop.count("edge_queue_waiting", &[]).await.unwrap(), 0);
    let address = second.address();
    drop(second);
    let line = pop.logged_of(address).await.unwrap();
    assert!(line["queue_ms"].as_f64().unwrap() > 0.0, "{line}");
    assert_eq!(pop.count("edge_queue_wait_ms_count", &[]).await.unwrap(), 1);
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_full_queue_refuses_and_a_long_wait_ends() {
    let (_site, _pool, pop) = pool(1, 1, 1, "queue = 3\nqueue_timeout = \"900ms\"").await;
    let (first, _) = arrive(&pop, 1).await;
    let mut waiting = Vec::new();
    for place in 1..=3 {
        waiting.push(pop.connect().await.unwrap());
        pop.until_count("edge_queue_waiting", &[], place).await.unwrap();
    }
    let mut fourth = pop.connect().await.unwrap();
    assert_eq!(fourth.ending().await.unwrap(), (vec![], Ending::Reset));
    let address = fourth.address().to_string();
    let line = pop.logged(|line| line["event"] == "refused" && line["client"] == address.as_str()).await.unwrap();
    assert_eq!(line["reason"], "queue_full");
    for client in &mut waiting {
        assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Reset));
    }
    let line = pop.logged(|line| line["reason"] == "queue_timeout").await.unwrap();
    let waited = line["queue_ms"].as_f64().unwrap();
    assert!(waited >= 900.0, "{line}");
    assert_eq!(pop.count("edge_refused_total", &[("reason", "queue_timeout")]).await.unwrap(), 3);
    assert_eq!(pop.count("edge_refused_total", &[("reason", "queue_full")]).await.unwrap(), 1);
    assert_eq!(pop.count("edge_queue_waiting", &[]).await.unwrap(), 0);
    drop(first);
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_client_that_gives_up_waiting_leaves_the_queue() {
    let (_site, pool, pop) = pool(1, 1, 1, "queue = 1\nqueue_timeout = \"15s\"").await;
    let (first, _) = arrive(&pop, 1).await;
    let waiting = pop.connect().await.unwrap();
    pop.until_count("edge_queue_waiting", &[], 1).await.unwrap();
    waiting.abort().unwrap();
    pop.until_count("edge_queue_waiting", &[], 0).await.unwrap();
    assert_eq!(pop.count("edge_refused_total", &[("reason", "client_gone")]).await.unwrap(), 1);
    assert_eq!(pool[0].total(), 1, "no backend heard of it");
    drop(first);
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_new_backend_takes_who_waits() {
    let (site, _pool, pop) = pool(1, 1, 1, "queue = 10\nqueue_timeout = \"15s\"").await;
    let (first, _) = arrive(&pop, 1).await;
    let mut second = pop.connect().await.unwrap();
    pop.until_count("edge_queue_waiting", &[], 1).await.unwrap();
    let other = Backend::start("other", Behaviour::Greet).unwrap();
    site.add_backend("fra", &other).unwrap();
    assert_eq!(second.line().await.unwrap(), "other");
    drop((first, second));
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn an_ejected_backend_is_tried_by_who_waits_when_its_pause_is_over() {
    let site = support::site();
    let mut backends = Vec::new();
    for region in ["fra", "cdg"] {
        let backend = Backend::start(region, Behaviour::Greet).unwrap();
        let one = RawBackend { soft_limit: Some(1), hard_limit: Some(1), ..row(region, region, backend.address()) };
        site.add(RawBackend { country: Some(String::new()), ..one }).unwrap();
        backends.push(backend);
    }
    let outlier = "[outlier]\nconsecutive_failures = 1\nbase_pause = \"1s\"\n";
    let listener = "[[listener]]\nbind = \"127.0.0.1:0\"\naffinity_ttl = \"0s\"\nqueue = 10\nqueue_timeout = \"10s\"\n";
    let pop = site.start(&format!("{outlier}{UNCHECKED}{listener}")).await.unwrap();
    backends[1].stop().await;
    let mut first = pop.connect().await.unwrap();
    assert_eq!(first.line().await.unwrap(), "fra");
    // The second finds cdg dead, which ejects it, and waits for fra.
    let second = pop.connect().await.unwrap();
    pop.until_count("edge_ejections_total", &[], 1).await.unwrap();
    second.abort().unwrap();
    pop.until_count("edge_queue_waiting", &[], 0).await.unwrap();
    backends[1].resume().unwrap();
    let mut third = pop.connect().await.unwrap();
    assert_eq!(third.line().await.unwrap(), "cdg");
    drop((first, third));
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}
