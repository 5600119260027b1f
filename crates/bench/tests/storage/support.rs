//! A store to upload to, and what is often asked of it.

use std::sync::Arc;
use std::time::Duration;

use edgeproxy_bench::storage::{Failure, Janitor, MIB, Meter, Outcome, Plan, Settings, Shape, Store, upload};
use edgeproxy_world::Bucket;

/// As far as a test waits for what should be at once.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// The store at `endpoint`, reached with a key that any of ours accepts.
pub(crate) fn store_at(endpoint: &str, bucket: &str) -> Store {
    let variables = |name: &str| {
        Some(match name {
            "AWS_ENDPOINT_URL_S3" => endpoint.to_owned(),
            "S3_BUCKET" => bucket.to_owned(),
            "AWS_ACCESS_KEY_ID" => "AKEXAMPLES3S".to_owned(),
            "AWS_SECRET_ACCESS_KEY" => "SKEXAMPLES3S".to_owned(),
            "AWS_REGION" => "us-east-1".to_owned(),
            _ => return None,
        })
    };
    Settings::from_environment(variables).store().unwrap()
}

pub(crate) fn store(bucket: &Bucket) -> Store {
    store_at(&format!("http://{}", bucket.address()), "speed")
}

pub(crate) fn parts(count: u32, streams: usize) -> Plan {
    Plan { shape: Shape::Parts { count, bytes: 5 * MIB, streams }, ..Plan::default() }
}

pub(crate) fn single(bytes: u64) -> Plan {
    Plan { shape: Shape::Single { bytes }, ..Plan::default() }
}

/// Uploads, and waits for whatever is left to do.
pub(crate) async fn run(store: Store, plan: &Plan) -> Result<Outcome, Failure> {
    let janitor = Janitor::new();
    let result = tokio::time::timeout(LONG * 3, upload(&Arc::new(store), plan, &Meter::new(), &janitor)).await;
    assert!(janitor.finish(LONG).await);
    result.expect("within a minute")
}
