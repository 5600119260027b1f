//! The way to an interface of one's own without any privilege: a user namespace, in which an ordinary process may have
//! a network namespace with all that belongs to it.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{Signal, getegid, geteuid, getpid, kill_process};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags, capabilities, set_capabilities, unshare_unsafe};

use crate::tun::{ANY_NAME, Call, Tun, TunError};

/// Why this process may have no user namespace, or none that is of use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserNamespaceError {
    /// It is too late: a user namespace is for a process of one thread.
    #[error("{0} threads run already: a user namespace can only be entered before any is started")]
    Threads(usize),
    /// There are as many as there may be.
    #[error("no more namespaces are allowed: raise the sysctl {sysctl} (it is {})", .limit.as_deref().unwrap_or("unknown"))]
    Limit {
        /// The setting that bounds them.
        sysctl: &'static str,
        /// Its value.
        limit: Option<String>,
    },
    /// Debian's switch for ordinary users is off.
    #[error("user namespaces are for root here: set the sysctl kernel.unprivileged_userns_clone to 1")]
    Sysctl,
    /// Ubuntu's rule for programs without a profile of their own.
    #[error(
        "AppArmor keeps user namespaces from programs without a profile: give edgeproxy a profile that allows `userns`, \
         or set the sysctl kernel.apparmor_restrict_unprivileged_userns to 0"
    )]
    AppArmor,
    /// A system-call filter, as containers have one.
    #[error(
        "a system-call filter is in force, which probably refuses namespaces: the container's seccomp profile has to \
         allow unshare(CLONE_NEWUSER)"
    )]
    Seccomp,
    /// Refused for a reason that cannot be seen from here.
    #[error("the system refuses namespaces to this process ({error}): it runs in a chroot, or under a security policy")]
    Denied {
        /// The kernel's word for it.
        error: Errno,
    },
    /// The kernel has no such thing.
    #[error("this kernel has no user namespaces (CONFIG_USER_NS, CONFIG_NET_NS)")]
    Unsupported,
    /// Namespaces would be had, but no TUN interface in them.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// Anything else.
    #[error("cannot enter a user namespace ({step:?}: {error})")]
    Failed {
        /// How far it got.
        step: Step,
        /// Why no further.
        error: Errno,
    },
}

/// What is done one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Looking at the threads, starting a child process to try it.
    Start,
    /// Leaving the user namespace of the host.
    Unshare,
    /// Giving up the change of groups, without which groups cannot be mapped.
    SetGroups,
    /// Mapping the user.
    UserMap,
    /// Mapping the group.
    GroupMap,
    /// Having a network namespace.
    Network,
    /// Having a TUN interface in it.
    Tun(Call),
}

/// Moves the process into a user namespace of its own, where it has every capability over what it makes there and none
/// over the host. Its user and group are the same inside, so that files and logs look no different; all others look
/// like nobody's, and it can take no other group.
///
/// All of it, up to an open TUN interface, is tried by a child process before: if that fails, this one stays as it is.
///
/// What the process was allowed in the host's network besides (ports below 1024 by CAP_NET_BIND_SERVICE, buffers beyond
/// the limits) it loses: what needs that is to be opened before.
///
/// # Errors
/// Each says who refuses it and how to allow it.
pub fn enter_user_namespace() -> Result<(), UserNamespaceError> {
    let tasks = fs::read_dir("/proc/self/task").map_err(|error| failed(Step::Start, error))?;
    match tasks.count() {
        1 => {}
        threads => return Err(UserNamespaceError::Threads(threads)),
    }
    rehearse().and_then(|()| enter()).map_err(|failure| failure.explain(&Policy::read()))
}

/// Leaves the calling thread, and all that it starts from now on, none but these of the capabilities it has.
pub(crate) fn renounce(but: CapabilitySet) -> rustix::io::Result<()> {
    let kept = capabilities(None)?.permitted.intersection(but);
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)
}

fn failed(step: Step, error: io::Error) -> UserNamespaceError {
    UserNamespaceError::Failed { step, error: errno(&error) }
}

/// Leaves the host's user namespace for one in which we are who we were.
fn enter() -> Result<(), Failure> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    // SAFETY: CLONE_NEWUSER concerns the credentials of the process; no descriptor table is unshared.
    #[allow(unsafe_code, reason = "unsafe only for another of its flags")]
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }.map_err(Failure::at(Step::Unshare))?;
    let write =
        |file: &str, text: &str, step| fs::write(file, text).map_err(|error| Failure { step, error: errno(&error) });
    write("/proc/self/setgroups", "deny", Step::SetGroups)?;
    write("/proc/self/uid_map", &format!("{user} {user} 1"), Step::UserMap)?;
    write("/proc/self/gid_map", &format!("{group} {group} 1"), Step::GroupMap)
}

/// Lets a child process try all that is to come. There is no way back out of a user namespace, and one in which no
/// interface can be had is worse than none.
fn rehearse() -> Result<(), Failure> {
    let started = |error: io::Error| Failure { step: Step::Start, error: errno(&error) };
    let (mut verdict, mut report) = io::pipe().map_err(started)?;
    let mut command = Command::new("/proc/self/exe");
    // SAFETY: the process has one thread, so that no lock is held by another that the child does not have.
    #[allow(unsafe_code, reason = "a process is forked without running a program in it")]
    unsafe {
        command.pre_exec(move || {
            let code = try_all().err().map_or(0, Failure::encode);
            report.write_all(&code.to_ne_bytes())?;
            // It ends here: nothing is executed, and nothing of ours is flushed or closed twice.
            Ok(kill_process(getpid(), Signal::KILL)?)
        });
    }
    let mut child = command.spawn().map_err(started)?;
    // With the command goes our end of its report.
    drop(command);
    let mut code = [0; 4];
    let told = verdict.read_exact(&mut code);
    // Where ended children are not kept there is nothing to wait for.
    let _ = child.wait();
    match (told, i32::from_ne_bytes(code)) {
        (Ok(()), 0) => Ok(()),
        (Ok(()), code) => Err(Failure::decode(code)),
        // A system-call filter may kill whoever tries.
        (Err(_), _) => Err(Failure { step: Step::Unshare, error: Errno::PERM }),
    }
}

fn try_all() -> Result<(), Failure> {
    enter()?;
    // SAFETY: as above.
    #[allow(unsafe_code, reason = "unsafe only for another of its flags")]
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(Failure::at(Step::Network))?;
    Tun::attempt().map_err(|(call, error)| Failure { step: Step::Tun(call), error })
}

/// Where it failed and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failure {
    step: Step,
    error: Errno,
}

impl Failure {
    fn at(step: Step) -> impl Fn(Errno) -> Self {
        move |error| Self { step, error }
    }

    /// As the one number that the child tells its parent.
    fn encode(self) -> i32 {
        let step = STEPS.iter().position(|step| *step == self.step).unwrap_or(0);
        i32::try_from(step).unwrap_or(0) << 16 | self.error.raw_os_error()
    }

    fn decode(code: i32) -> Self {
        let step = usize::try_from(code >> 16).ok().and_then(|step| STEPS.get(step)).copied().unwrap_or(Step::Start);
        Self { step, error: Errno::from_raw_os_error(code & 0xFFFF) }
    }

    /// Finds out who refused it.
    fn explain(self, policy: &Policy) -> UserNamespaceError {
        let Self { step, error } = self;
        match (step, error) {
            (Step::Start, error) => UserNamespaceError::Failed { step, error },
            (Step::Network, Errno::NOSPC) => Policy::limit("user.max_net_namespaces"),
            // Before Linux 4.9 the depth had an error of its own.
            (Step::Unshare, Errno::NOSPC | Errno::USERS) => Policy::limit("user.max_user_namespaces"),
            (Step::Tun(call), error) if (call, error) != (Call::Attach, Errno::PERM) => {
                TunError::of(call, error, ANY_NAME, 1).into()
            }
            (_, Errno::PERM | Errno::ACCESS) if policy.switched_off => UserNamespaceError::Sysctl,
            (_, Errno::PERM | Errno::ACCESS) if policy.apparmor => UserNamespaceError::AppArmor,
            (_, Errno::PERM | Errno::ACCESS | Errno::NOSYS) if policy.filtered => UserNamespaceError::Seccomp,
            (_, Errno::PERM | Errno::ACCESS) => UserNamespaceError::Denied { error },
            (Step::Unshare | Step::Network, Errno::INVAL | Errno::NOSYS) => UserNamespaceError::Unsupported,
            (step, error) => UserNamespaceError::Failed { step, error },
        }
    }
}

/// Every step, in the order of their numbers between child and parent.
const STEPS: [Step; 11] = [
    Step::Start,
    Step::Unshare,
    Step::SetGroups,
    Step::UserMap,
    Step::GroupMap,
    Step::Network,
    Step::Tun(Call::Open),
    Step::Tun(Call::Attach),
    Step::Tun(Call::HeaderLength),
    Step::Tun(Call::HeaderOrder),
    Step::Tun(Call::Offload),
];

/// What on this system is known to refuse user namespaces.
#[derive(Debug, Default)]
struct Policy {
    switched_off: bool,
    apparmor: bool,
    filtered: bool,
}

impl Policy {
    fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let filtered = |line: &str| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2");
        Self {
            switched_off: sysctl("kernel.unprivileged_userns_clone").as_deref() == Some("0"),
            apparmor: sysctl("kernel.apparmor_restrict_unprivileged_userns").is_some_and(|value| value != "0"),
            filtered: status.lines().any(filtered),
        }
    }

    fn limit(sysctl_name: &'static str) -> UserNamespaceError {
        UserNamespaceError::Limit { sysctl: sysctl_name, limit: sysctl(sysctl_name) }
    }
}

fn sysctl(name: &str) -> Option<String> {
    let value = fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
    Some(value.trim().to_owned())
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_the_way_to_the_parent() {
        for step in STEPS {
            let failure = Failure { step, error: Errno::PERM };
            assert_eq!(Failure::decode(failure.encode()), failure);
        }
    }

    #[test]
    fn a_refusal_names_who_refuses() {
        let refused = Failure { step: Step::Unshare, error: Errno::PERM };
        let policy = |switched_off, apparmor, filtered| Policy { switched_off, apparmor, filtered };
        assert_eq!(refused.explain(&policy(true, false, true)), UserNamespaceError::Sysctl);
        assert_eq!(refused.explain(&policy(false, true, false)), UserNamespaceError::AppArmor);
        assert_eq!(refused.explain(&policy(false, false, true)), UserNamespaceError::Seccomp);
        assert_eq!(refused.explain(&policy(false, false, false)), UserNamespaceError::Denied { error: Errno::PERM });
        // Where AppArmor lets the namespace be made, it refuses what is to be done in it.
        let unmapped = Failure { step: Step::UserMap, error: Errno::PERM };
        assert_eq!(unmapped.explain(&policy(false, true, false)), UserNamespaceError::AppArmor);
        let powerless = Failure { step: Step::Tun(Call::Attach), error: Errno::PERM };
        assert_eq!(powerless.explain(&policy(false, true, false)), UserNamespaceError::AppArmor);
        let missing = Failure { step: Step::Unshare, error: Errno::INVAL };
        assert_eq!(missing.explain(&Policy::default()), UserNamespaceError::Unsupported);
        let device = Failure { step: Step::Tun(Call::Open), error: Errno::NOENT };
        assert_eq!(device.explain(&Policy::default()), TunError::DeviceMissing.into());
    }

    #[test]
    fn threads_make_it_too_late() {
        // The harness has threads of its own.
        assert!(matches!(enter_user_namespace(), Err(UserNamespaceError::Threads(2..))));
    }
}
