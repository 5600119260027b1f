//! A service that is told to end in the middle of a run.

use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use edgeproxy_world::{Bucket, Fault, ForeignStore, Operation};

use crate::service::{Service, edgeproxy, edgeproxy_at, until};

const MIB: u64 = 1 << 20;
const LARGE: &str = "/upload?parts=40&part_size=5MiB";

#[test]
fn an_upload_is_out_of_the_store_before_the_process_ends() {
    for (path, operation) in [(LARGE, Operation::Part), ("/upload-single?size=200MiB", Operation::Put)] {
        let bucket = Bucket::start().unwrap();
        bucket.fail(operation, 99, Fault::Slow(5 * MIB));
        let service = Service::start(edgeproxy(&bucket));
        let mut asked = service.send("POST", path, "");
        until("it uploads", || bucket.received() > MIB);
        let status = service.stop();
        assert_eq!(status.code(), Some(0));
        assert_eq!((bucket.uploads(), bucket.objects()), (vec![], vec![]), "{path}");
        assert_eq!(bucket.count(Operation::Abort) + bucket.count(Operation::Delete), 1, "{path}");
        // Whoever asked may hear of it, or of the end alone.
        let mut answer = String::new();
        let _ = asked.read_to_string(&mut answer);
        assert!(answer.is_empty() || (answer.contains(" 503 ") && answer.contains("\"Stopping\"")), "{answer}");
    }
}

#[test]
fn none_is_left_in_a_store_that_others_wrote() {
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("tools");
    let store = match ForeignStore::s3s(&tools) {
        Err(error) if error.kind() == ErrorKind::NotFound && std::env::var_os("CI").is_none() => {
            return eprintln!("skipped: {error}");
        }
        store => store.unwrap(),
    };
    let service = Service::start(edgeproxy_at(store.address(), ForeignStore::S3S_KEY));
    // Of some gigabytes, so that it cannot be done before it is stopped.
    let _asked = service.send("POST", "/upload?parts=80&part_size=100MB&streams=3", "");
    // The first part lies beside the upload, and others are under way.
    until("it uploads", || store.uploads().unwrap() > 1);
    assert_eq!(service.stop().code(), Some(0));
    assert_eq!(store.uploads().unwrap(), 0);
    let objects = std::fs::read_dir(store.object("speed-test")).map_or(0, Iterator::count);
    assert_eq!(objects, 0);
}

#[test]
fn a_client_that_reads_nothing_does_not_hold_up_the_end() {
    let bucket = Bucket::start().unwrap();
    let service = Service::start(edgeproxy(&bucket));
    let _stuck = service.send("GET", "/generate", "");
    until("it is served", || service.ask("GET", "/generate?size=1", "").0 == 409);
    let began = Instant::now();
    assert_eq!(service.stop().code(), Some(0));
    // A run that holds its turn has four seconds.
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
