//! Clients that are turned away are told why, in their own language.

use std::net::SocketAddr;

use edgeproxy_world::postgres::{DATABASE, SUPERUSER};
use edgeproxy_world::{LONG, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::session::{Session, place};
use crate::stage::{Stage, config, there_is_none};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];
const CANCEL_REQUEST: [u8; 16] = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 7, 0, 0, 0, 9];
const CLIENT_HELLO: [u8; 6] = [0x16, 3, 1, 0, 200, 1];
const STARTUP: &[u8] = b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0";

/// What comes back for this, until the other side closes.
async fn answer(address: SocketAddr, parts: &[&[u8]]) -> Vec<u8> {
    let talk = within("an answer", LONG, async {
        let mut stream = TcpStream::connect(address).await?;
        let mut answer = Vec::new();
        for part in parts {
            if !answer.is_empty() {
                assert_eq!(answer.last(), Some(&b'N'));
            }
            stream.write_all(part).await?;
            if *part == SSL_REQUEST || *part == GSS_REQUEST {
                answer.push(stream.read_u8().await?);
            }
        }
        // Closed by a reset: that is an answer as well.
        let _ = stream.read_to_end(&mut answer).await;
        Ok(answer)
    });
    talk.await.unwrap()
}

#[tokio::test]
async fn every_way_to_begin_has_its_answer() {
    if there_is_none() {
        return;
    }
    let mut stage = Stage::start(&config("hold = \"1s\"\n", "hold = \"0s\"\nreplica_fallback = \"none\"\n")).await;
    stage.fra.kill().await.unwrap();
    stage.until_role("fra", "unknown").await;
    let missing = "no server of app \"db\" is known to be the primary (waited 1 s)";
    assert_eq!(place(stage.primary()).await, format!("57P03 {missing}"));
    for id in ["lhr", "syd"] {
        stage.until_role(id, "severed").await;
    }
    assert_eq!(place(stage.replica()).await, "57P03 no replica of app \"db\" is fresh enough");

    let error = |said: &[u8]| String::from_utf8_lossy(said).into_owned();
    for parts in [
        &[STARTUP][..],
        &[&SSL_REQUEST, STARTUP],
        &[&GSS_REQUEST, STARTUP],
        &[&GSS_REQUEST, &SSL_REQUEST, STARTUP],
        // In pieces, as a network may bring it.
        &[&STARTUP[..3], &STARTUP[3..9], &STARTUP[9..]],
    ] {
        let said = answer(stage.primary(), parts).await;
        let requests = parts.iter().filter(|part| part.len() == 8 && part[4] == 4).count();
        assert!(said[..requests].iter().all(|byte| *byte == b'N'));
        let said = error(&said[requests..]);
        assert!(said.starts_with('E') && said.contains("SFATAL") && said.contains("C57P03"), "{said:?}");
        assert!(said.contains(missing), "{said:?}");
    }
    for parts in [&CLIENT_HELLO[..], &CANCEL_REQUEST, b"GET / HTTP/1.1\r\n\r\n"] {
        assert_eq!(answer(stage.primary(), &[parts]).await, b"", "nothing can be said to {parts:?}");
    }
    // What a person sees, with each way of libpq to ask for encryption.
    for encryption in ["sslmode=disable", "sslmode=prefer"] {
        let address = stage.primary();
        let conninfo =
            format!("host={} port={} user={SUPERUSER} dbname={DATABASE} {encryption}", address.ip(), address.port());
        let complaint = stage.psql(&conninfo, "SELECT 1").await.unwrap_err();
        assert!(complaint.contains(&format!("FATAL:  {missing}")), "{complaint}");
    }
    let refused = stage.pop.count("edge_refused_total", &[("reason", "no_primary")]).await.unwrap();
    assert!(refused >= 9, "{refused}");
    stage.stop().await;
}

#[tokio::test]
async fn who_waits_for_nobody_and_leaves_is_forgotten() {
    if there_is_none() {
        return;
    }
    let mut stage = Stage::start(&config("hold = \"60s\"\n", "")).await;
    stage.fra.kill().await.unwrap();
    stage.until_role("fra", "unknown").await;
    let mut patient = TcpStream::connect(stage.primary()).await.unwrap();
    patient.write_all(STARTUP).await.unwrap();
    // This one has said what it wants: nobody who does and is still there finishes sending then.
    let mut gone = TcpStream::connect(stage.primary()).await.unwrap();
    gone.write_all(STARTUP).await.unwrap();
    stage.pop.until_count("edge_held", &[], 2).await.unwrap();
    drop(gone);
    stage.pop.until_count("edge_refused_total", &[("reason", "client_gone")], 1).await.unwrap();
    stage.pop.until_count("edge_held", &[], 1).await.unwrap();
    // Told to stop, it tells those who wait.
    let Stage { pop, .. } = stage;
    let mut said = Vec::new();
    let (stopped, heard) = tokio::join!(pop.stop(LONG), within("the last words", LONG, patient.read_to_end(&mut said)));
    stopped.unwrap();
    heard.unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("this proxy is shutting down"), "{said:?}");
}

#[tokio::test]
async fn a_full_primary_says_so() {
    if there_is_none() {
        return;
    }
    let stage = Stage::start(&config("", "")).await;
    stage.site.sql("UPDATE backends SET soft_limit = 1, hard_limit = 1 WHERE id = 'fra'").unwrap();
    let only = Session::open(stage.primary()).await.unwrap();
    let full = "53300 every server of app \"db\" is at its connection limit";
    let mut said = String::new();
    for _ in 0..100 {
        said = place(stage.primary()).await;
        if said == full {
            break;
        }
    }
    assert_eq!(said, full);
    drop(only);
    stage.stop().await;
}
