//! What goes on by itself: peers end in their time, what was seen is written down, addresses come free.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use edgeproxy_overlay::Directory;
use edgeproxy_store::peers::{PeerId, PeerRow, PeerWrite};
use edgeproxy_tunnel::REJECT_AFTER;

use crate::error::GatewayError;
use crate::gateway::Gateway;
use crate::register::unix_now;
use crate::rows::Row;

/// How often is looked. So much of what was seen a crash can lose.
const EVERY: Duration = Duration::from_secs(1);
/// Peers ended in a row before others have their turn.
const BATCH: usize = 256;

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
        let due: Vec<_> = self.deadlines.lock().due(now).collect();
        due.into_iter().filter_map(|id| self.verdict(id, now).map(|end| (id, end))).collect()
    }

    /// Ends those whose time it is; returns them.
    pub async fn collect(&self) -> Vec<(PeerId, End)> {
        let (now, mut ended) = (unix_now(), Vec::new());
        while ended.len() < BATCH {
            let Some(id) = self.deadlines.lock().take_due(now) else { break };
            let Some(end) = self.verdict(id, now) else {
                if self.peer(id).and_then(|peer| peer.former).is_some_and(|former| former.until <= now) {
                    self.end_former_or_tell(id).await;
                }
                self.look_again(id, now);
                continue;
            };
            match self.remove(id).await {
                Ok(()) => {
                    self.collected[end as usize].fetch_add(1, Relaxed);
                    tracing::info!(target: "audit", peer = %id, why = ?end, "peer collected");
                    ended.push((id, end));
                }
                Err(GatewayError::Unknown(_)) => {}
                Err(error) => {
                    tracing::error!(peer = %id, %error, "cannot end a peer");
                    self.deadlines.lock().set(now + EVERY.as_secs() * 10, id);
                    break;
                }
            }
        }
        ended
    }

    /// Whether and why a peer is to end now.
    fn verdict(&self, id: PeerId, now: u64) -> Option<End> {
        let rows = self.register.rows.read();
        let row = rows.get(rows.by_id(id)?)?;
        if row.expires().is_some_and(|expires| expires <= now) {
            return Some(End::Expired);
        }
        let idle = self.idle_until(row).is_some_and(|until| until <= now);
        // A session may have begun that is not written down here yet.
        let live = || {
            self.device()
                .peer(&row.public)
                .and_then(|status| status.last_handshake)
                .is_some_and(|since| since < REJECT_AFTER)
        };
        (idle && !live()).then_some(End::Idle)
    }

    fn idle_until(&self, row: &Row) -> Option<u64> {
        let idle = row.idle()?;
        Some(row.last_use().max(self.started) + idle + self.settings.grace.as_secs())
    }

    fn look_again(&self, id: PeerId, now: u64) {
        let next = {
            let rows = self.register.rows.read();
            let place = rows.by_id(id);
            place.and_then(|place| {
                let row = rows.get(place)?;
                let former = rows.former(place).map(|former| former.until);
                let times = row.expires().into_iter().chain(self.idle_until(row)).chain(former);
                times.min()
            })
        };
        if let Some(at) = next {
            self.deadlines.lock().set(at.max(now + 1), id);
        }
    }

    /// Takes a new peer into account.
    pub(crate) fn watch(&self, row: &PeerRow) {
        let idle = row.idle.filter(|_| !row.keep).map(|idle| row.created + idle + self.settings.grace.as_secs());
        if let Some(at) = row.expires.into_iter().chain(idle).min() {
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

    /// Former keys whose successor is in use, or whose time is over.
    async fn end_replaced(&self) {
        let mut outdated = self.outdated.lock().await;
        while let Ok(id) = outdated.try_recv() {
            self.end_former_or_tell(id).await;
        }
    }

    async fn end_former_or_tell(&self, id: PeerId) {
        if let Err(error) = self.end_former(id).await {
            tracing::error!(peer = %id, %error, "cannot end a former key");
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
