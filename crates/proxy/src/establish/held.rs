//! Clients of a role that nobody has: they wait, up to a time and a number, and look again whenever something changes.

use std::time::Duration;

use edgeproxy_route::{Exclusions, NoRoute, Wanted};

use super::{Dialling, Errand, MOST_ATTEMPTS, Progress};
use crate::close::Refusal;
use crate::core::Desk;
use crate::drain::Phase;
use crate::farewell::Farewell;

/// After this time a client that is held tries again those that could not be reached before.
const TRY_AGAIN: Duration = Duration::from_secs(1);

impl Errand {
    /// What comes instead of turning the client away at once: it is held, or told why. Of listeners for all roles it
    /// is not known what their clients understand.
    pub(super) fn instead(&mut self, refusal: Refusal, desk: &Desk) -> Result<Progress, Refusal> {
        if self.listener().settings.wanted == Wanted::Any {
            return Err(refusal);
        }
        let refusal = match self.hold(refusal, desk) {
            Ok(held) => return Ok(held),
            Err(refusal) => refusal,
        };
        let app = self.listener().settings.app.as_deref().unwrap_or_default();
        let farewell = Farewell::of(refusal, app, self.held(desk), desk.now).ok_or(refusal)?;
        Ok(Progress::Farewell(Box::new(farewell)))
    }

    /// Lets the client wait for what may change, as long as its listener allows.
    fn hold(&mut self, refusal: Refusal, desk: &Desk) -> Result<Progress, Refusal> {
        let may_change = matches!(
            refusal,
            Refusal::NoRoute(
                NoRoute::NoPrimary | NoRoute::Disputed | NoRoute::NoReplica | NoRoute::AllDown | NoRoute::AllTried
            )
        );
        let over = self.held(desk) >= self.listener().settings.hold || self.attempts >= MOST_ATTEMPTS;
        if !may_change || over || desk.pop.drain.phase() >= Phase::Unready {
            return Err(refusal);
        }
        // Before it joins: what changes from here on wakes it.
        let evidence = desk.pop.evidence();
        let place = self.listener().held.join(&desk.mailbox, self.token).ok_or(Refusal::HoldFull)?;
        self.held_since.get_or_insert(desk.now);
        Ok(Progress::Held { place, since: desk.now, evidence, why: refusal })
    }

    /// For how long it has been held, from the first time on.
    fn held(&self, desk: &Desk) -> Duration {
        self.held_since.map_or(Duration::ZERO, |since| desk.now - since)
    }

    /// Looks whether somebody has the role by now, or the wait is over.
    pub(super) fn wait_held(&mut self, desk: &Desk) -> Result<Option<Progress>, Refusal> {
        let Progress::Held { place, since, evidence, why } = &self.progress else { return Ok(None) };
        let (head, since, evidence, why) = (place.is_head(), *since, *evidence, *why);
        let over = self.held(desk) >= self.listener().settings.hold;
        if desk.pop.drain.phase() >= Phase::Unready {
            return Err(Refusal::Draining);
        }
        // No client of a database that still wants something finishes sending.
        if self.is_gone() || self.socket.is_finished() {
            return Err(Refusal::ClientGone);
        }
        if over {
            return Err(why);
        }
        if !head {
            return Ok(None);
        }
        if evidence != desk.pop.evidence() || desk.now - since >= TRY_AGAIN {
            self.tried = Exclusions::default();
            self.dialling = Duration::ZERO;
            self.attempts_before = self.attempts;
        }
        match self.try_admit(desk) {
            Ok(admitted) => {
                desk.pop.metrics.hold_time.observe(self.held(desk).as_secs_f64() * 1000.0);
                self.dial(admitted, desk).map(Some)
            }
            Err(Refusal::NoRoute(NoRoute::AllFull)) => Ok(Some(Progress::Choosing)),
            // It stays where it is, and learns at the end what was missing last.
            Err(refusal) => {
                if let Progress::Held { why, .. } = &mut self.progress {
                    *why = refusal;
                }
                Ok(None)
            }
        }
    }

    /// Whether the backend that has answered is still in the table, there, with a role that the listener's clients are for.
    pub(super) fn has_role(&self, reached: &Dialling) -> bool {
        let wanted = self.listener().settings.wanted;
        if wanted == Wanted::Any {
            return true;
        }
        let key = reached.table.key(reached.choice.index);
        let address = reached.table.backend(reached.choice.index).addr;
        let table = self.listener().table.load();
        let is_there = table.find(key).is_some_and(|index| table.backend(index).addr == address);
        is_there && wanted.may_have(table.states().role(key.slot()))
    }
}
