//! Against stores that others wrote: s3s-fs and s3rver, real signatures and real bytes.
//!
//! `make tools` builds them. Where they are not, the tests say so and are skipped; where CI is set, they fail.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeproxy_bench::storage::{Checksum, Janitor, MIB, Meter, Shape, Store, sweep, upload};
use tempfile::TempDir;

use crate::support::{LONG, parts, run, single, store_at};

const KEY: &str = "AKEXAMPLES3S";
const SECRET: &str = "SKEXAMPLES3S";

/// A server of somebody else, with a bucket `speed`.
struct Server {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Server {
    /// `None`: it is not here.
    fn s3s() -> Option<Self> {
        let program = tool("EDGEPROXY_S3S_FS", "bin/s3s-fs")?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("speed")).unwrap();
        let mut command = Command::new(program);
        command.args(["--access-key", KEY, "--secret-key", SECRET, "--host", "127.0.0.1"]);
        Some(Self::start(command, folder, |command, folder, port| {
            command.args(["--port", &port.to_string()]).arg(folder);
        }))
    }

    /// `None`: it is not here, or node is not.
    fn s3rver() -> Option<Self> {
        let program = tool("EDGEPROXY_S3RVER", "s3rver/node_modules/s3rver/bin/s3rver.js")?;
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("node");
        command.arg(program).args(["--configure-bucket", "speed", "--address", "127.0.0.1", "--silent"]);
        Some(Self::start(command, folder, |command, folder, port| {
            command.args(["--port", &port.to_string(), "--directory"]).arg(folder);
        }))
    }

    fn start(mut command: Command, folder: TempDir, finish: impl FnOnce(&mut Command, &Path, u16)) -> Self {
        // Free a moment ago; neither program tells a port that it chose itself.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        finish(&mut command, folder.path(), port);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let errors = child.stderr.take().unwrap();
        std::thread::spawn(move || BufReader::new(errors).lines().for_each(drop));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let until = Instant::now() + LONG;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "it does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, address, folder }
    }

    fn store(&self, secret: &str, bucket: &str) -> Store {
        let mut store = store_at(&format!("http://{}", self.address), bucket);
        store.keys.secret = secret.to_owned().into();
        store.retries = 0;
        store
    }

    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Uploads that are begun, as the server keeps them.
    fn unfinished(&self) -> usize {
        let entries = std::fs::read_dir(self.folder.path()).unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(".upload")).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn tool(variable: &str, path: &str) -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?.join("tools").join(path);
    let found = std::env::var_os(variable).map(PathBuf::from).or(Some(tools)).filter(|path| path.exists());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{path} is not there: make tools");
        eprintln!("skipped: {path} is not there; make tools");
    }
    found
}

#[tokio::test]
async fn s3s_takes_and_gives_back_every_byte() {
    let Some(server) = Server::s3s() else { return };
    for checksum in [None, Some(Checksum::Crc32), Some(Checksum::Crc64Nvme)] {
        for mut plan in [parts(4, 3), single(7 * MIB + 3)] {
            plan.read_back = true;
            let mut store = server.store(SECRET, "speed");
            store.checksum = checksum;
            let outcome = run(store, &plan).await.unwrap_or_else(|failure| panic!("{checksum:?} {plan:?}: {failure}"));
            assert_eq!(outcome.read_back.unwrap().bytes, plan.shape.bytes());
            assert!(outcome.deleted, "{:?}", outcome.notes);
            assert_eq!(server.unfinished(), 0);
        }
    }
}

#[tokio::test]
async fn s3rver_takes_and_gives_back_every_byte() {
    let Some(server) = Server::s3rver() else { return };
    for mut plan in [parts(4, 3), single(7 * MIB + 3)] {
        plan.read_back = true;
        let mut store = server.store("S3RVER", "speed");
        store.keys.id = "S3RVER".to_owned();
        let outcome = run(store, &plan).await.unwrap_or_else(|failure| panic!("{plan:?}: {failure}"));
        assert_eq!(outcome.read_back.unwrap().bytes, plan.shape.bytes());
        assert!(outcome.deleted, "{:?}", outcome.notes);
    }
}

#[tokio::test]
async fn a_wrong_secret_and_a_bucket_that_is_not_there_are_told() {
    let Some(server) = Server::s3s() else { return };
    for plan in [parts(2, 1), single(100_000)] {
        let failure = run(server.store("wrong", "speed"), &plan).await.unwrap_err();
        assert_eq!(failure.code(), "SignatureDoesNotMatch", "{failure}");
        assert!(failure.to_string().starts_with("Upload failed: 403 - "), "{failure}");
        assert!(failure.advice().contains("AWS_SECRET_ACCESS_KEY"));
    }
    // It would make one for an object that comes.
    let failure = run(server.store(SECRET, "nowhere"), &single(100_000)).await.unwrap_err();
    assert_eq!(failure.code(), "NoSuchBucket", "{failure}");
    let Some(server) = Server::s3rver() else { return };
    for plan in [parts(2, 1), single(100_000)] {
        let with = |id: &str, bucket: &str| {
            let mut store = server.store("S3RVER", bucket);
            store.keys.id = id.to_owned();
            store
        };
        // Of the fourth version it checks who signed, and not what.
        let failure = run(with("nobody", "speed"), &plan).await.unwrap_err();
        assert_eq!(failure.code(), "InvalidAccessKeyId", "{failure}");
        assert!(failure.to_string().starts_with("Upload failed: 403 - "), "{failure}");
        let failure = run(with("S3RVER", "nowhere"), &plan).await.unwrap_err();
        assert_eq!(failure.code(), "NoSuchBucket", "{failure}");
        assert!(failure.advice().contains("S3_BUCKET"));
    }
}

#[tokio::test]
async fn whoever_goes_away_leaves_no_upload_at_the_server() {
    let Some(server) = Server::s3s() else { return };
    let mut plan = parts(40, 3);
    plan.sweep = false;
    let (janitor, meter) = (Janitor::new(), Meter::new());
    let store = Arc::new(server.store(SECRET, "speed"));
    let begun = async {
        let until = Instant::now() + LONG;
        while (meter.out() < 12 * MIB || server.unfinished() == 0) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        result = upload(&store, &plan, &meter, &janitor) => panic!("too fast: {result:?}"),
        () = begun => {}
    }
    assert!(server.unfinished() > 0);
    assert!(janitor.finish(LONG).await);
    assert_eq!(server.unfinished(), 0);
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_of_a_part_is_a_failure_and_no_figure() {
    let Some(mut server) = Server::s3s() else { return };
    let store = Arc::new(server.store(SECRET, "speed"));
    let (janitor, meter) = (Janitor::new(), Meter::new());
    let plan = edgeproxy_bench::storage::Plan {
        shape: Shape::Parts { count: 4, bytes: 200 * MIB, streams: 2 },
        ..parts(1, 1)
    };
    let upload = upload(&store, &plan, &meter, &janitor);
    let kill = async {
        let until = Instant::now() + LONG;
        while meter.out() < 20 * MIB && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.kill();
    };
    let (result, ()) = tokio::join!(upload, kill);
    let failure = result.unwrap_err();
    assert!(["ConnectionCut", "NoConnection"].contains(&failure.code()), "{failure}");
    assert!(!failure.advice().is_empty());
}

#[tokio::test]
async fn a_sweep_looks_at_a_real_list() {
    let Some(server) = Server::s3s() else { return };
    let mut plan = single(1000);
    plan.keep = true;
    let outcome = run(server.store(SECRET, "speed"), &plan).await.unwrap();
    let (swept, failures) = sweep(&Arc::new(server.store(SECRET, "speed"))).await;
    assert_eq!((swept.objects, swept.uploads), (0, 0));
    // It does not list uploads, and says so.
    assert!(failures.iter().all(|failure| failure.code() == "NotImplemented"), "{failures:?}");
    assert!(server.folder.path().join("speed").join(outcome.key).exists());
}
