//! What each backend is to its app, as checks have found it.

use super::{Slot, SlotKey, StatePool};
use crate::role::{Lag, Role};

impl StatePool {
    /// What the backend is to its app; of a former owner of the slot it counts for nothing.
    pub fn set_role(&self, key: SlotKey, role: Role, lag: Lag) {
        if self.word(key.slot).generation() == key.generation {
            self.known_role(key.slot).set(role);
            self.detail(key.slot).lag.set(lag);
        }
    }

    /// What it is to its app, as far as that is known.
    pub fn role(&self, slot: Slot) -> Role {
        self.known_role(slot).get()
    }

    /// How far it is behind its primary, as far as that is known.
    pub fn lag(&self, slot: Slot) -> Lag {
        self.detail(slot).lag.get()
    }

    pub(crate) fn roles<'a>(&'a self, slots: &'a [Slot]) -> impl Iterator<Item = Role> {
        self.each_of(slots).map(|(chunk, at)| chunk.roles[at].get())
    }
}
