//! The binary together with `wireguard-go`, boringtun, the Linux kernel and `wg`: each case in namespaces of its own, that
//! need no root and leave the host's network as it is. Our side runs without any capability, and as nobody where root
//! runs this: once with an interface in a namespace of its own, and once with a netstack, where it is refused every
//! namespace.
//!
//! `cargo test -p edgeproxy --test overlay_interop [-- PART_OF "A_NAME, MODE"]`
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
#![allow(clippy::print_stdout, reason = "measured and skipped things are told")]

use std::io;
use std::pin::Pin;
use std::process::{Command, ExitCode, exit};
use std::time::{Duration, Instant};

mod boringtun;
mod failing;
mod guest;
mod handshakes;
mod hub;
mod initramfs;
mod kernel;
mod kernel_mode;
mod stage;
mod traffic;
mod tunnel;
mod wireguard;

use stage::Mode;
use stage::Mode::{Netstack, UserNamespace};

/// Set to 1, cases run that take minutes because the protocol's own clock does.
const SLOW: &str = "EDGEPROXY_SLOW_TESTS";

type Case = fn() -> Pin<Box<dyn Future<Output = io::Result<()>>>>;

const BOTH: &[Mode] = &[UserNamespace, Netstack];
const ONCE: &[Mode] = &[UserNamespace];

/// The name, how our side has its TCP, the seconds it may take, and what is done.
const CASES: [(&str, &[Mode], u64, Case); 22] = [
    ("we_initiate", BOTH, 120, || Box::pin(traffic::we_initiate())),
    ("they_initiate_by_keepalive", BOTH, 60, || Box::pin(handshakes::they_initiate_by_keepalive())),
    ("they_initiate_by_a_packet", BOTH, 60, || Box::pin(handshakes::they_initiate_by_a_packet())),
    ("a_preshared_key_has_to_be_the_same", BOTH, 120, || Box::pin(handshakes::a_preshared_key_has_to_be_the_same())),
    ("keepalives_are_sent_without_traffic", BOTH, 60, || Box::pin(handshakes::keepalives_are_sent_without_traffic())),
    ("a_transfer_outlives_roaming", BOTH, 120, || Box::pin(traffic::a_transfer_outlives_roaming())),
    ("a_hub_passes_packets_on", BOTH, 120, || Box::pin(hub::a_hub_passes_packets_on())),
    ("a_service_is_published", BOTH, 60, || Box::pin(hub::a_service_is_published())),
    ("direct_backends_outlive_a_failing_overlay", BOTH, 60, || Box::pin(failing::direct_backends_outlive_it())),
    ("a_region_finds_its_file", BOTH, 60, || Box::pin(failing::a_region_finds_its_file())),
    ("without_namespaces_auto_is_netstack", &[Netstack], 60, || Box::pin(failing::auto_is_netstack())),
    ("boringtun_answers", ONCE, 120, || Box::pin(boringtun::it_answers())),
    ("boringtun_initiates", ONCE, 120, || Box::pin(boringtun::it_initiates())),
    ("boringtun_has_the_same_preshared_key", ONCE, 120, || Box::pin(boringtun::preshared())),
    ("the_kernel_initiates", ONCE, 120, || Box::pin(kernel::it_initiates())),
    ("the_kernel_answers", ONCE, 120, || Box::pin(kernel::it_answers())),
    ("the_kernel_has_to_have_the_same_preshared_key", ONCE, 120, || Box::pin(kernel::preshared())),
    ("the_kernel_and_we_move", ONCE, 120, || Box::pin(kernel::roaming())),
    ("the_kernel_is_our_engine", ONCE, 120, || Box::pin(kernel_mode::it_is_run_by_us())),
    ("the_kernel_renews", ONCE, 240, || Box::pin(kernel::it_renews())),
    ("the_kernel_takes_our_renewal", ONCE, 240, || Box::pin(kernel::it_takes_our_renewal())),
    ("a_rekey_is_not_noticed", BOTH, 200, || Box::pin(traffic::a_rekey_is_not_noticed())),
];

fn main() -> ExitCode {
    if let Some((name, mode)) = stage::case() {
        let (name, _, limit, case) = CASES.into_iter().find(|(case, ..)| *case == name).unwrap();
        stage::enter(mode);
        return perform(name, Duration::from_secs(limit), case);
    }
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let mut failed = false;
    let each =
        |(name, modes, ..): (&'static str, &'static [Mode], u64, Case)| modes.iter().map(move |mode| (name, *mode));
    for (name, mode) in CASES.into_iter().flat_map(each) {
        let title = format!("{name}, {}", mode.word());
        if !title.contains(&filter) {
            continue;
        }
        let started = Instant::now();
        let ended = stage::start(name, mode, Command::new("/proc/self/exe")).unwrap();
        let word = match ended.code() {
            Some(0) => "ok",
            Some(stage::SKIPPED) => "skipped",
            _ => "FAILED",
        };
        println!("test {title} ... {word} ({:.1} s)", started.elapsed().as_secs_f64());
        failed |= word == "FAILED";
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs a case. Whatever it started ends with this process, which is the first of its namespace.
fn perform(name: &'static str, limit: Duration, case: Case) -> ExitCode {
    // A thread, as what hangs may well be a program that is waited for.
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        println!("{name}: not within {limit:?}");
        exit(1);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(case()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}
