//! Replicas that fall behind: clients go elsewhere, and come back only once the replica has.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use edgeproxy_world::postgres::ScratchPostgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::session::{Session, place, until_place};
use crate::stage::{Stage, config, there_is_none};

/// Writes until it is dropped, so that there is something to be behind of.
struct Writer(tokio::task::JoinHandle<()>);

impl Writer {
    fn start(primary: &ScratchPostgres) -> Self {
        let address = primary.address();
        Self(tokio::spawn(async move {
            let session = Session::open(address).await.unwrap();
            while session.value("INSERT INTO contacts (name) VALUES ('one of many')").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn a_replica_that_shows_nothing_new_is_left_and_returned_to() {
    if there_is_none() {
        return;
    }
    let stage = Stage::start(&config("", "stale_sessions = \"close\"\naffinity_ttl = \"0s\"\n")).await;
    let _writer = Writer::start(&stage.fra);
    let mut reader = Session::open(stage.replica()).await.unwrap();
    assert_eq!(reader.place().await.unwrap(), "lhr replica");
    stage.lhr.pause_replay().await.unwrap();
    let since = Instant::now();
    assert_eq!(place(stage.replica()).await, "lhr replica", "still within the bound of 2 s");
    stage.until_role("lhr", "behind").await;
    println!("behind {:?} after its replay was paused", since.elapsed());
    assert!(since.elapsed() > Duration::from_millis(1500), "not before the bound");
    assert_eq!(place(stage.replica()).await, "syd replica");
    reader.closed().await.unwrap();
    assert_eq!(stage.pop.count("edge_closed_total", &[("reason", "stale_replica")]).await.unwrap(), 1);
    let told = stage.candidates("replica").await;
    let lhr = told.iter().find(|candidate| candidate["id"] == "lhr").unwrap();
    assert_eq!((&lhr["standing"], &lhr["role"]), (&"other_role".into(), &"behind".into()));
    assert!(lhr["lag_ms"].as_u64().unwrap() > 1500 && lhr["lag_bytes"].as_u64().unwrap() > 0, "{lhr}");
    let explained = explained(&stage, "replica").await;
    let row = |id: &str| {
        let row =
            explained.lines().find(|line| line.contains(&format!(" {id} "))).unwrap_or_else(|| panic!("{explained}"));
        row.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(row("lhr").contains(&"behind".to_owned()) && row("lhr").ends_with(&["other".into(), "role".into()]));
    assert!(row("syd").ends_with(&["chosen".into()]) && row("fra").ends_with(&["eligible".into()]), "{explained}");
    let seconds = stage.pop.metric("edge_backend_lag_seconds", &[("backend", "lhr")]).await.unwrap();
    assert!(seconds > 1.5, "{seconds}");
    let role = stage.pop.count("edge_backend_role", &[("backend", "lhr"), ("role", "behind")]).await.unwrap();
    assert_eq!(role, 1);

    stage.lhr.resume_replay().await.unwrap();
    let returned = until_place(stage.replica(), "lhr replica").await;
    println!("back {returned:?} after it was resumed");
    stage.stop().await;
}

/// What `edgeproxy route explain` prints of a client from Britain.
async fn explained(stage: &Stage, role: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgeproxy"));
    command.args(["route", "explain", "81.2.69.142", "--app", "db", "--role", role, "--admin"]);
    command.arg(stage.pop.admin().to_string());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn a_replica_without_its_primary_is_not_believed_to_be_caught_up() {
    if there_is_none() {
        return;
    }
    let stage = Stage::start(&config("", "affinity_ttl = \"0s\"\n")).await;
    // Nothing is written: all that was received is replayed, and goes on being so.
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    stage.lhr.follow_through(nowhere).await.unwrap();
    stage.until_role("lhr", "severed").await;
    assert_eq!(place(stage.replica()).await, "syd replica");
    stage.lhr.follow(&stage.fra).await.unwrap();
    until_place(stage.replica(), "lhr replica").await;
    stage.stop().await;
}

#[tokio::test]
async fn a_link_that_carries_nothing_more_is_found_out() {
    if there_is_none() {
        return;
    }
    let stage = Stage::start(&config("", "affinity_ttl = \"0s\"\n")).await;
    let link = Link::to(stage.fra.address()).await;
    stage.lhr.follow_through(link.address).await.unwrap();
    // It leaves the way it had, and is back by the other.
    stage.fra.sql("SELECT pg_switch_wal()").await.unwrap();
    stage.lhr.catch_up(&stage.fra).await.unwrap();
    until_place(stage.replica(), "lhr replica").await;
    link.frozen.store(true, SeqCst);
    let since = Instant::now();
    stage.until_role("lhr", "severed").await;
    println!("severed {:?} after the link froze", since.elapsed());
    assert_eq!(place(stage.replica()).await, "syd replica");
    link.frozen.store(false, SeqCst);
    until_place(stage.replica(), "lhr replica").await;
    stage.stop().await;
}

/// A way to a server that can stop to carry anything, with nobody being told.
struct Link {
    address: SocketAddr,
    frozen: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Link {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let frozen = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&frozen);
        let task = tokio::spawn(async move {
            let mut flows = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else { continue };
                let (client, server) = (client.into_split(), server.into_split());
                flows.spawn(carry(client.0, server.1, Arc::clone(&shared)));
                flows.spawn(carry(server.0, client.1, Arc::clone(&shared)));
            }
        });
        Self { address, frozen, task }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    frozen: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        while frozen.load(SeqCst) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
