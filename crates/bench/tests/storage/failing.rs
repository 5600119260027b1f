//! Everything that stores and networks do wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeproxy_bench::storage::{Failure, MIB, Meter, Reason, Step, upload};
use edgeproxy_world::{Bucket, Fault, Operation};

use crate::support::{LONG, janitor, parts, run, single, store};

/// Nothing is left in it.
fn assert_tidy(bucket: &Bucket) {
    assert_eq!((bucket.uploads(), bucket.objects()), (vec![], vec![]));
}

async fn fails(bucket: &Bucket, plan: &edgeproxy_bench::storage::Plan) -> Failure {
    let mut store = store(bucket);
    store.retries = 0;
    store.patience.stall = Duration::from_millis(400);
    let failure = run(store, plan).await.unwrap_err();
    assert!(!failure.advice().is_empty());
    failure
}

#[tokio::test]
async fn a_part_that_fails_for_a_moment_is_sent_again_and_counted() {
    let faults = [
        Fault::Status(503, "SlowDown"),
        Fault::Status(500, "InternalError"),
        Fault::EarlyStatus(503, "SlowDown"),
        Fault::Reset(3 * MIB),
    ];
    for fault in faults {
        let bucket = Bucket::start().unwrap();
        bucket.fail(Operation::Part, 2, fault.clone());
        let outcome = run(store(&bucket), &parts(4, 2)).await.unwrap();
        assert_eq!((outcome.attempts, outcome.troubles), (6, 2), "{fault:?}");
        let resent = outcome.resent_bytes;
        match fault {
            Fault::Status(..) => assert_eq!(resent, 10 * MIB, "{fault:?}"),
            _ => assert!(resent > 0 && resent <= 10 * MIB, "{fault:?}: {resent}"),
        }
        assert_eq!(outcome.trouble_texts.len(), 2);
        assert_eq!(outcome.series.iter().sum::<u64>(), 20 * MIB + resent, "{fault:?}");
        assert_tidy(&bucket);
    }
}

#[tokio::test]
async fn without_further_attempts_the_first_failure_ends_it_and_aborts() {
    for step in [Operation::Create, Operation::Part, Operation::Complete] {
        let bucket = Bucket::start().unwrap();
        bucket.fail(step, 1, Fault::Status(503, "SlowDown"));
        let failure = fails(&bucket, &parts(4, 2)).await;
        assert_eq!((failure.code(), failure.name()), ("SlowDown", "Error"));
        assert!(failure.to_string().starts_with("Upload failed: 503 - SlowDown it is"), "{failure}");
        assert_tidy(&bucket);
        assert_eq!(bucket.count(Operation::Abort), usize::from(step != Operation::Create));
    }
}

#[tokio::test]
async fn what_cannot_pass_is_not_tried_again() {
    for (status, code) in [(403, "AccessDenied"), (404, "NoSuchBucket"), (400, "EntityTooSmall")] {
        let bucket = Bucket::start().unwrap();
        bucket.fail(Operation::Part, 1, Fault::Status(status, code));
        let failure = run(store(&bucket), &parts(2, 1)).await.unwrap_err();
        assert_eq!((failure.code(), failure.step.clone()), (code, Step::Part(1)));
        assert_eq!(failure.to_string(), format!("Upload failed: {status} - {code} it is"));
        assert_eq!(bucket.count(Operation::Part), 1);
        assert_tidy(&bucket);
    }
}

#[tokio::test]
async fn a_success_with_an_error_in_it_is_no_success() {
    let bucket = Bucket::start().unwrap();
    bucket.fail(Operation::Complete, 1, Fault::ErrorInSuccess("InternalError"));
    let outcome = run(store(&bucket), &parts(2, 1)).await.unwrap();
    assert_eq!((outcome.troubles, bucket.count(Operation::Complete)), (1, 2));
    bucket.fail(Operation::Complete, 1, Fault::ErrorInSuccess("InternalError"));
    let failure = fails(&bucket, &parts(2, 1)).await;
    assert!(matches!(failure.reason, Reason::Answered { status: 200, .. }), "{failure}");
    assert_tidy(&bucket);
}

#[tokio::test]
async fn a_store_that_stands_still_is_left() {
    let bucket = Bucket::start().unwrap();
    bucket.fail(Operation::Part, 1, Fault::Stall(MIB));
    let failure = fails(&bucket, &parts(2, 1)).await;
    assert!(matches!(failure.reason, Reason::Stalled(_)), "{failure}");
    assert_eq!(failure.name(), "TimeoutError");
    assert_tidy(&bucket);
}

#[tokio::test]
async fn an_answer_that_dribbles_in_is_not_waited_for() {
    let bucket = Bucket::start().unwrap();
    let mut store = store(&bucket);
    store.retries = 0;
    store.patience.request = Duration::from_millis(600);
    bucket.fail(Operation::Create, 1, Fault::Dribble(Duration::from_millis(100)));
    let began = Instant::now();
    let failure = run(store, &parts(2, 1)).await.unwrap_err();
    assert!(matches!(failure.reason, Reason::Late(_)), "{failure}");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_tidy(&bucket);
}

#[tokio::test]
async fn rubbish_is_told_as_such() {
    let bucket = Bucket::start().unwrap();
    bucket.fail(Operation::Create, 1, Fault::Rubbish);
    let failure = fails(&bucket, &parts(2, 1)).await;
    assert!(matches!(failure.reason, Reason::Odd(_)), "{failure}");
}

#[tokio::test]
async fn a_success_without_a_mark_of_what_came_is_none() {
    for (operation, plan) in [(Operation::Part, parts(2, 1)), (Operation::Put, single(1000))] {
        let bucket = Bucket::start().unwrap();
        bucket.fail(operation, 1, Fault::Untagged);
        let failure = fails(&bucket, &plan).await;
        assert!(matches!(&failure.reason, Reason::Odd(why) if why.contains("ETag")), "{failure}");
        assert_tidy(&bucket);
    }
}

#[tokio::test]
async fn what_cannot_be_removed_is_told() {
    let bucket = Bucket::start().unwrap();
    bucket.fail(Operation::Part, 1, Fault::Status(403, "AccessDenied"));
    bucket.fail(Operation::Abort, 1, Fault::Status(403, "AccessDenied"));
    let (janitor, told) = janitor();
    upload(&Arc::new(store(&bucket)), &parts(2, 1), &Meter::new(), &janitor).await.unwrap_err();
    let stays = told().await;
    assert_eq!(stays.len(), 1, "{stays:?}");
    for part in ["speed-test/", "a run after a day removes it", "AccessDenied"] {
        assert!(stays[0].contains(part), "{stays:?}");
    }
    assert_eq!(bucket.uploads().len(), 1);
    // Once.
    assert_eq!(told().await, [""; 0]);
}

#[tokio::test]
async fn nobody_listening_and_no_such_name_are_told_apart() {
    let bucket = Bucket::start().unwrap();
    let mut gone = store(&bucket);
    drop(bucket);
    gone.retries = 0;
    let failure = run(gone.clone(), &single(1000)).await.unwrap_err();
    assert_eq!((failure.code(), failure.step.clone()), ("NoConnection", Step::Connect));
    gone.endpoint.host = "no-such-name.invalid".to_owned();
    let failure = run(gone, &single(1000)).await.unwrap_err();
    assert_eq!(failure.code(), "NoAddress");
}

#[tokio::test]
async fn connections_that_are_cut_in_the_middle_are_made_again() {
    let bucket = Bucket::start().unwrap();
    bucket.fail(Operation::Part, 6, Fault::Slow(20 * MIB));
    let plan = parts(6, 3);
    let upload = run(store(&bucket), &plan);
    let cut = async {
        let until = Instant::now() + LONG;
        while bucket.received() < 4 * MIB && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        bucket.cut();
    };
    let (outcome, ()) = tokio::join!(upload, cut);
    let outcome = outcome.unwrap();
    assert!(outcome.troubles >= 1 && outcome.resent_bytes > 0, "{outcome:?}");
    assert_tidy(&bucket);
}

#[tokio::test]
async fn whoever_goes_away_in_the_middle_leaves_nothing_there() {
    for plan in [parts(8, 3), single(40 * MIB)] {
        let bucket = Bucket::start().unwrap();
        for operation in [Operation::Part, Operation::Put] {
            bucket.fail(operation, 20, Fault::Slow(10 * MIB));
        }
        let (janitor, told) = janitor();
        let store = Arc::new(store(&bucket));
        let meter = Meter::new();
        let gone = async {
            let until = Instant::now() + LONG;
            while bucket.received() < 2 * MIB && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            result = upload(&store, &plan, &meter, &janitor) => panic!("{result:?}"),
            () = gone => {}
        }
        assert_eq!(told().await, [""; 0]);
        assert_tidy(&bucket);
        let parts = bucket.count(Operation::Part);
        assert!(parts <= 4, "{parts} parts went on");
    }
}

#[tokio::test]
async fn a_key_that_may_not_list_uploads_all_the_same() {
    let bucket = Bucket::start().unwrap();
    bucket.fail(Operation::List, 9, Fault::Status(403, "AccessDenied"));
    let outcome = run(store(&bucket), &single(1000)).await.unwrap();
    assert_eq!(outcome.notes.len(), 2, "{:?}", outcome.notes);
    bucket.fail(Operation::Delete, 9, Fault::Status(403, "AccessDenied"));
    let (janitor, told) = janitor();
    let outcome = upload(&Arc::new(store(&bucket)), &single(1000), &Meter::new(), &janitor).await.unwrap();
    assert_eq!(told().await, outcome.notes[2..]);
    assert!(!outcome.deleted && outcome.notes[2].contains(&outcome.key), "{:?}", outcome.notes);
}

#[tokio::test]
async fn what_comes_back_otherwise_is_told_with_its_place() {
    let bucket = Bucket::start().unwrap();
    let mut plan = single(MIB);
    plan.read_back = true;
    let failure = run(store(&bucket), &plan).await.unwrap_err();
    assert_eq!(failure.reason, Reason::Corrupted { part: 1, offset: 0 });
    assert_tidy(&bucket);
}
