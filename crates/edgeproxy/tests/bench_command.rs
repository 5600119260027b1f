//! `edgeproxy backend` and `edgeproxy bench` as programs: what they print, write and exit with, and the way through the
//! overlay.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may panic, and tells what it skips"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use edgeproxy_world::postgres::{Binaries, DATABASE, PASSWORD, ScratchPostgres, USER};
use edgeproxy_world::{Bucket, LONG, eventually};
use rustix::process::{Pid, Signal, kill_process};

const PROGRAM: &str = env!("CARGO_BIN_EXE_edgeproxy");

/// A program that runs on. It ends with the test.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        for name in ["FLY_REGION", "FLY_ALLOC_ID", "PORT", "DB_HOST", "DATABASE_URL", "PRIMARY_REGION"] {
            command.env_remove(name);
        }
        let mut child = command.envs(variables.iter().copied()).spawn().unwrap();
        let (tell, lines) = mpsc::channel();
        let log = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// The next line of its log with all of these in it.
    fn wait_for(&mut self, parts: &[&str]) -> String {
        let deadline = std::time::Instant::now() + LONG;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if parts.iter().all(|part| line.contains(part)) => return line,
                Ok(line) => self.seen.push(line),
                Err(error) => panic!("{parts:?} does not come ({error}), only {:#?}", self.seen),
            }
        }
    }

    /// Asks it to end; how it did.
    fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bench(arguments: &[&str]) -> Output {
    let output = Command::new(PROGRAM).arg("bench").args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains('\u{1b}'), "no progress where nobody watches");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn postgres() -> Option<ScratchPostgres> {
    if let Err(missing) = Binaries::find() {
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("SKIPPED: {missing}");
        return None;
    }
    Some(ScratchPostgres::start("eu").await.unwrap())
}

fn of_database(server: &ScratchPostgres) -> Vec<(&'static str, String)> {
    vec![
        ("DB_HOST", server.address().ip().to_string()),
        ("DB_PORT", server.address().port().to_string()),
        ("DB_USER", USER.to_owned()),
        ("DB_PASSWORD", PASSWORD.to_owned()),
        ("DB_NAME", DATABASE.to_owned()),
    ]
}

fn borrowed<'a>(variables: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

#[tokio::test]
async fn a_fleet_is_measured_saved_and_compared() {
    let Some(server) = postgres().await else { return };
    let port = free_port().to_string();
    let mut variables = of_database(&server);
    variables.extend([("FLY_REGION", "lhr".to_owned()), ("PORT", port.clone())]);
    let mut backend = Running::start(&["backend"], &borrowed(&variables));
    backend.wait_for(&["backend running", "lhr", &port]);
    backend.wait_for(&["database connected", "127.0.0.1"]);

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let gone = free_port();
    let fleet = format!(
        "source = \"here\"\ndatabase = \"there\"\n[[site]]\nregion = \"lhr\"\naddress = \"127.0.0.1:{port}\"\n\
         location = \"London\"\ncountry = \"GB\"\n[[site]]\nregion = \"syd\"\naddress = \"127.0.0.1:{gone}\"\n\
         location = \"Sydney\"\nflag = \"AU\"\n"
    );
    fs::write(path("fleet.toml"), fleet).unwrap();
    let (fleet, first, second) = (path("fleet.toml"), path("first"), path("second"));
    let (csv, svg, html) = (path("a.csv"), path("a.svg"), path("a.html"));
    let ran = bench(&[
        "db",
        "--fleet",
        &fleet,
        "--iterations",
        "20",
        "--out",
        &first,
        "--csv",
        &csv,
        "--svg",
        &svg,
        "--html",
        &html,
        "--ascii",
    ]);
    let (told, notes) = (text(&ran.stdout), text(&ran.stderr));
    assert_eq!(ran.status.code(), Some(0), "{notes}");
    assert!(told.starts_with("=== RDS Benchmark: here -> there ===\n\n| Flag | Region | Location      |"), "{told}");
    assert!(told.contains("| AU   | syd    | Sydney        |     TIMEOUT |   TIMEOUT |"), "{told}");
    assert!(notes.contains("note: syd: not reached: "), "{notes}");
    assert!(fs::read_to_string(&svg).unwrap().starts_with("<svg"));
    assert!(fs::read_to_string(&html).unwrap().starts_with("<!DOCTYPE html>"));
    assert!(fs::read_to_string(&csv).unwrap().contains("\nlhr,lhr,London,GB,insert,20,0,"));

    // The same, as JSON; compared with itself, and with one that has lost a region.
    let same = bench(&["compare", &first, &first]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same.stderr));
    let json = bench(&["db", "--fleet", &fleet, "--iterations", "20", "--json"]);
    let mut run: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    run["rows"][0]["outcome"] = serde_json::json!({ "failed": { "kind": "late", "detail": 10 } });
    fs::write(&second, run.to_string()).unwrap();
    let lost = bench(&["compare", &first, &second, "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&lost.stdout).unwrap();
    assert_eq!((lost.status.code(), &answer["regressions"]), (Some(1), &serde_json::json!(1)));
    assert_eq!(answer["differences"][0]["verdict"], serde_json::json!("lost"));
    let odd = bench(&["compare", &first, &fleet]);
    assert!(odd.status.code() == Some(1) && text(&odd.stderr).contains("is no saved run"), "{}", text(&odd.stderr));

    let one = bench(&["db", "--backend", &format!("http://127.0.0.1:{port}"), "--mode", "pq"]);
    let told = text(&one.stdout);
    let head: Vec<_> = told.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["region", "insert_avg_ms", "read_avg_ms"]);
    assert!(told.lines().nth(1).unwrap().starts_with("lhr "), "{told}");
    let via = bench(&["db", "--via", &format!("127.0.0.1:{port}"), "--ascii", "--no-phases"]);
    assert!(text(&via.stdout).contains("| GB   | lhr    | London        |"), "{}", text(&via.stdout));
    let nobody = bench(&["db", "--backend", &format!("127.0.0.1:{gone}")]);
    assert!(nobody.status.code() == Some(1) && text(&nobody.stderr).contains("nothing was measured"));
    for wrong in [vec!["--iterations", "0"], vec!["--fleet", "/nowhere/fleet.toml"], vec!["--backend", "https://x"]] {
        let refused = bench(&[vec!["db"], wrong].concat());
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    }
    assert_eq!(server.value("SELECT count(*) FROM contacts").await.unwrap(), "0");
    assert_eq!(backend.stop(), Some(0));
}

#[test]
fn the_backend_tells_all_that_is_wrong_before_it_binds() {
    let variables = [("PORT", "http"), ("DB_HOST", "h"), ("DB_PORT", "0x"), ("EDGEPROXY_OVERLAY_MODE", "magic")];
    let output = Command::new(PROGRAM).arg("backend").envs(variables).output().unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    for part in ["PORT is \"http\"", "DB_PORT is \"0x\"", "EDGEPROXY_OVERLAY_MODE is \"magic\""] {
        assert!(told.contains(part), "{told}");
    }
}

#[tokio::test]
async fn who_has_no_tunnel_still_serves_and_an_interrupted_run_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (port, path) = (free_port().to_string(), folder.path().display().to_string());
    let mode = ("EDGEPROXY_OVERLAY_MODE", "netstack");
    let variables = [("FLY_REGION", "mars"), ("PORT", port.as_str()), ("EDGEPROXY_OVERLAY", path.as_str()), mode];
    let mut backend = Running::start(&["backend"], &variables);
    backend.wait_for(&["no overlay", "mars.conf"]);
    backend.wait_for(&["DB_HOST is not set"]);
    backend.wait_for(&["backend running", "mars"]);
    assert!(get(&port, "/api/info").contains("\"region\":\"mars\""));
    assert_eq!(backend.stop(), Some(0));

    // Somebody who takes a request and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let mut run = Command::new(PROGRAM);
    let mut run = run.args(["bench", "db", "--backend", &address]).stderr(Stdio::piped()).spawn().unwrap();
    let (mut taken, _) = silent.accept().unwrap();
    assert!(taken.read(&mut [0; 64]).unwrap() > 0);
    kill_process(Pid::from_child(&run), Signal::INT).unwrap();
    let ended = eventually("the end of the run", LONG, async || run.try_wait()).await.unwrap();
    assert_eq!(ended.code(), Some(1));
}

#[tokio::test]
async fn database_and_backend_are_reached_through_the_overlay() {
    let Some(server) = postgres().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("overlay").display().to_string();
    let hub_port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("127.0.0.1:{hub_port}");
    let made = Command::new(PROGRAM).args(["overlay", "init", "--hub", &endpoint, "--dir", &files]).output().unwrap();
    assert!(made.status.success());
    let config = folder.path().join("hub.toml");
    write_hub(&config, &files, &server);
    let mut hub = Running::start(&["gateway", "-c", &config.display().to_string()], &[]);
    hub.wait_for(&["ready"]);

    let port = free_port().to_string();
    let bucket = Bucket::start().unwrap();
    let mut variables = of_database(&server);
    variables.retain(|(name, _)| !["DB_HOST", "DB_PORT"].contains(name));
    variables.extend([
        ("AWS_ENDPOINT_URL_S3", format!("http://{}", bucket.address())),
        ("AWS_ACCESS_KEY_ID", "key".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ("S3_BUCKET", "speed".to_owned()),
        ("FLY_REGION", "lhr".to_owned()),
        ("PORT", port.clone()),
        ("DB_HOST", "10.50.0.1".to_owned()),
        ("EDGEPROXY_OVERLAY", files.clone()),
        ("EDGEPROXY_OVERLAY_MODE", "netstack".to_owned()),
    ]);
    let mut backend = Running::start(&["backend"], &borrowed(&variables));
    backend.wait_for(&["overlay up", "10.50.3.1"]);
    backend.wait_for(&["listening inside the overlay", &format!("10.50.3.1:{port}")]);
    backend.wait_for(&["database connected", "10.50.0.1"]);

    let inside = format!("http://10.50.3.1:{port}");
    let way = ["--overlay", &files, "--region", "syd", "--overlay-mode", "netstack"];
    let ran = bench(&[&["db", "--backend", &inside, "--iterations", "5", "--json"], &way[..]].concat());
    let run: serde_json::Value =
        serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{}", text(&ran.stderr)));
    let measured = &run["rows"][0]["outcome"]["measured"];
    assert_eq!((&measured["region"], &measured["db_host"]), (&"lhr".into(), &"10.50.0.1".into()), "{run}");
    assert_eq!(measured["samples"]["insert"].as_array().unwrap().len(), 5);
    let own_file = format!("{files}/syd.conf");
    let way =
        ["--overlay", &own_file, "--overlay-mode", "netstack", "--mode", "single", "--size", "1MB", "--repeat", "1"];
    let ran = bench(&[&["storage", "--backend", &inside, "--json"], &way[..]].concat());
    let run: serde_json::Value =
        serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{}", text(&ran.stderr)));
    assert_eq!(run["report"]["settings"][0]["runs"][0]["bytes"], 1_000_000, "{run}");
    assert_eq!(bucket.received(), 1_000_000);
    let nowhere = bench(&[&["storage"], &way[..]].concat());
    assert_eq!(nowhere.status.code(), Some(2), "{}", text(&nowhere.stderr));
    let taken = ["--overlay", &files, "--region", "lhr", "--overlay-mode", "netstack"];
    let refused = bench(&[&["db", "--backend", &inside], &taken[..]].concat());
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("would take its place"), "{}", text(&refused.stderr));
    // Published: a backend has 256 MB. A debug build needs more than a release build.
    let resident = fs::read_to_string(format!("/proc/{}/status", backend.child.id())).unwrap();
    let peak = resident.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!("peak resident memory of a backend with overlay: {kilobytes} kB");
    assert!(kilobytes < 128 * 1024, "{kilobytes} kB");
    assert_eq!(backend.stop(), Some(0));
}

fn write_hub(config: &Path, files: &str, server: &ScratchPostgres) {
    let text = format!(
        "region = \"hub\"\n[admin]\nlisten = \"127.0.0.1:{}\"\n[overlay]\nconfig = \"{files}/hub.conf\"\nmode = \"netstack\"\n\
         [[publish]]\nlisten = \"10.50.0.1:5432\"\ntarget = \"{}\"\n",
        free_port(),
        server.address()
    );
    fs::write(config, text).unwrap();
}

fn get(port: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
