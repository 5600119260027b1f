//! What goes on by itself: peers end in their time, what was seen is written down, addresses come free.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use edgeproxy_overlay::Directory;
use edgeproxy_store::peers::{PeerId, PeerRow, PeerWrite};
use edgeproxy_tunnel::{REJECT_AFTER, Tai64N};

use crate::gateway::Gateway;
use crate::register::{unix_now, unix_of};

/// How often is looked. So much of what was seen a crash can lose.
const EVERY: Duration = Duration::from_secs(1);
/// Peers ended with one flush to disk, before others have their turn.
const BATCH: usize = 256;
/// Seconds until what could not be done, or had to be put off, is tried again.
const LATER: u64 = 10;
/// So many deadlines are no burden, whatever they are for.
const DEADLINES_LEAST: usize = 10_000;

/// Why a peer is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Its time is over.
    Expired,
    /// It has had no handshake for as long as it may.
    Idle,
}

impl Gateway {
    /// Does all that, until it is dropped.
    pub async fn run(self: Arc<Self>) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.write_sightings().await;
            self.end_replaced().await;
            self.collect().await;
            self.wake_addresses().await;
        }
    }

    /// Who would end now.
    pub fn ending(&self) -> Vec<(PeerId, End)> {
        let now = unix_now();
        let due = self.deadlines.lock().due(now);
        due.into_iter().filter_map(|id| self.verdict(id, now).map(|end| (id, end))).collect()
    }

    /// Ends those whose time it is; returns them.
    pub async fn collect(&self) -> Vec<(PeerId, End)> {
        let (now, mut ended) = (unix_now(), Vec::new());
        loop {
            let due: Vec<_> = {
                let mut deadlines = self.deadlines.lock();
                std::iter::from_fn(|| deadlines.take_due(now)).take(BATCH).collect()
            };
            if due.is_empty() {
                break;
            }
            let (ending, others): (Vec<_>, Vec<_>) =
                due.into_iter().map(|id| (id, self.verdict(id, now))).partition(|(_, end)| end.is_some());
            self.end_outlived(others.iter().map(|(id, _)| *id), now).await;
            others.iter().for_each(|(id, _)| self.look_again(*id, now));
            let ending: Vec<_> = ending.into_iter().filter_map(|(id, end)| Some((id, end?))).collect();
            if !self.end_all(&ending, &mut ended).await {
                ending.iter().for_each(|(id, _)| self.deadlines.lock().set(now + LATER, *id));
                break;
            }
            tokio::task::yield_now().await;
        }
        self.tidy_deadlines();
        ended
    }

    /// Returns whether that could be written.
    async fn end_all(&self, ending: &[(PeerId, End)], ended: &mut Vec<(PeerId, End)>) -> bool {
        let ids: Vec<_> = ending.iter().map(|(id, _)| *id).collect();
        let removed = match self.remove_all(&ids).await {
            Ok(removed) => removed,
            Err(error) => {
                tracing::error!(peers = ids.len(), %error, "cannot end peers whose time it is");
                return false;
            }
        };
        for (id, end) in ending.iter().filter(|(id, _)| removed.contains(id)) {
            self.collected[*end as usize].fetch_add(1, Relaxed);
            tracing::info!(target: "audit", peer = %id, why = ?end, "peer collected");
            ended.push((*id, *end));
        }
        true
    }

    /// Whether and why a peer is to end now.
    fn verdict(&self, id: PeerId, now: u64) -> Option<End> {
        let rows = self.register.rows.read();
        let row = rows.get(rows.by_id(id)?)?;
        if row.expires().is_some_and(|expires| expires <= now) {
            return Some(End::Expired);
        }
        let is_idle = row.idle_until(self.started, self.settings.grace.as_secs()).is_some_and(|until| until <= now);
        // Handshakes that the device began are known to it alone.
        let idle = row.idle().unwrap_or(u64::MAX).max(REJECT_AFTER.as_secs());
        let of_device = || self.device().peer(&row.public).as_ref().and_then(unix_of);
        let is_in_use = || of_device().is_some_and(|last| last.saturating_add(idle) > now);
        (is_idle && !is_in_use()).then_some(End::Idle)
    }

    fn look_again(&self, id: PeerId, now: u64) {
        let next = {
            let rows = self.register.rows.read();
            rows.by_id(id).and_then(|place| rows.due(place, self.started, self.settings.grace.as_secs()))
        };
        if let Some(at) = next {
            // One that is due and was put off is looked at a little later, not at once.
            self.deadlines.lock().set(if at > now { at } else { now + LATER }, id);
        }
    }

    /// Deadlines of peers that are gone stay until they are due; where they are most of them, all are made anew.
    fn tidy_deadlines(&self) {
        let rows = self.register.rows.read();
        let mut deadlines = self.deadlines.lock();
        if deadlines.len() > 2 * rows.len() + DEADLINES_LEAST {
            let grace = self.settings.grace.as_secs();
            let due = |place| Some((rows.due(place, self.started, grace)?, rows.get(place)?.id));
            *deadlines = rows.places().filter_map(due).collect();
        }
    }

    /// Takes a new peer into account.
    pub(crate) fn watch(&self, row: &PeerRow) {
        let due = {
            let rows = self.register.rows.read();
            rows.by_id(row.id).and_then(|place| rows.due(place, self.started, self.settings.grace.as_secs()))
        };
        if let Some(at) = due {
            self.deadlines.lock().set(at, row.id);
        }
    }

    async fn write_sightings(&self) {
        let sightings = self.register.take_sightings();
        if sightings.is_empty() {
            return;
        }
        if let Err(error) = self.journal.write(PeerWrite::See(sightings.clone())).await {
            tracing::error!(%error, peers = sightings.len(), "cannot write down what was seen of peers; it is tried again");
            self.register.put_back(&sightings);
        }
    }

    /// Former keys whose successor is in use.
    pub(crate) async fn end_replaced(&self) {
        let mut outdated = self.outdated.lock().await;
        let told: BTreeSet<_> = std::iter::from_fn(|| outdated.try_recv().ok()).collect();
        // One that got yet another key since has a former one that is needed still.
        let in_use = |id: &PeerId| self.peer(*id).is_some_and(|peer| peer.greatest != Tai64N::default());
        let ids: Vec<_> = told.into_iter().filter(in_use).collect();
        self.end_former_or_tell(&ids).await;
    }

    /// Those of their former keys whose time is over.
    async fn end_outlived(&self, ids: impl Iterator<Item = PeerId>, now: u64) {
        let is_over =
            |id: &PeerId| self.peer(*id).and_then(|peer| peer.former).is_some_and(|former| former.until <= now);
        let ids: Vec<_> = ids.filter(is_over).collect();
        self.end_former_or_tell(&ids).await;
    }

    async fn end_former_or_tell(&self, ids: &[PeerId]) {
        if let Err(error) = self.end_former(ids).await {
            tracing::error!(peers = ids.len(), %error, "cannot end former keys");
        }
    }

    async fn wake_addresses(&self) {
        let woken = self.claims.lock().addresses.wake(unix_now());
        if !woken.is_empty()
            && let Err(error) = self.journal.write(PeerWrite::Forget(woken)).await
        {
            // At the next start they are found to have rested.
            tracing::debug!(%error, "cannot forget addresses that have rested");
        }
    }

    /// Writes down what was seen, before the process ends: also of those that are awake.
    pub async fn settle(&self) {
        self.device().peers().iter().for_each(|awake| self.register.note_asleep(awake));
        self.write_sightings().await;
    }
}
