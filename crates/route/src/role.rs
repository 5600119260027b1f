//! What a backend is to its app, where that is known by evidence, and for which of them a listener's clients are.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::time::Duration;

use serde::Serialize;

/// What a backend is to the others of its app. What a server says of itself is not enough for it: whoever sets it has
/// judged all of the app's backends beside each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Role {
    /// Nothing is known: it is not asked, or does not answer.
    #[default]
    Unknown,
    /// Takes writes, and no other does.
    Primary,
    /// Follows the primary closely enough.
    Replica,
    /// A replica that is too far behind.
    Behind,
    /// A replica that hears nothing from its primary: nobody can tell how far it is behind.
    Severed,
    /// Takes writes, and so does another of the same standing: neither is served.
    Disputed,
    /// Takes writes, but another took over from it since.
    Former,
}

impl Role {
    /// Every one there is.
    pub const ALL: [Self; 7] =
        [Self::Unknown, Self::Primary, Self::Replica, Self::Behind, Self::Severed, Self::Disputed, Self::Former];

    /// The word in logs, metric labels and the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Behind => "behind",
            Self::Severed => "severed",
            Self::Disputed => "disputed",
            Self::Former => "former",
        }
    }

    fn from_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or_default()
    }
}

/// How far a replica is behind its primary, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lag {
    /// Bytes of the log that the primary has on disk and the replica has not applied.
    pub bytes: Option<u64>,
    /// Age of what it applied last; zero once nothing is missing.
    pub time: Option<Duration>,
}

/// Which backends of its app a listener's clients are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Wanted {
    /// All of them, whatever their role.
    #[default]
    Any,
    /// The primary.
    Primary,
    /// Fresh replicas, and what comes after them.
    Replica(Fallback),
}

/// Where clients of replicas go when no fresh one can take them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fallback {
    /// Nowhere.
    None,
    /// To the primary.
    #[default]
    Primary,
    /// To replicas that are behind or severed, and then to the primary.
    Stale,
}

impl Wanted {
    /// The sets of roles in the order in which they are tried.
    pub(crate) fn tiers(self) -> &'static [Roles] {
        const PRIMARY: Roles = Roles::of(&[Role::Primary]);
        const FRESH: Roles = Roles::of(&[Role::Replica]);
        const STALE: Roles = Roles::of(&[Role::Behind, Role::Severed]);
        match self {
            Self::Any => &[Roles::ALL],
            Self::Primary => &[PRIMARY],
            Self::Replica(Fallback::None) => &[FRESH],
            Self::Replica(Fallback::Primary) => &[FRESH, PRIMARY],
            Self::Replica(Fallback::Stale) => &[FRESH, STALE, PRIMARY],
        }
    }

    /// The setting's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Primary => "primary",
            Self::Replica(_) => "replica",
        }
    }

    /// How many sets come before the one with this role; `None`: no set has it.
    pub(crate) fn tier(self, role: Role) -> Option<u8> {
        (0..).zip(self.tiers()).find(|(_, roles)| roles.has(role)).map(|(tier, _)| tier)
    }

    /// Whether a backend of this role may have such clients at all.
    pub fn may_have(self, role: Role) -> bool {
        self.tier(role).is_some()
    }
}

/// Some of the roles, a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Roles(u8);

impl Roles {
    pub(crate) const ALL: Self = Self(u8::MAX);

    const fn of(roles: &[Role]) -> Self {
        let (mut bits, mut next) = (0, 0);
        while next < roles.len() {
            bits |= 1 << roles[next] as u8;
            next += 1;
        }
        Self(bits)
    }

    pub(crate) fn has(self, role: Role) -> bool {
        self.0 >> role as u8 & 1 == 1
    }

    pub(crate) fn is_all(self) -> bool {
        self == Self::ALL
    }
}

/// A backend's role as all cores read it.
#[derive(Default)]
pub(crate) struct KnownRole(AtomicU8);

impl KnownRole {
    pub(crate) fn get(&self) -> Role {
        Role::from_number(self.0.load(Acquire))
    }

    pub(crate) fn set(&self, role: Role) {
        self.0.store(role as u8, Release);
    }
}

/// A backend's lag, for people to see; nothing is decided by it.
pub(crate) struct KnownLag {
    bytes: AtomicU64,
    millis: AtomicU64,
}

/// Stands for a number that is not known.
const NONE: u64 = u64::MAX;

impl Default for KnownLag {
    fn default() -> Self {
        Self { bytes: AtomicU64::new(NONE), millis: AtomicU64::new(NONE) }
    }
}

impl KnownLag {
    pub(crate) fn get(&self) -> Lag {
        let known = |number: &AtomicU64| Some(number.load(Relaxed)).filter(|number| *number != NONE);
        Lag { bytes: known(&self.bytes), time: known(&self.millis).map(Duration::from_millis) }
    }

    pub(crate) fn set(&self, lag: Lag) {
        let millis = lag.time.map(|time| u64::try_from(time.as_millis()).unwrap_or(NONE - 1));
        self.bytes.store(lag.bytes.map_or(NONE, |bytes| bytes.min(NONE - 1)), Relaxed);
        self.millis.store(millis.unwrap_or(NONE), Relaxed);
    }
}
