//! The database servers of the world: what they are, what can be done to them, and what they leave behind.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may panic, and tells what it skips"
)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use edgeproxy_world::postgres::{Binaries, PASSWORD, ScratchPostgres, USER};
use edgeproxy_world::{LONG, eventually};
use tokio_postgres::NoTls;

/// Whether there is a PostgreSQL to test with. Where there is none it is said, and fails where CI is set.
fn is_here() -> bool {
    match Binaries::find() {
        Ok(_) => true,
        Err(missing) => {
            assert!(std::env::var_os("CI").is_none(), "{missing}");
            eprintln!("SKIPPED: {missing}");
            false
        }
    }
}

async fn client(server: &ScratchPostgres) -> tokio_postgres::Client {
    let stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let mut config = tokio_postgres::Config::new();
    config.user(USER).password(PASSWORD).dbname("contacts");
    let (client, connection) = config.connect_raw(stream, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

const INSERT: &str = "INSERT INTO contacts (name, email, notes) VALUES ('Ada', 'ada@test.local', 'x')";

#[tokio::test]
async fn a_standby_streams_is_paused_and_takes_over() {
    if !is_here() {
        return;
    }
    let mut primary = ScratchPostgres::start("iad").await.unwrap();
    let standby = primary.standby("lhr").await.unwrap();
    let other = primary.standby("syd").await.unwrap();
    let guest = client(&primary).await;
    assert_eq!(guest.execute(INSERT, &[]).await.unwrap(), 1);
    assert!(guest.batch_execute("CREATE TABLE mine ()").await.is_err(), "an ordinary user");

    standby.catch_up(&primary).await.unwrap();
    assert_eq!(standby.value("SELECT count(*) FROM contacts").await.unwrap(), "1");
    let names = "SELECT string_agg(application_name, ' ' ORDER BY application_name) FROM pg_stat_replication";
    assert_eq!(primary.value(names).await.unwrap(), "lhr syd");
    let refused = client(&standby).await.execute(INSERT, &[]).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "25006");

    standby.pause_replay().await.unwrap();
    guest.execute(INSERT, &[]).await.unwrap();
    other.catch_up(&primary).await.unwrap();
    assert_eq!(other.value("SELECT count(*) FROM contacts").await.unwrap(), "2");
    assert_eq!(standby.value("SELECT count(*) FROM contacts").await.unwrap(), "1");
    standby.resume_replay().await.unwrap();
    standby.catch_up(&primary).await.unwrap();

    primary.kill().await.unwrap();
    assert!(guest.simple_query("SELECT 1").await.is_err());
    assert!(tokio::net::TcpStream::connect(primary.address()).await.is_err());
    standby.promote().await.unwrap();
    client(&standby).await.execute(INSERT, &[]).await.unwrap();
    other.follow(&standby).await.unwrap();
    other.catch_up(&standby).await.unwrap();
    assert_eq!(other.value("SELECT count(*) FROM contacts").await.unwrap(), "3");

    // What was committed before it was killed is there again: the kernel did not die with it.
    primary.restart().await.unwrap();
    assert_eq!(primary.value("SELECT count(*) FROM contacts").await.unwrap(), "2");
}

#[tokio::test]
async fn it_is_what_was_planned_and_comes_back_where_it_was() {
    if !is_here() {
        return;
    }
    let mut server = ScratchPostgres::plan("fra").durable().setting("work_mem", "5MB").start().await.unwrap();
    assert_eq!(server.value("SHOW fsync").await.unwrap(), "on");
    assert_eq!(server.value("SHOW work_mem").await.unwrap(), "5MB");
    assert_eq!(server.value("SHOW cluster_name").await.unwrap(), "fra");
    let address = server.address();
    server.stop().await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    server.restart().await.unwrap();
    assert_eq!(server.address(), address);
    assert!(server.url().starts_with("postgres://contacts_user:"));
    assert!(server.sql("SELECT nothing").await.unwrap_err().to_string().contains("42703"));

    let directory = server.directory().to_owned();
    drop(server);
    assert!(!directory.exists());
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn what_the_server_said_is_in_the_error() {
    if !is_here() {
        return;
    }
    let error = ScratchPostgres::plan("fra").setting("work_mem", "much").start().await.unwrap_err();
    assert!(error.to_string().contains("invalid value for parameter \"work_mem\""), "{error}");
}

#[tokio::test]
async fn it_has_tls_where_it_was_built_with_it() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    openssl.args(["-keyout", "key", "-out", "certificate"]).current_dir(folder.path()).stderr(Stdio::null());
    assert!(openssl.status().unwrap().success());
    let read = |name| std::fs::read_to_string(folder.path().join(name)).unwrap();
    match ScratchPostgres::plan("fra").tls(&read("certificate"), &read("key")).start().await {
        Ok(server) => {
            assert_eq!(server.value("SHOW ssl").await.unwrap(), "on");
            let standby = server.standby("syd").await.unwrap();
            assert_eq!(standby.value("SHOW ssl").await.unwrap(), "on");
        }
        Err(error) => {
            assert!(error.to_string().contains("SSL is not supported by this build"), "{error}");
            eprintln!("SKIPPED: this PostgreSQL knows no TLS");
        }
    }
}

const PARENT: &str = "a_parent_that_is_killed";

#[tokio::test]
async fn servers_end_with_a_parent_that_is_killed() {
    if !is_here() {
        return;
    }
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args([PARENT, "--exact", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines().map_while(Result::ok);
    let told = lines.find_map(|line| Some(line.split_once("server: ")?.1.to_owned())).unwrap();
    let (id, directory) = told.split_once(' ').unwrap();
    let running =
        |id: &str| std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.starts_with("postgres"));
    assert!(running(id));
    parent.kill().unwrap();
    parent.wait().unwrap();
    eventually("the end of an orphan", LONG, async || Ok((!running(id)).then_some(()))).await.unwrap();
    // Who is killed cannot clean up.
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
#[ignore = "a part of another test"]
async fn a_parent_that_is_killed() {
    let server = ScratchPostgres::start("fra").await.unwrap();
    let id = std::fs::read_to_string(server.directory().join("data/postmaster.pid")).unwrap();
    println!("server: {} {}", id.lines().next().unwrap(), server.directory().display());
    tokio::time::sleep(Duration::from_secs(60)).await;
}
