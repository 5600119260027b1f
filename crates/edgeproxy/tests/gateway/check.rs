//! `edgeproxy check --gateway`.

use std::process::Output;

use serde_json::{Value, json};

use crate::hub::{Folder, Hub, edgeproxy};

fn check(folder: &Folder, more: &[&str]) -> Output {
    edgeproxy().args(["check", "-c"]).arg(folder.config()).args(more).output().unwrap()
}

#[test]
fn a_gateway_s_configuration_is_checked_with_its_files() {
    let folder = Folder::new();
    let told = |output: &Output| -> Value { serde_json::from_slice(&output.stdout).unwrap() };
    let good = check(&folder, &["--gateway", "--json"]);
    let report = told(&good);
    assert!(good.status.success() && report["ok"] == true, "{good:?}");
    assert_eq!(report["gateway"]["addresses"], json!(["10.50.0.1/16"]));
    assert_eq!((&report["gateway"]["registered"], &report["routing"]), (&Value::Null, &Value::Null));
    assert!(!folder.db().exists(), "nothing is made");

    let hub = Hub::start(&folder);
    hub.client().post("/api/v1/peers", &json!({})).expect(201);
    assert_eq!(told(&check(&folder, &["--gateway", "--json"]))["gateway"]["registered"], 1, "while it runs");
    let text = String::from_utf8(check(&folder, &["--gateway"]).stdout).unwrap();
    assert!(text.contains("1 registered") && text.contains("gateway.quarantine"), "{text}");
    assert!(hub.stop().success());

    std::fs::write(folder.db(), "about something else, and longer than nothing").unwrap();
    let damaged = check(&folder, &["--gateway"]);
    assert_eq!(damaged.status.code(), Some(1), "{damaged:?}");
    assert!(String::from_utf8_lossy(&damaged.stderr).contains("not a sound SQLite database"), "{damaged:?}");
    folder.write("hub.conf", "[Interface]\nPrivateKey = x\n");
    let broken = check(&folder, &["--gateway"]);
    assert!(String::from_utf8_lossy(&broken.stderr).contains("hub.conf"), "{broken:?}");
}

#[test]
fn tokens_are_read_with_the_configuration() {
    let token =
        |name: &str| format!("[[gateway.token]]\nname = \"{name}\"\nfile = \"{name}.token\"\nscope = \"create\"\n");
    let folder = Folder::with(&[token("a"), token("b"), token("a"), token("c")].concat());
    folder.write("a.token", "one");
    folder.write("b.token", "one");
    let output = check(&folder, &["--gateway"]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    for expected in [
        "gateway.token[1].file: holds the same token as \"a\"",
        "gateway.token[2].name: \"a\" is the name of another token",
        "gateway.token[3].file: ",
    ] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    assert!(!told.contains("one\""), "no token is shown: {told}");
    std::fs::set_permissions(folder.path().join("b.token"), std::os::unix::fs::PermissionsExt::from_mode(0o640))
        .unwrap();
    let told = String::from_utf8(check(&folder, &["--gateway"]).stderr).unwrap();
    assert!(told.contains("chmod 600"), "{told}");
    // For a proxy of the same file they are nobody's.
    let proxy = String::from_utf8(check(&folder, &["--region", "fra"]).stdout).unwrap();
    assert!(proxy.contains("check --gateway"), "{proxy}");
}
