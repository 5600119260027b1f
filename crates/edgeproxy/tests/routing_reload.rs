//! Changes of the routing table while clients come: when they are served, and what a bad table does.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic, and tells what it measured"
)]

use std::time::{Duration, Instant};

use edgeproxy_route::RawBackend;
use edgeproxy_world::{Backend, Behaviour, Client, LONG, Pop, Site, eventually};
use serde_json::Value;

mod support;

const LISTENER: &str = "[[check]]\nkind = \"none\"\n[[listener]]\nbind = \"127.0.0.1:0\"\naffinity_ttl = \"0s\"\n";

/// A POP in fra with backends in fra and cdg, of no country.
async fn two() -> (Site, Vec<Backend>, Pop) {
    let site = support::site();
    let mut backends = Vec::new();
    for region in ["fra", "cdg"] {
        let backend = Backend::start(region, Behaviour::Greet).unwrap();
        site.add_backend(region, &backend).unwrap();
        backends.push(backend);
    }
    site.sql("UPDATE backends SET country = NULL").unwrap();
    let pop = site.start(LISTENER).await.unwrap();
    (site, backends, pop)
}

async fn reached(pop: &Pop) -> String {
    let mut client = pop.connect().await.unwrap();
    client.line().await.unwrap()
}

/// How long it takes until clients are served by this backend; until then the other one has to.
async fn until_reached(pop: &Pop, wanted: &str) -> Duration {
    let started = Instant::now();
    eventually(&format!("clients at {wanted}"), LONG, async || Ok((reached(pop).await == wanted).then_some(())))
        .await
        .unwrap_or_else(|error| panic!("{error}; {}", pop.log.tail()));
    started.elapsed()
}

#[tokio::test]
async fn an_update_by_the_sqlite_tool_is_served_long_before_the_next_poll() {
    let (site, _backends, pop) = two().await;
    let mut slowest = Duration::ZERO;
    for (sql, wanted) in [
        ("UPDATE backends SET weight = 0 WHERE id = 'fra'", "cdg"),
        ("UPDATE backends SET weight = 1 WHERE id = 'fra'", "fra"),
        ("UPDATE backends SET healthy = 0 WHERE id = 'fra'", "cdg"),
        ("UPDATE backends SET healthy = 1 WHERE id = 'fra'", "fra"),
        ("UPDATE backends SET drained = 1 WHERE id = 'fra'", "cdg"),
        ("UPDATE backends SET drained = 0 WHERE id = 'fra'", "fra"),
        ("UPDATE backends SET deleted = 1 WHERE id = 'fra'", "cdg"),
        ("UPDATE backends SET deleted = 0 WHERE id = 'fra'", "fra"),
        ("UPDATE backends SET region = 'syd' WHERE id = 'fra'", "cdg"),
    ] {
        site.sql(sql).unwrap();
        let took = until_reached(&pop, wanted).await;
        println!("{took:>12.1?}  {sql}");
        slowest = slowest.max(took);
    }
    println!("slowest: {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "the default of routing.poll: {slowest:?}");
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_connection_outlives_the_removal_of_its_backend_from_the_table() {
    let (site, backends, pop) = two().await;
    let mut client = pop.connect().await.unwrap();
    assert_eq!(client.line().await.unwrap(), "fra");
    site.sql("DELETE FROM backends WHERE id = 'fra'").unwrap();
    until_reached(&pop, "cdg").await;
    client.exchange(b"still served").await.unwrap();
    assert_eq!(backends[0].current(), 1);
    client.finish().await.unwrap();
    client.ending().await.unwrap();
    let line = pop.logged_of(client.address()).await.unwrap();
    assert_eq!((line["backend"].as_str(), line["close"].as_str()), (Some("fra"), Some("client")));
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_row_that_breaks_a_rule_is_rejected_by_name_and_the_others_serve() {
    let (site, _backends, pop) = two().await;
    let port = site.sql("SELECT port FROM backends WHERE id = 'fra'").unwrap();
    for (change, field, back) in [
        ("port = 0", "port", format!("port = {port}")),
        ("wg_ip = 'localhost'", "wg_ip", "wg_ip = '127.0.0.1'".to_owned()),
        ("weight = -1", "weight", "weight = 1".to_owned()),
        ("hard_limit = 'many'", "hard_limit", "hard_limit = 100".to_owned()),
    ] {
        site.sql(&format!("UPDATE backends SET {change} WHERE id = 'fra'")).unwrap();
        until_reached(&pop, "cdg").await;
        let line = pop
            .log
            .wait_for("the rejected row", LONG, |line| line["message"] == "backend rejected" && line["field"] == field)
            .await
            .unwrap();
        assert_eq!(line["id"], "fra");
        println!("{field}: {}", line["rule"]);
        assert!(!line["rule"].as_str().unwrap().is_empty());
        assert_eq!(pop.count("edge_table_rejected_rows", &[]).await.unwrap(), 1);
        assert_eq!(pop.count("edge_table_backends", &[]).await.unwrap(), 1);
        site.sql(&format!("UPDATE backends SET {back} WHERE id = 'fra'")).unwrap();
        until_reached(&pop, "fra").await;
    }
    assert_eq!(pop.count("edge_table_rejected_rows", &[]).await.unwrap(), 0);
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

/// Waits for a failed reload; the POP serves on as before.
async fn not_reloaded(pop: &Pop, failures: i64) {
    pop.until_count("edge_table_reloads_total", &[("result", "error")], failures).await.unwrap();
    let is_told = |line: &Value| {
        line["message"] == "routing table not reloaded, the last good one keeps serving"
            && line["level"] == "ERROR"
            && line["error"].as_str().is_some_and(|error| error.contains("routing.db"))
    };
    eventually("the error in the log", LONG, async || {
        let told = pop.log.all_json().iter().filter(|line| is_told(line)).count();
        Ok((told == usize::try_from(failures).unwrap()).then_some(()))
    })
    .await
    .unwrap_or_else(|error| panic!("{error}; {}", pop.log.tail()));
    for _ in 0..5 {
        assert_eq!(reached(pop).await, "fra");
    }
    assert_eq!(pop.get("/readyz").await.unwrap().0, 200);
}

#[tokio::test]
async fn a_file_that_is_no_table_changes_nothing_and_a_good_one_is_taken_again() {
    let (site, _backends, pop) = two().await;
    let good = site.file("good.db");
    site.sql(&format!("PRAGMA wal_checkpoint(TRUNCATE); VACUUM INTO '{}'", good.display())).unwrap();

    let garbage = site.file("garbage.db");
    std::fs::write(&garbage, b"<html>404 Not Found</html>".repeat(1000)).unwrap();
    std::fs::rename(&garbage, site.db()).unwrap();
    not_reloaded(&pop, 1).await;

    let whole = std::fs::read(&good).unwrap();
    std::fs::write(&garbage, &whole[..whole.len() / 2]).unwrap();
    std::fs::rename(&garbage, site.db()).unwrap();
    not_reloaded(&pop, 2).await;

    std::fs::remove_file(site.db()).unwrap();
    not_reloaded(&pop, 3).await;

    std::fs::rename(&good, site.db()).unwrap();
    pop.until_count("edge_table_reloads_total", &[("result", "ok")], 2).await.unwrap();
    site.sql("UPDATE backends SET weight = 0 WHERE id = 'fra'").unwrap();
    until_reached(&pop, "cdg").await;
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn an_empty_table_is_taken_for_what_it_is() {
    let (site, _backends, pop) = two().await;
    site.sql("DELETE FROM backends").unwrap();
    pop.until_count("edge_table_backends", &[], 0).await.unwrap();
    let mut client = pop.connect().await.unwrap();
    client.ending().await.unwrap();
    assert_eq!(pop.logged_of(client.address()).await.unwrap()["reason"], "no_backend");
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn clients_do_not_notice_that_the_table_changes_all_the_time() {
    let (site, backends, pop) = two().await;
    let address = pop.address();
    let visits = tokio::spawn(async move {
        for number in 0..1500_u32 {
            let mut client = Client::connect(address).await?;
            client.line().await?;
            client.exchange(&number.to_be_bytes()).await?;
            client.finish().await?;
            client.ending().await?;
        }
        std::io::Result::Ok(())
    });
    let mut changes = 0;
    while !visits.is_finished() {
        let drained = if changes % 2 == 0 { Some(1) } else { Some(0) };
        site.set(["fra", "cdg"][changes / 2 % 2], RawBackend { drained, ..RawBackend::default() }).unwrap();
        changes += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    visits.await.unwrap().unwrap();
    let served = backends.iter().map(Backend::total).collect::<Vec<_>>();
    println!("{changes} changes, served by fra and cdg: {served:?}");
    assert_eq!(served.iter().sum::<usize>(), 1500);
    assert!(served.iter().all(|served| *served > 0), "{served:?}");
    assert_eq!(pop.count("edge_refused_total", &[]).await.unwrap(), 0);
    pop.stop(Duration::from_secs(5)).await.unwrap();
}
