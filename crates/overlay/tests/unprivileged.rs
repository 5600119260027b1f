//! What an ordinary user has, without a single capability and with no_new_privs.
//!
//! Each case is a process of its own: this program once more, as nobody where it is root. It tells by its exit code how
//! it went.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]
#![allow(clippy::print_stdout, reason = "measured and skipped things are told")]

mod support;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, exit};
use std::time::Instant;
use std::{env, fs, thread};

use edgeproxy_overlay::{
    Enclave, EnclaveError, Family, ListenSettings, Mode as OverlayMode, Overlay, OverlaySettings, Sockets, Tun,
    TunError, UserNamespaceError, Way, WgQuick, enter_user_namespace,
};
use rustix::fs::{CWD, FileType, Mode, makedev};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Resource, Rlimit, getegid, geteuid, setrlimit};
use rustix::thread::{CapabilitySet, UnshareFlags, unshare_unsafe};

const CASE: &str = "EDGEPROXY_TEST_CASE";
const DRESSED: &str = "EDGEPROXY_TEST_DRESSED";
/// What a case says that cannot be tried here.
const SKIPPED: i32 = 77;
const NOBODY: u32 = 65_534;

/// How the device is for a case.
#[derive(Clone, Copy, PartialEq)]
enum Device {
    /// As distributions have it.
    ForAll,
    ForRoot,
    Missing,
}

const CASES: [(&str, Device, fn()); 10] = [
    ("a_whole_overlay", Device::ForAll, a_whole_overlay),
    ("no_thread_keeps_a_capability_it_needs_no_more", Device::ForAll, no_thread_keeps_a_capability_it_needs_no_more),
    ("a_super_packet_fits_one_send", Device::ForAll, a_super_packet_fits_one_send),
    ("a_netstack_understands_the_kernel", Device::ForAll, a_netstack_understands_the_kernel),
    ("nothing_without_a_user_namespace", Device::ForAll, nothing_without_a_user_namespace),
    ("no_more_user_namespaces", Device::ForAll, no_more_user_namespaces),
    ("no_more_network_namespaces", Device::ForAll, no_more_network_namespaces),
    ("no_more_descriptors", Device::ForAll, no_more_descriptors),
    ("a_device_for_root_only", Device::ForRoot, a_device_for_root_only),
    ("no_device", Device::Missing, no_device),
];

fn main() -> ExitCode {
    if let Ok(name) = env::var(CASE) {
        let (_, device, case) = CASES.into_iter().find(|(case, ..)| *case == name).unwrap();
        undress(device);
        case();
        return ExitCode::SUCCESS;
    }
    let filter = env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let mut failed = false;
    for (name, ..) in CASES.iter().filter(|(name, ..)| name.contains(&filter)) {
        let ended = Command::new("/proc/self/exe").env(CASE, name).status().unwrap();
        let word = match ended.code() {
            Some(0) => "ok",
            Some(SKIPPED) => "skipped",
            _ => "FAILED",
        };
        println!("test {name} ... {word}");
        failed |= word == "FAILED";
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Becomes nobody, who has nothing, with a device of its own.
fn undress(device: Device) {
    if env::var_os(DRESSED).is_some() || !geteuid().is_root() {
        assert!(!geteuid().is_root());
        assert_eq!(rustix::thread::capabilities(None).unwrap().permitted, CapabilitySet::empty());
        if env::var_os(DRESSED).is_none() && device != Device::ForAll {
            skip("only root can change the device");
        }
        rustix::thread::set_no_new_privs(true).unwrap();
        return;
    }
    // SAFETY: no descriptor table is unshared.
    #[allow(unsafe_code, reason = "unsafe only for another of its flags")]
    let apart = unsafe { unshare_unsafe(UnshareFlags::NEWNS) };
    if let Err(error) = apart {
        skip(&format!("even root may have no mount namespace here ({error})"));
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    fs::create_dir_all("/dev/net").unwrap();
    mount("tmpfs", "/dev/net", "tmpfs", MountFlags::empty(), None).unwrap();
    fs::set_permissions("/dev/net", std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mode = match device {
        Device::ForAll => Some(0o666),
        Device::ForRoot => Some(0o600),
        Device::Missing => None,
    };
    if let Some(mode) = mode {
        let path = "/dev/net/tun";
        let made = rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), makedev(10, 200));
        if let Err(error) = made {
            skip(&format!("even root may make no device here ({error})"));
        }
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    for capability in CapabilitySet::all().iter() {
        // Newer ones than this kernel's are refused.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    let error = Command::new("/proc/self/exe").env(DRESSED, "1").uid(NOBODY).gid(NOBODY).exec();
    panic!("cannot become nobody: {error}");
}

fn skip(reason: &str) -> ! {
    println!("skipped: {reason}");
    exit(SKIPPED);
}

/// Enters a user namespace, or skips the case where this system has none for ordinary users.
fn enter() {
    match enter_user_namespace() {
        Ok(()) => {}
        // Root has given us the device.
        Err(UserNamespaceError::Tun(error)) if env::var_os(DRESSED).is_some() => panic!("{error}"),
        Err(error) => skip(&error.to_string()),
    }
}

fn a_whole_overlay() {
    let before = (geteuid(), getegid(), support::network());
    let file = fs::metadata("/proc/self/exe").unwrap().len();
    let started = Instant::now();
    enter();
    println!("user namespace entered in {:?}", started.elapsed());
    assert_eq!((geteuid(), getegid(), support::network()), before);
    assert_eq!(fs::metadata("/proc/self/exe").unwrap().len(), file);

    let started = Instant::now();
    let enclave = Sockets::Enclave(Enclave::start().unwrap());
    println!("enclave there in {:?}", started.elapsed());
    assert_ne!(enclave.within(support::network).unwrap(), before.2);
    support::check(&enclave);
    for _ in 0..3 {
        let started = Instant::now();
        let sockets: Vec<_> = (0..16).map(|_| enclave.tcp(Family::V6).unwrap()).collect();
        println!("{} sockets in {:?}", sockets.len(), started.elapsed());
        thread::sleep(std::time::Duration::from_millis(5));
    }
    // Every other thread is where it was.
    assert_eq!(support::network(), before.2);
    assert_eq!(thread::spawn(support::network).join().unwrap(), before.2);
    assert!(matches!(enter_user_namespace(), Err(UserNamespaceError::Threads(2..))));
}

fn no_thread_keeps_a_capability_it_needs_no_more() {
    // Of this process, thread by thread: those in effect, permitted, inheritable.
    let kept = || -> Vec<(String, String)> {
        let threads = fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path());
        threads
            .flat_map(|thread| {
                let name = fs::read_to_string(thread.join("comm")).unwrap().trim().to_owned();
                let status = fs::read_to_string(thread.join("status")).unwrap();
                let sets = ["CapEff:", "CapPrm:", "CapInh:"];
                let lines = status.lines().filter(|line| sets.iter().any(|set| line.starts_with(set)));
                let some = lines.filter(|line| !line.ends_with("\t0000000000000000"));
                some.map(|line| (name.clone(), line.to_owned())).collect::<Vec<_>>()
            })
            .collect()
    };
    let way = match Way::find(OverlayMode::UserNamespace) {
        Ok(way) => way,
        Err(error) => skip(&error.to_string()),
    };
    let before = kept();
    assert!(!before.is_empty() && before.iter().all(|(thread, _)| thread == "enclave"), "{before:?}");
    let text = "[Interface]\nPrivateKey = AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\nAddress = 10.50.0.1/24\n";
    let config = WgQuick::parse("wg0.conf", text.as_bytes()).unwrap();
    let overlay = Overlay::start(&config, way, OverlaySettings::default()).unwrap();
    assert!(fs::read_dir("/proc/self/task").unwrap().count() >= 4, "workers, handshakes, enclave");
    assert_eq!(kept(), []);
    // Ports below 1024 are to be had all the same, and sockets.
    overlay.sockets.listen(&ListenSettings::at("10.50.0.1:443".parse().unwrap())).unwrap();
    overlay.sockets.tcp(Family::V4).unwrap();
    // Nothing that needs one is: the interface cannot be changed any more.
    assert_eq!(overlay.sockets.within(|| Tun::open(None, 1).unwrap_err()).unwrap(), TunError::NotPermitted);
}

fn a_super_packet_fits_one_send() {
    enter();
    support::bridge::check_bulk();
}

fn a_netstack_understands_the_kernel() {
    enter();
    support::netstack::check_against_kernel();
}

fn nothing_without_a_user_namespace() {
    assert!(matches!(Enclave::start(), Err(EnclaveError::NotPermitted)));
    let refused = Tun::open(None, 1).unwrap_err();
    let device = matches!(refused, TunError::DeviceForbidden | TunError::DeviceMissing);
    // The device is of our making only where we came from root.
    assert!(refused == TunError::NotPermitted || (device && env::var_os(DRESSED).is_none()), "{refused}");
}

fn no_more_descriptors() {
    enter();
    let sockets = Sockets::Enclave(Enclave::start().unwrap());
    setrlimit(Resource::Nofile, Rlimit { current: Some(100), maximum: Some(100) }).unwrap();
    let taken: Vec<_> = std::iter::repeat_with(|| sockets.tcp(Family::V4)).take_while(Result::is_ok).collect();
    assert!((64..100).contains(&taken.len()), "{}", taken.len());
    let error = sockets.tcp(Family::V4).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::MFILE));
    drop(taken);
    sockets.tcp(Family::V4).unwrap();
}

fn no_more_user_namespaces() {
    enter();
    // The number is of this namespace alone.
    fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
    let limit = UserNamespaceError::Limit { sysctl: "user.max_user_namespaces", limit: Some("0".into()) };
    assert_eq!(enter_user_namespace(), Err(limit));
    // Nothing has changed by that: what can be had here is had.
    Sockets::Enclave(Enclave::start().unwrap()).tcp(Family::V4).unwrap();
}

fn no_more_network_namespaces() {
    enter();
    fs::write("/proc/sys/user/max_net_namespaces", "0").unwrap();
    let limit = UserNamespaceError::Limit { sysctl: "user.max_net_namespaces", limit: Some("0".into()) };
    let namespace = fs::read_link("/proc/self/ns/user").unwrap();
    assert_eq!(enter_user_namespace(), Err(limit));
    assert_eq!(fs::read_link("/proc/self/ns/user").unwrap(), namespace);
    assert!(matches!(Enclave::start(), Err(EnclaveError::Limit)));
}

fn a_device_for_root_only() {
    refused_by_device(TunError::DeviceForbidden);
}

fn no_device() {
    refused_by_device(TunError::DeviceMissing);
}

/// The process stays what it was if there is no interface to be had, and takes the way that needs none.
fn refused_by_device(why: TunError) {
    let way = Way::find(OverlayMode::Auto).unwrap();
    assert_eq!(way.mode(), "netstack");
    assert!(way.reason.starts_with("no interface of the host (") && way.reason.contains("in a namespace ("));
    let namespace = fs::read_link("/proc/self/ns/user").unwrap();
    match enter_user_namespace().unwrap_err() {
        UserNamespaceError::Tun(error) => assert_eq!(error, why),
        error => skip(&error.to_string()),
    }
    assert_eq!(fs::read_link("/proc/self/ns/user").unwrap(), namespace);
}
