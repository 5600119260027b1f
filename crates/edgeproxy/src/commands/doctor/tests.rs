//! Machines that do not exist.

use std::fs;

use tempfile::TempDir;

use super::{Item, Machine, Verdict, script};

/// A machine as Debian 12 installs it.
const DEBIAN: &[(&str, &str)] = &[
    ("fs/file-max", "9223372036854775807\n"),
    ("fs/nr_open", "1048576\n"),
    ("fs/pipe-user-pages-soft", "16384\n"),
    ("net/core/somaxconn", "4096\n"),
    ("net/ipv4/tcp_rmem", "4096\t131072\t6291456\n"),
    ("net/ipv4/tcp_wmem", "4096\t16384\t4194304\n"),
    ("net/ipv4/ip_local_reserved_ports", "\n"),
    ("net/ipv4/ip_local_port_range", "32768\t60999\n"),
    ("net/ipv4/tcp_fin_timeout", "60\n"),
    ("net/ipv4/tcp_tw_reuse", "2\n"),
    ("net/ipv4/tcp_congestion_control", "cubic\n"),
    ("kernel/osrelease", "6.1.0-18-amd64\n"),
];

struct Fake {
    folder: TempDir,
    machine: Machine,
}

impl Fake {
    fn debian() -> Self {
        let folder = TempDir::new().unwrap();
        let root = folder.path().to_owned();
        let machine = Machine { root, descriptors: (Some(1_024), Some(1_048_576)), cores: 4, user: 1000 };
        let fake = Self { folder, machine };
        for (name, value) in DEBIAN {
            fake.set(name, value);
        }
        fake
    }

    fn set(&self, name: &str, value: &str) {
        let path = self.folder.path().join("proc/sys").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value).unwrap();
    }

    fn item(&self, name: &str) -> Item {
        self.machine.examine().into_iter().find(|item| item.item == name).unwrap()
    }
}

#[test]
fn a_fresh_machine_gets_warnings_with_commands() {
    let fake = Fake::debian();
    let found: Vec<(String, Verdict, String)> =
        fake.machine.examine().into_iter().map(|item| (item.item, item.verdict, item.advice)).collect();
    let expected = [
        ("open files, soft limit", Verdict::Info, "raised to the hard limit at start"),
        ("open files, hard limit", Verdict::Ok, ""),
        ("fs.file-max", Verdict::Ok, ""),
        ("fs.nr_open", Verdict::Ok, ""),
        ("fs.pipe-user-pages-soft", Verdict::Warn, "sysctl -w fs.pipe-user-pages-soft=262144"),
        ("net.core.somaxconn", Verdict::Warn, "sysctl -w net.core.somaxconn=65535"),
        ("net.ipv4.tcp_rmem", Verdict::Warn, "sysctl -w net.ipv4.tcp_rmem=\"4096 131072 16777216\""),
        ("net.ipv4.tcp_wmem", Verdict::Warn, "sysctl -w net.ipv4.tcp_wmem=\"4096 65536 16777216\""),
        ("net.ipv4.ip_local_port_range", Verdict::Warn, "sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\""),
        ("net.ipv4.tcp_fin_timeout", Verdict::Warn, "sysctl -w net.ipv4.tcp_fin_timeout=15"),
        ("net.ipv4.tcp_tw_reuse", Verdict::Warn, "sysctl -w net.ipv4.tcp_tw_reuse=1"),
        ("congestion control", Verdict::Info, ""),
        ("cores", Verdict::Info, "one data-plane thread each"),
        ("kernel", Verdict::Info, ""),
        ("user", Verdict::Info, ""),
    ];
    assert_eq!(found, expected.map(|(item, verdict, advice)| (item.to_owned(), verdict, advice.to_owned())));
    let rmem = fake.item("net.ipv4.tcp_rmem");
    assert_eq!((rmem.current.as_str(), rmem.recommended.as_str()), ("4096 131072 6291456", "4096 87380 16777216"));
    assert_eq!(fake.item("kernel").current, "6.1.0-18-amd64");
}

#[test]
fn descriptors_are_judged_by_what_they_can_be_raised_to() {
    use Verdict::{Fail, Info, Ok, Warn};
    for (soft, hard, expected) in [
        (Some(1_024), Some(1_024), (Fail, Fail)),
        (Some(1_024), Some(4_095), (Fail, Fail)),
        (Some(1_024), Some(4_096), (Warn, Warn)),
        (Some(4_096), Some(524_288), (Warn, Warn)),
        (Some(1_024), Some(524_288), (Warn, Warn)),
        (Some(1_024), Some(999_999), (Warn, Warn)),
        (Some(1_024), Some(1_000_000), (Info, Ok)),
        (Some(1_048_576), Some(1_048_576), (Ok, Ok)),
        (Some(1_024), None, (Info, Ok)),
        (None, None, (Ok, Ok)),
    ] {
        let mut fake = Fake::debian();
        fake.machine.descriptors = (soft, hard);
        let found = (fake.item("open files, soft limit").verdict, fake.item("open files, hard limit").verdict);
        assert_eq!(found, expected, "{soft:?} {hard:?}");
    }
}

#[test]
fn settings_are_compared_by_what_they_mean() {
    use Verdict::{Info, Ok, Warn};
    for (name, value, verdict) in [
        ("net/core/somaxconn", "65534", Warn),
        ("net/core/somaxconn", "65535", Ok),
        ("net/core/somaxconn", "131072", Ok),
        ("net/ipv4/tcp_rmem", "4096 87380 16777216", Ok),
        ("net/ipv4/tcp_rmem", "8192 131072 33554432", Ok),
        ("net/ipv4/tcp_rmem", "4095 131072 33554432", Warn),
        ("net/ipv4/tcp_rmem", "4096 87379 33554432", Warn),
        ("net/ipv4/tcp_rmem", "16777216", Warn),
        ("net/ipv4/ip_local_port_range", "1024 65535", Ok),
        ("net/ipv4/ip_local_port_range", "1000 65535", Ok),
        ("net/ipv4/ip_local_port_range", "1025 65535", Warn),
        ("net/ipv4/ip_local_port_range", "1024 60999", Warn),
        ("net/ipv4/tcp_fin_timeout", "10", Ok),
        ("net/ipv4/tcp_fin_timeout", "16", Warn),
        ("net/ipv4/tcp_tw_reuse", "0", Warn),
        ("net/ipv4/tcp_tw_reuse", "1", Ok),
        ("fs/pipe-user-pages-soft", "0", Ok),
        ("fs/pipe-user-pages-soft", "262144", Ok),
        ("fs/nr_open", "65536", Warn),
        ("fs/nr_open", "what", Warn),
        ("fs/nr_open", "", Warn),
        ("fs/file-max", "100000", Warn),
    ] {
        let fake = Fake::debian();
        fake.set(name, value);
        assert_eq!(fake.item(&name.replace('/', ".")).verdict, verdict, "{name} = {value}");
    }
    let fake = Fake::debian();
    fs::remove_file(fake.folder.path().join("proc/sys/net/core/somaxconn")).unwrap();
    let hidden = fake.item("net.core.somaxconn");
    assert_eq!((hidden.verdict, hidden.current.as_str()), (Info, "?"), "containers do not show it");
    let script = script::script(&fake.machine);
    assert!(!script.contains("net.core.somaxconn") && script.contains("net.ipv4.tcp_rmem"), "{script}");
}

#[test]
fn the_script_never_lowers_what_is_higher() {
    let fake = Fake::debian();
    fake.set("net/core/somaxconn", "131072");
    fake.set("net/ipv4/ip_local_reserved_ports", "5000,9000-9100");
    let script = script::script(&fake.machine);
    for line in [
        "fs.file-max = 9223372036854775807",
        "net.core.somaxconn = 131072",
        "net.ipv4.tcp_rmem = 4096 131072 16777216",
        "net.ipv4.tcp_wmem = 4096 65536 16777216",
        "net.ipv4.ip_local_reserved_ports = 5000,9000-9100,8080",
        "net.ipv4.ip_local_port_range = 1024 65535",
        "net.ipv4.tcp_fin_timeout = 15",
        "LimitNOFILE=1048576",
        "* soft nofile 1048576",
        "root hard nofile 1048576",
    ] {
        assert_eq!(script.lines().filter(|other| *other == line).count(), 1, "{line}\n{script}");
    }
    // What it sets is what this command then finds good.
    for line in script.lines().filter(|line| line.contains(" = ")) {
        let (name, value) = line.split_once(" = ").unwrap();
        fake.set(&name.replace('.', "/"), value);
    }
    let warned: Vec<Item> = fake.machine.examine().into_iter().filter(|item| item.verdict == Verdict::Warn).collect();
    assert_eq!(warned, []);
}

#[test]
fn root_is_told_that_it_is_not_needed() {
    let mut fake = Fake::debian();
    assert_eq!((fake.item("user").current, fake.item("user").advice), ("uid 1000".to_owned(), String::new()));
    fake.machine.user = 0;
    assert_eq!(fake.item("user").advice, "root is not needed; run it as a user of its own");
}
