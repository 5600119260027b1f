//! What a process with every capability has, all of it in network namespaces of its own.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![allow(clippy::print_stdout, reason = "measured and skipped things are told")]

mod support;

use edgeproxy_overlay::{Enclave, LinkSettings, Sockets, Tun, configure};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

/// Whether this is a test to be run by this user; all of it is tested without privilege as well.
fn privileged() -> bool {
    let needed = CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN;
    let privileged = rustix::thread::capabilities(None).unwrap().effective.contains(needed);
    if !privileged {
        println!("skipped: needs CAP_NET_ADMIN and CAP_SYS_ADMIN");
    }
    privileged
}

#[test]
fn an_interface_of_the_host() {
    if privileged() {
        // The thread of an enclave takes its namespace for the host's.
        let host = Enclave::start().unwrap();
        host.within(|| support::check(&Sockets::Host)).unwrap();
    }
}

#[test]
fn an_interface_apart() {
    if privileged() {
        let before = support::network();
        let enclave = Sockets::Enclave(Enclave::start().unwrap());
        assert_ne!(enclave.within(support::network).unwrap(), before);
        assert_eq!(support::network(), before);
        support::check(&enclave);
    }
}

#[test]
fn a_super_packet_fits_one_send() {
    if privileged() {
        support::bridge::check_bulk();
    }
}

#[test]
fn what_cannot_be_set_is_named() {
    if !privileged() {
        return;
    }
    let enclave = Enclave::start().unwrap();
    let refused = |change: fn(&mut LinkSettings)| {
        let mut link = support::link();
        change(&mut link);
        let tried = enclave.within(move || {
            let tun = Tun::open(Some("edge-test"), 1).unwrap();
            configure(tun.name(), &link).unwrap_err()
        });
        tried.unwrap().to_string()
    };
    let mtu = refused(|link| link.mtu = 65_536);
    assert!(mtu.ends_with("(it lies between 68 and 65535)"), "{mtu}");
    let narrow = refused(|link| link.mtu = 1000);
    assert!(narrow.ends_with("(IPv6 needs an MTU of 1280 at least)"), "{narrow}");
    let twice = refused(|link| link.routes.push(link.routes[0]));
    assert!(twice.starts_with("interface edge-test: cannot route 10.60.0.0/16 through it"), "{twice}");
    let nobody = enclave.within(|| configure("edge-none", &support::link()).unwrap_err().error).unwrap();
    assert_eq!(nobody, Errno::NODEV);
}

#[test]
fn a_panic_in_the_enclave_ends_no_enclave() {
    if privileged() {
        let enclave = Sockets::Enclave(Enclave::start().unwrap());
        let name = std::hint::black_box(Vec::<u8>::new());
        assert!(enclave.within(move || name[0]).is_err());
        assert_eq!(enclave.within(|| 7).unwrap(), 7);
    }
}

#[test]
fn a_netstack_understands_the_kernel() {
    if privileged() {
        support::netstack::check_against_kernel();
    }
}
