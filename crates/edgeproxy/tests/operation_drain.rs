//! The end of a POP: what runs may finish, nobody new comes, and there is a deadline.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic, and tells what it measured"
)]

use std::time::{Duration, Instant};

use edgeproxy_world::{Backend, Behaviour, Client, Ending, LONG, Pop, Site, eventually};
use rustix::process::Signal;
use serde_json::Value;

mod support;

async fn echo(proxy: &str) -> (Site, Backend, Pop) {
    let site = support::site();
    let backend = Backend::start("b1", Behaviour::Echo).unwrap();
    site.add_backend("fra", &backend).unwrap();
    let pop = site.start(&format!("[[check]]\nkind = \"none\"\n[proxy]\n{proxy}\n")).await.unwrap();
    (site, backend, pop)
}

async fn served(pop: &Pop) -> Client {
    let mut client = pop.connect().await.unwrap();
    client.exchange(b"hello").await.unwrap();
    client
}

/// Waits until `/readyz` says no, and why.
async fn unready(pop: &Pop) {
    let body = eventually("not being ready", LONG, async || {
        let (status, body) = pop.get("/readyz").await?;
        Ok((status == 503).then_some(body))
    });
    let body = body.await.unwrap_or_else(|error| panic!("{error}; {}", pop.log.tail()));
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["ready"], false);
    assert_eq!(body["reasons"], Value::from(vec!["draining"]));
    assert_eq!(pop.count("edge_ready", &[]).await.unwrap(), 0);
    assert_eq!(pop.get("/healthz").await.unwrap().0, 200, "alive all the same");
}

/// Waits until nobody new is let in.
async fn closed(pop: &Pop) {
    eventually("closed doors", LONG, async || {
        let refused = Client::connect(pop.address()).await.err();
        Ok(refused.filter(|error| error.kind() == std::io::ErrorKind::ConnectionRefused).map(drop))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn at_sigterm_what_runs_may_finish_and_nobody_new_comes() {
    for signal in [Signal::TERM, Signal::INT] {
        let (_site, _backend, mut pop) = echo("").await;
        let mut client = served(&pop).await;
        pop.signal(signal).unwrap();
        unready(&pop).await;
        closed(&pop).await;
        client.exchange(b"still here").await.unwrap();
        assert_eq!(pop.count("edge_connections_current", &[]).await.unwrap(), 1);
        client.finish().await.unwrap();
        assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Finished));
        assert_eq!(pop.exit().await.unwrap().code(), Some(0));
        let line = pop.logged_of(client.address()).await.unwrap();
        assert_eq!((&line["close"], &line["bytes_in"]), (&Value::from("client"), &Value::from(15)));
    }
}

#[tokio::test]
async fn a_pop_without_connections_ends_at_once() {
    let (_site, _backend, mut pop) = echo("").await;
    drop(served(&pop).await);
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    let asked = Instant::now();
    pop.signal(Signal::TERM).unwrap();
    assert_eq!(pop.exit().await.unwrap().code(), Some(0));
    println!("ended after {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(2));
    pop.logged(|line| line["close"] == "client").await.unwrap();
}

#[tokio::test]
async fn at_the_deadline_the_rest_is_cut() {
    let (_site, backend, mut pop) = echo("drain_timeout = \"500ms\"").await;
    let mut idle = served(&pop).await;
    let mut busy = served(&pop).await;
    let asked = Instant::now();
    pop.signal(Signal::TERM).unwrap();
    let reset = loop {
        if let Err(error) = busy.exchange(b"busy to the end").await {
            break error;
        }
    };
    let took = asked.elapsed();
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(2), "{took:?}");
    assert_eq!(idle.ending().await.unwrap(), (vec![], Ending::Reset));
    assert_eq!(pop.exit().await.unwrap().code(), Some(0));
    for client in [&idle, &busy] {
        let line = pop.logged_of(client.address()).await.unwrap();
        assert_eq!(line["close"], "drain_deadline");
    }
    eventually("the backend's connections", LONG, async || Ok((backend.current() == 0).then_some(()))).await.unwrap();
}

#[tokio::test]
async fn before_it_closes_its_doors_a_pop_may_say_so_for_a_while() {
    let (_site, _backend, mut pop) = echo("drain_delay = \"1s\"").await;
    let asked = Instant::now();
    pop.signal(Signal::TERM).unwrap();
    unready(&pop).await;
    while asked.elapsed() < Duration::from_millis(600) {
        drop(served(&pop).await);
    }
    closed_or_gone(&mut pop).await;
    assert!(asked.elapsed() >= Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(pop.exit().await.unwrap().code(), Some(0));
}

/// With nobody left the process ends right after its doors close.
async fn closed_or_gone(pop: &mut Pop) {
    closed(pop).await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let (_site, _backend, mut pop) = echo("drain_timeout = \"1m\"").await;
    let mut client = served(&pop).await;
    pop.signal(Signal::TERM).unwrap();
    closed(&pop).await;
    let asked = Instant::now();
    pop.signal(Signal::TERM).unwrap();
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Reset), "a part must not pass for the whole");
    assert_eq!(pop.exit().await.unwrap().code(), Some(0));
    println!("ended {:?} after the second signal", asked.elapsed());
    let line = pop.logged_of(client.address()).await.unwrap();
    assert_eq!(line["close"], "drain_deadline");
}

#[tokio::test]
async fn clients_that_wait_in_a_queue_are_sent_away_when_a_drain_begins() {
    let site = support::site();
    let backend = Backend::start("b1", Behaviour::Greet).unwrap();
    let one = edgeproxy_route::RawBackend {
        hard_limit: Some(1),
        soft_limit: Some(1),
        ..edgeproxy_world::row("b1", "fra", backend.address())
    };
    site.add(one).unwrap();
    let listener = "[[listener]]\nbind = \"127.0.0.1:0\"\nqueue = 5\nqueue_timeout = \"1m\"\n";
    let mut pop = site.start(&format!("[[check]]\nkind = \"none\"\n{listener}")).await.unwrap();
    let mut first = pop.connect().await.unwrap();
    assert_eq!(first.line().await.unwrap(), "b1");
    let mut waiting = pop.connect().await.unwrap();
    pop.until_count("edge_queue_waiting", &[], 1).await.unwrap();
    pop.signal(Signal::TERM).unwrap();
    assert_eq!(waiting.ending().await.unwrap(), (vec![], Ending::Reset));
    assert_eq!(pop.logged_of(waiting.address()).await.unwrap()["reason"], "draining");
    first.exchange(b"still served").await.unwrap();
    drop(first);
    assert_eq!(pop.exit().await.unwrap().code(), Some(0));
}
