//! `edgeproxy check` and the configuration, through the binary.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A run of `check` in `folder`, with no variables but these.
fn check(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edgeproxy"))
        .arg("check")
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A folder with a routing table of these rows: id, port.
fn folder_with(rows: &[(&str, i64)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    let db = rusqlite::Connection::open(folder.path().join("routing.db")).unwrap();
    db.execute_batch(
        "CREATE TABLE backends (id TEXT PRIMARY KEY, app TEXT, region TEXT, country TEXT, wg_ip TEXT, port INTEGER,
         healthy INTEGER, weight INTEGER, soft_limit INTEGER, hard_limit INTEGER, deleted INTEGER)",
    )
    .unwrap();
    for (id, port) in rows {
        let row = "INSERT INTO backends VALUES (?1, 'web', 'fra', 'DE', '10.50.1.1', ?2, 1, 2, 100, 150, 0)";
        db.execute(row, rusqlite::params![id, port]).unwrap();
    }
    folder
}

#[test]
fn all_mistakes_are_told_at_once() {
    let folder = folder_with(&[]);
    fs::write(folder.path().join("edgeproxy.toml"), "[proxy]\nthreads = 5000\n\n[[listener]]\npolcy = \"geo\"\n")
        .unwrap();
    let arguments = ["-c", "edgeproxy.toml", "--listen", "here"];
    let variables = [("EDGEPROXY_LOG", "loud"), ("EDGEPROXY_REGON", "fra")];
    let output = check(folder.path(), &arguments, &variables);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stdout), "");
    let expected = [
        "--listen: \"here\" is not an IP address with a port (such as 0.0.0.0:8080 or [::]:8080)",
        "EDGEPROXY_LOG: \"loud\" is none of off, error, warn, info, debug, trace (nor target=level)",
        "EDGEPROXY_REGON: unknown variable; did you mean EDGEPROXY_REGION?",
        "edgeproxy.toml:2: proxy.threads: 5000 is not in 0 to 1024",
        "edgeproxy.toml:5: listener[0].polcy: unknown key; did you mean policy?",
        "region: is not set (this machine's region, such as \"fra\"): give it by --region or EDGEPROXY_REGION or region in the configuration file",
    ];
    assert_eq!(text(&output.stderr).lines().collect::<Vec<_>>(), expected);

    let output = check(folder.path(), &[&arguments[..], &["--json"]].concat(), &variables);
    assert_eq!(output.status.code(), Some(2));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["problems"].as_array().unwrap().len(), expected.len());
    assert_eq!(
        report["problems"][3],
        serde_json::json!({
            "where": "edgeproxy.toml:2", "key": "proxy.threads", "message": "5000 is not in 0 to 1024",
        })
    );
}

#[test]
fn the_summary_says_who_set_what() {
    let folder = folder_with(&[("b1", 80)]);
    let text_of_file = "region = \"fra\"\n[[listener]]\nqueue = 3\npolicy = \"score\"\n[log]\nformat = \"json\"\n";
    fs::write(folder.path().join("edgeproxy.toml"), text_of_file).unwrap();
    let variables =
        [("EDGEPROXY_CONFIG", "edgeproxy.toml"), ("EDGEPROXY_LISTENER_QUEUE", "4"), ("EDGEPROXY_LOG", "warn")];
    let output = check(folder.path(), &["--log", "error"], &variables);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let rows: Vec<Vec<&str>> = text(&output.stdout)
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    for expected in [
        ["region", "fra", "edgeproxy.toml:1"],
        ["listener[0].queue", "4", "EDGEPROXY_LISTENER_QUEUE"],
        ["listener[0].policy", "score", "edgeproxy.toml:4"],
        ["log.level", "error", "--log"],
        ["log.format", "json", "edgeproxy.toml:6"],
        ["listener[0].bind", "0.0.0.0:8080", "default"],
        ["listener[0].app", "(all apps)", "default"],
    ] {
        assert!(rows.iter().any(|row| *row == expected), "{expected:?}\n{rows:?}");
    }
    assert!(text(&output.stdout).contains("routing table: routing.db, 1 backends, 0 rejected"));
    assert!(text(&output.stdout).contains("geo table: embedded country table"));
}

#[test]
fn bad_rows_and_bad_files_are_told() {
    let folder = folder_with(&[("good", 80), ("bad", 0)]);
    let region = ["--region", "fra"];
    let output = check(folder.path(), &region, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "routing.db: backend \"bad\": port 0 is not in 1 to 65535\n");

    fs::write(folder.path().join("city.mmdb"), "not a table").unwrap();
    let output = check(folder.path(), &[&region[..], &["--geoip", "city.mmdb", "--json"]].concat(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["ok"], &report["routing"]["backends"]), (&false.into(), &1.into()));
    assert_eq!(report["routing"]["rejected"][0]["field"], "port");
    assert!(
        report["geo"]["error"].as_str().unwrap().starts_with("city.mmdb: not a usable MaxMind DB file"),
        "{report}"
    );

    let output = check(folder.path(), &[&region[..], &["--db", "other.db"]].concat(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("routing table: other.db: no such file"), "{}", text(&output.stderr));
}

#[test]
fn apps_and_regions_that_lead_nowhere_are_noted() {
    let folder = folder_with(&[("b1", 80)]);
    let db = rusqlite::Connection::open(folder.path().join("routing.db")).unwrap();
    db.execute("UPDATE backends SET region = 'attic'", []).unwrap();
    fs::write(folder.path().join("e.toml"), "region = \"fra\"\n[[listener]]\napp = \"wbe\"\n").unwrap();
    let output = check(folder.path(), &["-c", "e.toml"], &[]);
    assert_eq!(output.status.code(), Some(0), "rows come and go");
    let notes: Vec<&str> = text(&output.stdout).lines().filter(|line| line.starts_with("note: ")).collect();
    assert_eq!(
        notes,
        [
            "note: listener[0] is for app \"wbe\", which no backend has",
            "note: nothing is known of region \"attic\", so it comes last wherever distance decides; declare it by [[routing.region]] in the configuration, or use the code of a built-in one",
        ]
    );
}

#[test]
fn no_file_is_read_without_being_named() {
    let folder = folder_with(&[]);
    fs::write(folder.path().join("edgeproxy.toml"), "region = \"fra\"\nbroken").unwrap();
    let output = check(folder.path(), &["--region", "nrt"], &[]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

#[test]
fn a_reader_that_goes_away_is_no_mistake() {
    let folder = folder_with(&[]);
    let command = format!("{} check --region fra | true", env!("CARGO_BIN_EXE_edgeproxy"));
    let output =
        Command::new("bash").args(["-c", &format!("set -o pipefail; {command}")]).current_dir(&folder).output();
    let output = output.unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

#[test]
fn a_connection_log_that_cannot_be_written_is_told() {
    let folder = folder_with(&[("b1", 8080)]);
    for (log, ok) in [("nowhere/connections.log", false), (".", false), ("connections.log", true)] {
        let variables = [("EDGEPROXY_REGION", "fra"), ("EDGEPROXY_LOG_CONNECTIONS", log)];
        let output = check(folder.path(), &["--json"], &variables);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((report["ok"] == true, output.status.code()), (ok, Some(i32::from(!ok))), "{log}: {report}");
        assert_eq!(report["connection_log_error"].is_null(), ok, "{log}: {report}");
    }
    assert!(!folder.path().join("connections.log").exists(), "nothing is made");
}
