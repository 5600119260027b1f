//! The one who writes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use edgeproxy_tunnel::{PresharedKey, PublicKey};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};
use rustix::fs::{FlockOperation, flock};
use tokio::sync::{mpsc, oneshot};

use super::error::PeersError;
use super::record::{FormerKey, PeerId, PeerRecord, PeerRow, Released, Sighting, joined};
use super::schema::{ROW_COLUMNS, prepare, row_of};
use crate::stamp::beside;

/// Writes that may wait; whoever comes then waits for a place.
const QUEUE: usize = 4096;
/// Writes in one commit at most: one takes some 10 us beside the flush they share.
const GROUP: usize = 512;
/// After so many writes the log's content is moved to its place, beside the writing.
const CHECKPOINT_EVERY: usize = 1000;
/// A log longer than this was outrun: the writing waits until its content is moved. In pages of 4 KiB.
const LOG_MOST: u64 = 16_384;
/// How long one of our two connections waits for the other.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What can be written. Done whole or, on an error, not at all.
#[derive(Debug)]
pub enum PeerWrite {
    /// New ones.
    Add(Vec<PeerRecord>),
    /// Some are gone, and their addresses rest.
    Remove {
        /// Which.
        ids: Vec<PeerId>,
        /// Their addresses.
        released: Vec<Released>,
    },
    /// One has another key, and for a while the former as well.
    Rotate {
        /// As it is now: keys, the greatest timestamp.
        row: Box<PeerRow>,
    },
    /// These keys that peers had before count no more. One that the peer does not have any more is passed over.
    EndFormer(Vec<(PeerId, PublicKey)>),
    /// What was seen of some.
    See(Vec<Sighting>),
    /// These addresses may be given again.
    Forget(Vec<Released>),
}

/// The file of the peers, open for writing. What it has acknowledged is on disk.
pub struct PeersJournal {
    jobs: mpsc::Sender<Job>,
    threads: Vec<JoinHandle<()>>,
}

struct Job {
    write: PeerWrite,
    reply: oneshot::Sender<Result<(), PeersError>>,
}

impl PeersJournal {
    /// Opens the file, or makes it (0600), and reads all that is in it. Returns also the number that the next new peer has
    /// to have. No other process may have it open so.
    ///
    /// # Errors
    /// [`PeersError`]; the file is as it was.
    pub fn open(
        path: &Path,
        mut each: impl FnMut(PeerRow),
        mut resting: impl FnMut(Released),
    ) -> Result<(Self, PeerId), PeersError> {
        let lock = lock(path)?;
        let conn = connect(path)?;
        prepare(&conn, path)?;
        let next = read_all(&conn, path, &mut each, &mut resting)?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (due, wanted) = sync_channel(1);
        let moving = Arc::default();
        let mover = Mover { conn: connect(path)?, wanted, moving: Arc::clone(&moving) };
        let writer = Writer { conn, path: path.to_owned(), queue, due, moving, since: 0, _lock: lock };
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(run)
                .map_err(|error| PeersError::failed(path, error))
        };
        let threads = vec![
            spawn("peers-writer", Box::new(move || writer.run()))?,
            spawn("peers-mover", Box::new(move || mover.run()))?,
        ];
        Ok((Self { jobs, threads }, next))
    }

    /// Writes, together with all that others want written by then. Is done once it is on disk.
    ///
    /// # Errors
    /// The disk is full or fails: nothing of it is written.
    pub async fn write(&self, write: PeerWrite) -> Result<(), PeersError> {
        let ended =
            || PeersError::Failed { path: "peers".to_owned(), reason: "the thread that writes has ended".to_owned() };
        let (reply, replied) = oneshot::channel();
        self.jobs.send(Job { write, reply }).await.map_err(|_| ended())?;
        replied.await.map_err(|_| ended())?
    }
}

impl Drop for PeersJournal {
    fn drop(&mut self) {
        // What waits is written still.
        self.jobs = mpsc::channel(1).0;
        for thread in self.threads.drain(..) {
            // One that panicked has told of itself.
            let _ = thread.join();
        }
    }
}

struct Writer {
    conn: Connection,
    path: PathBuf,
    queue: mpsc::Receiver<Job>,
    due: SyncSender<()>,
    moving: Arc<Mutex<()>>,
    /// Writes since the log was last due.
    since: usize,
    _lock: File,
}

impl Writer {
    fn run(mut self) {
        let mut jobs = Vec::with_capacity(GROUP);
        while let Some(first) = self.queue.blocking_recv() {
            jobs.push(first);
            while jobs.len() < GROUP
                && let Ok(next) = self.queue.try_recv()
            {
                jobs.push(next);
            }
            let written = self.commit(jobs.iter());
            // One that cannot be written must not keep the others from it.
            let alone = written.is_err() && jobs.len() > 1;
            for job in jobs.drain(..) {
                let written = if alone { self.commit(std::iter::once(&job)) } else { written.clone() };
                // Whoever asked may be gone.
                let _ = job.reply.send(written);
            }
            self.shorten();
        }
    }

    fn commit<'a>(&mut self, jobs: impl Iterator<Item = &'a Job>) -> Result<(), PeersError> {
        let transact = || {
            let transaction = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for job in jobs {
                self.since += apply(&transaction, &job.write)?;
            }
            transaction.commit()
        };
        transact().map_err(PeersError::at(&self.path))
    }

    /// Sees to it that the log does not grow for ever.
    fn shorten(&mut self) {
        if self.since < CHECKPOINT_EVERY {
            return;
        }
        self.since = 0;
        let pages = std::fs::metadata(beside(&self.path, "-wal")).map_or(0, |log| log.len() / 4096);
        if pages <= LOG_MOST {
            // One that is under way already does as well.
            let _ = self.due.try_send(());
            return;
        }
        let _turn = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        // One that fails is made up for by the next.
        let _ = truncate(&self.conn);
    }
}

/// Moves what is in the log to its place in the file while others write.
struct Mover {
    conn: Connection,
    wanted: Receiver<()>,
    /// Held by the one of the two that moves: the other would do it in vain.
    moving: Arc<Mutex<()>>,
}

impl Mover {
    fn run(self) {
        while self.wanted.recv().is_ok() {
            let _turn = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
            // One that fails is made up for by the next; the writer meets what is wrong with the disk itself.
            let _ = checkpoint(&self.conn, "PASSIVE");
        }
    }
}

fn checkpoint(conn: &Connection, how: &str) -> rusqlite::Result<()> {
    conn.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |_| Ok(()))
}

/// Moves what is in the log, and makes it short. Waits for nobody who reads: then it stays long until the next time.
pub(super) fn truncate(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(Duration::ZERO)?;
    let moved = checkpoint(conn, "TRUNCATE");
    conn.busy_timeout(PATIENCE)?;
    moved
}

/// Returns how many rows that touched.
fn apply(to: &Transaction<'_>, write: &PeerWrite) -> rusqlite::Result<usize> {
    match write {
        PeerWrite::Add(records) => {
            for record in records {
                add(to, record)?;
            }
            Ok(records.len())
        }
        PeerWrite::Remove { ids, released } => {
            ids.iter().try_for_each(|id| remove(to, *id))?;
            for Released { address, until } in released {
                to.prepare_cached("INSERT OR REPLACE INTO released VALUES (?, ?)")?
                    .execute(params![address.to_string(), until])?;
            }
            Ok(ids.len())
        }
        PeerWrite::Rotate { row } => {
            let former = FormerColumns::of(row.former.as_ref());
            to.prepare_cached(
                "UPDATE peers SET public_key = ?2, preshared_key = ?3, greatest = ?4, former_key = ?5, \
                 former_until = ?6, former_greatest = ?7 WHERE id = ?1",
            )?
            .execute(params![
                row.id,
                row.public.0,
                secret(&row.preshared),
                row.greatest.0,
                former.key,
                former.until,
                former.greatest
            ])
        }
        PeerWrite::EndFormer(ended) => {
            let mut update = to.prepare_cached(
                "UPDATE peers SET former_key = NULL, former_until = NULL, former_greatest = NULL \
                 WHERE id = ? AND former_key = ?",
            )?;
            for (id, former) in ended {
                update.execute(params![id, former.0])?;
            }
            Ok(ended.len())
        }
        PeerWrite::See(sightings) => {
            // A key may have been replaced since it was seen: what is written of it goes where it stands now.
            let mut update = to.prepare_cached(
                "UPDATE peers SET handshake = ?2, endpoint = coalesce(?3, endpoint), \
                 received = received + ?4, sent = sent + ?5, \
                 greatest = CASE public_key WHEN ?6 THEN ?7 ELSE greatest END, \
                 former_greatest = CASE former_key WHEN ?6 THEN max(former_greatest, ?7) \
                 WHEN ?8 THEN max(former_greatest, ?9) ELSE former_greatest END WHERE id = ?1",
            )?;
            for Sighting { id, handshake, public, greatest, former, endpoint, received, sent } in sightings {
                let (endpoint, former) =
                    (endpoint.map(|endpoint| endpoint.to_string()), FormerColumns::of(former.as_ref()));
                update.execute(params![
                    id,
                    handshake,
                    endpoint,
                    received,
                    sent,
                    public.0,
                    greatest.0,
                    former.key,
                    former.greatest
                ])?;
            }
            Ok(sightings.len())
        }
        PeerWrite::Forget(released) => {
            for Released { address, .. } in released {
                to.prepare_cached("DELETE FROM released WHERE address = ?")?.execute([address.to_string()])?;
            }
            Ok(released.len())
        }
    }
}

fn remove(to: &Transaction<'_>, id: PeerId) -> rusqlite::Result<()> {
    let tags: Option<Option<String>> = to
        .prepare_cached("DELETE FROM peers WHERE id = ? RETURNING tags")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    for tag in tags.iter().flatten().flat_map(|tags| tags.split_whitespace()) {
        to.prepare_cached("DELETE FROM peer_tags WHERE tag = ? AND peer = ?")?.execute(params![tag, id])?;
    }
    Ok(())
}

fn add(to: &Transaction<'_>, record: &PeerRecord) -> rusqlite::Result<()> {
    let PeerRecord { row, name, region, tags, owner, .. } = record;
    let former = FormerColumns::of(row.former.as_ref());
    to.prepare_cached(
        "INSERT INTO peers (id, public_key, preshared_key, name, region, tags, v4, v6, prefixes, created, expires, idle, \
         keep, handshake, greatest, former_key, former_until, former_greatest, owner) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
    )?
    .execute(params![
        row.id,
        row.public.0,
        secret(&row.preshared),
        name,
        region,
        joined(tags),
        row.v4.map(|v4| v4.to_bits()),
        row.v6.map(|v6| v6.octets()),
        joined(&row.prefixes),
        row.created,
        row.expires,
        row.idle,
        row.keep,
        row.handshake,
        row.greatest.0,
        former.key,
        former.until,
        former.greatest,
        owner,
    ])?;
    for tag in tags {
        to.prepare_cached("INSERT OR IGNORE INTO peer_tags VALUES (?, ?)")?.execute(params![tag, row.id])?;
    }
    Ok(())
}

#[derive(Default)]
struct FormerColumns<'a> {
    key: Option<&'a [u8]>,
    until: Option<u64>,
    greatest: Option<&'a [u8]>,
}

impl<'a> FormerColumns<'a> {
    fn of(former: Option<&'a FormerKey>) -> Self {
        former.map_or_else(Self::default, |former| Self {
            key: Some(&former.public.0),
            until: Some(former.until),
            greatest: Some(&former.greatest.0),
        })
    }
}

fn secret(preshared: &PresharedKey) -> Option<&[u8]> {
    preshared.is_set().then(|| &preshared.bytes()[..])
}

fn read_all(
    conn: &Connection,
    path: &Path,
    each: &mut impl FnMut(PeerRow),
    resting: &mut impl FnMut(Released),
) -> Result<PeerId, PeersError> {
    let failed = PeersError::at(path);
    let mut statement = conn.prepare(&format!("SELECT {ROW_COLUMNS} FROM peers ORDER BY id")).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        each(row_of(row, path)?);
    }
    let mut statement = conn.prepare("SELECT address, until FROM released").map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let (address, until): (String, u64) =
            row.get(0).and_then(|address| Ok((address, row.get(1)?))).map_err(failed)?;
        if let Ok(address) = address.parse() {
            resting(Released { address, until });
        }
    }
    let last = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'peers'), 0) + 1";
    conn.query_row(last, [], |row| row.get(0)).map_err(failed)
}

/// The file exists afterwards, and nobody else's gateway has it.
fn lock(path: &Path) -> Result<File, PeersError> {
    // Beside the file itself, whose locks are SQLite's.
    let create = |path: &Path| OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
    create(path).map_err(|error| PeersError::failed(path, error))?;
    let lock = create(&beside(path, "-lock")).map_err(|error| PeersError::failed(path, error))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| PeersError::InUse { path: path.display().to_string() })?;
    Ok(lock)
}

pub(super) fn connect(path: &Path) -> Result<Connection, PeersError> {
    let open = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags)?;
        conn.busy_timeout(PATIENCE)?;
        conn.pragma_update(None, "journal_mode", "wal")?;
        // A commit is on disk when it returns.
        conn.pragma_update(None, "synchronous", "full")?;
        conn.pragma_update(None, "wal_autocheckpoint", 0)?;
        Ok(conn)
    };
    open().map_err(PeersError::at(path))
}
