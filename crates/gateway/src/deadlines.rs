//! When which peer has to be looked at.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use edgeproxy_store::peers::PeerId;

/// Seconds since 1970 and peers. One is looked at no later than it has to be, perhaps sooner, perhaps in vain: whoever looks
/// says when to look again. So a handshake, which puts the end off, costs nothing here.
#[derive(Default, Debug)]
pub(crate) struct Deadlines(BinaryHeap<Reverse<(u64, PeerId)>>);

impl FromIterator<(u64, PeerId)> for Deadlines {
    fn from_iter<T: IntoIterator<Item = (u64, PeerId)>>(all: T) -> Self {
        Self(all.into_iter().map(Reverse).collect())
    }
}

impl Deadlines {
    pub(crate) fn set(&mut self, at: u64, id: PeerId) {
        self.0.push(Reverse((at, id)));
    }

    /// The next one that is due.
    pub(crate) fn take_due(&mut self, now: u64) -> Option<PeerId> {
        let due = self.0.peek().is_some_and(|Reverse((at, _))| *at <= now);
        if due { self.0.pop().map(|Reverse((_, id))| id) } else { None }
    }

    /// Those that are due by then, without taking them.
    pub(crate) fn due(&self, now: u64) -> BTreeSet<PeerId> {
        self.0.iter().filter(|Reverse((at, _))| *at <= now).map(|Reverse((_, id))| *id).collect()
    }

    /// How many there are, those in vain included.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
