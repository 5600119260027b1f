//! What goes on by itself: peers end in their time, what was seen is written down, addresses come free.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use edgeproxy_overlay::Directory;
use edgeproxy_store::peers::{FormerKey, PeerId, PeerWrite};
use edgeproxy_tunnel::{REJECT_AFTER, Tai64N};

use crate::gateway::Gateway;
use crate::register::{unix_now, unix_of};
use crate::rows::Row;

/// How often is looked. So much of what was seen a crash can lose.
const EVERY: Duration = Duration::from_secs(1);
/// Peers ended with one flush to disk, before others have their turn.
const BATCH: usize = 256;
/// Peers that were seen, and addresses that have rested, with one flush: so long are locks held that packets may wait for.
const PIECE: usize = 1024;
/// Seconds until what could not be done, or had to be put off, is tried again.
const LATER: u64 = 10;
/// So many deadlines are no burden, whatever they are for.
const DEADLINES_LEAST: usize = 10_000;

/// How far a piece of work came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Came {
    /// There is another piece to do.
    Halfway,
    ToTheEnd,
    /// The disk fails.
    Nowhere,
}

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
        // Ticks until a disk that failed is tried again with what was seen.
        let mut spared = 0;
        loop {
            tick.tick().await;
            spared = u64::saturating_sub(spared, 1);
            // One piece of each in turn, so that none waits until another is done with very many.
            loop {
                let seen = if spared == 0 { self.write_sightings().await } else { Came::ToTheEnd };
                if seen == Came::Nowhere {
                    spared = LATER;
                }
                let replaced = self.end_replaced().await;
                let ended = self.end_some(unix_now(), &mut Vec::new()).await;
                if ![seen, replaced, ended, self.wake_addresses().await].contains(&Came::Halfway) {
                    break;
                }
                tokio::task::yield_now().await;
            }
            self.tidy_deadlines();
        }
    }

    /// Who would end now: of those that are due the first `most` are looked at.
    pub fn ending(&self, most: usize) -> Vec<(PeerId, End)> {
        let now = unix_now();
        let due = self.deadlines.lock().due(now, most);
        due.into_iter().filter_map(|id| self.verdict(id, now).map(|end| (id, end))).collect()
    }

    /// Ends those whose time it is; returns them.
    pub async fn collect(&self) -> Vec<(PeerId, End)> {
        let (now, mut ended) = (unix_now(), Vec::new());
        while self.end_some(now, &mut ended).await == Came::Halfway {
            tokio::task::yield_now().await;
        }
        ended
    }

    /// Ends a batch of those whose time it is.
    pub(crate) async fn end_some(&self, now: u64, ended: &mut Vec<(PeerId, End)>) -> Came {
        let due: Vec<_> = {
            let mut deadlines = self.deadlines.lock();
            std::iter::from_fn(|| deadlines.take_due(now)).take(BATCH).collect()
        };
        let count = due.len();
        let (ending, others): (Vec<_>, Vec<_>) =
            due.into_iter().map(|id| (id, self.verdict(id, now))).partition(|(_, end)| end.is_some());
        let others: Vec<_> = others.into_iter().map(|(id, _)| id).collect();
        self.end_former_or_tell(&others, |_, former| former.until <= now).await;
        others.iter().for_each(|id| self.look_again(*id, now));
        let ending: Vec<_> = ending.into_iter().filter_map(|(id, end)| Some((id, end?))).collect();
        if !self.end_all(&ending, ended).await {
            ending.iter().for_each(|(id, _)| self.deadlines.lock().set(now + LATER, *id));
            return Came::Nowhere;
        }
        if count == BATCH { Came::Halfway } else { Came::ToTheEnd }
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
        let place = rows.by_id(id)?;
        let row = rows.get(place)?;
        if row.expires().is_some_and(|expires| expires <= now) {
            return Some(End::Expired);
        }
        let is_idle = row.idle_until(self.started, self.settings.grace.as_secs()).is_some_and(|until| until <= now);
        // Handshakes that the device began are known to it alone.
        let idle = row.idle().unwrap_or(u64::MAX).max(REJECT_AFTER.as_secs());
        let of_device = |key| self.device().peer(key).as_ref().and_then(unix_of);
        let former = rows.former(place).map(|former| former.public);
        let last = || of_device(&row.public).max(former.as_ref().and_then(of_device));
        let is_in_use = || last().is_some_and(|last| last.saturating_add(idle) > now);
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

    /// Deadlines of peers that are gone stay until they are due; where they are most of them, all are made anew. That looks
    /// at every peer, but no sooner than after as many have gone.
    fn tidy_deadlines(&self) {
        let rows = self.register.rows.read();
        let mut deadlines = self.deadlines.lock();
        if deadlines.len() > 2 * rows.len() + DEADLINES_LEAST {
            let grace = self.settings.grace.as_secs();
            let due = |place| Some((rows.due(place, self.started, grace)?, rows.get(place)?.id));
            *deadlines = rows.places().filter_map(due).collect();
        }
    }

    async fn write_sightings(&self) -> Came {
        // One after the other: the register has one such piece at a time.
        let _turn = self.seeing.lock().await;
        let sightings = self.register.take_sightings(PIECE);
        let count = sightings.len();
        if count > 0
            && let Err(error) = self.journal.write(PeerWrite::See(sightings)).await
        {
            self.register.put_back();
            let all = self.register.unwritten();
            tracing::error!(%error, peers = all, "cannot write down what was seen of peers; it is tried again");
            return Came::Nowhere;
        }
        self.register.note_written();
        // Fewer wait for others.
        if self.register.unwritten() < PIECE { Came::ToTheEnd } else { Came::Halfway }
    }

    /// Former keys whose successor is in use.
    pub(crate) async fn end_replaced(&self) -> Came {
        let mut outdated = self.outdated.lock().await;
        let mut ids: Vec<_> = std::iter::from_fn(|| outdated.try_recv().ok()).take(PIECE).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        // One that got yet another key since has a former one that is needed still.
        self.end_former_or_tell(&ids, |row, _| row.greatest != Tai64N::default()).await;
        if count == PIECE { Came::Halfway } else { Came::ToTheEnd }
    }

    async fn end_former_or_tell(&self, ids: &[PeerId], is_over: impl Fn(&Row, &FormerKey) -> bool) {
        if let Err(error) = self.end_former(ids, is_over).await {
            tracing::error!(peers = ids.len(), %error, "cannot end former keys");
        }
    }

    async fn wake_addresses(&self) -> Came {
        let woken = self.claims.lock().addresses.wake(unix_now(), PIECE);
        let count = woken.len();
        if count > 0
            && let Err(error) = self.journal.write(PeerWrite::Forget(woken)).await
        {
            // At the next start they are found to have rested.
            tracing::debug!(%error, "cannot forget addresses that have rested");
        }
        if count == PIECE { Came::Halfway } else { Came::ToTheEnd }
    }

    /// Writes down what was seen, before the process ends: also of those that are awake.
    pub async fn settle(&self) {
        self.device().peers().iter().for_each(|awake| self.register.note_asleep(awake));
        while self.register.unwritten() > 0 && self.write_sightings().await != Came::Nowhere {}
    }
}
