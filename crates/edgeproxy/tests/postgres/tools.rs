//! The tools that come with PostgreSQL, through both listeners.

use std::net::SocketAddr;
use std::process::{Command, Output};

use edgeproxy_world::postgres::{DATABASE, PASSWORD, SUPERUSER, ScratchPostgres};

use edgeproxy_world::{LONG, eventually};

use crate::session::{Session, WHERE, place};
use crate::stage::{Stage, config, followed, there_is_none};

/// Runs a program of PostgreSQL's with these arguments.
pub(crate) async fn run(mut command: Command, arguments: &[&str]) -> Output {
    command.args(arguments).env("PGPASSWORD", PASSWORD).env("PGCONNECT_TIMEOUT", "20").env("LC_ALL", "C");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn at(address: SocketAddr) -> String {
    format!("host={} port={} user={SUPERUSER} dbname={DATABASE}", address.ip(), address.port())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

impl Stage {
    pub(crate) fn program(&self, name: &str) -> Command {
        Command::new(self.fra.binaries().program(name))
    }

    /// What psql prints, or what it complains about.
    pub(crate) async fn psql(&self, conninfo: &str, sql: &str) -> Result<String, String> {
        let output = run(self.program("psql"), &["-X", "-A", "-t", "-c", sql, conninfo]).await;
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    async fn pgbench(&self, address: SocketAddr, arguments: &[&str]) -> String {
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let at = ["-h", &host, "-p", &port, "-U", SUPERUSER];
        let output = run(self.program("pgbench"), &[&at, arguments, &[DATABASE]].concat()).await;
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }
}

#[tokio::test]
async fn psql_writes_to_the_primary_and_reads_from_the_nearest_replica() {
    if there_is_none() {
        return;
    }
    let stage = Stage::start(&config("", "")).await;
    let (primary, replica) = (at(stage.primary()), at(stage.replica()));
    assert_eq!(stage.psql(&primary, WHERE).await.unwrap(), "fra primary");
    assert_eq!(stage.psql(&replica, WHERE).await.unwrap(), "lhr replica");
    stage.psql(&primary, "INSERT INTO contacts (name) VALUES ('by the listener')").await.unwrap();
    stage.lhr.catch_up(&stage.fra).await.unwrap();
    let names = stage.psql(&replica, "SELECT name FROM contacts").await.unwrap();
    assert_eq!(names, "by the listener");
    let refused = stage.psql(&replica, "INSERT INTO contacts (name) VALUES ('at a replica')").await.unwrap_err();
    assert!(refused.contains("read-only transaction"), "{refused}");
    assert_eq!(stage.pop.count("edge_replica_on_primary_total", &[]).await.unwrap(), 0);
    stage.stop().await;
}

#[tokio::test]
async fn pgbench_runs_on_both_listeners() {
    if there_is_none() {
        return;
    }
    let stage = Stage::start(&config("", "")).await;
    stage.pgbench(stage.primary(), &["-i", "-q", "-s", "1"]).await;
    let written = stage.pgbench(stage.primary(), &["-n", "-c", "4", "-j", "2", "-t", "100"]).await;
    assert!(written.contains("number of transactions actually processed: 400/400"), "{written}");
    assert!(written.contains("failed transactions: 0 "), "{written}");
    stage.lhr.catch_up(&stage.fra).await.unwrap();
    let read = stage.pgbench(stage.replica(), &["-n", "-S", "-c", "4", "-j", "2", "-t", "500"]).await;
    assert!(read.contains("number of transactions actually processed: 2000/2000"), "{read}");
    // A connection for each client and one before all; to make the tables, one.
    let mut served = Vec::new();
    let reached = eventually("eleven lines of the connection log", LONG, async || {
        let lines = stage.pop.connections.all_json();
        served = ["fra", "lhr", "syd"].map(|id| lines.iter().filter(|line| line["backend"] == id).count()).to_vec();
        Ok((served == [6, 5, 0]).then_some(()))
    });
    reached.await.unwrap_or_else(|error| panic!("{error}: {served:?}"));
    stage.stop().await;
}

#[tokio::test]
async fn libpq_finds_its_way_over_several_hosts() {
    if there_is_none() {
        return;
    }
    let stage = Stage::start(&config("", "")).await;
    let ports = |first: SocketAddr, second: SocketAddr| {
        let attributes = format!("user={SUPERUSER} dbname={DATABASE} target_session_attrs=");
        format!("host=127.0.0.1,127.0.0.1 port={},{} {attributes}", first.port(), second.port())
    };
    let replica_first = ports(stage.replica(), stage.primary());
    let primary_first = ports(stage.primary(), stage.replica());
    for (hosts, attribute, wanted) in [
        (&replica_first, "read-write", "fra primary"),
        (&replica_first, "primary", "fra primary"),
        (&replica_first, "any", "lhr replica"),
        (&primary_first, "standby", "lhr replica"),
        (&primary_first, "read-only", "lhr replica"),
        (&primary_first, "prefer-standby", "lhr replica"),
    ] {
        assert_eq!(stage.psql(&format!("{hosts}{attribute}"), WHERE).await.unwrap(), wanted, "{attribute}");
    }
    stage.stop().await;
}

#[tokio::test]
async fn a_clients_tls_ends_at_the_server() {
    if there_is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (certificate, key) = (file("server.crt"), file("server.key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"])
        .args(["-subj", "/CN=localhost", "-keyout", &key, "-out", &certificate])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    let (certificate, key) = (std::fs::read_to_string(certificate).unwrap(), std::fs::read_to_string(key).unwrap());
    let plan = ScratchPostgres::plan("fra").tls(&certificate, &key);
    let fra = match plan.start().await {
        // The one from PyPI is built without it.
        Err(error) if error.to_string().contains("SSL is not supported") && std::env::var_os("CI").is_none() => {
            return println!("SKIPPED: {error}");
        }
        started => started.unwrap(),
    };
    let address = fra.address();
    let stage = Stage::with(followed(fra, address).await, &config("", "")).await;
    let over_tls = "SELECT ssl::text || ' ' || version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let mut ways = vec!["sslmode=require"];
    let version = stage.fra.binaries().version().unwrap_or_default();
    if version.split('.').next().and_then(|major| major.parse().ok()).is_some_and(|major: u32| major >= 17) {
        ways.push("sslmode=require sslnegotiation=direct");
    }
    for way in ways {
        let answer = stage.psql(&format!("{} {way}", at(stage.primary())), over_tls).await.unwrap();
        assert_eq!(answer, "true TLSv1.3", "{way} at {version}");
    }
    stage.stop().await;
}

#[tokio::test]
async fn a_query_is_cancelled_by_a_connection_of_its_own() {
    if there_is_none() {
        return;
    }
    let stage = Stage::start(&config("", "")).await;
    for address in [stage.primary(), stage.replica()] {
        let session = Session::open(address).await.unwrap();
        let cancel = session.client.cancel_token();
        let sleeping = tokio::spawn(async move { session.value("SELECT pg_sleep(60)").await });
        // Sent before the query has begun, it would cancel nothing: so it is sent until it does.
        while !sleeping.is_finished() {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            cancel.cancel_query_raw(stream, edgeproxy_postgres::tokio_postgres::NoTls).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let error = sleeping.await.unwrap().unwrap_err();
        assert_eq!(error.code().map(|code| code.code().to_owned()).as_deref(), Some("57014"), "{error:?}");
    }
    assert_eq!(place(stage.replica()).await, "lhr replica");
    stage.stop().await;
}
