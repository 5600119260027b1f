use super::*;

fn assign(pool: &StatePool, ids: &[&str]) -> Vec<SlotKey> {
    assign_at(pool, ids, "10.0.0.1:80").unwrap()
}

fn assign_at(pool: &StatePool, ids: &[&str], addr: &str) -> Result<Vec<SlotKey>, NoSlots> {
    let addr = addr.parse().unwrap();
    let claims = pool.assign(&ids.iter().map(|id| Applicant { id, addr }).collect::<Vec<_>>())?;
    Ok(claims.into_iter().map(|claim| claim.key).collect())
}

/// By the latest table.
fn reserve(pool: &Arc<StatePool>, key: SlotKey, hard: u32, now: Moment, forced: bool) -> Option<Reservation> {
    let moves = pool.detail(key.slot).moves.load(Relaxed);
    pool.reserve(Claim { key, moves }, hard, now, forced)
}

fn pool(ids: &[&str]) -> (Arc<StatePool>, Vec<SlotKey>) {
    let pool = Arc::new(StatePool::default());
    let keys = assign(&pool, ids);
    (pool, keys)
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n}")).collect()
}

fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

const T0: Moment = Moment::from_millis(0);

#[test]
fn a_hard_limit_is_exact_under_contention() {
    let (pool, keys) = pool(&["a"]);
    let key = keys[0];
    let held: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| (0..100).filter_map(|_| reserve(&pool, key, 50, T0, false)).collect::<Vec<_>>()))
            .collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(held.len(), 50);
    assert_eq!(pool.connections(key.slot), 50);
    drop(held);
    assert_eq!(pool.connections(key.slot), 0);
}

#[test]
fn counts_survive_a_reload_and_an_absence() {
    let (pool, keys) = pool(&["a", "b"]);
    let held = reserve(&pool, keys[0], 9, T0, false).unwrap();
    let again = assign(&pool, &["b", "a"]);
    assert_eq!(again[1], keys[0]);
    assert_eq!(pool.connections(again[1].slot), 1);

    // "a" leaves with a connection still open and comes back: it is still counted.
    assign(&pool, &["b"]);
    let back = assign(&pool, &["b", "a"]);
    assert_eq!(back[1], keys[0]);
    assert_eq!(pool.connections(back[1].slot), 1);
    drop(held);
}

#[test]
fn a_slot_is_passed_on_when_empty_and_never_to_holders_of_an_older_table() {
    let pool = Arc::new(StatePool::default());
    let old = assign(&pool, &refs(&names("old", KEPT_RETIRED + 1)));
    let held = reserve(&pool, old[0], 9, T0, false).unwrap();
    let meanwhile = assign(&pool, &["meanwhile"]);
    assert!(old.iter().all(|key| key.slot != meanwhile[0].slot), "the table before serves until this one is ready");
    let new = assign(&pool, &["meanwhile", "new"])[1..].to_vec();
    let former = old.iter().find(|key| key.slot == new[0].slot).expect("an old slot is reused");
    assert_ne!(former.slot, old[0].slot, "one with a connection is not");
    assert!(reserve(&pool, *former, 9, T0, false).is_none(), "the former owner has no claim on it");
    pool.set_down(*former, true);
    assert!(reserve(&pool, new[0], 9, T0, false).is_some());
    drop(held);
}

#[test]
fn who_left_first_is_the_first_to_lose_its_slot() {
    let (pool, first) = pool(&["first"]);
    let second = assign(&pool, &["second"]);
    assign(&pool, &refs(&names("third", KEPT_RETIRED)));
    assign(&pool, &[]);
    assert_eq!(assign(&pool, &["a"])[0].slot, first[0].slot);
    assert_eq!(assign(&pool, &["a", "b"])[1].slot, second[0].slot);
}

#[test]
fn a_slot_passed_on_begins_anew() {
    let (pool, old) = pool(&["old"]);
    let policy = OutlierPolicy { consecutive_failures: 1, ..OutlierPolicy::default() };
    let mut served = reserve(&pool, old[0], 9, T0, false).unwrap();
    served.connected(5.0, &policy, T0);
    drop(served);
    assert!(reserve(&pool, old[0], 9, T0, false).unwrap().failed(&policy, T0).is_some());
    pool.set_down(old[0], true);
    assign(&pool, &refs(&names("other", KEPT_RETIRED)));
    assign(&pool, &[]);
    let new = assign(&pool, &["new"])[0];
    assert_eq!(new.slot, old[0].slot);
    assert_ne!(new.generation, old[0].generation);
    assert!(!pool.is_down(new.slot) && !pool.is_ejected(new.slot));
    assert_eq!((pool.served(new.slot), pool.round_trip_ms(new.slot)), (0, None));
}

#[test]
fn a_load_that_does_not_fit_changes_nothing() {
    let half = StatePool::CAPACITY / 2 + 1;
    let (old, new) = (names("old", half), names("new", half));
    let (pool, keys) = pool(&refs(&old));
    let held: Vec<_> = keys.iter().map(|key| reserve(&pool, *key, 1, T0, false).unwrap()).collect();
    assert_eq!(assign_at(&pool, &refs(&new), "10.0.0.1:80"), Err(NoSlots { lingering: half }));
    assert_eq!(assign(&pool, &refs(&old)), keys);
    assert!(reserve(&pool, keys[7], 1, T0, false).is_none(), "its connection is still counted");
    drop(held);
    assert_eq!(assign(&pool, &refs(&new)).len(), half, "what has ended leaves room, also at the very end");
}

#[test]
fn one_outage_is_one_ejection_however_many_connects_were_under_way() {
    let (pool, keys) = pool(&["a"]);
    let policy = OutlierPolicy::default();
    let under_way: Vec<_> = (0..25).map(|_| reserve(&pool, keys[0], 99, T0, false).unwrap()).collect();
    let pauses: Vec<_> = under_way.into_iter().filter_map(|reservation| reservation.failed(&policy, T0)).collect();
    assert_eq!(pauses, [policy.base_pause]);
    let forced = reserve(&pool, keys[0], 99, T0, true).unwrap();
    assert_eq!(forced.failed(&policy, T0), None, "nor does one that was sent there all the same");
    let trial = reserve(&pool, keys[0], 99, T0.after(policy.base_pause), false).unwrap();
    assert_eq!(trial.failed(&policy, T0.after(policy.base_pause)), Some(policy.base_pause * 2));
}

#[test]
fn at_another_address_a_backend_is_not_judged_by_the_former_one() {
    let (pool, keys) = pool(&["a"]);
    let policy = OutlierPolicy { consecutive_failures: 2, ..OutlierPolicy::default() };
    let reserve = |now| reserve(&pool, keys[0], 9, now, false);
    pool.observe_round_trip(keys[0].slot, 300.0, T0);
    let (mut late, stays) = (reserve(T0).unwrap(), reserve(T0).unwrap());
    let others = [reserve(T0).unwrap(), reserve(T0).unwrap()];
    assert_eq!(others.map(|other| other.failed(&policy, T0)), [None, Some(policy.base_pause)]);
    let due = T0.after(policy.base_pause);
    let trial = reserve(due).unwrap();

    assert_eq!(assign_at(&pool, &["a"], "10.0.0.2:80").unwrap(), keys, "the same backend");
    assert!(!pool.is_ejected(keys[0].slot));
    assert_eq!(pool.round_trip_ms(keys[0].slot), None);
    assert_eq!(pool.connections(keys[0].slot), 3, "its connections go on");
    assert_eq!(trial.failed(&policy, due), None, "of connects to the former address nothing counts");
    assert!(!late.connected(300.0, &policy, due));
    assert_eq!(pool.round_trip_ms(keys[0].slot), None);
    assert_eq!(reserve(due).unwrap().failed(&policy, due), None);
    assert_eq!(reserve(due).unwrap().failed(&policy, due), Some(policy.base_pause));
    drop((late, stays));
    assert_eq!(pool.connections(keys[0].slot), 0);
}

#[test]
fn an_ejected_backend_is_tried_by_one_connection_at_a_time() {
    let (pool, keys) = pool(&["a"]);
    let (key, slot) = (keys[0], keys[0].slot);
    let policy = OutlierPolicy { consecutive_failures: 2, ..OutlierPolicy::default() };
    let reserve = |now| reserve(&pool, key, 9, now, false);
    assert_eq!(reserve(T0).unwrap().failed(&policy, T0), None);
    let pause = reserve(T0).unwrap().failed(&policy, T0).unwrap();
    assert!(pool.is_ejected(slot));
    assert!(reserve(T0).is_none(), "not before the pause is over");

    let due = T0.after(pause);
    let trial = reserve(due).unwrap();
    assert!(reserve(due).is_none(), "one at a time");
    let longer = trial.failed(&policy, due).unwrap();
    assert_eq!(longer, pause * 2, "a failed trial doubles the pause");

    let mut trial = reserve(due.after(longer)).unwrap();
    assert!(trial.connected(1.0, &policy, due));
    assert!(!pool.is_ejected(slot));
    assert!(reserve(due).is_some());
}

#[test]
fn a_trial_given_up_lets_the_next_one_try() {
    let (pool, keys) = pool(&["a"]);
    let policy = OutlierPolicy { consecutive_failures: 1, ..OutlierPolicy::default() };
    let pause = reserve(&pool, keys[0], 9, T0, false).unwrap().failed(&policy, T0).unwrap();
    let due = T0.after(pause);
    drop(reserve(&pool, keys[0], 9, due, false).unwrap());
    assert!(reserve(&pool, keys[0], 9, due, false).is_some());
    assert_eq!(pool.connections(keys[0].slot), 0);
}
