//! Clients that return to their backend, and when they do not.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use edgeproxy_route::RawBackend;
use edgeproxy_world::{Backend, Behaviour, Client, Header, LONG, Pop, Site, eventually, row};
use serde_json::Value;

mod support;

/// Equal backends of one region, and a POP that trusts the clients' word for their addresses.
async fn pool(count: usize, listener: &str, check: &str) -> (Site, Vec<Backend>, Pop) {
    let site = support::site();
    let mut pool = Vec::new();
    for number in 0..count {
        let backend = Backend::start(&format!("b{number}"), Behaviour::Greet).unwrap();
        site.add(RawBackend { hard_limit: Some(2), ..row(backend.id(), "fra", backend.address()) }).unwrap();
        pool.push(backend);
    }
    let toml = format!(
        "[[check]]\n{check}\n[[listener]]\nbind = \"127.0.0.1:0\"\ntrust_proxy = [\"127.0.0.0/8\"]\n{listener}\n"
    );
    let pop = site.start(&toml).await.unwrap();
    (site, pool, pop)
}

const UNCHECKED: &str = "kind = \"none\"";

async fn arrive(pop: &Pop, address: &str) -> (String, Client) {
    let mut client = pop.connect_as(Header::V2(address.parse().unwrap())).await.unwrap();
    (client.line().await.unwrap(), client)
}

/// A short visit: which backend, and whether affinity decided.
async fn visit(pop: &Pop, address: &str) -> (String, bool) {
    let (backend, client) = arrive(pop, address).await;
    let via = client.address().to_string();
    drop(client);
    let line = pop.logged(|line| line["via"] == via.as_str()).await.unwrap();
    // Its slot is free again before the next one comes.
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    assert_eq!(line["backend"], Value::from(backend.as_str()));
    (backend, line["affinity"].as_bool().unwrap())
}

async fn stop(pop: Pop) {
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_client_returns_to_its_backend_from_whatever_port() {
    let (_site, pool, pop) = pool(8, "", UNCHECKED).await;
    let mut homes = Vec::new();
    for client in 1..=20 {
        let (home, by_affinity) = visit(&pop, &format!("198.51.100.{client}:1000")).await;
        assert!(!by_affinity, "it is new");
        for port in 1001..1004 {
            assert_eq!(visit(&pop, &format!("198.51.100.{client}:{port}")).await, (home.clone(), true));
        }
        homes.push(home);
    }
    homes.sort_unstable();
    homes.dedup();
    // All 20 at one of 8 equal backends would be a chance of 1 in 8^19.
    assert!(homes.len() > 1, "{homes:?}");
    drop(pool);
    stop(pop).await;
}

#[tokio::test]
async fn a_client_is_forgotten_after_the_ttl_and_each_visit_extends_it() {
    let (_site, _pool, pop) = pool(2, "affinity_ttl = \"4s\"", UNCHECKED).await;
    let (home, _) = visit(&pop, "198.51.100.1:1").await;
    // Two thirds of the ttl in all but the last: without being extended it would be over.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(visit(&pop, "198.51.100.1:2").await, (home.clone(), true));
    }
    tokio::time::sleep(Duration::from_millis(4200)).await;
    assert!(!visit(&pop, "198.51.100.1:3").await.1);
    stop(pop).await;
}

#[tokio::test]
async fn without_a_ttl_nobody_is_remembered() {
    let (_site, _pool, pop) = pool(2, "affinity_ttl = \"0s\"", UNCHECKED).await;
    for port in 1..10 {
        assert!(!visit(&pop, &format!("198.51.100.1:{port}")).await.1);
    }
    stop(pop).await;
}

#[tokio::test]
async fn a_drained_backend_gets_its_clients_back_only_when_it_returns() {
    let (site, _pool, pop) = pool(3, "", UNCHECKED).await;
    let (home, _) = visit(&pop, "198.51.100.1:1").await;
    for (out, back) in [("weight = 0", "weight = 1"), ("drained = 1", "drained = 0"), ("healthy = 0", "healthy = 1")] {
        let loads = pop.count("edge_table_reloads_total", &[("result", "ok")]).await.unwrap();
        site.sql(&format!("UPDATE backends SET {out} WHERE id = '{home}'")).unwrap();
        pop.until_count("edge_table_reloads_total", &[("result", "ok")], loads + 1).await.unwrap();
        for port in 1..4 {
            let (elsewhere, by_affinity) = visit(&pop, &format!("198.51.100.1:{port}")).await;
            assert_ne!(elsewhere, home, "{out}");
            assert!(!by_affinity);
        }
        site.sql(&format!("UPDATE backends SET {back} WHERE id = '{home}'")).unwrap();
        pop.until_count("edge_table_reloads_total", &[("result", "ok")], loads + 2).await.unwrap();
        assert_eq!(visit(&pop, "198.51.100.1:9").await, (home.clone(), true), "{back}");
    }
    stop(pop).await;
}

#[tokio::test]
async fn a_backend_that_fails_its_checks_is_avoided_by_its_clients_too() {
    let check = "kind = \"tcp\"\ninterval = \"100ms\"\nrise = 1\nfall = 1";
    let (_site, mut pool, pop) = pool(3, "", check).await;
    let (home, _) = visit(&pop, "198.51.100.1:1").await;
    let at = pool.iter().position(|backend| backend.id() == home).unwrap();
    pool[at].stop().await;
    let verdict = async |verdict: &str| {
        let told = |line: &Value| line["verdict"] == verdict && line["backend"] == home.as_str();
        pop.log.wait_for(verdict, LONG, told).await.unwrap();
    };
    verdict("Down").await;
    let (elsewhere, by_affinity) = visit(&pop, "198.51.100.1:2").await;
    assert_ne!(elsewhere, home);
    assert!(!by_affinity);
    pool[at].resume().unwrap();
    verdict("Up").await;
    eventually("the client's return", LONG, async || {
        Ok((visit(&pop, "198.51.100.1:3").await == (home.clone(), true)).then_some(()))
    })
    .await
    .unwrap();
    stop(pop).await;
}

#[tokio::test]
async fn a_backend_that_died_a_moment_ago_costs_its_client_one_more_connect() {
    let (_site, mut pool, pop) = pool(2, "", UNCHECKED).await;
    let (home, _) = visit(&pop, "198.51.100.1:1").await;
    let at = pool.iter().position(|backend| backend.id() == home).unwrap();
    pool[at].stop().await;
    let (elsewhere, client) = arrive(&pop, "198.51.100.1:2").await;
    assert_ne!(elsewhere, home);
    let via = client.address().to_string();
    drop(client);
    let line = pop.logged(|line| line["via"] == via.as_str()).await.unwrap();
    assert_eq!((&line["attempts"], &line["affinity"]), (&Value::from(2), &Value::from(false)));
    pool[at].resume().unwrap();
    assert_eq!(visit(&pop, "198.51.100.1:3").await, (home, true), "it was away for once only");
    stop(pop).await;
}

#[tokio::test]
async fn a_full_backend_spills_its_client_and_takes_it_back() {
    let (_site, _pool, pop) = pool(2, "", UNCHECKED).await;
    let (home, first) = arrive(&pop, "198.51.100.1:1").await;
    let (second_home, second) = arrive(&pop, "198.51.100.1:2").await;
    assert_eq!(second_home, home);
    // The hard limit is 2: affinity never overrides it.
    let (elsewhere, third) = arrive(&pop, "198.51.100.1:3").await;
    assert_ne!(elsewhere, home);
    drop((first, second, third));
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    assert_eq!(visit(&pop, "198.51.100.1:4").await, (home, true));
    stop(pop).await;
}

#[tokio::test]
async fn addresses_of_one_64_bit_network_are_one_client() {
    let (_site, _pool, pop) = pool(8, "", UNCHECKED).await;
    let (home, by_affinity) = visit(&pop, "[2001:db8:1:1::1]:1").await;
    assert!(!by_affinity);
    for other in ["[2001:db8:1:1::2]:1", "[2001:db8:1:1:ffff:ffff:ffff:ffff]:1"] {
        assert_eq!(visit(&pop, other).await, (home.clone(), true));
    }
    assert!(!visit(&pop, "[2001:db8:1:2::1]:1").await.1, "the next network is another client");
    stop(pop).await;
}

#[tokio::test]
async fn a_removed_backend_is_forgotten_by_its_clients() {
    let (site, _pool, pop) = pool(2, "", UNCHECKED).await;
    let (home, _) = visit(&pop, "198.51.100.1:1").await;
    let loads = pop.count("edge_table_reloads_total", &[("result", "ok")]).await.unwrap();
    site.sql(&format!("UPDATE backends SET deleted = 1 WHERE id = '{home}'")).unwrap();
    pop.until_count("edge_table_reloads_total", &[("result", "ok")], loads + 1).await.unwrap();
    let (new_home, by_affinity) = visit(&pop, "198.51.100.1:2").await;
    assert_ne!(new_home, home);
    assert!(!by_affinity);
    assert_eq!(visit(&pop, "198.51.100.1:3").await, (new_home, true), "it has a new home");
    stop(pop).await;
}
