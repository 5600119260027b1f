//! `edgeproxy overlay init`, `keygen` and `pubkey` as an operator types them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use edgeproxy_overlay::{WgQuick, region_file};
use edgeproxy_tunnel::{Prefix, PresharedKey, PrivateKey};
use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_edgeproxy");
const HUB: &str = "hub.example.com:51821";
/// Where each region is, whatever else there is.
const TEN: [(&str, &str); 10] = [
    ("gru", "10.50.1.1"),
    ("iad", "10.50.2.1"),
    ("ord", "10.50.2.2"),
    ("lax", "10.50.2.3"),
    ("lhr", "10.50.3.1"),
    ("fra", "10.50.3.2"),
    ("cdg", "10.50.3.3"),
    ("nrt", "10.50.4.1"),
    ("sin", "10.50.4.2"),
    ("syd", "10.50.4.3"),
];

/// A run of `overlay init` in a folder.
fn init(site: &Path, arguments: &[&str]) -> Output {
    Command::new(BINARY).args(["overlay", "init"]).args(arguments).current_dir(site).output().unwrap()
}

/// A run of any command with this on its standard input: exit code, standard output, standard error.
fn run(arguments: &[&str], input: &[u8]) -> (Option<i32>, String, String) {
    let mut command = Command::new(BINARY);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that reads nothing may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort_unstable();
    names
}

fn prefixes(list: &[Prefix]) -> Vec<String> {
    list.iter().map(Prefix::to_string).collect()
}

#[test]
fn hub_and_regions_know_each_other() {
    let site = TempDir::new().unwrap();
    let output = init(site.path(), &["--hub", HUB, "--json"]);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let folder = site.path().join("overlay");

    let hub = WgQuick::read(&folder.join("hub.conf")).unwrap();
    assert_eq!(hub.interface.addresses, [("10.50.0.1".parse().unwrap(), 24)]);
    assert_eq!((hub.interface.listen_port, hub.notes.len()), (Some(51821), 0));
    let hub_key = hub.interface.private_key.public();
    assert_eq!((answer["endpoint"].as_str(), answer["hub"]["address"].as_str()), (Some(HUB), Some("10.50.0.1")));
    assert_eq!(answer["hub"]["public_key"], hub_key.to_string());
    assert_eq!((hub.peers.len(), answer["regions"].as_array().unwrap().len()), (10, 10));

    let mut keys = BTreeSet::from([hub_key]);
    for (((region, address), peer), told) in TEN.into_iter().zip(&hub.peers).zip(answer["regions"].as_array().unwrap())
    {
        let spoke = WgQuick::read(&region_file(&folder, region).unwrap()).unwrap();
        assert_eq!(spoke.interface.addresses, [(address.parse().unwrap(), 32)], "{region}");
        assert_eq!((spoke.interface.listen_port, spoke.notes.len()), (None, 0));
        let key = spoke.interface.private_key.public();
        assert!(keys.insert(key), "a key of its own");

        assert_eq!((peer.name.as_deref(), peer.public_key), (Some(region), key));
        assert_eq!((prefixes(&peer.allowed_ips), &peer.endpoint), (vec![format!("{address}/32")], &None));

        let [to_hub] = &spoke.peers[..] else { panic!("{spoke:?}") };
        assert_eq!((to_hub.public_key, to_hub.persistent_keepalive.unwrap().get()), (hub_key, 25));
        assert_eq!(to_hub.endpoint.as_ref().unwrap().to_string(), HUB);
        let five = ["10.50.0.0/24", "10.50.1.0/24", "10.50.2.0/24", "10.50.3.0/24", "10.50.4.0/24"];
        assert_eq!(prefixes(&to_hub.allowed_ips), five);

        let file = format!("overlay/{region}.conf");
        let expected = [region, address, &key.to_string(), &file];
        assert_eq!(["region", "address", "public_key", "file"].map(|field| told[field].as_str().unwrap()), expected);
    }
}

#[test]
fn files_are_for_their_owner_alone() {
    let site = TempDir::new().unwrap();
    let command = format!("umask 000; exec {BINARY} overlay init --hub {HUB} --regions fra,gru --dir keys");
    let output = Command::new("sh").args(["-c", &command]).current_dir(site.path()).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    let folder = site.path().join("keys");
    assert_eq!(names(&folder), ["fra.conf", "gru.conf", "hub.conf"], "and nothing besides");
    assert_eq!(mode(&folder), 0o700);
    for name in names(&folder) {
        assert_eq!(mode(&folder.join(name)), 0o600);
    }
    let told = text(&output.stdout);
    let mut lines = told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(lines.next().unwrap(), ["region", "address", "public", "key", "file"]);
    assert_eq!(lines.next().unwrap()[..2], ["hub", "10.50.0.1"]);
    assert_eq!(lines.next().unwrap()[..2], ["fra", "10.50.3.2"]);
    assert!(told.contains("edgeproxy gateway --overlay hub.conf") && told.contains("UDP port 51821"), "{told}");

    fs::create_dir(site.path().join("open")).unwrap();
    fs::set_permissions(site.path().join("open"), fs::Permissions::from_mode(0o755)).unwrap();
    let output = init(site.path(), &["--hub", HUB, "--dir", "open"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).starts_with("note: open was there before and is open to other users"));
    assert_eq!((mode(&site.path().join("open")), names(&site.path().join("open")).len()), (0o755, 11));
}

#[test]
fn nothing_is_ever_overwritten() {
    let site = TempDir::new().unwrap();
    let arguments = ["--hub", HUB, "--regions", "fra,gru"];
    let folder = site.path().join("overlay");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("gru.conf"), "mine").unwrap();
    symlink("nowhere", folder.join("hub.conf")).unwrap();
    let output = init(site.path(), &arguments);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
    let told = text(&output.stderr);
    let expected = "error: overlay/gru.conf, overlay/hub.conf: already there, and keys are never overwritten";
    assert!(told.starts_with(expected), "{told}");
    assert_eq!(names(&folder), ["gru.conf", "hub.conf"]);
    assert_eq!(fs::read_to_string(folder.join("gru.conf")).unwrap(), "mine");

    fs::remove_file(folder.join("gru.conf")).unwrap();
    fs::remove_file(folder.join("hub.conf")).unwrap();
    assert_eq!(init(site.path(), &arguments).status.code(), Some(0));
    let before = fs::read(folder.join("hub.conf")).unwrap();
    assert_eq!(init(site.path(), &arguments).status.code(), Some(1));
    assert_eq!(init(site.path(), &["--hub", HUB, "--regions", "iad"]).status.code(), Some(1), "the hub's is there");
    assert_eq!(fs::read(folder.join("hub.conf")).unwrap(), before);
    assert_eq!(names(&folder), ["fra.conf", "gru.conf", "hub.conf"]);
}

#[test]
fn a_failure_half_way_leaves_nothing_behind() {
    let site = TempDir::new().unwrap();
    // A file of a region fits in half a KiB, or in one where the shell counts so; that of the hub does not.
    let many: Vec<String> = (1..=20).map(|last| format!("r{last}=10.50.9.{last}")).collect();
    let command = format!(
        "trap '' XFSZ; ulimit -f 1; exec {BINARY} overlay init --hub {HUB} --regions {} 2>&1 | cat",
        many.join(",")
    );
    for made_before in [false, true] {
        if made_before {
            fs::create_dir(site.path().join("overlay")).unwrap();
        }
        let output = Command::new("sh").args(["-c", &command]).current_dir(site.path()).output().unwrap();
        let told = text(&output.stdout);
        assert!(told.starts_with("error: overlay/hub.conf: cannot be written: File too large"), "{told}");
        assert_eq!(site.path().join("overlay").exists(), made_before);
    }
    assert_eq!(names(&site.path().join("overlay")), [""; 0]);

    fs::write(site.path().join("file"), "").unwrap();
    let output = init(site.path(), &["--hub", HUB, "--dir", "file"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("error: file: cannot be written: File exists"));
}

#[test]
fn other_regions_have_a_place_or_are_given_one() {
    let site = TempDir::new().unwrap();
    let output = init(site.path(), &["--hub", "[2001:db8::1]:7", "--regions", "ams,jnb,attic=10.50.77.9", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let addresses: Vec<&str> =
        answer["regions"].as_array().unwrap().iter().map(|region| region["address"].as_str().unwrap()).collect();
    assert_eq!(addresses, ["10.50.3.4", "10.50.5.1", "10.50.77.9"]);
    let spoke = WgQuick::read(&site.path().join("overlay/ams.conf")).unwrap();
    assert_eq!(prefixes(&spoke.peers[0].allowed_ips)[5..], ["10.50.5.0/24", "10.50.77.0/24"]);
    assert_eq!(spoke.peers[0].endpoint.as_ref().unwrap().to_string(), "[2001:db8::1]:7");
}

#[test]
fn all_mistakes_are_told_and_nothing_is_made() {
    let site = TempDir::new().unwrap();
    let output = init(site.path(), &["--hub", HUB, "--regions", "fra,fra,atlantis,hub,x=10.51.0.1"]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""));
    let told = text(&output.stderr);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 4, "{told}");
    assert_eq!(lines[0], "--regions: region fra stands there twice");
    assert!(lines[1].starts_with("--regions: nothing is known of region \"atlantis\"; give it an address"), "{told}");
    assert!(lines[1].contains("eu: ams arn") && lines[1].contains("af: af af-south-1"), "{told}");
    assert!(lines[2].starts_with("--regions: \"hub\" is not a region"), "{told}");
    assert!(lines[3].starts_with("--regions: \"10.51.0.1\" is not an address of the overlay"), "{told}");
    for (hub, rule) in [("hub.example.com", "ends in a port"), ("0.0.0.0:51820", "unspecified"), (":1", "begins with")]
    {
        let output = init(site.path(), &["--hub", hub]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(rule), "{}", text(&output.stderr));
    }
    assert_eq!(init(site.path(), &[]).status.code(), Some(2), "there is no hub to guess");
    assert_eq!(names(site.path()), [""; 0]);
}

#[test]
fn public_keys_are_those_of_wg_pubkey() {
    // RFC 7748, section 6.1. The second private key is the first as X25519 uses it.
    for private in ["dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=", "cAdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LGo="] {
        for end in ["", "\n", " \r\n\t\n"] {
            let (code, out, err) = run(&["pubkey"], format!("{private}{end}").as_bytes());
            let expected = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\n";
            assert_eq!((code, out.as_str(), err.as_str()), (Some(0), expected, ""));
        }
    }
    let (_, bob, _) = run(&["pubkey"], b"XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=");
    assert_eq!(bob, "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=\n");
}

#[test]
fn what_is_no_private_key_is_refused_and_not_shown() {
    let good = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    let long = format!("{good}{}x", " ".repeat(10_000));
    for input in
        ["", "\n", &good[..43], &format!(" {good}"), &format!("{good}\n{good}"), &format!("PrivateKey = {good}")]
    {
        let (code, out, err) = run(&["pubkey"], input.as_bytes());
        assert_eq!((code, out.as_str()), (Some(1), ""), "{input:?}");
        assert!(err.starts_with("error: standard input: ") && err.ends_with("keygen | edgeproxy pubkey`\n"), "{err}");
        assert!(!err.contains(&good[..8]), "{err}");
    }
    assert_eq!(run(&["pubkey"], long.as_bytes()).0, Some(1));
    assert_eq!(run(&["pubkey"], b"\xff\xfe").0, Some(1));
}

#[test]
fn new_keys_are_new() {
    let keygen = |arguments: &[&str]| {
        let (code, out, err) = run(&[&["keygen"], arguments].concat(), b"");
        assert_eq!((code, err.as_str()), (Some(0), ""));
        out.strip_suffix('\n').unwrap().to_owned()
    };
    let keys: BTreeSet<String> = (0..3).map(|_| keygen(&[])).collect();
    assert_eq!(keys.len(), 3);
    for key in keys {
        let parsed: PrivateKey = key.parse().unwrap();
        assert_eq!(*parsed.to_base64(), key, "as X25519 uses it, as `wg genkey` has it");
        assert_eq!(run(&["pubkey"], key.as_bytes()).1, format!("{}\n", parsed.public()));
    }
    let psk: PresharedKey = keygen(&["--psk"]).parse().unwrap();
    assert!(psk.is_set());
}

#[test]
fn a_key_for_everybody_to_read_is_noted() {
    let site = TempDir::new().unwrap();
    for (umask, is_noted) in [("022", true), ("077", false)] {
        let command = format!("umask {umask}; exec {BINARY} keygen > key-{umask}");
        let output = Command::new("sh").args(["-c", &command]).current_dir(site.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(text(&output.stderr).starts_with("note: the file this key goes to is open"), is_noted);
        assert_eq!(fs::read(site.path().join(format!("key-{umask}"))).unwrap().len(), 45);
    }
}
