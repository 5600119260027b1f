//! What the service answers, to the letter.

use std::net::TcpListener;

use edgeproxy_world::{Bucket, Fault, Operation};

use crate::service::{Service, edgeproxy, until};

const SMALL: &str = "/upload?parts=3&part_size=5MiB&streams=2";
const MIB: u64 = 1 << 20;

fn keys(value: &serde_json::Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// `2025-07-12T13:20:00.155Z`
fn is_timestamp(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    shape == "9999-99-99T99:99:99.999Z"
}

#[test]
fn both_uploads_answer_as_published_and_more() {
    let bucket = Bucket::start().unwrap();
    let service = Service::start(edgeproxy(&bucket));
    for (path, bytes) in [(SMALL, 15 * MIB), ("/upload-single?size=12MiB", 12 * MIB)] {
        let (status, answer) = service.json("POST", path, "");
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["success"], true);
        let (millis, seconds) = (answer["uploadTime"].as_u64().unwrap(), answer["seconds"].as_f64().unwrap());
        assert!((millis as f64 - seconds * 1000.0).abs() <= 0.51);
        let speed = answer["uploadSpeed"].as_str().unwrap();
        assert_eq!(speed, format!("{:.2} MB/s", bytes as f64 / MIB as f64 / seconds));
        let key = answer["fileKey"].as_str().unwrap();
        assert!(key.starts_with("speed-test/") && key.len() == 11 + 36, "{key}");
        assert!(is_timestamp(answer["timestamp"].as_str().unwrap()), "{answer}");
        assert_eq!(answer["bytes"], bytes);
        assert_eq!(answer["details"]["deleted"], true);
    }
    assert_eq!((bucket.uploads(), bucket.objects()), (vec![], vec![]));
    assert_eq!((bucket.count(Operation::Part), bucket.count(Operation::Put)), (3, 1));
}

#[test]
fn the_published_sizes_are_the_default_and_fit_into_little_memory() {
    let bucket = Bucket::start().unwrap();
    let service = Service::start(edgeproxy(&bucket));
    let (status, answer) = service.json("POST", "/upload", "");
    assert_eq!((status, answer["bytes"].as_u64()), (200, Some(1_000_000_000)));
    let parts = answer["details"]["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 10);
    assert!(bucket.connections() <= 10, "{}", bucket.connections());
    let seconds = answer["seconds"].as_f64().unwrap();
    assert_eq!(answer["uploadSpeed"].as_str().unwrap(), format!("{:.2} MB/s", 1024.0 / seconds));
    let (status, answer) = service.json("POST", "/upload-single", "");
    assert_eq!((status, answer["bytes"].as_u64()), (200, Some(1_000_000_000)));
    let peak = service.peak_memory();
    println!(
        "peak memory of the service in both uploads: {:.1} MB (goal below 32 MB in a release build)",
        peak as f64 / 1e6
    );
    assert!(peak < 64_000_000, "{peak}");
}

#[test]
fn a_refusal_is_told_as_published_and_with_advice() {
    let bucket = Bucket::start().unwrap();
    bucket.fail(Operation::Part, 9, Fault::Status(403, "AccessDenied"));
    let service = Service::start(edgeproxy(&bucket));
    let (status, answer) = service.json("POST", SMALL, "");
    assert_eq!(status, 502);
    assert_eq!(answer["success"], false);
    assert_eq!(answer["error"], "Upload failed: 403 - AccessDenied it is");
    assert_eq!(answer["errorName"], "Error");
    assert!(is_timestamp(answer["timestamp"].as_str().unwrap()));
    assert!(answer["advice"].as_str().unwrap().contains("bucket"));
    assert!(bucket.uploads().is_empty());
}

#[test]
fn there_is_a_list_of_endpoints_and_variables_are_shown_without_values() {
    let bucket = Bucket::start().unwrap();
    let service = Service::start(edgeproxy(&bucket));
    let (status, answer) = service.json("GET", "/", "");
    assert_eq!((status, &answer["status"]), (200, &"ok".into()));
    let paths: Vec<&str> =
        answer["endpoints"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect();
    for path in ["/upload", "/upload-single", "/generate", "/env"] {
        assert!(paths.contains(&path), "{paths:?}");
    }
    let (_, answer) = service.json("GET", "/env", "");
    assert_eq!((&answer["AWS_SECRET_ACCESS_KEY"], &answer["BUCKET_NAME"]), (&true.into(), &false.into()));
    assert!(keys(&answer).contains(&"AWS_ENDPOINT_URL_S3"));
    let text = answer.to_string();
    assert!(!text.contains("tsec") && !text.contains("tid_") && !text.contains("127.0.0.1"), "{text}");
}

#[test]
fn test_data_comes_in_the_length_that_was_told() {
    let bucket = Bucket::start().unwrap();
    let service = Service::start(edgeproxy(&bucket));
    let (status, head, body) = service.ask("GET", "/generate?size=3MiB", "");
    assert_eq!((status, body.len() as u64), (200, 3 * MIB));
    assert!(head.contains("content-length: 3145728"), "{head}");
    assert_eq!(body, service.ask("GET", "/generate?size=3MiB", "").2);
    // Whoever stops reading gives up its turn.
    drop(service.send("GET", "/generate", ""));
    until("the turn is free", || service.ask("GET", "/generate?size=1", "").0 == 200);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_sent() {
    let bucket = Bucket::start().unwrap();
    let service = Service::start(edgeproxy(&bucket));
    for path in [
        "/upload?parts=0",
        "/upload?parts=x",
        "/upload?part_size=1MB",
        "/upload?streams=11&parts=20&part_size=5MiB",
        "/upload?parts=1000",
        "/upload?size=1",
        "/upload-single?size=11GB",
        "/upload-single?colour=red",
    ] {
        let (status, answer) = service.json("POST", path, "");
        assert_eq!((status, &answer["errorName"]), (400, &"ParameterError".into()), "{path}: {answer}");
    }
    assert_eq!(service.ask("GET", "/upload", "").0, 405);
    assert_eq!(bucket.received(), 0);
}

#[test]
fn there_is_one_run_at_a_time_and_whoever_hangs_up_ends_it() {
    let bucket = Bucket::start().unwrap();
    bucket.fail(Operation::Part, 99, Fault::Slow(5 * MIB));
    let service = Service::start(edgeproxy(&bucket));
    let first = service.send("POST", "/upload?parts=40&part_size=5MiB", "");
    until("it uploads", || bucket.received() > MIB);
    let (status, answer) = service.json("POST", "/upload-single?size=1MiB", "");
    assert_eq!((status, &answer["running"]["path"]), (409, &"/upload".into()), "{answer}");
    assert!(answer["running"]["bytes"].as_u64().unwrap() > 0);
    drop(first);
    until("it is aborted", || bucket.uploads().is_empty());
    assert_eq!(bucket.count(Operation::Abort), 1);
    assert!(bucket.count(Operation::Part) < 20);
    bucket.heal();
    assert_eq!(service.json("POST", "/upload-single?size=1MiB", "").0, 200);
}

#[test]
fn uploads_and_database_runs_take_turns() {
    let bucket = Bucket::start().unwrap();
    bucket.fail(Operation::Part, 99, Fault::Slow(5 * MIB));
    // Takes connections and says nothing: whoever asks it waits.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = edgeproxy(&bucket);
    command.env("DB_HOST", "127.0.0.1").env("DB_PORT", mute.local_addr().unwrap().port().to_string());
    let service = Service::start(command);
    let upload = service.send("POST", "/upload?parts=40&part_size=5MiB", "");
    until("it uploads", || bucket.received() > MIB);
    let (status, answer) = service.json("GET", "/api/rds/benchmark", "");
    assert_eq!((status, &answer["error"]), (409, &"A run is going on".into()), "{answer}");
    assert_eq!(keys(&answer["running"]), ["bytes", "path", "since"]);
    assert_eq!(answer["running"]["path"], "/upload");
    drop(upload);
    until("it is aborted", || bucket.uploads().is_empty());

    let run = service.send("GET", "/api/rds/benchmark?iterations=7", "");
    until("it measures", || service.ask("GET", "/generate?size=1", "").0 == 409);
    let (status, answer) = service.json("POST", SMALL, "");
    assert_eq!((status, &answer["errorName"]), (409, &"BusyError".into()), "{answer}");
    assert_eq!(keys(&answer["running"]), ["done", "iterations", "mode", "run", "since"]);
    assert_eq!(answer["running"]["iterations"], 7);
    drop(run);
}

#[test]
fn a_token_keeps_strangers_from_what_costs_money() {
    let bucket = Bucket::start().unwrap();
    let mut command = edgeproxy(&bucket);
    command.env("EDGEPROXY_STORAGE_TOKEN", "let-me-in");
    let service = Service::start(command);
    for headers in ["", "Authorization: Bearer let-me-ou\r\n", "Authorization: let-me-in\r\n"] {
        for (method, path) in [("POST", SMALL), ("POST", "/upload-single"), ("GET", "/generate")] {
            let (status, answer) = service.json(method, path, headers);
            assert_eq!((status, &answer["success"]), (401, &false.into()), "{path}");
        }
    }
    assert_eq!(bucket.connections(), 0);
    assert_eq!(service.json("POST", SMALL, "Authorization: Bearer let-me-in\r\n").0, 200);
    assert_eq!(service.ask("GET", "/env", "").0, 200);
}

#[test]
fn without_a_store_the_rest_is_there() {
    let bucket = Bucket::start().unwrap();
    let mut command = edgeproxy(&bucket);
    command.env("S3_BUCKET", "").env_remove("AWS_ACCESS_KEY_ID");
    let service = Service::start(command);
    let (status, answer) = service.json("POST", "/upload", "");
    assert_eq!(status, 503);
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains("S3_BUCKET") && error.contains("AWS_ACCESS_KEY_ID"), "{error}");
    assert_eq!(service.ask("GET", "/generate?size=5", "").2.len(), 5);
}
