//! Reads from the nearest server that may answer them, writes to the primary, whoever that is at the moment.
//!
//! ```text
//! write: the primary -> checkout -> statement and token in one flight -> done
//!                                      | read-only: nothing was done, look again, once more on the real primary
//!                                      | lost before anything was sent: again
//!                                      | lost after: it may have committed, and is never sent again
//! read:  nearest that may answer -> checkout -> fence and statement in one flight -> done
//!                                      | behind the token: again, for a moment, then the primary
//!                                      | lost, or taken away by replay: the next one
//! ```

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, select_all};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::Row;
use tracing::{error, info, warn};

use crate::error::{Error, Nowhere, Phase, Retry};
use crate::judge::{Judge, Primary, Standing, Verdict};
use crate::lsn::Token;
use crate::monitor::Monitor;
use crate::observation::Role;
use crate::reach::Reach;
use crate::server::Server;
use crate::server_pool::ServerPool;
use crate::settings::RegionSettings;
use crate::statement::{Answer, Fence, Flight, Statement, run_fenced, run_transaction, run_with_token};

/// A pool over all regions. Clones are the same pool.
#[derive(Clone)]
pub struct RegionPool {
    shared: Arc<Shared>,
}

struct Shared {
    members: Arc<Vec<Member>>,
    settings: RegionSettings,
    verdict: watch::Receiver<Verdict>,
    judging: JoinHandle<()>,
}

struct Member {
    server: Server,
    pool: ServerPool,
    monitor: Monitor,
}

/// What a flight to the primary carries.
#[derive(Clone, Copy)]
enum Work<'a> {
    /// This, on its own.
    One(Statement<'a>),
    /// These, in a transaction.
    All(&'a [Statement<'a>]),
}

/// Which servers may answer a read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReadPolicy {
    /// The nearest that is fresh; if none is, any that answers.
    Any,
    /// One of which it is known that it lags no more than this. What is known is as old as the last look at the servers:
    /// bounds below an interval of that (1 s) are for the primary, mostly.
    MaxLag(Duration),
    /// One that has this write.
    AtLeast(Token),
    /// The primary.
    Primary,
}

/// What a read gave.
#[derive(Debug)]
pub struct Read {
    /// What it returned.
    pub rows: Vec<Row>,
    /// Which server answered: its place in the settings.
    pub server: usize,
    /// What that server is.
    pub role: Role,
}

/// What a write gave.
#[derive(Debug)]
pub struct Written<T> {
    /// What it returned.
    pub answer: T,
    /// What a later read must have replayed to see it. `None`: it is committed, but the connection was lost before the
    /// token came; only the primary has it for certain.
    pub token: Option<Token>,
}

/// Expired observations are noticed at this interval even if nobody says anything.
const JUDGE_AT_LEAST: Duration = Duration::from_secs(1);
/// Between two tries where nothing was done and nothing has changed.
const PAUSE: Duration = Duration::from_millis(100);
/// Between the first two looks at whether a replica has a token; each further pause is twice as long.
const FENCE_PAUSE: Duration = Duration::from_millis(2);

impl RegionPool {
    /// Watches all servers and opens the first connections.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(settings: RegionSettings, reach: &Arc<dyn Reach>) -> Self {
        let member = |server: &Server| Member {
            server: server.clone(),
            pool: ServerPool::new(server.clone(), Arc::clone(reach), settings.pool),
            monitor: Monitor::start(server.clone(), Arc::clone(reach), settings.monitor),
        };
        let members = Arc::new(settings.servers.iter().map(member).collect::<Vec<_>>());
        let standings = vec![Standing::Down; members.len()];
        let (said, verdict) =
            watch::channel(Verdict { primary: Primary::None, timeline: 0, standings, at: Instant::now() });
        let first = 2 * settings.monitor.deadline;
        let judging = tokio::spawn(follow(Arc::clone(&members), Judge::new(settings.limits), first, said));
        Self { shared: Arc::new(Shared { members, settings, verdict, judging }) }
    }

    /// What the servers are, in the order of the settings; now and as it changes.
    #[must_use]
    pub fn verdict(&self) -> watch::Receiver<Verdict> {
        self.shared.verdict.clone()
    }

    /// Runs one statement on the primary, on its own: one round trip, the token included.
    ///
    /// # Errors
    ///
    /// [`Retry::MayHaveCommitted`] where the connection or the time ended after it was sent. It is sent again only where
    /// nothing of it was done, and nothing was done in all other cases.
    pub async fn write(&self, statement: impl Into<Statement<'_>>) -> Result<Written<Answer>, Error> {
        let Written { mut answer, token } = self.flight(Work::One(statement.into())).await?;
        // There is one answer to one statement.
        Ok(Written { answer: answer.pop().unwrap_or_default(), token })
    }

    /// Runs statements on the primary, all or none: one round trip for BEGIN, them, COMMIT and the token.
    ///
    /// # Errors
    ///
    /// The first that failed, none being done; or as [`write`](Self::write).
    pub async fn transaction(&self, statements: &[Statement<'_>]) -> Result<Written<Vec<Answer>>, Error> {
        self.flight(Work::All(statements)).await
    }

    /// Runs a statement that only reads, on a server that may answer it: one round trip. It may be run on others as well
    /// if the first is lost, but not after it took longer than a statement may.
    ///
    /// # Errors
    ///
    /// The statement's own, or that no server may answer.
    pub async fn read(&self, policy: ReadPolicy, statement: impl Into<Statement<'_>>) -> Result<Read, Error> {
        let statement = statement.into();
        let began = Instant::now();
        let mut verdict = self.shared.verdict.clone();
        let mut last = None;
        loop {
            let known = verdict.borrow_and_update().clone();
            let mut behind = false;
            for (asked, (index, fence)) in self.candidates(policy, &known).into_iter().enumerate() {
                if asked > 0 && began.elapsed() >= self.shared.settings.patience {
                    break;
                }
                match self.read_from(index, fence, statement, &mut behind).await {
                    Ok(Some(answer)) => {
                        let replica =
                            matches!(known.standings.get(index), Some(Standing::Fresh(_) | Standing::Stale(..)));
                        let role = if replica { Role::Replica } else { Role::Primary };
                        return Ok(Read { rows: answer.rows, server: index, role });
                    }
                    Ok(None) => {}
                    // What one server did not get done in all that time, the next is spared.
                    Err(error) if error.is_deadline_of_a_statement() => return Err(error),
                    Err(error) if error.retry() == Retry::Elsewhere && !error.is_read_only() => {
                        self.look_now();
                        last = Some(error);
                    }
                    Err(error) => return Err(error),
                }
            }
            let left = self.shared.settings.patience.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Err(last.unwrap_or_else(|| nowhere(policy, &known)));
            }
            if behind {
                self.look_now();
            }
            let _ = timeout(left.min(PAUSE), verdict.changed()).await;
        }
    }

    /// A write of one flight: see the head of this module.
    async fn flight(&self, work: Work<'_>) -> Result<Written<Vec<Answer>>, Error> {
        let began = Instant::now();
        let mut refused = false;
        loop {
            let left = self.shared.settings.patience.saturating_sub(began.elapsed());
            let index = self.primary(left).await?;
            let Some(member) = self.shared.members.get(index) else { return Err(Error::nowhere(Nowhere::NoPrimary)) };
            let again = |error: Error| {
                self.look_now();
                if left.is_zero() { Err(error) } else { Ok(()) }
            };
            let mut connection = match member.pool.get().await {
                Ok(connection) => connection,
                Err(error) if error.kind() == "pool_timeout" => return Err(error),
                Err(error) => {
                    again(error)?;
                    sleep(left.min(PAUSE)).await;
                    continue;
                }
            };
            // The wait for a connection may have been long enough for another to become the primary. From this look on
            // nothing is waited for until the statements are on their way.
            if self.shared.verdict.borrow().standings.get(index) != Some(&Standing::Primary) {
                again(Error::nowhere(Nowhere::NoPrimary))?;
                continue;
            }
            let before = connection.written();
            let deadline = self.shared.settings.statement;
            let ended = match work {
                Work::One(statement) => timeout(deadline, run_with_token(&connection, statement)).await,
                Work::All(statements) => timeout(deadline, run_transaction(&connection, statements)).await,
            };
            let error = match connection.gave(ended, deadline) {
                Ok(Flight::Done(answer, token)) => return Ok(Written { answer, token }),
                Ok(Flight::NotBegun(error)) => {
                    let error = Error::database(Phase::Statement, error).at(&member.server);
                    return Err(error.may_have_committed());
                }
                Err(error) => error,
            };
            if error.is_read_only() {
                let believed = self.look_again().await;
                if refused || believed == Some(index) || believed.is_none() {
                    return Err(error);
                }
                refused = true;
            } else if !error.ended_the_connection() {
                return Err(error);
            } else if connection.is_closed() && connection.written() == before {
                // It was lost while it lay idle: nothing has left this machine.
                again(error)?;
            } else {
                self.look_now();
                return Err(error.may_have_committed());
            }
        }
    }

    /// Who may answer, in the order in which to ask; and what they must be found to be.
    fn candidates(&self, policy: ReadPolicy, verdict: &Verdict) -> Vec<(usize, Fence)> {
        let now = Instant::now();
        let may = |standing: &Standing| match (policy, standing) {
            (ReadPolicy::Primary, _) => false,
            (ReadPolicy::MaxLag(most), Standing::Fresh(lag) | Standing::Stale(_, Some(lag))) => {
                lag.staleness(now) <= most
            }
            (ReadPolicy::AtLeast(token), Standing::Fresh(_) | Standing::Stale(..)) => {
                token.timeline == verdict.timeline
            }
            (_, Standing::Fresh(_)) => true,
            _ => false,
        };
        let primary = match verdict.primary {
            Primary::One(index) => Some(index),
            Primary::None | Primary::Disputed(_) => None,
        };
        let all = || 0..verdict.standings.len();
        let is = |index: usize, may: &dyn Fn(&Standing) -> bool| verdict.standings.get(index).is_some_and(may);
        let mut order: Vec<usize> = all().filter(|&index| Some(index) == primary || is(index, &may)).collect();
        // In our own region a replica spares the primary; elsewhere whoever is nearer.
        order.sort_by_key(|&index| {
            let (far, round_trip) = self.distance(index);
            (far, !far && Some(index) == primary, round_trip)
        });
        match policy {
            ReadPolicy::Any => {
                let mut stale: Vec<usize> =
                    all().filter(|&index| is(index, &|standing| matches!(standing, Standing::Stale(..)))).collect();
                stale.sort_by_key(|&index| self.distance(index));
                order.extend(stale);
            }
            // If the nearest does not have it yet, the primary has it for certain.
            ReadPolicy::AtLeast(_) => {
                if let Some(at) = order.iter().position(|&index| Some(index) == primary) {
                    let primary = order.remove(at);
                    order.insert(at.min(1), primary);
                }
            }
            ReadPolicy::MaxLag(_) | ReadPolicy::Primary => {}
        }
        let fence = |index| match policy {
            ReadPolicy::AtLeast(token) => Fence::Reached(token),
            ReadPolicy::Primary => Fence::Primary(verdict.timeline),
            // That it lags no more than that is known of a primary only as long as it is one.
            ReadPolicy::MaxLag(_) if Some(index) == primary => Fence::Primary(verdict.timeline),
            ReadPolicy::Any | ReadPolicy::MaxLag(_) => Fence::None,
        };
        order.into_iter().map(|index| (index, fence(index))).collect()
    }

    /// Whether it is in another region, and how long an answer takes from there.
    fn distance(&self, index: usize) -> (bool, Duration) {
        let Some(member) = self.shared.members.get(index) else { return (true, Duration::MAX) };
        let here = &self.shared.settings.region;
        let near = here.is_some() && *here == member.server.region;
        let observed = member.monitor.observed();
        let round_trip = observed.borrow().up().map_or(Duration::MAX, |seen| seen.round_trip);
        (!near, round_trip)
    }

    /// One server's answer; `None` if it may not give one.
    async fn read_from(
        &self,
        index: usize,
        fence: Fence,
        statement: Statement<'_>,
        behind: &mut bool,
    ) -> Result<Option<Answer>, Error> {
        let Some(member) = self.shared.members.get(index) else { return Ok(None) };
        let settings = &self.shared.settings;
        let reading = async {
            let began = Instant::now();
            let mut pause = FENCE_PAUSE;
            loop {
                let mut connection = member.pool.get().await?;
                let left = match fence {
                    Fence::Reached(_) => settings.fence_wait.saturating_sub(began.elapsed()),
                    Fence::None | Fence::Primary(_) => Duration::ZERO,
                };
                let answer = timeout(settings.statement, run_fenced(&connection, fence, statement, left)).await;
                let answer = connection.gave(answer, settings.statement)?;
                if answer.is_some() {
                    return Ok(answer);
                }
                *behind = true;
                let left = settings.fence_wait.saturating_sub(began.elapsed());
                if left.is_zero() || !matches!(fence, Fence::Reached(_)) {
                    return Ok(None);
                }
                drop(connection);
                sleep(pause.min(left)).await;
                pause *= 2;
            }
        };
        // The monitor waits less long for an answer than a statement may take.
        let mut verdict = self.shared.verdict.clone();
        let down = verdict.wait_for(|verdict| verdict.standings.get(index) == Some(&Standing::Down));
        tokio::select! {
            answer = reading => answer,
            _ = down => {
                let lost = std::io::ErrorKind::ConnectionAborted.into();
                Err(Error::io(Phase::Statement, lost).at(&member.server))
            }
        }
    }

    /// The primary, as soon as there is one.
    async fn primary(&self, patience: Duration) -> Result<usize, Error> {
        let mut verdict = self.shared.verdict.clone();
        let one = |verdict: &Verdict| matches!(verdict.primary, Primary::One(_));
        let known = match timeout(patience, pin!(verdict.wait_for(one))).await {
            Ok(Ok(known)) => known.primary.clone(),
            _ => self.shared.verdict.borrow().primary.clone(),
        };
        match known {
            Primary::One(index) => Ok(index),
            Primary::None => Err(Error::nowhere(Nowhere::NoPrimary)),
            Primary::Disputed(_) => Err(Error::nowhere(Nowhere::Disputed)),
        }
    }

    fn look_now(&self) {
        for member in self.shared.members.iter() {
            member.monitor.look_now();
        }
    }

    /// Who is the primary after all were asked again, since one did not behave like it.
    async fn look_again(&self) -> Option<usize> {
        let began = Instant::now();
        self.look_now();
        let told = async {
            for member in self.shared.members.iter() {
                let mut observed = member.monitor.observed();
                let _ = observed.wait_for(|observed| observed.up().is_none_or(|seen| seen.at >= began)).await;
            }
            let all_told = Instant::now();
            let _ = self.shared.verdict.clone().wait_for(|verdict| verdict.at >= all_told).await;
        };
        let _ = timeout(self.shared.settings.patience, told).await;
        match self.shared.verdict.borrow().primary {
            Primary::One(index) => Some(index),
            Primary::None | Primary::Disputed(_) => None,
        }
    }
}

fn nowhere(policy: ReadPolicy, verdict: &Verdict) -> Error {
    Error::nowhere(match (policy, &verdict.primary) {
        (ReadPolicy::Any, _) => Nowhere::NoServer,
        (_, Primary::Disputed(_)) => Nowhere::Disputed,
        (ReadPolicy::AtLeast(_), Primary::One(_)) => Nowhere::NotReached,
        _ => Nowhere::NoPrimary,
    })
}

/// Judges whenever a monitor has something to say, and ends the connections of whoever takes no writes any more.
///
/// Not before all have said something, or `first` is over: whoever answers first could be a primary of long ago.
async fn follow(members: Arc<Vec<Member>>, mut judge: Judge<usize>, first: Duration, said: watch::Sender<Verdict>) {
    let mut observed: Vec<_> = members.iter().map(|member| member.monitor.observed()).collect();
    if observed.is_empty() {
        return;
    }
    let _ = timeout(first, join_all(observed.iter_mut().map(watch::Receiver::changed))).await;
    loop {
        let now = Instant::now();
        let seen: Vec<_> = observed.iter_mut().map(|one| one.borrow_and_update().clone()).enumerate().collect();
        let verdict = judge.judge(&seen, now);
        let before = said.send_replace(verdict.clone());
        for ((member, was), is) in members.iter().zip(&before.standings).zip(&verdict.standings) {
            // Of one that is gone, all connections are, whether they know it or not.
            let gone = *is == Standing::Down && *was != Standing::Down;
            if gone || (*was == Standing::Primary && *is != Standing::Primary) {
                member.pool.retire_all();
            }
        }
        if before.primary != verdict.primary {
            tell(&members, &verdict, &judge.witnesses());
        }
        let changes = observed.iter_mut().map(|one| Box::pin(one.changed()));
        let _ = timeout(JUDGE_AT_LEAST, select_all(changes)).await;
    }
}

/// `witnesses` are those that were seen on the timeline.
fn tell(members: &[Member], verdict: &Verdict, witnesses: &[usize]) {
    let name = |index: &usize| members.get(*index).map(|member| member.server.to_string()).unwrap_or_default();
    let names = |indices: &[usize]| indices.iter().map(name).collect::<Vec<_>>().join(", ");
    let timeline = verdict.timeline;
    match &verdict.primary {
        Primary::One(index) => info!(primary = name(index), timeline, "the primary"),
        Primary::None => warn!(timeline, seen_on_it = names(witnesses), "no primary is known"),
        Primary::Disputed(claimants) => {
            let claimants = names(claimants);
            error!(claimants, timeline, "two primaries on one timeline; neither is asked");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.judging.abort();
    }
}

impl fmt::Debug for RegionPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = &self.shared;
        let mut fields = formatter.debug_struct("RegionPool");
        fields.field("settings", &shared.settings).field("verdict", &*shared.verdict.borrow()).finish_non_exhaustive()
    }
}
