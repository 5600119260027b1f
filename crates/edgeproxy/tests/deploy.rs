//! What `deploy/` promises, done with the real binary and a real PostgreSQL.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test may panic, and tells what it skips"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use edgeproxy_world::LONG;
use edgeproxy_world::postgres::{Binaries, PASSWORD, SUPERUSER, ScratchPostgres};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_edgeproxy");

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(file)
}

/// The container's process, without the container.
struct Service {
    child: Child,
    port: u16,
}

impl Service {
    fn start(region: &str, files: &str, mode: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("sh");
        command.arg(deploy("entrypoint.sh")).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("EDGEPROXY_BIN", PROGRAM).env("FLY_REGION", region).env("PORT", port.to_string());
        command.env("EDGEPROXY_OVERLAY_FILES", files).env("EDGEPROXY_OVERLAY_MODE", mode);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, port }
    }

    /// The body of the answer, once there is one.
    fn get(&self, path: &str) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            match self.ask(path) {
                Ok(answer) if !answer.is_empty() => {
                    return answer.split_once("\r\n\r\n").unwrap().1.to_owned();
                }
                outcome if Instant::now() > deadline => panic!("no answer: {outcome:?}"),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn ask(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(LONG))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// What the process itself was started with, as anybody with its user's rights can read it.
    fn environment(&self) -> String {
        String::from_utf8_lossy(&fs::read(format!("/proc/{}/environ", self.child.id())).unwrap()).into_owned()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder of a hub and two regions, as the guide has it packed.
fn packed_files() -> String {
    let folder = TempDir::new().unwrap();
    let init = ["overlay", "init", "--hub", "127.0.0.1:51820", "--regions", "gru,iad", "--dir", "overlay"];
    let made = Command::new(PROGRAM).args(init).current_dir(&folder).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let pack = "tar -C overlay --exclude=hub.conf -cz . | base64 -w0";
    let packed = Command::new("sh").args(["-c", pack]).current_dir(&folder).output().unwrap();
    String::from_utf8(packed.stdout).unwrap()
}

#[test]
fn the_entry_point_brings_the_tunnel_up_and_serves() {
    let service = Service::start("gru", &packed_files(), "netstack");
    let info = service.get("/api/info");
    assert!(info.contains(r#""region":"gru""#), "{info}");
    let environment = service.environment();
    assert!(environment.contains("EDGEPROXY_OVERLAY="), "{environment}");
    assert!(!environment.contains("EDGEPROXY_OVERLAY_FILES"), "keys are not handed on");
}

#[test]
fn a_region_without_a_file_of_its_own_serves_without_a_tunnel() {
    for files in [packed_files(), String::new()] {
        let service = Service::start("xyz", &files, "netstack");
        let info = service.get("/api/info");
        assert!(info.contains(r#""region":"xyz""#), "{info}");
    }
}

#[test]
fn the_app_is_as_small_as_the_guide_says() {
    let text = fs::read_to_string(deploy("fly.toml")).unwrap();
    let settings: toml::Table = text.parse().unwrap();
    let expected: toml::Table = r"
        app = 'edgeproxy-backend'
        primary_region = 'gru'
        build = {}
        http_service = { internal_port = 8080, force_https = true, auto_stop_machines = 'stop', auto_start_machines = true, min_machines_running = 0, processes = ['app'] }
        vm = [{ memory = '256mb', cpu_kind = 'shared', cpus = 1 }]
    "
    .parse()
    .unwrap();
    assert_eq!(settings, expected);
}

#[test]
fn the_hub_is_the_same_by_user_data_and_by_hand() {
    let user_data = fs::read_to_string(deploy("hub/cloud-init.yaml")).unwrap();
    for file in ["hub/hub.toml", "hub/edgeproxy-hub.service"] {
        let text = fs::read_to_string(deploy(file)).unwrap();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            assert!(user_data.lines().any(|other| other.trim() == line), "{file}: {line}");
        }
    }
    // What the first start would say.
    let folder = TempDir::new().unwrap();
    fs::copy(deploy("hub/hub.toml"), folder.path().join("hub.toml")).unwrap();
    let init = ["overlay", "init", "--hub", "hub.example.com:51820", "--dir", "overlay"];
    assert!(Command::new(PROGRAM).args(init).current_dir(&folder).status().unwrap().success());
    let check = ["check", "--gateway", "-c", "hub.toml"];
    let checked = Command::new(PROGRAM).args(check).current_dir(&folder).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

#[tokio::test]
async fn the_tables_role_can_do_what_the_benchmark_does_and_no_more() {
    let Some(server) = server().await else { return };
    server.sql("CREATE DATABASE guide").await.unwrap();
    let run = |user: &str, database: &str, arguments: &[&str]| -> Output {
        let address = server.address();
        let mut command = Command::new(server.binaries().program("psql"));
        command.args([
            "-X",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            &address.ip().to_string(),
            "-p",
            &address.port().to_string(),
        ]);
        command.args(["-U", user, "-d", database]).args(arguments);
        command.env("PGPASSWORD", if user == "guide" { "of the guide" } else { PASSWORD });
        command.output().unwrap()
    };
    // The scratch server has a role of the table's name already.
    let sql = fs::read_to_string(deploy("database.sql")).unwrap().replace("contacts_user", "guide");
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("database.sql");
    fs::write(&file, sql).unwrap();
    let file = file.to_str().unwrap();
    let made = run(SUPERUSER, "guide", &["-v", "password=of the guide", "-f", file]);
    assert!(made.status.success(), "{made:?}");
    let insert =
        "INSERT INTO contacts (name, email, notes) VALUES ('a', 'b', 'c') RETURNING id, created_at IS NOT NULL";
    let allowed =
        run("guide", "guide", &["-Atc", insert, "-c", "SELECT count(*) FROM contacts", "-c", "DELETE FROM contacts"]);
    assert_eq!(String::from_utf8_lossy(&allowed.stdout), "1|t\nINSERT 0 1\n1\nDELETE 1\n", "{allowed:?}");
    let refused = run("guide", "guide", &["-c", "DROP TABLE contacts"]);
    assert!(!refused.status.success());
}

async fn server() -> Option<ScratchPostgres> {
    if let Err(missing) = Binaries::find() {
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("skipped: {missing}");
        return None;
    }
    Some(ScratchPostgres::start("eu").await.unwrap())
}
