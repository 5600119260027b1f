//! Active checks: each kind against servers that really fail it, and what their verdict does to clients.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic, and tells what it measured"
)]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use edgeproxy_route::RawBackend;
use edgeproxy_world::{Backend, Behaviour, Ending, LONG, Lines, Pop, Site, eventually, row};
use serde_json::Value;

mod support;

const QUICK: &str = "interval = \"100ms\"\ntimeout = \"500ms\"\nrise = 2\nfall = 2\n";

fn config(check: &str, listener: &str) -> String {
    let listener = format!("[[listener]]\nbind = \"127.0.0.1:0\"\naffinity_ttl = \"0s\"\n{listener}\n");
    format!("[outlier]\nconsecutive_failures = 0\nfailure_ratio = 2.0\n[[check]]\n{check}\n{QUICK}{listener}")
}

/// `near` in fra, where the POP is, and `far` in cdg.
fn add_two(site: &Site, near: &Backend, far: &Backend) {
    for (backend, region) in [(near, "fra"), (far, "cdg")] {
        let nowhere = RawBackend { country: Some(String::new()), ..row(backend.id(), region, backend.address()) };
        site.add(nowhere).unwrap();
    }
}

/// What the n-th verdict on this backend turned to.
async fn turned(pop: &Pop, backend: &str, number: usize) -> String {
    eventually(&format!("verdict {number} on {backend}"), LONG, async || {
        let lines = pop.log.all_json().into_iter();
        let mut verdicts = lines.filter(|line| line["message"] == "check verdict turned" && line["backend"] == backend);
        Ok(verdicts.nth(number - 1).and_then(|line| line["verdict"].as_str().map(str::to_owned)))
    })
    .await
    .unwrap_or_else(|error| panic!("{error}; {}", pop.log.tail()))
}

/// Which backend a new client reaches, by the log.
async fn reached(pop: &Pop) -> Value {
    let mut client = pop.connect().await.unwrap();
    client.finish().await.unwrap();
    client.ending().await.unwrap();
    let address = client.address();
    pop.logged_of(address).await.unwrap()["backend"].clone()
}

/// The backend passes, fails, and passes again: clients go there, elsewhere, and there again.
async fn rises_and_falls(check: &str, passing: Behaviour, failing: Behaviour) {
    let site = support::site();
    let near = Backend::start("near", passing.clone()).unwrap();
    let far = Backend::start("far", passing.clone()).unwrap();
    add_two(&site, &near, &far);
    let pop = site.start(&config(check, "")).await.unwrap();
    pop_checks(&pop, 4).await;
    assert_eq!(reached(&pop).await, "near");
    near.behave(failing);
    let since = Instant::now();
    assert_eq!(turned(&pop, "near", 1).await, "Down");
    println!("down after {:?}", since.elapsed());
    assert_eq!(reached(&pop).await, "far");
    near.behave(passing);
    assert_eq!(turned(&pop, "near", 2).await, "Up");
    assert_eq!(reached(&pop).await, "near");
    assert!(pop.count("edge_checks_total", &[("result", "fail")]).await.unwrap() >= 2);
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

/// Waits until so many checks have passed.
async fn pop_checks(pop: &Pop, wanted: i64) {
    eventually("checks", LONG, async || {
        Ok((pop.count("edge_checks_total", &[("result", "pass")]).await? >= wanted).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_tcp_check_sees_a_port_close_and_open_again() {
    let site = support::site();
    let mut near = Backend::start("near", Behaviour::Echo).unwrap();
    let far = Backend::start("far", Behaviour::Echo).unwrap();
    add_two(&site, &near, &far);
    let pop = site.start(&config("kind = \"tcp\"", "")).await.unwrap();
    assert_eq!(reached(&pop).await, "near");
    near.stop().await;
    assert_eq!(turned(&pop, "near", 1).await, "Down");
    let retries = pop.count("edge_retries_total", &[]).await.unwrap();
    assert_eq!(reached(&pop).await, "far");
    assert_eq!(pop.count("edge_retries_total", &[]).await.unwrap(), retries, "it is known to be down");
    near.resume().unwrap();
    assert_eq!(turned(&pop, "near", 2).await, "Up");
    assert_eq!(reached(&pop).await, "near");
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn an_http_check_looks_at_the_status() {
    let check = "kind = \"http\"\npath = \"/health\"\nstatuses = \"200-299\"";
    rises_and_falls(check, Behaviour::Http(204), Behaviour::Http(503)).await;
}

#[tokio::test]
async fn an_exchange_check_looks_at_the_answer() {
    let check = "kind = \"exchange\"\nsend = \"PING\\r\\n\"\nexpect = \"+PONG\"";
    let (passing, failing) = (Behaviour::Answer(b"+PONG\r\n".to_vec()), Behaviour::Answer(b"-LOADING\r\n".to_vec()));
    rises_and_falls(check, passing, failing).await;
}

#[tokio::test]
async fn a_check_without_an_answer_fails_by_its_timeout() {
    let check = "kind = \"exchange\"\nsend = \"PING\\r\\n\"\nexpect = \"+PONG\"";
    rises_and_falls(check, Behaviour::Answer(b"+PONG\r\n".to_vec()), Behaviour::Deaf).await;
}

#[tokio::test]
async fn a_check_may_ask_another_port() {
    let site = support::site();
    let backend = Backend::start("b1", Behaviour::Echo).unwrap();
    let health = Backend::start("health", Behaviour::Http(500)).unwrap();
    site.add_backend("fra", &backend).unwrap();
    let check = format!("kind = \"http\"\nport = {}", health.address().port());
    let pop = site.start(&config(&check, "")).await.unwrap();
    assert_eq!(turned(&pop, "b1", 1).await, "Down");
    assert_eq!(backend.total(), 0);
    health.behave(Behaviour::Http(200));
    assert_eq!(turned(&pop, "b1", 2).await, "Up");
    assert_eq!(reached(&pop).await, "b1");
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

/// `openssl s_server` with a certificate nobody knows.
struct TlsServer {
    process: Child,
    port: u16,
}

impl TlsServer {
    async fn start(site: &Site) -> Self {
        let (key, certificate) = (site.file("key.pem"), site.file("certificate.pem"));
        let mut request = Command::new("openssl");
        request.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        request
            .args(["-days", "1", "-subj", "/CN=backend.internal", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate);
        let made = request.stderr(Stdio::null()).status().expect("the openssl tool");
        assert!(made.success());
        let mut server = Command::new("openssl");
        server.args(["s_server", "-accept", "127.0.0.1:0", "-key"]).arg(&key).arg("-cert").arg(&certificate);
        let mut process = server.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let said = Lines::of("s_server", process.stdout.take().unwrap()).unwrap();
        let port = eventually("the port of s_server", LONG, async || {
            Ok(said.all().iter().find_map(|line| line.strip_prefix("ACCEPT ")?.rsplit_once(':')?.1.parse().ok()))
        });
        Self { port: port.await.unwrap(), process }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_tls_check_tells_tls_from_other_protocols_and_takes_any_certificate() {
    let site = support::site();
    let tls = TlsServer::start(&site).await;
    let plain = Backend::start("plain", Behaviour::Answer(b"SSH-2.0-x\r\n".to_vec())).unwrap();
    let nowhere = RawBackend { country: Some(String::new()), ..RawBackend::default() };
    let at_tls = row("tls", "cdg", std::net::SocketAddr::from(([127, 0, 0, 1], tls.port)));
    site.add(RawBackend { country: nowhere.country.clone(), ..at_tls }).unwrap();
    site.add(RawBackend { country: nowhere.country, ..row("plain", "fra", plain.address()) }).unwrap();
    let pop = site.start(&config("kind = \"tls\"\nserver_name = \"backend.internal\"", "")).await.unwrap();
    assert_eq!(turned(&pop, "plain", 1).await, "Down");
    pop_checks(&pop, 3).await;
    assert!(!pop.log.all_json().iter().any(|line| line["backend"] == "tls"), "{}", pop.log.tail());
    drop(tls);
    assert_eq!(turned(&pop, "tls", 1).await, "Down");
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn when_checks_have_taken_out_every_backend_clients_are_refused() {
    let site = support::site();
    let near = Backend::start("near", Behaviour::Http(500)).unwrap();
    let far = Backend::start("far", Behaviour::Http(500)).unwrap();
    add_two(&site, &near, &far);
    let pop = site.start(&config("kind = \"http\"", "")).await.unwrap();
    assert_eq!(turned(&pop, "near", 1).await, "Down");
    assert_eq!(turned(&pop, "far", 1).await, "Down");
    let mut client = pop.connect().await.unwrap();
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Reset));
    let line = pop.logged_of(client.address()).await.unwrap();
    assert_eq!((&line["event"], &line["reason"]), (&Value::from("refused"), &Value::from("all_down")));
    assert_eq!(pop.count("edge_refused_total", &[("reason", "all_down")]).await.unwrap(), 1);
    pop.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn unless_the_listener_tries_all_the_same() {
    let site = support::site();
    let near = Backend::start("near", Behaviour::Http(500)).unwrap();
    let far = Backend::start("far", Behaviour::Http(200)).unwrap();
    add_two(&site, &near, &far);
    let pop = site.start(&config("kind = \"http\"", "when_all_down = \"try\"")).await.unwrap();
    assert_eq!(turned(&pop, "near", 1).await, "Down");
    assert_eq!(reached(&pop).await, "far", "one is still up");
    far.behave(Behaviour::Http(500));
    assert_eq!(turned(&pop, "far", 1).await, "Down");
    assert_eq!(reached(&pop).await, "near", "the best if all were up");
    assert_eq!(pop.count("edge_refused_total", &[]).await.unwrap(), 0);
    pop.stop(Duration::from_secs(5)).await.unwrap();
}
