//! How connections end, and why clients are refused: the words of the log and of metric labels.

use edgeproxy_route::NoRoute;

/// Why a relayed connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Close {
    /// The client finished first, and the backend followed.
    Client = 1,
    /// The backend finished first, and the client followed.
    Backend,
    /// The client reset the connection; the backend was reset too.
    ClientReset,
    /// The backend reset the connection; the client was reset too.
    BackendReset,
    /// The client did not acknowledge for the user timeout, or answered no keepalive.
    ClientTimeout,
    /// The same of the backend.
    BackendTimeout,
    /// No byte moved for the idle timeout.
    IdleTimeout,
    /// No byte moved for the half-close timeout after one side had finished.
    HalfCloseTimeout,
    /// Reached its maximum lifetime.
    MaxLifetime,
    /// Still open at the end of a drain.
    DrainDeadline,
    /// Cut by the operator.
    Cut,
    /// The backend is no longer the primary, for which the listener's clients are.
    RoleChange,
    /// The backend is a replica that has become too stale.
    StaleReplica,
    /// A socket error of another kind.
    Error,
}

impl Close {
    /// Every reason, for metrics that are resolved ahead.
    pub(crate) const ALL: [Self; 14] = [
        Self::Client,
        Self::Backend,
        Self::ClientReset,
        Self::BackendReset,
        Self::ClientTimeout,
        Self::BackendTimeout,
        Self::IdleTimeout,
        Self::HalfCloseTimeout,
        Self::MaxLifetime,
        Self::DrainDeadline,
        Self::Cut,
        Self::RoleChange,
        Self::StaleReplica,
        Self::Error,
    ];

    /// The word in logs and metric labels.
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Backend => "backend",
            Self::ClientReset => "client_reset",
            Self::BackendReset => "backend_reset",
            Self::ClientTimeout => "client_timeout",
            Self::BackendTimeout => "backend_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::HalfCloseTimeout => "half_close_timeout",
            Self::MaxLifetime => "max_lifetime",
            Self::DrainDeadline => "drain_deadline",
            Self::Cut => "cut",
            Self::RoleChange => "role_change",
            Self::StaleReplica => "stale_replica",
            Self::Error => "error",
        }
    }

    /// Both sides finished by themselves. Every other end is passed on as a reset, so that nobody takes a part for the
    /// whole.
    pub(crate) fn is_clean(self) -> bool {
        matches!(self, Self::Client | Self::Backend)
    }
}

/// Why a client was turned away before any byte was relayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    NoRoute(NoRoute),
    QueueFull,
    QueueTimeout,
    /// Too many wait for a backend of the role they need.
    HoldFull,
    HeaderMissing,
    HeaderMalformed,
    HeaderTimeout,
    HeaderUntrusted,
    TooManyConnections,
    DescriptorsExhausted,
    Draining,
    ClientGone,
}

impl Refusal {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::NoRoute(no_route) => no_route.reason(),
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::HoldFull => "hold_full",
            Self::HeaderMissing => "proxy_header_missing",
            Self::HeaderMalformed => "proxy_header_malformed",
            Self::HeaderTimeout => "proxy_header_timeout",
            Self::HeaderUntrusted => "proxy_header_untrusted",
            Self::TooManyConnections => "too_many_connections",
            Self::DescriptorsExhausted => "descriptors_exhausted",
            Self::Draining => "draining",
            Self::ClientGone => "client_gone",
        }
    }
}
