//! Backends that cannot be reached: the client is served elsewhere, or told at once that it cannot be.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and tells what it measured")]

use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdStream};
use std::time::{Duration, Instant};

use edgeproxy_route::RawBackend;
use edgeproxy_world::{Backend, Behaviour, Client, Ending, LONG, Pop, Site, row};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

mod support;

const UNCHECKED: &str = "[[check]]\nkind = \"none\"\n";

fn listener(settings: &str) -> String {
    format!("{UNCHECKED}[[listener]]\nbind = \"127.0.0.1:0\"\naffinity_ttl = \"0s\"\n{settings}\n")
}

/// Backends of these regions; a POP in fra prefers them in the order fra, cdg, lhr.
async fn backends(site: &Site, regions: &[&str]) -> Vec<Backend> {
    let mut backends = Vec::new();
    for region in regions {
        let backend = Backend::start(region, Behaviour::Greet).unwrap();
        site.add(RawBackend { country: Some(String::new()), ..row(region, region, backend.address()) }).unwrap();
        backends.push(backend);
    }
    backends
}

/// A client that is served: by whom, and its line in the log.
async fn visit(pop: &Pop) -> (String, Value) {
    let mut client = pop.connect().await.unwrap();
    let backend = client.line().await.unwrap();
    client.exchange(b"no error to be seen").await.unwrap();
    let address = client.address();
    drop(client);
    (backend, pop.logged_of(address).await.unwrap())
}

/// A client that is refused: its line in the log. It hears no byte.
async fn refused(pop: &Pop) -> Value {
    let mut client = pop.connect().await.unwrap();
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Reset));
    let address = client.address();
    let line = pop.logged_of(address).await.unwrap();
    assert_eq!(line["event"], "refused", "{line}");
    line
}

async fn stop(pop: Pop) {
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_backend_that_is_down_costs_its_client_nothing_but_time() {
    let site = support::site();
    let mut backends = backends(&site, &["fra", "cdg"]).await;
    let pop = site.start(&listener("")).await.unwrap();
    let (reached, line) = visit(&pop).await;
    assert_eq!((reached.as_str(), &line["attempts"]), ("fra", &Value::from(1)));
    backends[0].stop().await;
    let (reached, line) = visit(&pop).await;
    assert_eq!(reached, "cdg");
    assert_eq!((&line["attempts"], &line["backend"]), (&Value::from(2), &Value::from("cdg")));
    assert_eq!(pop.count("edge_retries_total", &[]).await.unwrap(), 1);
    assert_eq!(pop.count("edge_connect_failures_total", &[("error", "refused")]).await.unwrap(), 1);
    assert_eq!(pop.count("edge_refused_total", &[]).await.unwrap(), 0);
    backends[0].resume().unwrap();
    let (reached, line) = visit(&pop).await;
    assert_eq!((reached.as_str(), &line["attempts"]), ("fra", &Value::from(1)));
    stop(pop).await;
}

/// An address where connects are neither answered nor refused: its backlog is full.
struct Silent {
    address: SocketAddr,
    _listener: Socket,
    _filling: Vec<Socket>,
}

impl Silent {
    fn new() -> Self {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        let listener = socket();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let filling = std::iter::repeat_with(|| {
            let socket = socket();
            socket.set_nonblocking(true).unwrap();
            // In progress: the kernel completes the first one or two, and drops what the rest sends.
            socket.connect(&address.into()).unwrap_err();
            socket
        });
        Self { address, _filling: filling.take(4).collect(), _listener: listener }
    }
}

#[tokio::test]
async fn a_backend_that_does_not_answer_is_given_up_after_the_connect_timeout() {
    let site = support::site();
    let silent = Silent::new();
    assert!(StdStream::connect_timeout(&silent.address, Duration::from_millis(100)).is_err(), "it is silent");
    site.add(RawBackend { country: Some(String::new()), ..row("silent", "fra", silent.address) }).unwrap();
    let _backends = backends(&site, &["cdg"]).await;
    let pop = site.start(&listener("connect_timeout = \"250ms\"")).await.unwrap();
    let started = Instant::now();
    let (reached, line) = visit(&pop).await;
    let took = started.elapsed();
    assert_eq!((reached.as_str(), &line["attempts"]), ("cdg", &Value::from(2)));
    println!("served elsewhere after {took:?}");
    assert!(took >= Duration::from_millis(250), "{took:?}");
    assert_eq!(pop.count("edge_connect_failures_total", &[("error", "timeout")]).await.unwrap(), 1);
    stop(pop).await;
}

#[tokio::test]
async fn all_connects_of_a_client_together_have_a_deadline() {
    let site = support::site();
    let silent = [Silent::new(), Silent::new(), Silent::new()];
    for (number, silent) in silent.iter().enumerate() {
        site.add(row(&format!("silent{number}"), "fra", silent.address)).unwrap();
    }
    let pop = site.start(&listener("connect_timeout = \"300ms\"\nconnect_deadline = \"450ms\"")).await.unwrap();
    let line = refused(&pop).await;
    assert_eq!((&line["reason"], &line["attempts"]), (&Value::from("all_tried"), &Value::from(2)));
    let took = line["duration_ms"].as_f64().unwrap();
    assert!(took >= 440.0, "{line}");
    stop(pop).await;
}

#[tokio::test]
async fn when_every_backend_refuses_so_does_the_proxy() {
    let site = support::site();
    let mut backends = backends(&site, &["fra", "cdg"]).await;
    for backend in &mut backends {
        backend.stop().await;
    }
    let pop = site.start(&listener("")).await.unwrap();
    let line = refused(&pop).await;
    assert_eq!((&line["reason"], &line["attempts"]), (&Value::from("all_tried"), &Value::from(2)));
    assert_eq!(pop.count("edge_refused_total", &[("reason", "all_tried")]).await.unwrap(), 1);
    stop(pop).await;
}

#[tokio::test]
async fn no_more_backends_are_tried_than_is_allowed() {
    let site = support::site();
    let mut backends = backends(&site, &["fra", "cdg", "lhr"]).await;
    for backend in &mut backends[..2] {
        backend.stop().await;
    }
    let pop = site.start(&listener("connect_attempts = 2")).await.unwrap();
    let line = refused(&pop).await;
    assert_eq!((&line["reason"], &line["attempts"]), (&Value::from("all_tried"), &Value::from(2)));
    assert_eq!(backends[2].total(), 0);
    stop(pop).await;
}

#[tokio::test]
async fn without_any_backend_that_takes_clients_they_are_refused() {
    let site = support::site();
    let pop = site.start(&listener("")).await.unwrap();
    assert_eq!(refused(&pop).await["reason"], "no_backend");
    let backends = backends(&site, &["fra", "cdg"]).await;
    site.set("fra", RawBackend { healthy: Some(0), ..RawBackend::default() }).unwrap();
    site.set("cdg", RawBackend { weight: Some(0), ..RawBackend::default() }).unwrap();
    pop.until_count("edge_table_backends", &[], 2).await.unwrap();
    edgeproxy_world::eventually("the last change", edgeproxy_world::LONG, async || {
        let taking = pop.log.all_json().into_iter().rfind(|line| line["message"] == "routing table loaded");
        Ok(taking.filter(|line| line["backends"] == 2 && line["taking_clients"] == 0).map(drop))
    })
    .await
    .unwrap();
    let line = refused(&pop).await;
    assert_eq!((&line["reason"], &line["attempts"]), (&Value::from("no_backend"), &Value::from(0)));
    assert_eq!(backends.iter().map(Backend::total).sum::<usize>(), 0);
    stop(pop).await;
}

#[tokio::test]
async fn failed_connects_eject_a_backend_and_a_trial_brings_it_back() {
    let site = support::site();
    let mut backends = backends(&site, &["fra", "cdg"]).await;
    let outlier = "[outlier]\nconsecutive_failures = 2\nbase_pause = \"3s\"\nmax_pause = \"3s\"\n";
    let pop = site.start(&format!("{outlier}{}", listener(""))).await.unwrap();
    backends[0].stop().await;
    for _ in 0..2 {
        let (reached, line) = visit(&pop).await;
        assert_eq!((reached.as_str(), &line["attempts"]), ("cdg", &Value::from(2)));
    }
    let ejected = Instant::now();
    assert_eq!(pop.count("edge_ejections_total", &[]).await.unwrap(), 1);
    let line = pop.log.wait_for("the ejection", Duration::from_secs(5), |line| line["backend"] == "fra").await.unwrap();
    assert_eq!(line["message"], "backend ejected after failed connects");
    while ejected.elapsed() < Duration::from_millis(500) {
        let (reached, line) = visit(&pop).await;
        assert_eq!((reached.as_str(), &line["attempts"]), ("cdg", &Value::from(1)), "not tried while ejected");
    }

    // After the pause one client tries; it fails, is served elsewhere, and the backend stays out.
    let tried = edgeproxy_world::eventually("a trial", LONG, async || {
        let (reached, line) = visit(&pop).await;
        assert_eq!(reached, "cdg");
        Ok((line["attempts"] == 2).then_some(()))
    });
    tried.await.unwrap();
    assert_eq!(pop.count("edge_ejections_total", &[]).await.unwrap(), 2);

    backends[0].resume().unwrap();
    let back = Instant::now();
    edgeproxy_world::eventually("its return", LONG, async || {
        let (reached, line) = visit(&pop).await;
        assert_eq!(line["attempts"], 1);
        Ok((reached == "fra").then_some(()))
    })
    .await
    .unwrap();
    println!("back after {:?}", back.elapsed());
    assert!(pop.log.holds("ejected backend returned"));
    for _ in 0..5 {
        assert_eq!(visit(&pop).await.0, "fra");
    }
    stop(pop).await;
}

/// A connection takes two descriptors. Whether the last free one goes to an accept, whose connect then fails, or is
/// missing for the accept itself, hangs on what the process had open before: of two limits side by side, each shows one.
#[tokio::test]
async fn a_proxy_out_of_descriptors_lives_on_and_serves_again() {
    let failed_accepts = [flood_with_descriptors(90).await, flood_with_descriptors(91).await];
    println!("{failed_accepts:?} accepts failed");
    assert!(failed_accepts.contains(&0), "the connect was what failed");
    assert!(failed_accepts.iter().any(|&failed| failed > 0), "the accept was what failed");
}

/// Sends a proxy more clients than `limit` lets it serve, and says how many of its accepts failed.
async fn flood_with_descriptors(limit: u32) -> i64 {
    let site = support::site();
    let backend = Backend::start("b1", Behaviour::Greet).unwrap();
    site.add_backend("fra", &backend).unwrap();
    let toml = format!("{UNCHECKED}[proxy]\nthreads = 1\nmax_connections = 100000\n");
    let pop = site.plan(&toml).descriptors(limit).start().await.unwrap();
    let address = pop.address();
    let flood: Vec<_> = (0..400)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::connect(address).await.unwrap();
                let greeted = match client.line().await {
                    Ok(greeting) => greeting == "b1",
                    Err(error) => {
                        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
                        false
                    }
                };
                (client, greeted)
            })
        })
        .collect();
    let mut clients = Vec::new();
    let mut greeted = 0;
    for client in flood {
        let (client, served) = client.await.unwrap();
        greeted += usize::from(served);
        clients.push(client);
    }
    println!("{greeted} of 400 were served with {limit} descriptors");
    assert!(greeted < 45, "two descriptors each");
    drop(clients);
    pop.until_count("edge_connections_current", &[], 0).await.unwrap();
    let failed = pop.count("edge_accept_errors_total", &[("error", "descriptors")]).await.unwrap();
    let turned_away = pop.count("edge_refused_total", &[("reason", "descriptors_exhausted")]).await.unwrap();
    assert_eq!(turned_away, 400 - i64::try_from(greeted).unwrap());
    assert_eq!(pop.count("edge_ejections_total", &[]).await.unwrap(), 0, "it is not the backend's fault");
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = pop.connect().await.unwrap();
        assert_eq!(client.line().await.unwrap(), "b1");
        clients.push(client);
    }
    drop(clients);
    stop(pop).await;
    failed
}

#[tokio::test]
async fn a_backend_that_dies_in_the_middle_ends_its_connections_only() {
    let site = support::site();
    let mut backends = backends(&site, &["fra", "cdg"]).await;
    let pop = site.start(&listener("")).await.unwrap();
    let mut client = pop.connect().await.unwrap();
    assert_eq!(client.line().await.unwrap(), "fra");
    backends[0].stop().await;
    // All that came was read, so the backend's sockets end as those of a process do that dies: by a FIN.
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Finished));
    drop(client);
    let (reached, _) = visit(&pop).await;
    assert_eq!(reached, "cdg");
    stop(pop).await;
}
