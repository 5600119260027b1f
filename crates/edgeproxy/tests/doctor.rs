//! `edgeproxy doctor` on this machine, whatever it is like.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Command, Output};

use serde_json::Value;

fn doctor(arguments: &[&str], limit: &str) -> Output {
    // The limit is lowered for the command alone.
    Command::new("sh")
        .args(["-c", &format!("ulimit -n {limit} && exec \"$0\" doctor \"$@\""), env!("CARGO_BIN_EXE_edgeproxy")])
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn json_has_a_verdict_for_every_item() {
    let output = doctor(&["--json"], "4096");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let items = report["items"].as_array().unwrap();
    assert_eq!(items.len(), 15);
    for item in items {
        assert!(["ok", "info", "warn", "fail"].contains(&item["verdict"].as_str().unwrap()), "{item}");
        assert!(!item["item"].as_str().unwrap().is_empty() && !item["current"].as_str().unwrap().is_empty(), "{item}");
        let advised = !item["advice"].as_str().unwrap().is_empty();
        assert!(item["verdict"] == "info" || advised == (item["verdict"] != "ok"), "{item}");
    }
    assert_eq!(report["ok"], true);
    assert!(report["fix_script"].as_str().unwrap().contains("LimitNOFILE=1048576"));
    assert_eq!(output.status.code(), Some(0), "warnings are allowed");
}

#[test]
fn too_few_descriptors_fail() {
    let output = doctor(&[], "1024");
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("open files, hard limit")).unwrap();
    assert!(line.contains("1024") && line.contains("1048576") && line.contains("FAIL"), "{line}");
    assert!(text.contains("/etc/sysctl.d/60-edgeproxy.conf"), "the script stands below the table");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_script_is_sound_shell() {
    let output = doctor(&["--fix-script"], "4096");
    assert_eq!(output.status.code(), Some(0));
    let script = String::from_utf8(output.stdout).unwrap();
    let check = Command::new("sh").args(["-n", "-c", &script]).status().unwrap();
    assert!(check.success(), "{script}");
}
