//! What one look at a server tells.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Row;
use tokio_postgres::types::PgLsn;

use crate::lsn::Lsn;

/// What a server does with writes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// Takes them.
    Primary,
    /// Replays those of another.
    Replica,
}

/// What is known of a server now.
#[derive(Clone, Debug, PartialEq)]
pub enum Observed {
    /// It answered.
    Up(Observation),
    /// It does not answer, or was not asked yet; and why.
    Down(Arc<str>),
}

/// One answer of a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// Whether it takes writes.
    pub role: Role,
    /// The history it is in. Of a replica whose user may not see its receiver it is what the last restart point says:
    /// never more than the truth, and up to `checkpoint_timeout` behind it after a promotion.
    pub timeline: u32,
    /// What a primary has on disk; what a replica has received.
    pub flush: Lsn,
    /// What a replica's readers see; of a primary the same as `flush`.
    pub replay: Lsn,
    /// Commit time of the last transaction that a replica replayed, in microseconds of the primary's clock; `None` if
    /// it replayed none since it started.
    pub replayed_commit: Option<i64>,
    /// What brings a replica its log; [`Receiver::Absent`] of a primary.
    pub receiver: Receiver,
    /// The server's clock, in microseconds since 1970.
    pub clock: i64,
    /// When the server process was started, by its clock: two addresses that agree in this are one server.
    pub started: i64,
    /// From the question to the answer, smoothed.
    pub round_trip: Duration,
    /// When it was asked: all that it says is at least as new as this.
    pub at: Instant,
}

/// What brings a replica its log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Receiver {
    /// There is none: nothing new will come.
    Absent,
    /// There is one, and the user may not see more (it lacks `pg_monitor`).
    Present,
    /// There is one, and it heard from its sender this long ago. It asks the sender after half of `patience` and gives
    /// up after all of it; `patience` is zero if it never does.
    Heard {
        /// Since the last message.
        ago: Duration,
        /// The replica's `wal_receiver_timeout`.
        patience: Duration,
    },
}

/// What an answer to the sender's or the receiver's question may take beyond half of the receiver's patience.
const RECEIVER_SLACK: Duration = Duration::from_secs(1);

impl Observed {
    /// The observation, if it answers.
    #[must_use]
    pub fn up(&self) -> Option<&Observation> {
        match self {
            Observed::Up(observation) => Some(observation),
            Observed::Down(_) => None,
        }
    }
}

impl Observation {
    /// Whether something brings the log, as far as this user may see: an idle sender is heard once in half of the
    /// receiver's patience.
    #[must_use]
    pub fn receiver_alive(&self) -> bool {
        match self.receiver {
            Receiver::Absent => false,
            Receiver::Present => true,
            Receiver::Heard { patience: Duration::ZERO, .. } => true,
            Receiver::Heard { ago, patience } => ago <= patience / 2 + RECEIVER_SLACK,
        }
    }
}

/// One look at a server, primary or replica, in one round trip and one row.
///
/// `recovering` is read first: a server that is promoted in the middle then fails no function. What only `pg_monitor` may
/// see is null for others, except that there is a receiver.
pub(crate) const LOOK: &str = "\
    SELECT recovering, \
      CASE WHEN recovering THEN NULL ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END, \
      greatest((SELECT received_tli FROM pg_stat_wal_receiver), (SELECT timeline_id FROM pg_control_checkpoint()), \
        (SELECT min_recovery_end_timeline FROM pg_control_recovery())), \
      CASE WHEN recovering THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_flush_lsn() END, \
      pg_last_wal_replay_lsn(), \
      (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::int8, \
      EXISTS (SELECT FROM pg_stat_get_wal_receiver() AS receiver WHERE receiver.pid IS NOT NULL), \
      (SELECT (extract(epoch FROM clock_timestamp() - last_msg_receipt_time) * 1000000)::int8 FROM pg_stat_wal_receiver), \
      (extract(epoch FROM current_setting('wal_receiver_timeout')::interval) * 1000000)::int8, \
      (extract(epoch FROM clock_timestamp()) * 1000000)::int8, \
      (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8 \
    FROM (SELECT pg_is_in_recovery() AS recovering OFFSET 0) AS server";

impl Observation {
    /// From the row that [`LOOK`] gives to a question asked `at`.
    pub(crate) fn from_row(row: &Row, at: Instant, round_trip: Duration) -> Result<Self, tokio_postgres::Error> {
        let recovering: bool = row.try_get(0)?;
        let writing: Option<&str> = row.try_get(1)?;
        let replaying: i32 = row.try_get(2)?;
        let flush: Option<PgLsn> = row.try_get(3)?;
        let replay: Option<PgLsn> = row.try_get(4)?;
        let there: bool = row.try_get(6)?;
        let ago: Option<i64> = row.try_get(7)?;
        let lsn = |lsn: PgLsn| Lsn(lsn.into());
        let (replay, flush) = (replay.map(lsn), flush.map(lsn));
        let receiver = match (there, ago) {
            (false, _) => Receiver::Absent,
            (true, None) => Receiver::Present,
            (true, Some(ago)) => Receiver::Heard { ago: micros(ago), patience: micros(row.try_get(8)?) },
        };
        // While it restores from an archive a replica receives nothing, and before it does anything it replays nothing.
        let (flush, replay) = if recovering {
            let replay = replay.unwrap_or_default();
            (flush.unwrap_or(replay).max(replay), replay)
        } else {
            let flush = flush.unwrap_or_default();
            (flush, flush)
        };
        Ok(Self {
            role: if recovering { Role::Replica } else { Role::Primary },
            timeline: writing.map_or_else(|| u32::try_from(replaying).unwrap_or(0), timeline_of_file),
            flush,
            replay,
            replayed_commit: row.try_get::<_, Option<i64>>(5)?.filter(|_| recovering),
            receiver: if recovering { receiver } else { Receiver::Absent },
            clock: row.try_get(9)?,
            started: row.try_get(10)?,
            round_trip,
            at,
        })
    }
}

/// The first eight digits of a log file's name are its timeline; 0, which is none, if they are not digits.
pub(crate) fn timeline_of_file(digits: &str) -> u32 {
    u32::from_str_radix(digits, 16).unwrap_or(0)
}

fn micros(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}
