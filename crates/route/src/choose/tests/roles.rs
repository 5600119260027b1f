//! Listeners for the primary and for replicas.

use super::*;
use crate::role::{Fallback, Lag, Role};

/// A primary in Frankfurt, replicas in London and Sydney.
const THREE: [Row; 3] =
    [("fra", "fra", "DE", 1, 10, 20), ("lhr", "lhr", "GB", 1, 10, 20), ("syd", "syd", "AU", 1, 10, 20)];

const REPLICAS: Wanted = Wanted::Replica(Fallback::Primary);

fn world(roles: [Role; 3]) -> World {
    let world = World::new(&THREE, "lhr");
    for (row, role) in THREE.iter().zip(roles) {
        world.set_role(row.0, role);
    }
    world
}

impl World {
    fn set_role(&self, id: &str, role: Role) {
        self.states.set_role(self.key(id), role, Lag::default());
    }

    fn reach(&self, wanted: Wanted, from: &str) -> Result<&str, NoRoute> {
        let tried = Exclusions::default();
        let request = Request { wanted, place: country(from), ..request(&tried) };
        let chosen = [Policy::Geo, Policy::Score, Policy::Latency].map(|policy| {
            let chosen = self.ask(&Request { policy, ..request });
            if policy == Policy::Latency {
                // Nobody was measured, and what the distance from the POP suggests has no say in this test.
                return chosen.map(|_| "");
            }
            chosen
        });
        assert_eq!(chosen[0], chosen[1], "{wanted:?} from {from}");
        assert_eq!(chosen[0].err(), chosen[2].err(), "{wanted:?} from {from}");
        chosen[0]
    }
}

#[test]
fn the_primary_is_reached_from_everywhere_and_replicas_by_nearness() {
    let world = world([Role::Primary, Role::Replica, Role::Replica]);
    for from in ["DE", "GB", "AU"] {
        assert_eq!(world.reach(Wanted::Primary, from), Ok("fra"));
    }
    assert_eq!(world.reach(REPLICAS, "GB"), Ok("lhr"));
    assert_eq!(world.reach(REPLICAS, "AU"), Ok("syd"));
    assert_eq!(world.reach(REPLICAS, "DE"), Ok("lhr"), "never the primary while a replica is fresh");
    assert_eq!(world.reach(Wanted::Any, "DE"), Ok("fra"));
}

#[test]
fn what_is_not_fresh_is_passed_over_and_what_takes_its_place_is_set() {
    let world = world([Role::Primary, Role::Behind, Role::Severed]);
    assert_eq!(world.reach(REPLICAS, "GB"), Ok("fra"), "the primary");
    assert_eq!(world.reach(Wanted::Replica(Fallback::Stale), "GB"), Ok("lhr"), "one that is behind");
    assert_eq!(world.reach(Wanted::Replica(Fallback::None), "GB"), Err(NoRoute::NoReplica));
    world.set_role("syd", Role::Replica);
    for fallback in [Fallback::None, Fallback::Primary, Fallback::Stale] {
        assert_eq!(world.reach(Wanted::Replica(fallback), "GB"), Ok("syd"), "the only fresh one, however far");
    }
}

#[test]
fn nobody_is_the_primary_by_default_and_not_by_dispute() {
    let world = world([Role::Unknown; 3]);
    assert_eq!(world.reach(Wanted::Primary, "DE"), Err(NoRoute::NoPrimary));
    assert_eq!(world.reach(REPLICAS, "DE"), Err(NoRoute::NoReplica));
    assert_eq!(world.reach(Wanted::Any, "DE"), Ok("fra"));
    world.set_role("fra", Role::Disputed);
    world.set_role("lhr", Role::Disputed);
    assert_eq!(world.reach(Wanted::Primary, "DE"), Err(NoRoute::Disputed));
    world.set_role("fra", Role::Former);
    world.set_role("lhr", Role::Primary);
    assert_eq!(world.reach(Wanted::Primary, "DE"), Ok("lhr"));
}

#[test]
fn a_full_or_failed_replica_sends_its_clients_on() {
    let mut world = world([Role::Primary, Role::Replica, Role::Replica]);
    world.fill("lhr", 20);
    assert_eq!(world.reach(REPLICAS, "GB"), Ok("syd"));
    world.states.set_down(world.key("syd"), true);
    assert_eq!(world.reach(REPLICAS, "GB"), Ok("fra"));
    world.fill("fra", 20);
    assert_eq!(
        world.reach(REPLICAS, "GB"),
        Err(NoRoute::AllFull),
        "that there are some says more than that all are out"
    );
    assert_eq!(world.reach(Wanted::Primary, "GB"), Err(NoRoute::AllFull));
    world.set_role("fra", Role::Unknown);
    world.set_role("lhr", Role::Unknown);
    assert_eq!(world.reach(REPLICAS, "GB"), Err(NoRoute::AllDown));
}

#[test]
fn a_binding_counts_among_backends_of_the_role() {
    let world = world([Role::Primary, Role::Replica, Role::Replica]);
    let tried = Exclusions::default();
    let reach = |wanted, bound: &str| {
        let request = Request { wanted, place: country("GB"), bound: Some(world.key(bound)), ..request(&tried) };
        let choice = world.table.choose(&request).unwrap();
        (world.table.backend(choice.index).id.clone(), choice.affine)
    };
    assert_eq!(reach(REPLICAS, "syd"), ("syd".to_owned(), true));
    assert_eq!(reach(REPLICAS, "fra"), ("lhr".to_owned(), false), "bound to the primary when no replica was fresh");
    assert_eq!(reach(Wanted::Primary, "syd"), ("fra".to_owned(), false));
    world.set_role("syd", Role::Behind);
    assert_eq!(reach(REPLICAS, "syd"), ("lhr".to_owned(), false));
    assert_eq!(reach(Wanted::Any, "syd"), ("syd".to_owned(), true));
}

#[test]
fn a_role_is_of_one_address_and_one_owner() {
    let mut world = world([Role::Primary, Role::Replica, Role::Replica]);
    let mut moved: Vec<Backend> = THREE.iter().map(|row| world.backend(row.0)).collect();
    let former = world.key("lhr");
    moved[0].addr = crate::BackendAddr("10.0.0.2:5432".parse().unwrap());
    world.replace(moved);
    assert_eq!(world.states.role(world.key("fra").slot), Role::Unknown, "nobody has asked there");
    assert_eq!(world.states.role(world.key("syd").slot), Role::Replica);
    world.states.set_role(SlotKey { generation: former.generation + 1, ..former }, Role::Primary, Lag::default());
    assert_eq!(world.states.role(former.slot), Role::Replica);
}

#[test]
fn candidates_tell_the_role_and_come_in_the_order_of_the_decision() {
    let world = world([Role::Primary, Role::Behind, Role::Replica]);
    let lag = Lag { bytes: Some(4096), time: Some(Duration::from_millis(2500)) };
    world.states.set_role(world.key("lhr"), Role::Behind, lag);
    let tried = Exclusions::default();
    let explained = |wanted| {
        let request = Request { wanted, place: country("GB"), ..request(&tried) };
        let told = world.table.explain(&request);
        told.into_iter().map(|told| (told.backend.id.clone(), told.standing, told.role)).collect::<Vec<_>>()
    };
    use crate::explain::Standing::{Chosen, Eligible, OtherRole};
    let told = explained(Wanted::Replica(Fallback::Stale));
    assert_eq!(
        told,
        [
            ("syd".to_owned(), Chosen, Role::Replica),
            ("lhr".to_owned(), Eligible, Role::Behind),
            ("fra".to_owned(), Eligible, Role::Primary)
        ]
    );
    let told = explained(Wanted::Primary);
    assert_eq!(told[0], ("fra".to_owned(), Chosen, Role::Primary));
    assert!(told[1..].iter().all(|told| told.1 == OtherRole), "{told:?}");
    let told = world.table.explain(&request(&tried));
    let lhr = told.iter().find(|told| told.backend.id == "lhr").unwrap();
    assert_eq!((lhr.lag_bytes, lhr.lag_ms), (Some(4096), Some(2500)));
}
