//! `edgeproxy bench storage`.

use std::process::{Command, Output};

use edgeproxy_world::{Bucket, Fault, Operation};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::service::{Service, edgeproxy, until};

const SMALL: [&str; 8] = ["--parts", "3", "--part-size", "5MiB", "--streams", "2", "--size", "1MB"];

fn bench(command: &mut Command, arguments: &[&str]) -> Output {
    command.args(["bench", "storage"]).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn both_ways_are_measured_shown_saved_drawn_and_compared() {
    let bucket = Bucket::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (saved, svg, html) = (path("run.json"), path("run.svg"), path("run.html"));
    let first =
        [&SMALL[..], &["--repeat", "2", "--details", "--save", &saved, "--svg", &svg, "--html", &html]].concat();
    let output = bench(&mut edgeproxy(&bucket), &first);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{shown}{}", text(&output.stderr));
    for expected in [
        "3 x 5MiB, 2 streams",
        "1MB in one request",
        "MiB/s",
        "as published",
        "round trip",
        "one stream sends at most",
        "attempts",
    ] {
        assert!(shown.contains(expected), "{expected} in {shown}");
    }
    assert!(std::fs::read_to_string(&svg).unwrap().contains("</svg>"));
    assert!(std::fs::read_to_string(&html).unwrap().contains("</table>"));
    assert_eq!(bucket.count(Operation::Part), 6);
    assert_eq!((bucket.uploads(), bucket.objects()), (vec![], vec![]));

    // Slower than any machine: told, and by the exit code too.
    bucket.fail(Operation::Part, 99, Fault::Slow(4 << 20));
    let again = [&SMALL[..], &["--mode", "parts", "--repeat", "1", "--compare", &saved, "--json"]].concat();
    let output = bench(&mut edgeproxy(&bucket), &again);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["comparison"][0]["regression"], true, "{answer}");
    assert_eq!(answer["report"]["settings"][0]["runs"][0]["bytes"], 15 << 20);
    assert!(!text(&output.stdout).contains("tsec_very_secret"));
}

#[test]
fn a_sweep_names_the_best() {
    let bucket = Bucket::start().unwrap();
    let arguments =
        ["--sweep", "--size", "20MiB", "--part-size", "5MiB,10MiB", "--streams", "1,2,4", "--repeat", "1", "--json"];
    let output = bench(&mut edgeproxy(&bucket), &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> =
        answer["report"]["settings"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    let expected = [
        "4 x 5MiB, 1 stream",
        "4 x 5MiB, 2 streams",
        "4 x 5MiB, 4 streams",
        "2 x 10MiB, 1 stream",
        "2 x 10MiB, 2 streams",
    ];
    assert_eq!(names, expected);
    let output = bench(&mut edgeproxy(&bucket), &arguments[..arguments.len() - 1]);
    assert!(text(&output.stdout).contains("best: "), "{}", text(&output.stdout));
}

#[test]
fn services_of_regions_are_asked_and_one_that_is_away_is_a_row() {
    let bucket = Bucket::start().unwrap();
    let mut command = edgeproxy(&bucket);
    command.env("EDGEPROXY_STORAGE_TOKEN", "t");
    let service = Service::start(command);
    let (here, away) = (format!("http://{}", service.address), "http://127.0.0.1:1".to_owned());
    let mut command = edgeproxy(&bucket);
    command.env("EDGEPROXY_STORAGE_TOKEN", "t").env_remove("AWS_ENDPOINT_URL_S3");
    let arguments =
        [&SMALL[..], &["--mode", "parts", "--repeat", "2", "--backend", &here, "--backend", &away]].concat();
    let output = bench(&mut command, &arguments);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{shown}{}", text(&output.stderr));
    assert!(shown.contains(&here) && shown.contains(&away), "{shown}");
    assert!(text(&output.stderr).contains("not reached"), "{}", text(&output.stderr));
    assert_eq!(bucket.count(Operation::Part), 6);
}

#[test]
fn all_that_is_missing_is_told_at_once() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgeproxy"));
    let output = bench(command.env_clear(), &[]);
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output.stderr);
    for name in ["AWS_ENDPOINT_URL_S3", "S3_BUCKET", "AWS_ACCESS_KEY_ID"] {
        assert!(told.contains(name), "{told}");
    }
}

#[test]
fn a_failure_says_what_to_look_at() {
    let bucket = Bucket::start().unwrap();
    bucket.fail(Operation::Part, 99, Fault::Status(503, "SlowDown"));
    let arguments = [&SMALL[..], &["--mode", "parts", "--retries", "0", "--repeat", "1"]].concat();
    let output = bench(&mut edgeproxy(&bucket), &arguments);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("503 - SlowDown") && told.contains("fewer streams"), "{told}");
}

#[test]
fn an_interrupt_clears_the_store() {
    let bucket = Bucket::start().unwrap();
    bucket.fail(Operation::Part, 99, Fault::Slow(5 << 20));
    let mut command = edgeproxy(&bucket);
    command.args(["bench", "storage", "--mode", "parts", "--parts", "40", "--part-size", "5MiB"]);
    let child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    until("it uploads", || bucket.received() > 1 << 20);
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(bucket.uploads().is_empty() && bucket.count(Operation::Abort) == 1);
}

#[test]
fn what_could_not_be_cleared_away_is_told_and_is_no_success() {
    let bucket = Bucket::start().unwrap();
    let of_the_first =
        [(Operation::Part, Fault::Status(403, "AccessDenied")), (Operation::Abort, Fault::Status(403, "AccessDenied"))];
    of_the_first.into_iter().for_each(|(operation, fault)| bucket.fail(operation, 1, fault));
    let output = bench(&mut edgeproxy(&bucket), &[&SMALL[..], &["--repeat", "2"]].concat());
    let told = text(&output.stderr);
    assert!(
        output.status.code() == Some(1)
            && told.contains("is left in the store, a run after a day removes it")
            && told.contains("AccessDenied"),
        "{told}"
    );
    // The rest was measured, and is shown.
    assert!(text(&output.stdout).contains("1MB in one request"), "{}", text(&output.stdout));
    assert_eq!(bucket.uploads().len(), 1);
}
