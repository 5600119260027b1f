//! Against the discarding bucket.

use edgeproxy_bench::storage::{Checksum, MIB};
use edgeproxy_world::{Bucket, Fault, Operation};

use crate::support::{parts, run, single, store};

#[tokio::test]
async fn parts_go_over_as_many_streams_as_asked_and_become_one_object() {
    let bucket = Bucket::start().unwrap();
    let outcome = run(store(&bucket), &parts(7, 3)).await.unwrap();
    assert_eq!(outcome.bytes, 35 * MIB);
    assert_eq!(bucket.received(), 35 * MIB + complete_bytes(&bucket));
    assert_eq!(outcome.parts.iter().map(|part| part.number).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    assert!(outcome.parts.iter().all(|part| (1..=3).contains(&part.stream) && part.attempts == 1));
    assert_eq!((outcome.connect.len(), outcome.sockets.len()), (3, 3));
    // Three streams, one for the sweep, one for the deletion.
    assert_eq!(bucket.connections(), 5);
    assert_eq!((outcome.attempts, outcome.resent_bytes, outcome.troubles), (7, 0, 0));
    assert_eq!(outcome.series.iter().sum::<u64>(), 35 * MIB);
    assert!(outcome.deleted && outcome.notes.is_empty(), "{:?}", outcome.notes);
    assert_eq!((bucket.uploads(), bucket.objects()), (vec![], vec![]));
    assert!(outcome.key.starts_with("speed-test/"));
    let (whole, data) = (outcome.seconds, outcome.data_seconds);
    assert!(data > 0.0 && outcome.create_seconds + data + outcome.complete_seconds <= whole + 0.001);
}

#[tokio::test]
async fn an_object_goes_in_one_request_and_stays_if_it_should() {
    let bucket = Bucket::start().unwrap();
    let mut plan = single(12 * MIB + 5);
    plan.keep = true;
    let outcome = run(store(&bucket), &plan).await.unwrap();
    assert!(!outcome.deleted && outcome.key.starts_with("speed-test/kept/"), "{}", outcome.key);
    assert_eq!(bucket.objects(), [(outcome.key.clone(), 12 * MIB + 5)]);
    let head = &bucket.heads(Operation::Put)[0];
    assert!(head.contains("x-amz-content-sha256: UNSIGNED-PAYLOAD"), "{head}");
    assert!(head.contains("content-length: 12582917") && !head.contains("transfer-encoding"), "{head}");
}

#[tokio::test]
async fn a_request_without_a_body_says_so() {
    let bucket = Bucket::start().unwrap();
    run(store(&bucket), &parts(1, 1)).await.unwrap();
    let head = &bucket.heads(Operation::Create)[0];
    assert!(head.contains("content-length: 0"), "{head}");
    assert!(head.contains("/us-east-1/s3/aws4_request"), "{head}");
}

#[tokio::test]
async fn a_checksum_comes_behind_the_body_when_it_is_asked_for() {
    let bucket = Bucket::start().unwrap();
    let mut store = store(&bucket);
    store.checksum = Some(Checksum::Crc64Nvme);
    run(store, &parts(2, 1)).await.unwrap();
    let head = &bucket.heads(Operation::Part)[0];
    for expected in [
        "x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-trailer: x-amz-checksum-crc64nvme",
        "x-amz-decoded-content-length: 5242880",
        "content-encoding: aws-chunked",
        // The size of the chunk and its line ends, 13 bytes; the trailer, 41.
        "content-length: 5242934",
    ] {
        assert!(head.contains(expected), "{expected} in {head}");
    }
}

#[tokio::test]
async fn what_earlier_runs_left_for_a_day_is_removed_and_nothing_else() {
    const LONG_AGO: &str = "2020-01-01T00:00:00.000Z";
    let bucket = Bucket::start().unwrap();
    let ours = |first: char| format!("speed-test/{first}36da01f-9abd-4d9d-80c7-02af85c822a8");
    bucket.leave_object(&ours('0'), LONG_AGO);
    bucket.leave_object(&ours('1'), "2999-01-01T00:00:00.000Z");
    bucket.leave_object(&ours('2'), "yesterday");
    bucket.leave_upload(&ours('3'), LONG_AGO);
    let others = [
        "precious",
        "speed-test/precious",
        "speed-test/kept/936da01f-9abd-4d9d-80c7-02af85c822a8",
        "speed-test/936da01f-9abd-4d9d-80c7-02af85c822a8/part",
        "speed-test/936DA01F-9ABD-4D9D-80C7-02AF85C822A8",
        "speed-test/936da01f-9abd-1d9d-80c7-02af85c822a8",
    ];
    for key in others {
        bucket.leave_object(key, LONG_AGO);
        bucket.leave_upload(key, LONG_AGO);
    }
    let outcome = run(store(&bucket), &single(1000)).await.unwrap();
    let swept = outcome.swept.unwrap();
    // Also the upload of an object that was to be kept, as there is none.
    assert_eq!((swept.objects, swept.uploads), (1, 2));
    let keys: Vec<String> = bucket.objects().into_iter().map(|(key, _)| key).collect();
    let mut expected: Vec<String> = others.into_iter().map(str::to_owned).chain([ours('1'), ours('2')]).collect();
    expected.sort();
    assert_eq!(keys, expected);
    let uploads = others.into_iter().filter(|key| !key.contains("/kept/"));
    assert_eq!(bucket.uploads(), uploads.collect::<Vec<_>>());
}

fn complete_bytes(bucket: &Bucket) -> u64 {
    let heads = bucket.heads(Operation::Complete);
    let length = heads.iter().flat_map(|head| head.lines()).find_map(|line| line.strip_prefix("content-length: "));
    length.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_link_that_is_slow_is_measured_as_slow() {
    let bucket = Bucket::start().unwrap();
    // An order of magnitude below what a loaded machine does.
    bucket.fail(Operation::Part, 9, Fault::Slow(10 * MIB));
    let outcome = run(store(&bucket), &parts(4, 2)).await.unwrap();
    // Two streams of 10 MiB/s, 5 MiB each, twice.
    assert!((0.99..9.0).contains(&outcome.data_seconds), "{}", outcome.data_seconds);
    assert!(outcome.goodput_mb_per_second < 21.5, "{}", outcome.goodput_mb_per_second);
    assert!(outcome.slowest_part().unwrap().seconds() > 0.49);
}
