//! When which peer has to be looked at.

use std::collections::BTreeSet;

use edgeproxy_store::peers::PeerId;

/// Seconds since 1970 and peers. One is looked at no later than it has to be, perhaps sooner, perhaps in vain: whoever looks
/// says when to look again. So a handshake, which puts the end off, costs nothing here.
#[derive(Default, Debug)]
pub(crate) struct Deadlines(BTreeSet<(u64, PeerId)>);

impl FromIterator<(u64, PeerId)> for Deadlines {
    fn from_iter<T: IntoIterator<Item = (u64, PeerId)>>(all: T) -> Self {
        Self(all.into_iter().collect())
    }
}

impl Deadlines {
    pub(crate) fn set(&mut self, at: u64, id: PeerId) {
        self.0.insert((at, id));
    }

    /// The next one that is due.
    pub(crate) fn take_due(&mut self, now: u64) -> Option<PeerId> {
        let (_, id) = self.0.first().filter(|(at, _)| *at <= now)?;
        let id = *id;
        self.0.pop_first();
        Some(id)
    }

    /// The first of those that are due by then, without taking them.
    pub(crate) fn due(&self, now: u64, most: usize) -> BTreeSet<PeerId> {
        self.0.iter().take_while(|(at, _)| *at <= now).take(most).map(|(_, id)| *id).collect()
    }

    /// How many there are, those in vain included.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
