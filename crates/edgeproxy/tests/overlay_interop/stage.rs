//! Where a case plays: a user namespace, and in it a network, mounts and processes that are the case's alone.
//!
//! The way there is one of several processes: root first becomes nobody; then the namespaces are entered; then the
//! first process of the new process namespace runs the case, and with it ends everything that it started.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, exit};
use std::{env, fs, io};

use edgeproxy_overlay::{UserNamespaceError, enter_user_namespace};
use rustix::fs::{CWD, FileType, makedev};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::{Signal, geteuid, set_parent_process_death_signal};
use rustix::thread::{
    CapabilitySet, UnshareFlags, capabilities, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, unshare_unsafe,
};

use crate::wireguard;

/// The exit code of a case that cannot be tried here.
pub(crate) const SKIPPED: i32 = 77;

const CASE: &str = "EDGEPROXY_TEST_CASE";
const MODE: &str = "EDGEPROXY_TEST_MODE";
/// Came from root, and became nobody.
const DRESSED: &str = "EDGEPROXY_TEST_DRESSED";
/// Is in all the namespaces.
const INSIDE: &str = "EDGEPROXY_TEST_INSIDE";
const NOBODY: u32 = 65_534;
/// User namespaces below that of whoever reads or writes it.
const USER_NAMESPACES: &str = "/proc/sys/user/max_user_namespaces";

/// How the POP has TCP inside the overlay.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// By an interface in a namespace of its own.
    UserNamespace,
    /// By a stack of its own; it can have no namespace.
    Netstack,
}

impl Mode {
    /// As the configuration calls it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::UserNamespace => "userns",
            Self::Netstack => "netstack",
        }
    }
}

/// What a case needs out of folders that nobody may not enter: its name in the run folder, and where it is.
#[derive(Clone, Copy)]
pub(crate) struct Lent(&'static str, &'static str);

/// The binary under test.
const BINARY: Lent = Lent("edgeproxy-under-test", env!("CARGO_BIN_EXE_edgeproxy"));
/// Files of a kernel, if there are any.
pub(crate) const GUEST: Lent = Lent("guest", concat!(env!("CARGO_TARGET_TMPDIR"), "/../guest"));
/// Programs built for tests only, if there are any.
pub(crate) const TOOLS: Lent = Lent("tools", concat!(env!("CARGO_TARGET_TMPDIR"), "/../tools/bin"));

/// The case this process is for, unless it is the one that starts them all.
pub(crate) fn case() -> Option<(String, Mode)> {
    Some((env::var(CASE).ok()?, mode()))
}

/// How the POP of this case has TCP inside the overlay.
pub(crate) fn mode() -> Mode {
    let netstack = env::var(MODE).is_ok_and(|mode| mode == Mode::Netstack.word());
    if netstack { Mode::Netstack } else { Mode::UserNamespace }
}

/// Runs a case by this command, and waits for it.
pub(crate) fn start(case: &str, mode: Mode, mut command: Command) -> io::Result<ExitStatus> {
    command.env(CASE, case).env(MODE, mode.word()).status()
}

/// The user a case runs as.
pub(crate) fn user() -> u32 {
    let user = geteuid().as_raw();
    assert!(user == NOBODY || env::var_os(DRESSED).is_none(), "root has become {user}");
    user
}

/// The binary under test.
pub(crate) fn binary() -> PathBuf {
    lent(BINARY)
}

/// Where this is for the case.
pub(crate) fn lent(Lent(name, path): Lent) -> PathBuf {
    match env::var_os(DRESSED) {
        Some(_) => run_folder().join(name),
        None => PathBuf::from(path),
    }
}

/// Takes this process where the case plays, or ends it once another has played it there.
pub(crate) fn enter(mode: Mode) {
    if env::var_os(INSIDE).is_some() {
        die_with_parent();
        if mode == Mode::Netstack {
            refuse_namespaces();
        }
        wireguard::run("ip", &["link", "set", "lo", "up"]);
        return;
    }
    if geteuid().is_root() {
        undress();
    }
    die_with_parent();
    match enter_user_namespace() {
        Ok(()) => {}
        // Root has given us the device.
        Err(UserNamespaceError::Tun(error)) if env::var_os(DRESSED).is_some() => panic!("{error}"),
        Err(error) => skip(&error.to_string()),
    }
    if let Err(error) = unshare(UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWPID) {
        skip(&format!("no namespaces for mounts, network and processes ({error}): a security policy refuses them"));
    }
    if env::var_os(DRESSED).is_none() {
        own_run_folder();
    }
    keep_capabilities();
    let mut command = Command::new("/proc/self/exe");
    // Folders of the case are gone with it, however it ends.
    command.env(INSIDE, "1").env("TMPDIR", run_folder());
    // Where `ip` is, which is not for everybody's path.
    command.env("PATH", format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default()));
    let ended = command.status().unwrap();
    exit(ended.code().unwrap_or(1));
}

/// Becomes nobody, who has nothing, with a device and a folder of its own.
fn undress() -> ! {
    if let Err(error) = unshare(UnshareFlags::NEWNS) {
        skip(&format!("even root may have no mount namespace here ({error})"));
    }
    own_run_folder();
    for Lent(name, path) in [BINARY, GUEST, TOOLS] {
        let place = run_folder().join(name);
        match fs::metadata(path) {
            Ok(folder) if folder.is_dir() => fs::create_dir(&place).unwrap(),
            Ok(_) => fs::write(&place, "").unwrap(),
            Err(_) => continue,
        }
        mount_bind(path, &place).unwrap();
    }

    fs::create_dir_all("/dev/net").unwrap();
    mount("tmpfs", "/dev/net", "tmpfs", MountFlags::empty(), None).unwrap();
    fs::set_permissions("/dev/net", fs::Permissions::from_mode(0o755)).unwrap();
    let device = Path::new("/dev/net/tun");
    let made = rustix::fs::mknodat(CWD, device, FileType::CharacterDevice, rustix::fs::Mode::empty(), makedev(10, 200));
    if let Err(error) = made {
        skip(&format!("even root may make no device here ({error}): run it as a user for whom there is {device:?}"));
    }
    fs::set_permissions(device, fs::Permissions::from_mode(0o666)).unwrap();

    for capability in CapabilitySet::all().iter() {
        // Newer ones than this kernel's are refused.
        let _ = remove_capability_from_bounding_set(capability);
    }
    let error = Command::new("/proc/self/exe").env(DRESSED, "1").uid(NOBODY).gid(NOBODY).exec();
    panic!("cannot become nobody: {error}");
}

/// From now on nobody in the namespaces of the case can have a user namespace, and without one no other.
fn refuse_namespaces() {
    if let Err(error) = fs::write(USER_NAMESPACES, "0") {
        skip(&format!("{USER_NAMESPACES} cannot be written, not even in a user namespace of one's own ({error})"));
    }
    assert_eq!(fs::read_to_string(USER_NAMESPACES).unwrap().trim(), "0");
}

/// Nothing of what happens in the folder of sockets is seen outside.
fn own_run_folder() {
    let mounted = mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .and_then(|()| mount("tmpfs", run_folder(), "tmpfs", MountFlags::empty(), None));
    if let Err(error) = mounted {
        skip(&format!("a mount namespace is to be had, but no mounts in it ({error}): a security policy refuses them"));
    }
    fs::set_permissions(run_folder(), fs::Permissions::from_mode(0o1777)).unwrap();
}

/// `/run` on most systems.
fn run_folder() -> PathBuf {
    fs::canonicalize("/var/run").unwrap()
}

/// All that may be done in the namespaces may be done by the programs that are started there as well. The user stays
/// the same inside, who without this would lose it at each start of a program.
fn keep_capabilities() {
    let mut sets = capabilities(None).unwrap();
    sets.inheritable = sets.permitted;
    set_capabilities(None, sets).unwrap();
    for capability in sets.permitted.iter() {
        configure_capability_in_ambient_set(capability, true).unwrap();
    }
}

fn die_with_parent() {
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
}

fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: no descriptor table is unshared.
    #[allow(unsafe_code, reason = "unsafe only for another of its flags")]
    unsafe {
        unshare_unsafe(flags)
    }
}

/// Ends the case: it cannot be tried here.
pub(crate) fn skip(reason: &str) -> ! {
    println!("skipped: {reason}");
    exit(SKIPPED);
}

/// The same for want of something that the tests bring along where it is to be had. Where a change is checked, it is.
pub(crate) fn lack(what: &str) -> ! {
    if env::var_os("CI").is_some() {
        panic!("{what}");
    }
    skip(what);
}
