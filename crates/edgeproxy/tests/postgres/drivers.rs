//! A driver of another language, which shares no code with anything here.

use std::process::Command;

use edgeproxy_world::postgres::{DATABASE, PASSWORD, SUPERUSER};

use crate::stage::{Stage, config};
use crate::tools::run;

/// Where `make drivers` has installed them.
const PYTHON: &str = "EDGEPROXY_DRIVERS_PYTHON";

#[tokio::test]
#[ignore = "needs drivers from PyPI; `make drivers` installs and runs them"]
async fn drivers_in_python_write_read_fail_over_and_show_why_they_cannot() {
    let python = std::env::var(PYTHON).unwrap_or_else(|_| panic!("{PYTHON} is not set; run make drivers"));
    let mut stage = Stage::start(&config("hold = \"20s\"\n", "")).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/postgres/drivers.py");
    let (primary, replica) = (stage.primary().port().to_string(), stage.replica().port().to_string());
    let with = |act: &str| {
        let mut command = Command::new(&python);
        command.args([script, act, SUPERUSER, DATABASE]);
        command
    };
    let act = async |act: &str| {
        let output = run(with(act), &[&primary, &replica]).await;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{act}: {}", told.trim());
        assert!(output.status.success(), "{act}: {told}{}", String::from_utf8_lossy(&output.stderr));
    };
    assert_eq!(PASSWORD, "scratch", "as the script has it by PGPASSWORD");
    act("usual").await;
    stage.fra.kill().await.unwrap();
    stage.until_role("fra", "unknown").await;
    let (primary, replica) = (primary.clone(), replica.clone());
    let mut held = with("held");
    held.args([&primary, &replica]);
    let waiting = tokio::spawn(run(held, &[]));
    stage.pop.until_count("edge_held", &[], 1).await.unwrap();
    stage.lhr.promote().await.unwrap();
    let output = waiting.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("held: {}", String::from_utf8_lossy(&output.stdout).trim());
    stage.stop().await;
}
