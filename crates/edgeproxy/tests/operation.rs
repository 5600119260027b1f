//! What an operator relies on: log lines, counters, health, and one copy per port.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and tells what it measured")]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use edgeproxy_world::{Backend, Behaviour, Client, LONG, Pop, Site, eventually};
use rustix::process::Signal;
use serde_json::Value;

mod support;

const UNCHECKED: &str = "[[check]]\nkind = \"none\"\n";

async fn echo(toml: &str) -> (Site, Backend, Pop) {
    let site = support::site();
    let backend = Backend::start("b1", Behaviour::Echo).unwrap();
    site.add_backend("fra", &backend).unwrap();
    let pop = site.start(&format!("{UNCHECKED}{toml}")).await.unwrap();
    (site, backend, pop)
}

/// A client that sends `bytes` and has them back.
async fn visit(address: std::net::SocketAddr, bytes: &[u8]) -> Client {
    let mut client = Client::connect(address).await.unwrap();
    client.exchange(bytes).await.unwrap();
    client.finish().await.unwrap();
    client.ending().await.unwrap();
    client
}

fn keys(line: &Value) -> Vec<&str> {
    line.as_object().unwrap().keys().map(String::as_str).collect()
}

fn sorted<const N: usize>(mut names: [&str; N]) -> Vec<&str> {
    names.sort_unstable();
    names.to_vec()
}

#[tokio::test]
async fn the_line_of_a_connection_says_everything_about_it() {
    let (_site, backend, pop) = echo("").await;
    let client = visit(pop.address(), b"twelve bytes").await;
    let line = pop.logged_of(client.address()).await.unwrap();
    let names = [
        "ts",
        "event",
        "id",
        "pop",
        "listener",
        "app",
        "client",
        "via",
        "country",
        "backend",
        "backend_addr",
        "region",
        "band",
        "score",
        "affinity",
        "attempts",
        "queue_ms",
        "connect_ms",
        "bytes_in",
        "bytes_out",
        "duration_ms",
        "close",
    ];
    let mut found = keys(&line);
    found.sort_unstable();
    assert_eq!(found, sorted(names));
    for (name, value) in [
        ("event", Value::from("connection")),
        ("pop", Value::from("fra")),
        ("listener", Value::from(pop.address().to_string())),
        ("app", Value::from("web")),
        ("client", Value::from(client.address().to_string())),
        ("via", Value::Null),
        ("country", Value::Null),
        ("backend", Value::from("b1")),
        ("backend_addr", Value::from(backend.address().to_string())),
        ("region", Value::from("fra")),
        ("band", Value::from(2)),
        ("affinity", Value::from(false)),
        ("attempts", Value::from(1)),
        ("queue_ms", Value::from(0.0)),
        ("bytes_in", Value::from(12)),
        ("bytes_out", Value::from(12)),
        ("close", Value::from("client")),
    ] {
        assert_eq!(line[name], value, "{name}");
    }
    let number = |name: &str| line[name].as_f64().unwrap();
    assert!(number("connect_ms") > 0.0 && number("connect_ms") <= number("duration_ms"), "{line}");
    assert!((number("score") - 200.0).abs() < 0.01, "{line}");
    let id = line["id"].as_str().unwrap();
    assert!(id.strip_prefix("fra-").is_some_and(|hex| u64::from_str_radix(hex, 16).is_ok()), "{id}");
    let ts = line["ts"].as_str().unwrap();
    assert!(ts.len() == "2026-11-21T06:40:00.123Z".len() && ts.starts_with("20") && ts.ends_with('Z'), "{ts}");
    let second = visit(pop.address(), b"x").await;
    assert_ne!(pop.logged_of(second.address()).await.unwrap()["id"], line["id"]);
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn the_line_of_a_refusal_says_why() {
    let (_site, mut backend, pop) = echo("").await;
    backend.stop().await;
    let mut client = pop.connect().await.unwrap();
    client.ending().await.unwrap();
    let line = pop.logged_of(client.address()).await.unwrap();
    let names = [
        "ts",
        "event",
        "pop",
        "listener",
        "client",
        "via",
        "country",
        "reason",
        "attempts",
        "queue_ms",
        "duration_ms",
        "suppressed",
    ];
    let mut found = keys(&line);
    found.sort_unstable();
    assert_eq!(found, sorted(names));
    assert_eq!((&line["event"], &line["pop"]), (&Value::from("refused"), &Value::from("fra")));
    assert_eq!((&line["reason"], &line["attempts"]), (&Value::from("all_tried"), &Value::from(1)));
    assert_eq!((&line["listener"], &line["suppressed"]), (&Value::from(pop.address().to_string()), &Value::from(0)));
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn refusals_are_all_counted_and_some_of_them_logged() {
    let toml = "[log]\nrefusals_per_second = 2\n";
    let site = support::site();
    let pop = site.start(&format!("{UNCHECKED}{toml}")).await.unwrap();
    for _ in 0..50 {
        let mut client = pop.connect().await.unwrap();
        client.ending().await.unwrap();
    }
    pop.until_count("edge_refused_total", &[("reason", "no_backend")], 50).await.unwrap();
    // The first line of a later second tells how many were left out before.
    let mut refused = 50_u64;
    let lines = eventually("the number left out", LONG, async || {
        let mut client = pop.connect().await.unwrap();
        client.ending().await.unwrap();
        refused += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let lines = pop.connections.all_json();
        let suppressed: u64 = lines.iter().map(|line| line["suppressed"].as_u64().unwrap()).sum();
        let logged = u64::try_from(lines.len()).unwrap();
        Ok((suppressed > 0 && suppressed + logged == refused).then_some(logged))
    })
    .await
    .unwrap();
    println!("{lines} lines for {refused} refusals");
    assert!(lines < refused / 2, "{lines} of {refused}");
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn counters_balance() {
    let (_site, mut backend, pop) = echo("[proxy]\nmax_connections = 8\n").await;
    for round in 0..10 {
        visit(pop.address(), &[round; 100]).await;
    }
    pop.connect().await.unwrap().abort().unwrap();
    let mut held = Vec::new();
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    for _ in 0..8 {
        let mut client = pop.connect().await.unwrap();
        client.exchange(b"held").await.unwrap();
        held.push(client);
    }
    for _ in 0..5 {
        pop.connect().await.unwrap().ending().await.unwrap();
    }
    backend.behave(Behaviour::Deaf);
    drop(held.split_off(3));
    pop.until_count("edge_connections_current", &[], 3).await.unwrap();
    backend.stop().await;
    pop.connect().await.unwrap().ending().await.unwrap();
    pop.until_count("edge_refused_total", &[], 6).await.unwrap();
    balanced(&pop).await;
    drop(held);
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    balanced(&pop).await;
    let closed = usize::try_from(pop.count("edge_closed_total", &[]).await.unwrap()).unwrap();
    let lines = eventually("a line of each", LONG, async || {
        let lines = pop.connections.all_json();
        let ended = lines.iter().filter(|line| line["event"] == "connection").count();
        Ok((ended == closed).then_some(lines))
    });
    let lines = lines.await.unwrap();
    let sum = |field: &str| lines.iter().filter_map(|line| line[field].as_i64()).sum::<i64>();
    assert_eq!(pop.count("edge_bytes_total", &[("direction", "in")]).await.unwrap(), sum("bytes_in"));
    assert_eq!(pop.count("edge_bytes_total", &[("direction", "out")]).await.unwrap(), sum("bytes_out"));
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

/// Every client that came is either here, or was turned away, or has ended.
async fn balanced(pop: &Pop) {
    let mut last = [0; 4];
    let balance = eventually("a balance", Duration::from_secs(5), async || {
        let count = async |name: &str| pop.count(name, &[]).await;
        last = [
            count("edge_connections_total").await?,
            count("edge_closed_total").await?,
            count("edge_refused_total").await?,
            count("edge_connections_current").await?,
        ];
        Ok((last[0] == last[1] + last[2] + last[3]).then_some(()))
    });
    assert!(balance.await.is_ok(), "accepted, closed, refused, current: {last:?}");
}

#[tokio::test]
async fn no_descriptor_is_left_behind() {
    let (_site, _backend, pop) = echo("").await;
    visit(pop.address(), b"warm").await;
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    let before = pop.count("process_open_fds", &[]).await.unwrap();
    for round in 0..200 {
        let client = visit(pop.address(), b"hello").await;
        if round % 2 == 0 {
            client.abort().unwrap();
        }
        pop.connect().await.unwrap().abort().unwrap();
    }
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    let after = eventually("descriptors", LONG, async || {
        let after = pop.count("process_open_fds", &[]).await?;
        // One pipe pair per core may stay in its pool, and the API has a connection or two.
        Ok((after <= before + 8).then_some(after))
    });
    println!("{before} descriptors before, {} after", after.await.unwrap());
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn health_and_readiness_are_there_from_the_start() {
    let (_site, _backend, pop) = echo("").await;
    assert_eq!(pop.get("/healthz").await.unwrap().0, 200);
    let (status, body) = pop.get("/readyz").await.unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &body["ready"], &body["reasons"]),
        (200, &Value::from(true), &Value::from(Vec::<Value>::new()))
    );
    assert_eq!(pop.count("edge_ready", &[]).await.unwrap(), 1);
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_second_copy_on_the_same_port_is_told_so() {
    let (_site, _backend, pop) = echo("").await;
    let other = support::site();
    let bind = format!("[[listener]]\nbind = \"{}\"\n", pop.address());
    let (status, said) = other.plan(&bind).run().await.unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&pop.address().to_string()) && said.contains("another process listens there"), "{said}");
    visit(pop.address(), b"the first serves on").await;

    let (status, said) = other.plan("").admin(pop.admin()).run().await.unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&pop.admin().to_string()) && said.contains("another process listens there"), "{said}");
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_terminal_that_closes_cuts_nobody() {
    let (_site, _backend, pop) = echo("").await;
    let mut client = pop.connect().await.unwrap();
    client.exchange(b"before").await.unwrap();
    pop.signal(Signal::HUP).unwrap();
    let is_told = |line: &Value| line["message"].as_str().is_some_and(|message| message.starts_with("SIGHUP"));
    pop.log.wait_for("a word on it", LONG, is_told).await.unwrap();
    client.exchange(b"after").await.unwrap();
    drop(client);
    visit(pop.address(), b"newcomers too").await;
    pop.stop(LONG).await.unwrap();
}

#[tokio::test]
async fn every_listener_with_port_0_has_a_port_of_its_own() {
    let one = "[[listener]]\nbind = \"127.0.0.1:0\"\n";
    let (_site, _backend, pop) = echo(&one.repeat(3)).await;
    let mut ports: Vec<u16> = pop.addresses().iter().map(std::net::SocketAddr::port).collect();
    for address in pop.addresses() {
        let client = visit(*address, b"here too").await;
        assert_eq!(pop.logged_of(client.address()).await.unwrap()["listener"], address.to_string());
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 3);
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn the_connection_log_may_go_to_a_file() {
    let (site, _backend, pop) = echo("[log]\nconnections = \"connections.log\"\n").await;
    let client = visit(pop.address(), b"to the file").await;
    let read = || std::fs::read_to_string(site.file("connections.log")).unwrap_or_default();
    eventually("a line in the file", LONG, async || Ok(read().ends_with('\n').then_some(()))).await.unwrap();
    let line: Value = serde_json::from_str(read().trim()).unwrap();
    assert_eq!(line["client"], client.address().to_string());
    let mode = std::fs::metadata(site.file("connections.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o007, 0, "it holds addresses of clients: {mode:o}");
    visit(pop.address(), b"the last one").await;
    let connections = pop.connections.clone();
    pop.stop(Duration::from_secs(5)).await.unwrap();
    assert_eq!(read().lines().count(), 2, "what was still in memory is written at the end");
    assert_eq!(connections.all(), Vec::<String>::new());
}

#[tokio::test]
async fn a_table_that_is_not_there_is_named() {
    let site = support::site();
    std::fs::remove_file(site.db()).unwrap();
    let (status, said) = site.plan("").run().await.unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("routing.db"), "{said}");
}
