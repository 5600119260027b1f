//! A region that nobody reaches any more, and that comes back: its servers go on meanwhile and do not know.

use std::time::{Duration, Instant};

use edgeproxy_world::postgres::ScratchPostgres;
use edgeproxy_world::wan::{Link, Wan};

use crate::session::{Session, place, until_place};
use crate::stage::{Stage, config, servers_through, there_is_none};

/// No session may be left on a former primary after this.
const LEFT_WITHIN: Duration = Duration::from_secs(3);
const NAMES: &str = "SELECT string_agg(name, ' ' ORDER BY name) FROM contacts";

fn write(name: &str) -> String {
    format!("INSERT INTO contacts (name) VALUES ('{name}') RETURNING name")
}

#[tokio::test]
async fn a_primary_whose_region_is_cut_off_keeps_nobody_and_gets_nobody_back() {
    if there_is_none() {
        return;
    }
    let (wan, link) = (Wan::start(1).unwrap(), Link::half_of(Duration::from_millis(2)));
    let (servers, way) = servers_through(ScratchPostgres::plan("fra"), &wan, link).await;
    // What is acknowledged has left the region.
    for sql in ["ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'", "SELECT pg_reload_conf()"] {
        servers[0].sql(sql).await.unwrap();
    }
    let addresses = [way.address(), servers[1].address(), servers[2].address()];
    let stage = Stage::before(servers, addresses, &config("hold = \"30s\"\n", "")).await;
    let mut sessions = Vec::new();
    for number in 0..10 {
        let session = Session::open(stage.primary()).await.unwrap();
        assert_eq!(session.value(&write(&format!("kept-{number}"))).await.unwrap(), format!("kept-{number}"));
        sessions.push(session);
    }
    let isolated = Session::open(way.address()).await.unwrap();

    // Nobody is told: nothing is carried any more, that is all.
    way.set(Link { up: false, ..link });
    let session = sessions.remove(0);
    let unanswered = tokio::spawn(async move { session.value(&write("unanswered")).await });
    stage.until_role("fra", "unknown").await;
    let client = tokio::spawn({
        let address = stage.primary();
        async move { place(address).await }
    });
    let since = Instant::now();
    stage.lhr.promote().await.unwrap();
    for session in &mut sessions {
        session.closed().await.unwrap();
    }
    let gone = since.elapsed();
    println!("the sessions of a primary that nobody reaches were gone {gone:?} after another was told to take over");
    assert!(gone < LEFT_WITHIN, "{gone:?}");
    assert!(unanswered.await.unwrap().is_err(), "nobody acknowledged it");
    assert_eq!(client.await.unwrap(), "lhr primary", "who came meanwhile was held for it");
    stage.syd.follow(&stage.lhr).await.unwrap();
    let reached = Session::open(stage.primary()).await.unwrap();
    let names = reached.value(NAMES).await.unwrap();
    assert_eq!(names.matches("kept-").count(), 10, "{names}");

    // It comes back, and thinks that nothing has happened.
    way.set(link);
    stage.until_role("fra", "former").await;
    assert_eq!(isolated.place().await.unwrap(), "fra primary");
    assert_eq!(place(stage.primary()).await, "lhr primary");
    assert_eq!(stage.pop.count("edge_primary_disputed", &[("app", "db")]).await.unwrap(), 0);
    assert!(!reached.is_closed());
    drop(reached);
    stage.stop().await;
}

#[tokio::test]
async fn readers_leave_a_replica_whose_region_is_cut_off_and_return() {
    if there_is_none() {
        return;
    }
    let (wan, link) = (Wan::start(1).unwrap(), Link::half_of(Duration::from_millis(2)));
    let (servers, _way) = servers_through(ScratchPostgres::plan("fra"), &wan, link).await;
    // London's own way to everybody, and to its primary.
    let front = wan.tcp(servers[1].address(), link).unwrap();
    let back = wan.tcp(servers[0].address(), link).unwrap();
    servers[1].follow_through(back.address()).await.unwrap();
    let addresses = [servers[0].address(), front.address(), servers[2].address()];
    let stage = Stage::before(servers, addresses, &config("", "affinity_ttl = \"0s\"\n")).await;
    until_place(stage.replica(), "lhr replica").await;
    for path in [&front, &back] {
        path.set(Link { up: false, ..link });
    }
    stage.until_role("lhr", "unknown").await;
    assert_eq!(place(stage.replica()).await, "syd replica");
    let session = Session::open(stage.primary()).await.unwrap();
    assert_eq!(session.value(&write("meanwhile")).await.unwrap(), "meanwhile");
    for path in [&front, &back] {
        path.set(link);
    }
    until_place(stage.replica(), "lhr replica").await;
    let reader = Session::open(stage.replica()).await.unwrap();
    assert_eq!(reader.value(NAMES).await.unwrap(), "meanwhile");
    drop((reader, session));
    stage.stop().await;
}
