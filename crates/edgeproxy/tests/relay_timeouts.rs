//! Connections that the POP ends by itself, and when.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and tells what it measured")]

use std::time::{Duration, Instant};

use edgeproxy_world::{Backend, Behaviour, Client, Ending, Pop, Site};

mod support;

fn listener(setting: &str) -> String {
    let listener = format!("[[listener]]\nbind = \"127.0.0.1:0\"\n{setting}\n");
    format!("[[check]]\nkind = \"none\"\n{listener}")
}

async fn pair(setting: &str) -> (Site, Backend, Pop, Client, Client) {
    let site = support::site();
    let backend = Backend::start("b1", Behaviour::HandOver).unwrap();
    site.add_backend("fra", &backend).unwrap();
    let pop = site.start(&listener(setting)).await.unwrap();
    let client = pop.connect().await.unwrap();
    let server = backend.next().await.unwrap();
    (site, backend, pop, client, server)
}

async fn closed_by(pop: Pop, reason: &str) {
    let line = pop.logged(|line| line["event"] == "connection").await.unwrap();
    assert_eq!(line["close"], reason);
    assert_eq!(pop.count("edge_closed_total", &[("reason", reason)]).await.unwrap(), 1);
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_idles_too_long_is_reset_on_both_sides() {
    let (_site, _backend, pop, mut client, mut server) = pair("idle_timeout = \"500ms\"").await;
    // Bytes in either direction, each before the timeout is over, keep it.
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(800) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.send(b"x").await.unwrap();
        client.receive(1).await.unwrap();
    }
    let last = Instant::now();
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Reset));
    let idled = last.elapsed();
    println!("idle_timeout 500ms took {idled:?}");
    assert!(idled >= Duration::from_millis(500), "{idled:?}");
    assert!(idled < Duration::from_millis(1500), "{idled:?}");
    assert_eq!(server.ending().await.unwrap(), (vec![], Ending::Reset));
    closed_by(pop, "idle_timeout").await;
}

#[tokio::test]
async fn idleness_is_counted_from_the_last_byte() {
    let site = support::site();
    let backend = Backend::start("b1", Behaviour::Greet).unwrap();
    site.add_backend("fra", &backend).unwrap();
    let pop = site.start("[[listener]]\nbind = \"127.0.0.1:0\"\nidle_timeout = \"500ms\"\n").await.unwrap();
    let mut client = pop.connect().await.unwrap();
    client.line().await.unwrap();
    let last = Instant::now();
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Reset));
    let idled = last.elapsed();
    println!("idle_timeout 500ms took {idled:?}");
    assert!(idled < Duration::from_millis(1500), "{idled:?}");
    closed_by(pop, "idle_timeout").await;
}

#[tokio::test]
async fn a_reader_that_has_stopped_reading_is_idle_too() {
    let (_site, _backend, pop, mut client, server) = pair("idle_timeout = \"500ms\"").await;
    // More than all buffers on the way hold; the server never reads.
    let pushed = client.send(&vec![0; 64 << 20]).await.unwrap_err();
    assert_eq!(pushed.kind(), std::io::ErrorKind::ConnectionReset);
    drop(server);
    closed_by(pop, "idle_timeout").await;
}

#[tokio::test]
async fn a_half_closed_connection_has_a_timeout_of_its_own() {
    let (_site, _backend, pop, mut client, mut server) = pair("half_close_timeout = \"400ms\"").await;
    // Open both ways it may idle.
    tokio::time::sleep(Duration::from_millis(900)).await;
    client.send(b"still here").await.unwrap();
    assert_eq!(server.receive(10).await.unwrap(), b"still here");
    client.finish().await.unwrap();
    assert_eq!(server.ending().await.unwrap(), (vec![], Ending::Finished));
    let finished = Instant::now();
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Reset));
    let took = finished.elapsed();
    println!("half_close_timeout 400ms took {took:?}");
    assert!(took >= Duration::from_millis(400) && took < Duration::from_millis(1400), "{took:?}");
    closed_by(pop, "half_close_timeout").await;
}

#[tokio::test]
async fn a_connection_ends_at_its_maximum_lifetime_however_busy() {
    let (_site, _backend, pop, mut client, mut server) = pair("max_lifetime = \"600ms\"").await;
    let started = Instant::now();
    let reset = loop {
        if let Err(error) = client.send(b"busy").await {
            break error;
        }
        match server.receive(4).await {
            Ok(bytes) => assert_eq!(bytes, b"busy"),
            Err(error) => break error,
        }
    };
    let age = started.elapsed();
    println!("max_lifetime 600ms took {age:?}");
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(age >= Duration::from_millis(550) && age < Duration::from_millis(1600), "{age:?}");
    closed_by(pop, "max_lifetime").await;
}

#[tokio::test]
async fn an_idle_connection_ends_at_its_maximum_lifetime() {
    let (_site, _backend, pop, mut client, mut server) = pair("max_lifetime = \"900ms\"").await;
    let started = Instant::now();
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Reset));
    assert_eq!(server.ending().await.unwrap(), (vec![], Ending::Reset));
    let age = started.elapsed();
    assert!(age >= Duration::from_millis(800) && age < Duration::from_millis(1900), "{age:?}");
    closed_by(pop, "max_lifetime").await;
}

#[tokio::test]
async fn a_reader_that_pauses_is_not_taken_for_one_that_is_gone() {
    // Its machine answers every probe of the full window: it is there, and may take its time. (With a user timeout set,
    // Linux would count the pause against it, which is why none is set by default.)
    let (_site, _backend, pop, mut client, mut server) = pair("").await;
    let bytes = vec![7; 32 << 20];
    let sending = async {
        client.send(&bytes).await.unwrap();
        client.finish().await.unwrap();
    };
    let reading = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        server.ending().await.unwrap()
    };
    let ((), (received, ending)) = tokio::join!(sending, reading);
    assert_eq!((received.len(), ending), (bytes.len(), Ending::Finished));
    drop(server);
    closed_by(pop, "client").await;
}
