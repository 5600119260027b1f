//! Connections with one server, open before they are asked for.
//!
//! A checkout costs no round trip: what lies idle is known to be idle (see [`crate::line`]) and is not asked whether it is
//! alive. Connections are opened, renewed and replaced by a task of the pool's own, never on the way of whoever checks one
//! out, unless there are fewer than are wanted at once. What comes back in the middle of something is brought to its end
//! in the background, or closed.

use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, mem};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::error::Elapsed;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::connect::{Connection, connect};
use crate::error::{Error, Phase};
use crate::jitter::jittered;
use crate::line::Middle;
use crate::reach::Reach;
use crate::server::Server;

/// How many connections, and how long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PoolSettings {
    /// Most connections at any time.
    pub most_open: usize,
    /// So many are opened at the start, and kept.
    pub kept_idle: usize,
    /// A connection is replaced after this, or up to a quarter earlier.
    pub lifetime: Duration,
    /// Longest wait for a connection.
    pub wait: Duration,
}

/// As the older service had it.
const MOST_OPEN: usize = 5;
/// As the older service had it.
const WAIT: Duration = Duration::from_secs(5);
/// One that is open when the first request comes.
const KEPT_IDLE: usize = 1;
/// Servers and middle boxes that end long sessions do so after an hour or more.
const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// How often the pool looks for connections that the server has ended.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// The first pause after a connect that failed; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// What came back in the middle of something has so long to get out of it.
const TIDY: Duration = Duration::from_secs(2);

impl Default for PoolSettings {
    fn default() -> Self {
        Self { most_open: MOST_OPEN, kept_idle: KEPT_IDLE, lifetime: LIFETIME, wait: WAIT }
    }
}

/// Connections with one server. They end when this is dropped; those that are checked out, when they come back.
pub struct ServerPool {
    inner: Arc<Inner>,
    keeper: JoinHandle<()>,
}

struct Inner {
    server: Server,
    reach: Arc<dyn Reach>,
    settings: PoolSettings,
    /// One for each connection that is checked out or being opened.
    permits: Arc<Semaphore>,
    shelf: Mutex<Shelf>,
    /// Something for the keeper to look at.
    changed: Notify,
    /// A connection is back, or is not coming.
    returned: Notify,
    runtime: Handle,
}

#[derive(Default)]
struct Shelf {
    idle: Vec<Pooled>,
    /// Given back, and not looked at yet, which takes microseconds.
    returning: usize,
    /// Connections of an earlier one are not taken back.
    generation: u64,
    /// The pool is gone.
    closed: bool,
}

struct Pooled {
    connection: Connection,
    generation: u64,
    /// When it is to be replaced.
    due: Instant,
}

/// A connection of a pool, which it goes back to when this is dropped.
pub struct Checkout {
    pool: Arc<Inner>,
    pooled: Option<Pooled>,
    permit: Option<OwnedSemaphorePermit>,
}

impl ServerPool {
    /// A pool; the first connections are opened from now on. It works, as soon as the server does, if that is down now.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(server: Server, reach: Arc<dyn Reach>, settings: PoolSettings) -> Self {
        let inner = Arc::new(Inner {
            server,
            reach,
            settings,
            permits: Arc::new(Semaphore::new(settings.most_open.max(1))),
            shelf: Mutex::default(),
            changed: Notify::new(),
            returned: Notify::new(),
            runtime: Handle::current(),
        });
        let keeper = tokio::spawn(keep(Arc::clone(&inner)));
        Self { inner, keeper }
    }

    /// A connection nobody else has: no round trip if one is idle.
    ///
    /// # Errors
    ///
    /// All were in use for too long, or there was none and the server could not be reached. Nothing was asked of the
    /// server.
    pub async fn get(&self) -> Result<Checkout, Error> {
        let inner = &self.inner;
        let began = Instant::now();
        let permit = timeout(inner.settings.wait, Arc::clone(&inner.permits).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(Error::exhausted(inner.settings.wait).at(&inner.server)) };
        let pooled = match inner.take_idle().await {
            Some(pooled) => pooled,
            None => {
                let left = inner.settings.wait.saturating_sub(began.elapsed());
                let late = |_| Error::deadline(Phase::Checkout, inner.settings.wait).at(&inner.server);
                timeout(left, inner.open()).await.map_err(late)??
            }
        };
        Ok(Checkout { pool: Arc::clone(inner), pooled: Some(pooled), permit: Some(permit) })
    }

    /// No connection that is open now is given out again. Those in use end when they come back.
    pub fn retire_all(&self) {
        let retired = {
            let mut shelf = self.inner.shelf.lock();
            shelf.generation += 1;
            mem::take(&mut shelf.idle)
        };
        drop(retired);
        self.inner.changed.notify_one();
    }

    /// Where they lead.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.inner.server
    }
}

impl Drop for ServerPool {
    fn drop(&mut self) {
        self.keeper.abort();
        let mut shelf = self.inner.shelf.lock();
        shelf.closed = true;
        let idle = mem::take(&mut shelf.idle);
        drop(shelf);
        drop(idle);
    }
}

impl Inner {
    async fn open(&self) -> Result<Pooled, Error> {
        let generation = self.shelf.lock().generation;
        let (connection, _) = connect(&self.server, self.reach.as_ref()).await?;
        Ok(Pooled { connection, generation, due: Instant::now() + jittered(self.settings.lifetime) })
    }

    /// The one that was used last: the others have a chance to be left alone and end. One that is on its way back is
    /// waited for, as that is nothing beside opening one.
    async fn take_idle(&self) -> Option<Pooled> {
        loop {
            let mut returned = pin!(self.returned.notified());
            returned.as_mut().enable();
            {
                let mut shelf = self.shelf.lock();
                while let Some(pooled) = shelf.idle.pop() {
                    if !pooled.connection.is_closed() {
                        return Some(pooled);
                    }
                }
                if shelf.returning == 0 {
                    return None;
                }
            }
            returned.await;
        }
    }

    fn put(&self, pooled: Pooled) {
        let mut shelf = self.shelf.lock();
        let ended = shelf.closed || pooled.generation != shelf.generation || pooled.connection.is_closed();
        if ended || pooled.due <= Instant::now() {
            drop(shelf);
            drop(pooled);
        } else {
            shelf.idle.push(pooled);
        }
    }

    /// Back on the shelf, in order or not at all.
    async fn take_back(&self, pooled: Pooled) {
        let in_order = pooled.connection.middle().await == Middle::Nothing;
        let untidy = if in_order {
            self.put(pooled);
            None
        } else {
            Some(pooled)
        };
        self.shelf.lock().returning -= 1;
        self.returned.notify_waiters();
        if let Some(pooled) = untidy {
            // What is still running is waited for; a transaction that is open ends, and outside of one this does nothing.
            let ended = timeout(TIDY, pooled.connection.batch_execute("ROLLBACK")).await;
            if matches!(ended, Ok(Ok(()))) && pooled.connection.middle().await == Middle::Nothing {
                self.put(pooled);
            }
        }
    }

    /// Connections that exist or are being opened.
    fn open_connections(&self, shelf: &Shelf) -> usize {
        shelf.idle.len() + self.settings.most_open.max(1).saturating_sub(self.permits.available_permits())
    }
}

/// Opens what is missing and replaces what is due, until the pool is dropped.
async fn keep(inner: Arc<Inner>) {
    let mut pause = FIRST_PAUSE;
    loop {
        match replace_one(&inner).await {
            Ok(true) => {
                pause = FIRST_PAUSE;
                continue;
            }
            Ok(false) => {
                pause = FIRST_PAUSE;
                let changed = inner.changed.notified();
                let _ = timeout(LOOK_AFTER, changed).await;
            }
            Err(error) => {
                debug!("cannot open a connection for the pool: {error}");
                sleep(jittered(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Opens one connection, if one is missing or due; whether it was.
async fn replace_one(inner: &Inner) -> Result<bool, Error> {
    // Whoever waits for a connection comes first.
    let Ok(_permit) = Arc::clone(&inner.permits).try_acquire_owned() else { return Ok(false) };
    let replaced = {
        let mut shelf = inner.shelf.lock();
        shelf.idle.retain(|pooled| !pooled.connection.is_closed());
        let now = Instant::now();
        let due = shelf.idle.iter().position(|pooled| pooled.due <= now);
        // The permit for this one is among them.
        let open = inner.open_connections(&shelf) - 1;
        let wanted = inner.settings.kept_idle.min(inner.settings.most_open);
        match due {
            // More than are kept: it is not replaced.
            Some(index) if open > wanted => {
                let pooled = shelf.idle.swap_remove(index);
                drop(shelf);
                drop(pooled);
                return Ok(true);
            }
            Some(index) => Some(shelf.idle.swap_remove(index)),
            None if open < wanted => None,
            None => return Ok(false),
        }
    };
    match inner.open().await {
        Ok(opened) => inner.put(opened),
        Err(error) => {
            // Better an old one than none.
            if let Some(mut pooled) = replaced {
                pooled.due = Instant::now() + LONGEST_PAUSE;
                inner.put(pooled);
            }
            return Err(error);
        }
    }
    Ok(true)
}

impl Checkout {
    /// What a statement on this connection gave within `deadline`; a connection that it ended does not go back.
    pub(crate) fn gave<T>(
        &mut self,
        result: Result<Result<T, tokio_postgres::Error>, Elapsed>,
        deadline: Duration,
    ) -> Result<T, Error> {
        let error = match result {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Error::database(Phase::Statement, error),
            Err(_) => Error::deadline(Phase::Statement, deadline),
        };
        if error.ended_the_connection()
            && let Some(pooled) = &mut self.pooled
        {
            pooled.due = Instant::now();
        }
        Err(error.at(&self.pool.server))
    }
}

impl Deref for Checkout {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.pooled.as_ref().expect("taken away by nothing but the end").connection
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let (pooled, permit) = (self.pooled.take(), self.permit.take());
        match pooled {
            Some(pooled) if pooled.due > Instant::now() && !pooled.connection.is_closed() => {
                let pool = Arc::clone(&self.pool);
                pool.shelf.lock().returning += 1;
                self.pool.runtime.spawn(async move {
                    pool.take_back(pooled).await;
                    // Only now is there room for one more.
                    drop(permit);
                    pool.changed.notify_one();
                });
            }
            ended => {
                drop((ended, permit));
                self.pool.changed.notify_one();
            }
        }
    }
}

impl fmt::Debug for ServerPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.inner;
        let mut fields = formatter.debug_struct("ServerPool");
        fields.field("server", &inner.server).field("settings", &inner.settings).finish_non_exhaustive()
    }
}

impl fmt::Debug for Checkout {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Checkout").field("server", &self.pool.server).finish_non_exhaustive()
    }
}
