//! The thread of the handshakes: strangers are its business alone, so that a flood of them costs the workers nothing.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime};

use edgeproxy_tunnel::{Dropped, Handshakes, Outcome, Path, PrivateKey, PublicKey, Random, Tai64N};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use crate::device::Shared;
use crate::random::OsRandom;
use crate::registry::Remote;
use crate::roster::Roster;
use crate::udp::{Inbox, Udp};
use crate::worker;

/// What others want of this thread.
pub(crate) enum Letter {
    /// Begin a handshake.
    Initiate(Arc<Remote>),
    /// The peer does not answer: no answer is awaited any more.
    GiveUp(Arc<Remote>),
    /// These indices of ours are free again.
    Release(Vec<u32>),
    /// The peer sleeps, or was removed.
    Forget(PublicKey),
    /// A peer of the directory has no session any more, of so many that its owner has taken note of.
    Asleep(Arc<Remote>, u32),
    /// We are somebody else now, or nobody.
    Identity(Option<PrivateKey>),
    /// This is its socket now.
    Socket(Arc<Udp>),
    /// A datagram that came to a worker's socket.
    Stray(Vec<u8>, Path),
    /// Say that all letters before this one were read.
    Barrier(Sender<()>),
    /// End.
    End,
}

pub(crate) struct Reception {
    shared: Arc<Shared>,
    handshakes: Handshakes<OsRandom>,
    /// Without a key of our own nobody is spoken to.
    silent: bool,
    udp: Arc<Udp>,
    /// Whether the socket is waited on.
    watched: bool,
    roster: Roster,
}

impl Reception {
    pub(crate) fn new(shared: Arc<Shared>, handshakes: Handshakes<OsRandom>, udp: Arc<Udp>, awake_most: usize) -> Self {
        Self { shared, handshakes, silent: false, udp, watched: false, roster: Roster::new(awake_most) }
    }

    pub(crate) fn run(mut self) -> io::Result<()> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &self.shared.reception, EventData::new_u64(0), EventFlags::IN)?;
        let (mut inbox, mut events) = (Inbox::new(), Vec::with_capacity(4));
        loop {
            if !self.watched {
                epoll::add(&epoll, &*self.udp, EventData::new_u64(1), EventFlags::IN)?;
                self.watched = true;
            }
            match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => events.clear(),
                Err(error) => return Err(error.into()),
            }
            for letter in self.shared.reception.take() {
                if !self.read(letter) {
                    return Ok(());
                }
            }
            // One batch, then the letters again: those who wait for an initiation of ours are no strangers.
            match self.udp.receive(&mut inbox) {
                Ok(None) => {}
                Ok(Some(runs)) => {
                    for run in runs {
                        for datagram in run.bytes.chunks(run.stride) {
                            self.handle(datagram, run.from);
                        }
                    }
                }
                // What an earlier datagram of ours met with: of no use here.
                Err(error) => tracing::debug!(%error, "cannot receive handshakes"),
            }
        }
    }

    /// Returns whether it goes on.
    fn read(&mut self, letter: Letter) -> bool {
        match letter {
            Letter::Initiate(remote) => self.initiate(&remote),
            // One that was registered anew meanwhile is another.
            Letter::GiveUp(remote) if self.shared.registry.has(&remote) => self.handshakes.give_up(&remote.public),
            Letter::GiveUp(_) => {}
            Letter::Release(indices) => indices.into_iter().for_each(|index| self.handshakes.release(index)),
            Letter::Forget(public) => self.handshakes.forget(&public),
            Letter::Asleep(remote, taken) => {
                self.handshakes.forget(&remote.public);
                self.shared.registry.retire(&remote, taken, self.shared.clock.now());
            }
            Letter::Identity(private) => self.take_identity(private),
            Letter::Socket(udp) => (self.udp, self.watched) = (udp, false),
            Letter::Stray(datagram, from) => self.handle(&datagram, from),
            // Whoever asked may have stopped waiting.
            Letter::Barrier(reply) => _ = reply.send(()),
            Letter::End => return false,
        }
        true
    }

    fn take_identity(&mut self, private: Option<PrivateKey>) {
        self.silent = private.is_none();
        // In place of none there is one that nobody knows: nothing of the old one stays.
        self.handshakes.set_identity(private.unwrap_or_else(|| PrivateKey::from_bytes(OsRandom::new().bytes())));
        // Behind all sessions agreed on under the old key, and before those of the new one.
        for mailbox in &self.shared.workers {
            mailbox.post(worker::Letter::Rekeyed);
        }
    }

    fn initiate(&mut self, remote: &Arc<Remote>) {
        // It may have been removed since its worker asked.
        if self.silent || !self.shared.registry.has(remote) {
            return;
        }
        let Some(mut path) = remote.outlet.path() else { return };
        let now = self.shared.clock.now();
        let wall = Tai64N::of(SystemTime::now());
        let message = match self.handshakes.initiate(&remote.public, now, wall) {
            Ok(message) => message,
            Err(why) => return tracing::debug!(peer = %remote.public, ?why, "cannot begin a handshake"),
        };
        remote.outlet.note(message.len() as u64, now);
        let local = path.local;
        if let Err(error) = self.udp.send(&mut path, &message, message.len()) {
            tracing::debug!(peer = %remote.public, endpoint = %path.remote, %error, "cannot send an initiation");
        }
        if let Some(local) = local.filter(|_| path.local.is_none()) {
            remote.outlet.forget_local(local);
        }
    }

    fn handle(&mut self, datagram: &[u8], from: Path) {
        if self.silent {
            return;
        }
        let shared = &self.shared;
        let now = shared.clock.now();
        let lookup = |public: &PublicKey| shared.registry.introduce(public);
        let (peer, keys, response, timestamp) =
            match self.handshakes.handle_datagram(datagram, from.remote, now, lookup) {
                Outcome::Dropped(why) => return self.count(why, datagram, from),
                Outcome::CookieTaken => return,
                Outcome::Cookie(reply) => return self.answer(&reply, from),
                Outcome::Answered { peer, timestamp, keys, response } => (peer, keys, Some(response), Some(timestamp)),
                Outcome::Established { peer, keys } => (peer, keys, None, None),
            };
        let Some(remote) = self.shared.registry.wake(&peer) else {
            // It was removed while its handshake was under way.
            self.handshakes.forget(&peer);
            return self.handshakes.release(keys.local);
        };
        remote.note_received(datagram.len() as u64);
        if let Some(timestamp) = timestamp {
            self.shared.registry.note_answered(&remote, timestamp);
        }
        let agreed = remote.note_agreed();
        if remote.listed {
            for longest_ago in self.roster.note(Arc::clone(&remote), agreed, &self.shared.registry) {
                self.shared.post(longest_ago.owner, worker::Letter::Sleep(longest_ago));
            }
        }
        // The owner has to know the session before the peer can use it.
        let owner = remote.owner;
        self.shared.post(owner, worker::Letter::Established { remote: Arc::clone(&remote), keys, from });
        if let Some(response) = response {
            remote.outlet.note(response.len() as u64, now);
            self.answer(&response, from);
        }
    }

    fn answer(&self, message: &[u8], mut to: Path) {
        if let Err(error) = self.udp.send(&mut to, message, message.len()) {
            tracing::debug!(to = %to.remote, %error, "cannot answer a handshake");
        }
    }

    fn count(&self, why: Dropped, datagram: &[u8], from: Path) {
        match (why, edgeproxy_tunnel::Transport::parse(datagram)) {
            (Dropped::Malformed, Some(header)) => {
                let owner = self.shared.owners.of_index(header.receiver);
                self.shared.post(owner, worker::Letter::Stray(datagram.to_vec(), from));
            }
            _ => self.shared.counters.dropped(why),
        }
    }
}

/// How long whoever removes a peer waits for the threads at most.
pub(crate) const BARRIER_WITHIN: Duration = Duration::from_secs(5);
