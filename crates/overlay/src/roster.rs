//! Peers of the directory that are awake, in the order of their last handshakes.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::registry::{Registry, Remote};

/// Whoever is in use agrees on a session every two minutes; so whose last handshake is longest ago is missed least.
pub(crate) struct Roster {
    most: usize,
    /// Handshakes, the oldest first, each with how many it made of this peer. One that was followed by another counts no
    /// more, nor one of a peer that sleeps.
    handshakes: VecDeque<(Arc<Remote>, u32)>,
}

impl Roster {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, handshakes: VecDeque::new() }
    }

    /// Takes note of a handshake. Returns who is to sleep for it, so that no more are awake than may be.
    pub(crate) fn note(&mut self, remote: Arc<Remote>, agreed: u32, registry: &Registry) -> Vec<Arc<Remote>> {
        // Told to sleep a moment ago, it stays.
        registry.note_staying(&remote);
        self.handshakes.push_back((remote, agreed));
        let mut over = registry.staying().saturating_sub(self.most);
        let mut longest_ago = Vec::new();
        // What counts no more is thrown away as fast as it is added, twice over.
        let mut looks = 2_u32;
        while over > 0 || looks > 0 {
            looks = looks.saturating_sub(1);
            let Some((remote, agreed)) = self.handshakes.front() else { break };
            let counts = remote.agreed() == *agreed && registry.has(remote);
            if counts && over == 0 {
                break;
            }
            if let Some((remote, _)) = self.handshakes.pop_front().filter(|_| counts) {
                over -= 1;
                registry.note_leaving(&remote);
                longest_ago.push(remote);
            }
        }
        longest_ago
    }
}
