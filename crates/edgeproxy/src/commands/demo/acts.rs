//! Three things that happen to a running POP, and what its clients see of them.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use edgeproxy_route::RawBackend;
use serde::Serialize;

use super::stage::{SMALL, SMALL_HARD_LIMIT, Stage, city, millis};

const CROWD: usize = 30;
/// Longest that a change of the table may take to be served.
const CHANGE_WITHIN: Duration = Duration::from_secs(1);

/// What happened, and what came of it.
#[derive(Serialize)]
pub(super) struct Act {
    pub(super) happened: String,
    pub(super) seen: String,
    pub(super) reached: BTreeMap<String, usize>,
    pub(super) took_ms: f64,
    pub(super) ok: bool,
}

/// Tokyo stops; the next nearest backend for Japan is Singapore.
pub(super) async fn a_backend_dies(stage: &mut Stage) -> io::Result<Act> {
    let client = stage.addresses("JP", 1)?[0];
    for backend in stage.backends.iter_mut().filter(|backend| backend.id() == "nrt") {
        backend.stop().await;
    }
    let died = Instant::now();
    let (reached, _, _guest) = stage.arrive(client).await?;
    let took_ms = millis(died.elapsed());
    Ok(Act {
        happened: "The backend in Tokyo dies.".to_owned(),
        seen: format!(
            "The next client from Japan is served by {reached} {}, {took_ms} ms later, without an error.",
            city(&reached)
        ),
        ok: reached == "sin",
        reached: BTreeMap::from([(reached, 1)]),
        took_ms,
    })
}

/// Frankfurt is taken out of the routing table; the next nearest for Germany is Paris.
pub(super) async fn a_row_changes(stage: &Stage) -> io::Result<Act> {
    let client = stage.addresses("DE", 1)?[0];
    stage.site.set("fra", RawBackend { weight: Some(0), ..RawBackend::default() })?;
    let changed = Instant::now();
    let (reached, took) = loop {
        let (reached, _, _guest) = stage.arrive(client).await?;
        if reached != "fra" || changed.elapsed() > CHANGE_WITHIN {
            break (reached, changed.elapsed());
        }
    };
    let took_ms = millis(took);
    Ok(Act {
        happened: "UPDATE backends SET weight=0 WHERE id='fra'".to_owned(),
        seen: format!(
            "No restart, no reload: {took_ms} ms later a client from Germany is served by {reached} {}.",
            city(&reached)
        ),
        ok: reached == "cdg" && took < CHANGE_WITHIN,
        reached: BTreeMap::from([(reached, 1)]),
        took_ms,
    })
}

/// More clients than London may have at once; the rest goes to Paris.
pub(super) async fn a_crowd_comes(stage: &Stage) -> io::Result<Act> {
    stage.emptied().await?;
    let started = Instant::now();
    let mut crowd = Vec::new();
    for &client in stage.addresses("GB", CROWD)? {
        crowd.push(stage.arrive(client));
    }
    let mut guests = Vec::new();
    let mut reached = BTreeMap::new();
    for arrival in together(crowd).await {
        let (region, _, guest) = arrival?;
        *reached.entry(region).or_insert(0) += 1;
        guests.push(guest);
    }
    let took_ms = millis(started.elapsed());
    let expected = BTreeMap::from([(SMALL.to_owned(), SMALL_HARD_LIMIT), ("cdg".to_owned(), CROWD - SMALL_HARD_LIMIT)]);
    // Nearest first is also the order of the expected counts, read backwards.
    let where_to: Vec<_> =
        reached.iter().rev().map(|(region, count)| format!("{count} by {region} {}", city(region))).collect();
    Ok(Act {
        happened: format!(
            "{CROWD} clients from the United Kingdom come at once; {} takes {SMALL_HARD_LIMIT}.",
            city(SMALL)
        ),
        seen: format!("Served within {took_ms} ms: {}. None was refused.", where_to.join(", ")),
        ok: reached == expected,
        reached,
        took_ms,
    })
}

/// Runs futures side by side on this task.
async fn together<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in &mut pending {
            if output.is_none()
                && let std::task::Poll::Ready(ready) = future.as_mut().poll(cx)
            {
                *output = Some(ready);
            }
        }
        match pending.iter().all(|(_, output)| output.is_some()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    pending.into_iter().filter_map(|(_, output)| output).collect()
}
