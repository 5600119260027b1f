//! Everything at once, for as long as asked: clients of every kind, backends that die and return, a table that changes
//! every second. No client may see an error that another backend could have spared it, and afterwards nothing may be
//! left behind.
//!
//! `EDGEPROXY_SOAK_SECS` says how long (default 8; `make soak` 600), `EDGEPROXY_SOAK_SEED` repeats a run's dice.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic, and tells what it measured"
)]

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::JoinSet;

use accounts::{Accounts, LogIndex, Resources};
use dice::Dice;
use load::{Load, Visits};
use stage::{Stage, TIGHT_LIMIT};

mod accounts;
mod dice;
mod load;
mod stage;
mod visit;

/// Clients at once, of all kinds but the queue's.
const CLIENTS: u64 = 48;
/// Clients at once for the backend that takes few.
const QUEUERS: u64 = 10;
/// Resident memory may grow by this much from the first quarter of a run to its end.
const MAY_GROW_BYTES: f64 = 32.0 * 1024.0 * 1024.0;

#[tokio::test]
async fn nothing_is_lost_and_nothing_is_left_behind() {
    let lasts = Duration::from_secs(variable("EDGEPROXY_SOAK_SECS").unwrap_or(8));
    let seed = variable("EDGEPROXY_SOAK_SEED")
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::from(now.subsec_nanos())));
    println!("soaking for {lasts:?} with EDGEPROXY_SOAK_SEED={seed}");
    let (mut stage, tight) = Stage::new(seed).await;
    let at_start = Resources::of(&stage.pop).await;

    let load = Arc::new(Load::new(&stage));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(Arc::clone(&load).visit_again_and_again(Dice::new(seed, 1 + number)));
    }
    for number in 0..QUEUERS {
        clients.spawn(Arc::clone(&load).queue_again_and_again(Dice::new(seed, 1000 + number)));
    }
    let started = Instant::now();
    let mut warm = None;
    let mut most = at_start;
    while started.elapsed() < lasts {
        stage.disturb().await;
        if stage.ticks.is_multiple_of(20) {
            let now = Resources::of(&stage.pop).await;
            most = most.or_higher(now);
            if started.elapsed() > lasts / 4 {
                warm.get_or_insert(now);
            }
        }
    }
    load.over.store(true, Relaxed);
    let mut visits = Visits::default();
    while let Some(done) = clients.join_next().await {
        visits.add(done.unwrap());
    }
    stage.mend_all().await;
    let took = started.elapsed();

    println!("{}", visits.told());
    println!("{}", stage.told());
    let accounts = Accounts::of(&stage, &tight, at_start).await;
    let at_end = Resources::of(&stage.pop).await;
    let log = LogIndex::new(&stage.pop);
    let (excused, unexcused) = stage.judge(&visits.failures, &log);
    println!("{accounts}");
    println!("{took:.1?}; at the start {at_start:?}, warm {warm:?}, at most {most:?}, at the end {at_end:?}");
    println!("{excused} clients were cut off by the death of their backend, {} without excuse", unexcused.len());

    assert!(
        unexcused.is_empty(),
        "errors that another backend could have spared the client:\n{}",
        unexcused.join("\n")
    );
    accounts.check(&visits);
    let grown = at_end.resident - warm.unwrap_or(at_end).resident;
    assert!(grown < MAY_GROW_BYTES, "resident memory has grown by {grown} bytes");
    assert_eq!(tight.peak(), usize::try_from(TIGHT_LIMIT).unwrap(), "the hard limit is reached and not exceeded");
    let Stage { pop, .. } = stage;
    drop(load);
    let pop = Arc::into_inner(pop).expect("all clients are gone");
    assert!(!pop.has_panicked(), "{}", pop.log.tail());
    pop.stop(Duration::from_secs(10)).await.unwrap();
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
