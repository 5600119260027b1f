//! Who is served where: by country, by policy, by app, and by what the table says at this moment.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use edgeproxy_route::{GeoTable, RawBackend};
use edgeproxy_world::{Backend, Behaviour, Census, Header, LONG, Pop, Site, TEN_REGIONS, eventually, row};
use serde_json::Value;

mod support;

const TRUSTING: &str = "trust_proxy = [\"127.0.0.0/8\"]\naffinity_ttl = \"0s\"";

fn listener(settings: &str) -> String {
    format!("[[check]]\nkind = \"none\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n{settings}\n")
}

/// The ten regions, a backend in each.
async fn ten(site: &Site) -> Vec<Backend> {
    let mut backends = Vec::new();
    for place in TEN_REGIONS {
        let backend = Backend::start(place.region, Behaviour::Greet).unwrap();
        site.add_backend(place.region, &backend).unwrap();
        backends.push(backend);
    }
    backends
}

/// Which backend greets this client.
async fn reached(pop: &Pop, header: Header) -> String {
    let mut client = pop.connect_as(header).await.unwrap();
    client.line().await.unwrap()
}

fn client(ip: Ipv4Addr) -> SocketAddr {
    SocketAddr::new(ip.into(), 5555)
}

/// By hand: whose backend is in the country, or nearest in the part of the world, or where the POP (fra) is.
const SERVED: [(&str, &[&str]); 20] = [
    ("BR", &["gru"]),
    ("US", &["iad", "ord", "lax"]),
    ("GB", &["lhr"]),
    ("DE", &["fra"]),
    ("FR", &["cdg"]),
    ("JP", &["nrt"]),
    ("SG", &["sin"]),
    ("AU", &["syd"]),
    ("AR", &["gru"]),
    ("CL", &["gru"]),
    ("CA", &["iad"]),
    ("IE", &["lhr"]),
    ("PT", &["cdg"]),
    ("PL", &["fra"]),
    ("IN", &["sin"]),
    ("ID", &["sin"]),
    ("KR", &["nrt"]),
    ("NZ", &["syd"]),
    ("KE", &["fra"]),
    ("EG", &["fra"]),
];

#[tokio::test]
async fn clients_of_twenty_countries_reach_the_right_regions() {
    let site = support::site();
    let _backends = ten(&site).await;
    let pop = site.start(&listener(TRUSTING)).await.unwrap();
    let census = Census::take(&GeoTable::embedded());
    for (country, expected) in SERVED {
        let address = client(census.address(country).unwrap());
        for header in [Header::V1(address), Header::V2(address)] {
            let mut guest = pop.connect_as(header).await.unwrap();
            let greeting = guest.line().await.unwrap();
            assert!(expected.contains(&greeting.as_str()), "{country} reached {greeting}, not {expected:?}");
            guest.exchange(b"hello").await.unwrap();
            let via = guest.address().to_string();
            drop(guest);
            let line = pop.logged(|line| line["via"] == via.as_str()).await.unwrap();
            assert_eq!(line["country"], country);
            assert_eq!(line["client"], address.to_string());
            assert_eq!(line["region"], greeting);
        }
    }
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_client_of_no_known_country_is_served_where_the_pop_is() {
    let site = support::site();
    let _backends = ten(&site).await;
    let plan = site.plan(&listener("affinity_ttl = \"0s\"")).region("sin");
    let pop = plan.start().await.unwrap();
    let mut guest = pop.connect().await.unwrap();
    assert_eq!(guest.line().await.unwrap(), "sin");
    drop(guest);
    let line = pop.logged(|line| line["event"] == "connection").await.unwrap();
    assert_eq!((&line["country"], &line["pop"]), (&Value::Null, &Value::from("sin")));
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn an_address_of_version_six_has_a_country_too() {
    let site = support::site();
    let _backends = ten(&site).await;
    let pop = site.start(&listener(TRUSTING)).await.unwrap();
    // CERNET, China's research network: nearest of ours is Tokyo or Singapore.
    let address: SocketAddr = "[2001:da8::1]:5555".parse().unwrap();
    for header in [Header::V1(address), Header::V2(address)] {
        let reached = reached(&pop, header).await;
        assert!(["nrt", "sin"].contains(&reached.as_str()), "{reached}");
    }
    let line = pop.logged(|line| line["event"] == "connection").await.unwrap();
    assert_eq!((&line["country"], &line["client"]), (&Value::from("CN"), &Value::from("[2001:da8::1]:5555")));
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_client_of_version_four_on_a_listener_of_both_is_logged_as_version_four() {
    let site = support::site();
    let backend = Backend::start("b1", Behaviour::Greet).unwrap();
    site.add_backend("fra", &backend).unwrap();
    let pop = site.start("[[check]]\nkind = \"none\"\n[[listener]]\nbind = \"[::]:0\"\n").await.unwrap();
    let port = pop.address().port();
    for host in ["127.0.0.1", "[::1]"] {
        let mut guest = edgeproxy_world::Client::connect(format!("{host}:{port}").parse().unwrap()).await.unwrap();
        assert_eq!(guest.line().await.unwrap(), "b1");
        let address = guest.address();
        drop(guest);
        let line = pop.logged_of(address).await.unwrap();
        assert_eq!(line["client"], format!("{host}:{}", address.port()));
    }
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_listener_serves_the_backends_of_its_app_only() {
    let site = support::site();
    let mut backends = Vec::new();
    for (id, app) in [("web1", "web"), ("web2", "web"), ("db1", "db")] {
        let backend = Backend::start(id, Behaviour::Greet).unwrap();
        site.add(RawBackend { app: Some(app.to_owned()), ..row(id, "fra", backend.address()) }).unwrap();
        backends.push(backend);
    }
    let one = |app: &str| format!("[[listener]]\nbind = \"127.0.0.1:0\"\napp = \"{app}\"\naffinity_ttl = \"0s\"\n");
    let toml = format!("[[check]]\nkind = \"none\"\n{}{}{}", one("web"), one("db"), one("mail"));
    let pop = site.start(&toml).await.unwrap();
    let [web, db, mail] = pop.addresses() else { panic!("{:?}", pop.addresses()) };
    for _ in 0..10 {
        let mut guest = edgeproxy_world::Client::connect(*web).await.unwrap();
        assert!(guest.line().await.unwrap().starts_with("web"));
        let mut guest = edgeproxy_world::Client::connect(*db).await.unwrap();
        assert_eq!(guest.line().await.unwrap(), "db1");
    }
    let mut guest = edgeproxy_world::Client::connect(*mail).await.unwrap();
    guest.ending().await.unwrap();
    let line = pop.logged_of(guest.address()).await.unwrap();
    assert_eq!((&line["reason"], &line["listener"]), (&Value::from("no_backend"), &Value::from(mail.to_string())));
    pop.until_count("edge_connections_total", &[("listener", &web.to_string())], 10).await.unwrap();
    pop.until_count("edge_connections_total", &[("listener", &db.to_string())], 10).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn by_score_load_is_shared_by_weight() {
    let site = support::site();
    let mut backends = Vec::new();
    for (id, weight) in [("light", 1), ("heavy", 3)] {
        let backend = Backend::start(id, Behaviour::Greet).unwrap();
        let row = RawBackend { weight: Some(weight), soft_limit: Some(10), ..row(id, "fra", backend.address()) };
        site.add(row).unwrap();
        backends.push(backend);
    }
    // Elsewhere and empty: 100 points a band are more than load can outweigh here.
    let far = Backend::start("far", Behaviour::Greet).unwrap();
    site.add_backend("syd", &far).unwrap();
    let pop = site.start(&listener("policy = \"score\"\naffinity_ttl = \"0s\"")).await.unwrap();
    let mut guests = Vec::new();
    for _ in 0..16 {
        let mut guest = pop.connect().await.unwrap();
        guest.line().await.unwrap();
        guests.push(guest);
    }
    assert_eq!([backends[0].current(), backends[1].current(), far.current()], [4, 12, 0]);
    drop(guests);
    let lines = eventually("16 lines", LONG, async || {
        let lines = pop.connections.all_json();
        Ok((lines.len() == 16).then_some(lines))
    });
    // Without a country the client is in the band of the POP's region: 2. The last came when heavy had 11 of 10 / 3.
    let scores: Vec<f64> = lines.await.unwrap().iter().filter_map(|line| line["score"].as_f64()).collect();
    let highest = scores.iter().copied().fold(0.0, f64::max);
    assert!((200.3..200.4).contains(&highest), "{scores:?}");
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn by_latency_measured_round_trips_count_and_not_the_map() {
    let site = support::site();
    let near = Backend::start("near", Behaviour::Greet).unwrap();
    let far = Backend::start("far", Behaviour::Greet).unwrap();
    site.add_backend("fra", &near).unwrap();
    // Said to be in Sydney, and in truth as near as the other.
    site.add_backend("syd", &far).unwrap();
    let listener = "[[listener]]\nbind = \"127.0.0.1:0\"\npolicy = \"latency\"\naffinity_ttl = \"0s\"\n";
    let pop = site.start(&format!("[[check]]\nkind = \"tcp\"\ninterval = \"100ms\"\n{listener}")).await.unwrap();
    eventually("a client served by the one in Sydney", LONG, async || {
        let mut guest = pop.connect().await?;
        Ok((guest.line().await? == "far").then_some(()))
    })
    .await
    .unwrap();
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}
