//! The table alone, and with a directory whose answers the test decides.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::AtomicBool;

use super::*;
use crate::roster::Roster;

const NOW: Moment = Moment::from_millis(1_000);

/// Those that are there, and what it was told of them.
#[derive(Debug, Default)]
struct Fake {
    there: Mutex<HashSet<PublicKey>>,
    asleep: Mutex<Vec<PublicKey>>,
}

impl Fake {
    fn of(peers: u8) -> Arc<Self> {
        let fake = Self::default();
        fake.there.lock().extend((0..peers).map(key));
        Arc::new(fake)
    }

    fn take_asleep(&self) -> Vec<PublicKey> {
        std::mem::take(&mut self.asleep.lock())
    }
}

impl Directory for Fake {
    fn introduce(&self, public: &PublicKey) -> Option<Introduction> {
        let introduction = Introduction { preshared: PresharedKey::default(), greatest: Tai64N::default() };
        self.there.lock().contains(public).then_some(introduction)
    }

    fn wake(&self, public: &PublicKey) -> Option<PeerSettings> {
        let settings = || PeerSettings {
            public: *public,
            preshared: PresharedKey::default(),
            endpoint: None,
            keepalive: None,
            allowed_ips: vec![Prefix::host(address(public))],
        };
        self.there.lock().contains(public).then(settings)
    }

    fn note_answered(&self, _: &PublicKey, _: Tai64N) {}

    fn note_asleep(&self, status: &PeerStatus) {
        self.asleep.lock().push(status.settings.public);
    }
}

fn key(number: u8) -> PublicKey {
    PublicKey([number; 32])
}

fn address(public: &PublicKey) -> IpAddr {
    [10, 50, 0, public.0[0]].into()
}

fn registry(directory: &Arc<Fake>) -> Registry {
    Registry::new(Owners::new(2, 1), 1, Some(Arc::clone(directory) as Arc<dyn Directory>))
}

/// A handshake, of which the owner takes note.
fn agree(remote: &Remote) -> u32 {
    remote.note_taken();
    remote.note_agreed()
}

#[test]
fn one_that_is_gone_from_the_directory_is_not_woken() {
    let directory = Fake::of(1);
    let registry = registry(&directory);
    assert!(registry.introduce(&key(0)).is_some());
    directory.there.lock().clear();
    assert!(registry.introduce(&key(0)).is_none() && registry.wake(&key(0)).is_none());
    assert_eq!((registry.len(), registry.listed()), (0, 0));
    assert!(registry.owner_of(address(&key(0))).is_none());
}

#[test]
fn a_session_that_is_agreed_on_meanwhile_keeps_it_awake() {
    let directory = Fake::of(1);
    let registry = registry(&directory);
    let remote = registry.wake(&key(0)).unwrap();
    agree(&remote);
    registry.note_leaving(&remote);
    registry.note_leaving(&remote);
    assert_eq!((registry.listed(), registry.staying()), (1, 0), "told once, however often");
    // Its owner puts it to sleep, and does not know of this one yet.
    let taken = remote.taken();
    remote.note_agreed();
    registry.retire(&remote, taken, NOW);
    assert!(registry.has(&remote) && directory.take_asleep().is_empty());
    assert_eq!((registry.listed(), registry.staying()), (1, 1), "it stays");
    remote.note_taken();
    registry.retire(&remote, remote.taken(), NOW);
    assert!(!registry.has(&remote) && registry.owner_of(address(&key(0))).is_none());
    assert_eq!((registry.listed(), registry.staying(), directory.take_asleep()), (0, 0, vec![key(0)]));
}

#[test]
fn word_of_one_that_was_removed_does_not_touch_its_successor() {
    let directory = Fake::of(1);
    let registry = registry(&directory);
    let first = registry.wake(&key(0)).unwrap();
    agree(&first);
    registry.note_leaving(&first);
    registry.remove(&key(0)).unwrap();
    assert_eq!((registry.listed(), registry.staying()), (0, 0));
    let second = registry.wake(&key(0)).unwrap();
    registry.retire(&first, first.taken(), NOW);
    assert!(registry.has(&second) && !registry.has(&first));
    assert_eq!((registry.listed(), registry.staying(), directory.take_asleep()), (1, 1, vec![]));
    assert!(Arc::ptr_eq(&registry.owner_of(address(&key(0))).unwrap(), &second));
}

#[test]
fn one_that_the_operator_registered_is_never_put_to_sleep() {
    let directory = Fake::of(1);
    let registry = registry(&directory);
    assign(&registry, 0, Prefix::host(address(&key(0))), true);
    let remote = registry.wake(&key(0)).unwrap();
    assert!(!remote.listed);
    assert_eq!((registry.len(), registry.listed(), registry.staying()), (1, 0, 0));
}

/// Whoever removes a peer takes it out of the directory first: whatever happens at the same time, it is gone then.
#[test]
fn a_removal_and_a_handshake_at_once_leave_nothing_behind() {
    const ROUNDS: usize = 3_000;
    let directory = Fake::of(1);
    let registry = registry(&directory);
    let (begin, end) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    let woken = std::thread::scope(|scope| {
        let reception = scope.spawn(|| {
            let mut woken = 0;
            for _ in 0..ROUNDS {
                begin.wait();
                if let Some(remote) = registry.wake(&key(0)) {
                    woken += 1;
                    let agreed = agree(&remote);
                    registry.retire(&remote, agreed, NOW);
                    registry.wake(&key(0));
                }
                end.wait();
            }
            woken
        });
        for round in 0..ROUNDS {
            directory.there.lock().insert(key(0));
            begin.wait();
            directory.there.lock().remove(&key(0));
            registry.remove(&key(0));
            end.wait();
            assert_eq!((registry.len(), registry.listed()), (0, 0), "round {round}");
            assert!(registry.owner_of(address(&key(0))).is_none());
        }
        reception.join().unwrap()
    });
    println!("{woken} of {ROUNDS} were woken before they were removed");
}

#[test]
fn whose_handshake_is_longest_ago_is_told_to_sleep_and_counts_no_more() {
    let directory = Fake::of(4);
    let registry = registry(&directory);
    let mut roster = Roster::new(2);
    let mut note = |number: u8| {
        let remote = registry.wake(&key(number)).unwrap();
        let agreed = agree(&remote);
        roster.note(remote, agreed, &registry).iter().map(|remote| remote.public.0[0]).collect::<Vec<_>>()
    };
    assert_eq!([note(0), note(1), note(0)], [[], [], []] as [[u8; 0]; 3]);
    assert_eq!(note(2), [1], "0 was heard since");
    assert_eq!(note(3), [0], "1 is told only once, though it is there still");
    assert_eq!((registry.listed(), registry.staying()), (4, 2));
    // 1 speaks before it sleeps: it stays, and another goes instead.
    let one = registry.get(&key(1)).unwrap();
    let taken = one.taken();
    one.note_agreed();
    registry.retire(&one, taken, NOW);
    assert_eq!(registry.staying(), 3);
    one.note_taken();
    assert_eq!(note(1), [2]);
}

/// As the threads do it, in an order of chance: what is counted is always what there is.
#[test]
fn the_counts_agree_with_what_there_is() {
    const PEERS: u8 = 20;
    const MOST: usize = 5;
    for seed in 1..=20_u64 {
        let directory = Fake::of(PEERS);
        let registry = registry(&directory);
        let (mut roster, mut state) = (Roster::new(MOST), seed);
        // Letters to owners (a session, or the word to sleep), and back: each is read some time later, in their order.
        let (mut to_owners, mut asleep) =
            (VecDeque::<(Arc<Remote>, bool)>::new(), VecDeque::<(Arc<Remote>, u32)>::new());
        for step in 0..3_000 {
            let mut below = |bound: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                usize::try_from(state >> 33).unwrap() % bound
            };
            let public = key(u8::try_from(below(PEERS.into())).unwrap());
            match below(10) {
                0..5 => {
                    let Some(remote) = registry.wake(&public) else { continue };
                    let agreed = remote.note_agreed();
                    let leave = roster.note(Arc::clone(&remote), agreed, &registry);
                    assert!(
                        leave.iter().all(|leaving| !Arc::ptr_eq(leaving, &remote)),
                        "whoever has just spoken stays"
                    );
                    to_owners.extend(leave.into_iter().map(|leaving| (leaving, false)));
                    to_owners.push_back((remote, true));
                    assert!(registry.staying() <= MOST, "seed {seed}, step {step}");
                }
                5..7 => match to_owners.pop_front() {
                    Some((remote, true)) => remote.note_taken(),
                    Some((remote, false)) => {
                        let taken = remote.taken();
                        asleep.push_back((remote, taken));
                    }
                    None => {}
                },
                7 => {
                    directory.there.lock().remove(&public);
                    registry.remove(&public);
                }
                8 => _ = directory.there.lock().insert(public),
                _ => {
                    if let Some((remote, taken)) = asleep.pop_front() {
                        registry.retire(&remote, taken, NOW);
                    }
                }
            }
            let all = registry.all();
            let leaving = all.iter().filter(|remote| remote.leaving.load(Relaxed)).count();
            let counted = (registry.len(), registry.listed(), registry.staying());
            assert_eq!(counted, (all.len(), all.len(), all.len() - leaving), "seed {seed}, step {step}");
            for remote in &all {
                let owner = registry.owner_of(address(&remote.public));
                assert!(owner.is_some_and(|owner| Arc::ptr_eq(&owner, remote)), "seed {seed}, step {step}");
            }
        }
    }
}

fn assign(registry: &Registry, peer: u8, prefix: Prefix, replace: bool) {
    registry.change(PeerChange {
        replace_allowed_ips: replace,
        allowed_ips: vec![AllowedIp::Added(prefix)],
        ..PeerChange::new(PublicKey([peer; 32]))
    });
}

#[test]
fn a_prefix_on_its_way_from_one_peer_to_another_is_always_one_of_the_twos() {
    let registry = Registry::new(Owners::new(2, 1), 1, None);
    let (prefix, address): (Prefix, IpAddr) = ("10.50.1.0/24".parse().unwrap(), [10, 50, 1, 7].into());
    assign(&registry, 9, "10.50.0.0/16".parse().unwrap(), false);
    assign(&registry, 1, prefix, false);
    let over = AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0_u32;
            while !over.load(Relaxed) || looks == 0 {
                let owner = registry.owner_of(address).map(|remote| remote.public.0[0]);
                assert!(matches!(owner, Some(1 | 2)), "{owner:?}");
                looks += 1;
            }
            looks
        });
        for round in 0..5_000_u32 {
            let peer = 1 + u8::try_from(round % 2).unwrap();
            assign(&registry, peer, prefix, round % 3 == 0);
            // To replace what a peer has by the same is no moment without it either.
            assign(&registry, peer, prefix, true);
        }
        over.store(true, Relaxed);
        reader.join().unwrap()
    });
    println!("{looks} looks");
    let of = |peer: u8| registry.get(&PublicKey([peer; 32])).unwrap().terms.lock().prefixes.clone();
    assert_eq!((of(1), of(2)), (vec![], vec![prefix]));
    // With its last owner it goes, and what is around it has the address.
    registry.remove(&PublicKey([2; 32]));
    assert_eq!(registry.owner_of(address).unwrap().public.0[0], 9);
}
