//! An awake peer: its sessions, and when something has to be done for it (paper, section 6).
//!
//! One core owns it. What comes in goes to a `handle_*`; what is to be done comes out of [`Peer::poll_action`]; when to
//! call [`Peer::handle_timeout`] at the latest, [`Peer::poll_timeout`] tells.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::handshake::{Role, SessionKeys};
use crate::moment::Moment;
use crate::outlet::{Outlet, Path};
use crate::session::{self, Opener, REJECT_AFTER, ReceivingHalf, Rejected, SendingHalf};

/// An initiation that was not answered for so long, and up to [`JITTER`] more, is followed by another.
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Lest two peers that begin at once do so for ever.
const JITTER: Duration = Duration::from_millis(333);
/// Nobody answers: it is given up after so long.
const REKEY_ATTEMPT: Duration = Duration::from_secs(90);
/// Whoever got a packet says something within this time, be it nothing.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A session's initiator that still receives, but sends nothing, renews it before it ends.
const RENEW_RECEIVING: Duration = Duration::from_secs(165);
/// So long after the last handshake, nothing of its keys is kept.
const ERASE_AFTER: Duration = Duration::from_secs(3 * REJECT_AFTER.as_secs());
/// How often a peer with a session is looked at when nothing is known to be due: what other cores send has an effect no
/// sooner than this.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Packets that wait for a session. Older ones are dropped: of a connection's begin, the last attempt counts.
const MOST_STAGED: usize = 16;

/// What the owner of a peer has to do for it.
#[derive(PartialEq, Eq, Debug)]
pub enum Action {
    /// Send it an initiation.
    Initiate,
    /// No answer to any initiation is awaited any more.
    GiveUp,
    /// Send it a packet of no bytes.
    Keepalive,
    /// Send it this packet, which waited for a session.
    Send(Vec<u8>),
    /// Forget this index of ours: nothing that comes for it is of use.
    Forget(u32),
}

/// Which of a peer's sessions a message belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// The one that is used.
    Current,
    /// One that the peer has begun and not used yet.
    Next,
    /// The one before, for what was still on its way.
    Previous,
}

/// What a run of messages in one session has brought.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Received {
    /// One of them held a packet.
    pub packets: bool,
    /// One of them was later than all before.
    pub newest: bool,
    /// Bytes of their datagrams.
    pub bytes: u64,
}

/// A peer that has a session, or is about to.
pub struct Peer {
    outlet: Arc<Outlet>,
    current: Option<ReceivingHalf>,
    previous: Option<ReceivingHalf>,
    next: Option<Box<Next>>,
    /// Initiations of ours that were not answered yet.
    attempt: Option<Attempt>,
    last_handshake: Option<Moment>,
    received: Option<Moment>,
    /// The first packet that came since we last sent anything.
    unacknowledged: Option<Moment>,
    /// An initiation was sent because the session is about to end while packets still come.
    renewing: bool,
    keepalive: Option<Duration>,
    /// When the last keepalive was due, whatever came of it.
    kept: Option<Moment>,
    staged: VecDeque<Vec<u8>>,
    actions: VecDeque<Action>,
    bytes: u64,
    looked: Moment,
}

/// A session the peer has begun. Until it uses it, the answer may not have reached it; and whoever repeats an old
/// initiation must not move its endpoint.
struct Next {
    send: SendingHalf,
    receive: ReceivingHalf,
}

#[derive(Clone, Copy)]
struct Attempt {
    since: Moment,
    /// When it is made again.
    again: Moment,
}

impl Peer {
    /// A peer of which no more is known than where it may be, and how often it wants to hear from us.
    pub fn new(outlet: Arc<Outlet>, keepalive: Option<Duration>, now: Moment) -> Self {
        Self {
            outlet,
            current: None,
            previous: None,
            next: None,
            attempt: None,
            last_handshake: None,
            received: None,
            unacknowledged: None,
            renewing: false,
            keepalive,
            kept: None,
            staged: VecDeque::new(),
            actions: VecDeque::new(),
            bytes: 0,
            looked: now,
        }
    }

    /// The way out to it.
    pub fn outlet(&self) -> &Arc<Outlet> {
        &self.outlet
    }

    /// When the last handshake was complete.
    pub fn last_handshake(&self) -> Option<Moment> {
        self.last_handshake
    }

    /// Bytes of datagrams that came from it.
    pub fn bytes_received(&self) -> u64 {
        self.bytes
    }

    /// Nothing is going on, and nothing will be unless somebody begins: it may go back to sleep.
    pub fn is_idle(&self) -> bool {
        self.keepalive.is_none() && self.attempt.is_none() && self.next.is_none() && self.outlet.session().is_none()
    }

    /// There is a packet for the peer, and no session to send it in.
    pub fn handle_packet(&mut self, packet: Vec<u8>, now: Moment, random: u32) {
        if self.staged.len() == MOST_STAGED {
            self.staged.pop_front();
        }
        self.staged.push_back(packet);
        self.initiate(now, random);
    }

    /// The session should be renewed: a core has found it worn.
    pub fn handle_worn(&mut self, now: Moment, random: u32) {
        if self.outlet.session().is_some_and(|session| session.is_worn(now)) {
            self.initiate(now, random);
        }
    }

    /// How often the peer wants to hear from us was changed, or where it is.
    pub fn handle_change(&mut self, keepalive: Option<Duration>, now: Moment, random: u32) {
        self.keepalive = keepalive;
        self.handle_timeout(now, random);
        if !self.staged.is_empty() {
            self.initiate(now, random);
        }
    }

    /// Our own key was changed: its sessions end at once. What was begun, and whoever is to hear from us, begins anew.
    pub fn handle_rekeyed(&mut self, now: Moment, random: u32) {
        self.erase();
        let begun = self.attempt.take().is_some();
        if begun || self.keepalive.is_some() || !self.staged.is_empty() {
            self.initiate(now, random);
        }
    }

    /// A handshake has given a session.
    pub fn handle_established(&mut self, keys: SessionKeys, from: impl Into<Path>, now: Moment) {
        let (role, from) = (keys.role, from.into());
        let (send, receive) = session::halves(keys, now);
        match role {
            Role::Initiator => {
                // What the peer has begun meanwhile was answered by us: it may be using that.
                let before = self.next.take().map(|next| next.receive).or_else(|| self.current.take());
                self.forget(Slot::Previous);
                self.forget(Slot::Current);
                self.previous = before;
                self.use_session(send, receive, from, now);
                self.note_received(now);
                if self.staged.is_empty() {
                    // The peer may not send before it has heard something in this session.
                    self.actions.push_back(Action::Keepalive);
                }
                self.send_staged();
            }
            Role::Responder => {
                self.forget(Slot::Next);
                self.forget(Slot::Previous);
                self.next = Some(Box::new(Next { send, receive }));
            }
        }
    }

    /// Readies what opens messages for one of our indices.
    ///
    /// # Errors
    /// The session is over. `None`: it is not one of this peer's.
    pub fn opener(&mut self, local: u32, now: Moment) -> Option<Result<(Slot, Opener<'_>), Rejected>> {
        let is = |half: &&mut ReceivingHalf| half.local == local;
        let (slot, half) = if let Some(half) = self.current.as_mut().filter(is) {
            (Slot::Current, half)
        } else if let Some(half) = self.next.as_mut().map(|next| &mut next.receive).filter(is) {
            (Slot::Next, half)
        } else {
            (Slot::Previous, self.previous.as_mut().filter(is)?)
        };
        Some(half.opener(now).map(|opener| (slot, opener)))
    }

    /// Messages were opened that came in one of its sessions.
    pub fn handle_received(&mut self, slot: Slot, received: Received, from: impl Into<Path>, now: Moment, random: u32) {
        let from = from.into();
        self.bytes += received.bytes;
        if slot == Slot::Next
            && let Some(next) = self.next.take()
        {
            self.forget(Slot::Previous);
            self.previous = self.current.take();
            let Next { send, receive } = *next;
            self.use_session(send, receive, from, now);
            self.send_staged();
        }
        // What comes late comes from where the peer was.
        if received.newest && slot != Slot::Previous {
            self.outlet.set_path(from);
        }
        self.note_received(now);
        if received.packets && self.unacknowledged.is_none_or(|since| self.has_sent_since(since)) {
            self.unacknowledged = Some(now);
        }
        let ends_soon =
            |session: &SendingHalf| session.role == Role::Initiator && now.since(session.since) >= RENEW_RECEIVING;
        if !self.renewing && self.outlet.session().is_some_and(|session| ends_soon(&session)) {
            self.renewing = true;
            self.initiate(now, random);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Moment, random: u32) {
        self.looked = now;
        if let Some(attempt) = self.attempt
            && now >= attempt.again
        {
            if now.since(attempt.since) >= REKEY_ATTEMPT {
                self.attempt = None;
                self.staged = VecDeque::new();
                self.actions.push_back(Action::GiveUp);
            } else {
                self.attempt = Some(Attempt { again: again(now, random), ..attempt });
                self.actions.push_back(Action::Initiate);
            }
        }
        // One that the peer has just begun may still come into use.
        if self.next.is_none() && self.last_handshake.is_some_and(|last| now.since(last) >= ERASE_AFTER) {
            self.erase();
        }
        if self.deadline_unused().is_some_and(|at| now >= at) {
            self.forget(Slot::Next);
        }
        if self.deadline_unanswered().is_some_and(|at| now >= at) {
            self.outlet.unanswered.clear();
            self.initiate(now, random);
        }
        if self.deadline_unacknowledged().is_some_and(|at| now >= at) {
            self.unacknowledged = None;
            self.send_keepalive(now, random);
        } else if self.deadline_keepalive().is_some_and(|at| now >= at) {
            self.kept = Some(now);
            self.send_keepalive(now, random);
        }
    }

    /// What is to be done next.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if action.is_none() && self.actions.capacity() > 0 {
            // It is idle most of the time, and one of very many.
            self.actions = VecDeque::new();
        }
        action
    }

    /// When [`Self::handle_timeout`] has to be called, and why.
    pub fn poll_timeout(&self) -> Option<(Moment, &'static str)> {
        let session = self.outlet.session().is_some();
        [
            self.attempt.map(|attempt| (attempt.again, "no answer to an initiation")),
            self.last_handshake.filter(|_| self.next.is_none()).map(|last| (last.after(ERASE_AFTER), "keys grown old")),
            self.deadline_unused().map(|at| (at, "session never used")),
            self.deadline_unanswered().map(|at| (at, "nothing came back")),
            self.deadline_unacknowledged().map(|at| (at, "nothing sent back")),
            self.deadline_keepalive().map(|at| (at, "persistent keepalive")),
            session.then(|| (self.looked.after(LOOK_EVERY), "a look at what others sent")),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    /// The peer has begun a session and not used it as long as it could.
    fn deadline_unused(&self) -> Option<Moment> {
        self.next.as_ref().map(|next| next.receive.since.after(REJECT_AFTER))
    }

    /// We sent packets and nothing came back: is the peer still there with this session?
    fn deadline_unanswered(&self) -> Option<Moment> {
        self.outlet.session()?;
        self.outlet.unanswered.get().map(|since| since.after(KEEPALIVE_TIMEOUT + REKEY_TIMEOUT))
    }

    /// Packets came and we sent nothing back.
    fn deadline_unacknowledged(&self) -> Option<Moment> {
        let since = self.unacknowledged.filter(|since| !self.has_sent_since(*since))?;
        Some(since.after(KEEPALIVE_TIMEOUT))
    }

    fn deadline_keepalive(&self) -> Option<Moment> {
        let interval = self.keepalive?;
        self.outlet.endpoint()?;
        let last = self.outlet.sent.get().max(self.received).max(self.kept);
        Some(last.map_or(self.looked, |last| last.after(interval)))
    }

    /// Within the same millisecond, it counts as sent before: rather a keepalive too many than one too few.
    fn has_sent_since(&self, moment: Moment) -> bool {
        self.outlet.sent.get().is_some_and(|sent| sent > moment)
    }

    fn send_keepalive(&mut self, now: Moment, random: u32) {
        match self.outlet.ready(now) {
            Some((session, _)) => {
                self.actions.push_back(Action::Keepalive);
                if session.is_worn(now) {
                    self.initiate(now, random);
                }
            }
            None => self.initiate(now, random),
        }
    }

    /// Begins a handshake, unless one is on its way or there is nobody to have it with.
    fn initiate(&mut self, now: Moment, random: u32) {
        if self.attempt.is_none() && self.outlet.endpoint().is_some() {
            self.attempt = Some(Attempt { since: now, again: again(now, random) });
            self.actions.push_back(Action::Initiate);
        }
    }

    fn use_session(&mut self, send: SendingHalf, receive: ReceivingHalf, from: Path, now: Moment) {
        self.current = Some(receive);
        self.outlet.set_path(from);
        self.outlet.set_session(Some(send));
        self.attempt = None;
        self.renewing = false;
        self.last_handshake = Some(now);
    }

    fn send_staged(&mut self) {
        self.actions.extend(std::mem::take(&mut self.staged).into_iter().map(Action::Send));
    }

    fn note_received(&mut self, now: Moment) {
        self.received = Some(now);
        self.outlet.unanswered.clear();
    }

    /// Ends all of its sessions at once: it was revoked, or they grew old.
    pub fn erase(&mut self) {
        self.outlet.set_session(None);
        for slot in [Slot::Current, Slot::Next, Slot::Previous] {
            self.forget(slot);
        }
        self.last_handshake = None;
        self.unacknowledged = None;
        self.outlet.unanswered.clear();
    }

    fn forget(&mut self, slot: Slot) {
        let half = match slot {
            Slot::Current => self.current.take(),
            Slot::Next => self.next.take().map(|next| next.receive),
            Slot::Previous => self.previous.take(),
        };
        if let Some(half) = half {
            self.actions.push_back(Action::Forget(half.local));
        }
    }
}

fn again(now: Moment, random: u32) -> Moment {
    let jitter = u64::from(random) % u64::try_from(JITTER.as_millis()).unwrap_or(u64::MAX);
    now.after(REKEY_TIMEOUT + Duration::from_millis(jitter))
}
