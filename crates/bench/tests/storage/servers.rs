//! Against stores that others wrote: s3s-fs and s3rver, real signatures and real bytes.
//!
//! `make tools` builds them. Where they are not, the tests say so and are skipped; where CI is set, they fail.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use edgeproxy_bench::storage::{Checksum, MIB, Meter, Reason, Shape, Step, Store, sweep, upload};
use edgeproxy_world::ForeignStore;

use crate::support::{LONG, janitor, parts, run, single, store_at};

const SECRET: &str = ForeignStore::S3S_KEY.1;
const S3RVER: (&str, &str) = ForeignStore::S3RVER_KEY;

/// `None`: it is not here.
fn started(start: impl FnOnce(&Path) -> std::io::Result<ForeignStore>) -> Option<ForeignStore> {
    match start(&Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?.join("tools")) {
        Err(error) if error.kind() == ErrorKind::NotFound && std::env::var_os("CI").is_none() => {
            eprintln!("skipped: {error}");
            None
        }
        server => Some(server.unwrap()),
    }
}

fn s3s() -> Option<ForeignStore> {
    started(ForeignStore::s3s)
}

/// How it is reached, by the key of s3s-fs with this secret.
fn store(server: &ForeignStore, secret: &str, bucket: &str) -> Store {
    at(server.address(), secret, bucket)
}

fn at(address: SocketAddr, secret: &str, bucket: &str) -> Store {
    let mut store = store_at(&format!("http://{address}"), bucket);
    store.keys.secret = secret.to_owned().into();
    store.retries = 0;
    store
}

#[tokio::test]
async fn s3s_takes_and_gives_back_every_byte() {
    let Some(server) = s3s() else { return };
    for checksum in [None, Some(Checksum::Crc32), Some(Checksum::Crc64Nvme)] {
        for mut plan in [parts(4, 3), single(7 * MIB + 3)] {
            plan.read_back = true;
            let mut store = store(&server, SECRET, "speed");
            store.checksum = checksum;
            let outcome = run(store, &plan).await.unwrap_or_else(|failure| panic!("{checksum:?} {plan:?}: {failure}"));
            assert_eq!(outcome.read_back.unwrap().bytes, plan.shape.bytes());
            assert!(outcome.deleted, "{:?}", outcome.notes);
            assert_eq!(server.uploads().unwrap(), 0);
        }
    }
}

#[tokio::test]
async fn s3rver_takes_and_gives_back_every_byte() {
    let Some(server) = started(ForeignStore::s3rver) else { return };
    for mut plan in [parts(4, 3), single(7 * MIB + 3)] {
        plan.read_back = true;
        let mut store = store(&server, S3RVER.1, "speed");
        store.keys.id = S3RVER.0.to_owned();
        let outcome = run(store, &plan).await.unwrap_or_else(|failure| panic!("{plan:?}: {failure}"));
        assert_eq!(outcome.read_back.unwrap().bytes, plan.shape.bytes());
        assert!(outcome.deleted, "{:?}", outcome.notes);
    }
}

#[tokio::test]
async fn a_wrong_secret_and_a_bucket_that_is_not_there_are_told() {
    let Some(server) = s3s() else { return };
    for plan in [parts(2, 1), single(100_000)] {
        let failure = run(store(&server, "wrong", "speed"), &plan).await.unwrap_err();
        assert_eq!(failure.code(), "SignatureDoesNotMatch", "{failure}");
        assert!(failure.to_string().starts_with("Upload failed: 403 - "), "{failure}");
        assert!(failure.advice().contains("AWS_SECRET_ACCESS_KEY"));
    }
    // It would make one for an object that comes.
    let failure = run(store(&server, SECRET, "nowhere"), &single(100_000)).await.unwrap_err();
    assert_eq!(failure.code(), "NoSuchBucket", "{failure}");
    let Some(server) = started(ForeignStore::s3rver) else { return };
    for plan in [parts(2, 1), single(100_000)] {
        let with = |id: &str, bucket: &str| {
            let mut store = store(&server, S3RVER.1, bucket);
            store.keys.id = id.to_owned();
            store
        };
        // Of the fourth version it checks who signed, and not what.
        let failure = run(with("nobody", "speed"), &plan).await.unwrap_err();
        assert_eq!(failure.code(), "InvalidAccessKeyId", "{failure}");
        assert!(failure.to_string().starts_with("Upload failed: 403 - "), "{failure}");
        let failure = run(with(S3RVER.0, "nowhere"), &plan).await.unwrap_err();
        assert_eq!(failure.code(), "NoSuchBucket", "{failure}");
        assert!(failure.advice().contains("S3_BUCKET"));
    }
}

#[tokio::test]
async fn whoever_goes_away_leaves_no_upload_at_the_server() {
    let Some(server) = s3s() else { return };
    let mut plan = parts(40, 3);
    plan.sweep = false;
    let ((janitor, told), meter) = (janitor(), Meter::new());
    let store = Arc::new(store(&server, SECRET, "speed"));
    let begun = async {
        let until = Instant::now() + LONG;
        while (meter.out() < 12 * MIB || server.uploads().unwrap() == 0) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        result = upload(&store, &plan, &meter, &janitor) => panic!("too fast: {result:?}"),
        () = begun => {}
    }
    assert!(server.uploads().unwrap() > 0);
    assert_eq!(told().await, [""; 0]);
    assert_eq!(server.uploads().unwrap(), 0);
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_of_a_part_is_a_failure_and_no_figure() {
    let Some(server) = s3s() else { return };
    let store = Arc::new(store(&server, SECRET, "speed"));
    let ((janitor, _), meter) = (janitor(), Meter::new());
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
        server.kill().unwrap();
    };
    let (result, ()) = tokio::join!(upload, kill);
    let failure = result.unwrap_err();
    assert!(["ConnectionCut", "NoConnection"].contains(&failure.code()), "{failure}");
    assert!(!failure.advice().is_empty());
}

#[tokio::test]
async fn a_sweep_looks_at_a_real_list() {
    let Some(server) = s3s() else { return };
    let mut plan = single(1000);
    plan.keep = true;
    let outcome = run(store(&server, SECRET, "speed"), &plan).await.unwrap();
    assert!(outcome.key.starts_with("speed-test/kept/"), "{}", outcome.key);
    let (swept, failures) = sweep(&Arc::new(store(&server, SECRET, "speed"))).await;
    assert_eq!((swept.objects, swept.uploads), (0, 0));
    // It does not list uploads, and says so.
    assert!(failures.iter().all(|failure| failure.code() == "NotImplemented"), "{failures:?}");
    assert!(server.object(&outcome.key).exists());
}

/// Before a server: passes on all that comes; of an object that is read, a byte at a time after the first piece.
fn trickling(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the process; its connections with their ends.
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(server).unwrap();
            let is_read = Arc::new(AtomicBool::new(false));
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let noted = is_read.clone();
            std::thread::spawn(move || {
                pass(from, to, |bytes| {
                    noted.fetch_or(bytes.starts_with(b"GET /speed/speed-test/"), Ordering::Relaxed);
                    false
                });
            });
            std::thread::spawn(move || {
                let mut pieces = 0;
                pass(server, client, |_| {
                    pieces += usize::from(is_read.load(Ordering::Relaxed));
                    pieces > 1
                });
            });
        }
    });
    address
}

/// Passes on what comes, slowly where that is said of it.
fn pass(mut from: TcpStream, mut to: TcpStream, mut is_slow: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 8192];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let slowly = is_slow(&buffer[..length]);
        for piece in buffer[..length].chunks(if slowly { 1 } else { length }) {
            if to.write_all(piece).is_err() {
                return;
            }
            if slowly {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    // Whichever end is gone already.
    let _ = to.shutdown(std::net::Shutdown::Write);
}

#[tokio::test]
async fn a_store_that_gives_back_a_trickle_is_not_waited_for() {
    let Some(server) = s3s() else { return };
    let mut store = at(trickling(server.address()), SECRET, "speed");
    store.patience.request = Duration::from_secs(2);
    let mut plan = single(MIB);
    (plan.read_back, plan.sweep) = (true, false);
    let began = Instant::now();
    let failure = run(store, &plan).await.unwrap_err();
    assert_eq!((failure.step, failure.reason), (Step::ReadBack, Reason::Late(2)));
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
    let objects = std::fs::read_dir(server.object("speed-test")).map_or(0, Iterator::count);
    assert_eq!(objects, 0);
}
