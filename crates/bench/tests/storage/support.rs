//! A store to upload to, and what is often asked of it.

use std::sync::{Arc, Mutex};
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

/// A janitor, and what it has told since it was last asked, once it is done.
pub(crate) fn janitor() -> (Janitor, impl AsyncFn() -> Vec<String>) {
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let janitor = Janitor::new({
        let told = Arc::clone(&told);
        move |stays| told.lock().unwrap().push(stays)
    });
    let own = janitor.clone();
    let asked = async move || {
        own.finish(LONG).await;
        std::mem::take(&mut *told.lock().unwrap())
    };
    (janitor, asked)
}

/// Uploads, and waits for whatever is left to do.
pub(crate) async fn run(store: Store, plan: &Plan) -> Result<Outcome, Failure> {
    let (janitor, told) = janitor();
    let result = tokio::time::timeout(LONG * 3, upload(&Arc::new(store), plan, &Meter::new(), &janitor)).await;
    let told = told().await;
    assert!(told.iter().all(|stays| !stays.contains("within")), "{told:?}");
    result.expect("within a minute")
}
