//! `edgeproxy demo`, as a newcomer runs it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and tells what it measured")]

use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use edgeproxy_world::{Client, Ending, Header, LONG, Lines, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn demo(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgeproxy"));
    command.arg("demo").args(flags).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "nothing on standard error unless it is a terminal");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn everything_it_shows_is_as_expected() {
    let started = Instant::now();
    let shown = text(&demo(&["--short"]).output().unwrap());
    println!("{shown}\ntook {:?}", started.elapsed());
    for part in ["🇧🇷  BR Brazil", "gru São Paulo", "iad, ord or lax", "Everything as expected.", "demo --keep"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(shown.matches('✓').count(), 23);
    assert!(!shown.contains('✗') && !shown.contains('\x1b'), "{shown}");
}

#[test]
fn it_shows_the_world_from_another_region_and_in_plain_ascii() {
    for flags in [&["--region", "gru", "--ascii", "--short"][..], &["--region", "syd", "--ascii", "--short"]] {
        let shown = text(&demo(flags).output().unwrap());
        assert!(shown.is_ascii(), "{shown}");
        assert!(shown.contains(&format!("{} (POP)", flags[1])), "{shown}");
    }
    let shown = text(&demo(&["--short"]).env("LC_ALL", "C").output().unwrap());
    assert!(shown.is_ascii(), "{shown}");
}

#[test]
fn programs_get_json() {
    let seen: Value = serde_json::from_str(&text(&demo(&["--json", "--short"]).output().unwrap())).unwrap();
    assert_eq!((&seen["ok"], &seen["pop"]), (&Value::from(true), &Value::from("fra")));
    let visits = seen["visits"].as_array().unwrap();
    assert_eq!(visits.len(), 20);
    for visit in visits {
        assert!(visit["expected"].as_array().unwrap().contains(&visit["reached"]), "{visit}");
    }
    let acts = seen["acts"].as_array().unwrap();
    assert_eq!(acts[2]["reached"], serde_json::json!({ "cdg": 20, "lhr": 10 }));
    assert!(acts[1]["took_ms"].as_f64().unwrap() > 0.0, "{}", acts[1]);
}

/// Distances are a twentieth; it is the whole of it otherwise.
#[test]
fn ten_regions_measure_their_database() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("picture.svg");
    let flags = ["--json", "--scale", "20", "--picture", picture.to_str().unwrap()];
    let seen: Value = serde_json::from_str(&text(&demo(&flags).output().unwrap())).unwrap();
    assert_eq!(seen["ok"], true);
    if let Some(missing) = seen["postgres"]["missing"].as_str() {
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        println!("SKIPPED: {missing}");
        return;
    }
    let measured = &seen["postgres"]["measured"];
    let regions = measured["regions"].as_array().unwrap();
    assert_eq!(regions.len(), 10);
    for region in regions {
        let (same, ours) =
            (region["as_published"]["insert"].as_f64().unwrap(), region["ours"]["insert"].as_f64().unwrap());
        println!("{} as published {same} ms, ours {ours} ms", region["region"]);
        assert!(same > 0.0 && ours > 0.0 && region["failure"].is_null(), "{region}");
    }
    let replicas = measured["replicas"].as_array().unwrap();
    assert!(
        replicas.len() == 2 && replicas[1]["seen_after_ms"].as_f64().unwrap() > 268.85 / 2.0 / 20.0,
        "{replicas:?}"
    );
    assert!(std::fs::read_to_string(picture).unwrap().starts_with("<svg"));
}

#[test]
fn a_place_where_no_picture_can_be_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for place in [folder.path().to_owned(), folder.path().join("nowhere").join("picture.svg")] {
        let output = demo(&["--picture", place.to_str().unwrap()]).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("no picture at"), "{output:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Without PostgreSQL the rest runs, and it is told what would help.
#[test]
fn what_cannot_run_here_is_named() {
    let shown = text(&demo(&["--ascii"]).env("EDGEPROXY_POSTGRES_BIN", "/nowhere").output().unwrap());
    assert!(shown.contains("Not shown: EDGEPROXY_POSTGRES_BIN names /nowhere"), "{shown}");
    assert!(shown.contains("Everything as expected."), "{shown}");
}

#[test]
fn an_unknown_region_is_bad_usage() {
    let output = demo(&["--region", "atlantis"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("gru, iad, ord"), "{output:?}");
}

struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn kept_it_runs_until_it_is_told_to_stop() {
    let mut kept = Kept(demo(&["--keep", "--json", "--short"]).stdout(Stdio::piped()).spawn().unwrap());
    let said = Lines::of("demo", kept.0.stdout.take().unwrap()).unwrap();
    let seen = said.wait_for("what was seen", LONG, |line| line["ok"] == true).await.unwrap();
    let proxy = seen["proxy"].as_str().unwrap().parse().unwrap();

    // Tokyo and Frankfurt are back. Each look is that of another client: affinity keeps one where it came first.
    for (network, region) in [("133.11.0", "nrt"), ("192.53.103", "fra")] {
        let mut host = 0;
        eventually(region, LONG, async || {
            host += 1;
            let client = format!("{network}.{host}:5555").parse().unwrap();
            let mut client = Client::connect_as(proxy, Header::V1(client)).await?;
            Ok((client.line().await? == region).then_some(()))
        })
        .await
        .unwrap();
    }
    let mut client = Client::connect_as(proxy, Header::V1("133.11.0.1:5555".parse().unwrap())).await.unwrap();
    client.line().await.unwrap();
    let process = Pid::from_raw(i32::try_from(kept.0.id()).unwrap()).unwrap();
    kill_process(process, Signal::INT).unwrap();
    client.finish().await.unwrap();
    assert_eq!(client.ending().await.unwrap(), (vec![], Ending::Finished));
    let status = eventually("its end", LONG, async || kept.0.try_wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    let refused = Client::connect(proxy).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "its POP has ended with it");
}

/// Nothing can be removed then, but nothing goes on running either, also where a shell has told it to ignore signals.
#[tokio::test]
async fn killed_it_leaves_no_process_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' INT QUIT TERM HUP; exec \"$0\" demo --keep --json --short"]);
    shell.arg(env!("CARGO_BIN_EXE_edgeproxy")).env("TMPDIR", folder.path()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut kept = Kept(shell.spawn().unwrap());
    let said = Lines::of("demo", kept.0.stdout.take().unwrap()).unwrap();
    let seen = said.wait_for("what was seen", LONG, |line| line["ok"] == true).await.unwrap();
    let proxy = seen["proxy"].as_str().unwrap().parse().unwrap();
    kept.0.kill().unwrap();
    let refused = async || Ok(Client::connect(proxy).await.is_err().then_some(()));
    eventually("the end of its POP", LONG, refused).await.unwrap();
}
