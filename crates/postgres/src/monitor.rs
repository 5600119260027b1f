//! Watches one server: one connection, one question per interval.
//!
//! The answer, or that there is none, stands in a [`watch`] channel. When the connection is lost the server is asked again
//! at once over another; a server that refuses that is down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::connect::{Connection, connect};
use crate::error::{Error, Phase};
use crate::jitter::jittered;
use crate::observation::{LOOK, Observation, Observed};
use crate::reach::Reach;
use crate::server::Server;

/// How a server is watched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MonitorSettings {
    /// From one question to the next. What was seen 5 s ago counts no more, so it is well below that.
    pub interval: Duration,
    /// Longest time for an answer, and for a connect.
    pub deadline: Duration,
}

/// A change of role is to be seen within 2 s, everywhere: one interval, and the longest round trip.
const INTERVAL: Duration = Duration::from_secs(1);
/// A few of the longest round trips, with a lost packet among them.
const DEADLINE: Duration = Duration::from_secs(2);
/// The first pause after a connect that failed; each further one is twice as long, up to an interval.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// What a round trip counts in the smoothed one.
const SMOOTHING: u32 = 8;
/// How the server's list of sessions shows a monitor.
const APPLICATION: &str = "edgeproxy monitor";

impl Default for MonitorSettings {
    fn default() -> Self {
        Self { interval: INTERVAL, deadline: DEADLINE }
    }
}

/// One server, watched until this is dropped.
#[derive(Debug)]
pub struct Monitor {
    observed: watch::Receiver<Observed>,
    now: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Monitor {
    /// Begins to watch. Until the first answer the server counts as down.
    #[must_use]
    pub fn start(server: Server, reach: Arc<dyn Reach>, settings: MonitorSettings) -> Self {
        let (said, observed) = watch::channel(Observed::Down("not asked yet".into()));
        let now = Arc::new(Notify::new());
        let mut server = server.application(APPLICATION);
        server.connect_timeout = settings.deadline;
        let watcher = Watcher { server, reach, settings, said, now: Arc::clone(&now), round_trip: None };
        Self { observed, now, task: tokio::spawn(watcher.run()) }
    }

    /// What is known, now and as it changes.
    #[must_use]
    pub fn observed(&self) -> watch::Receiver<Observed> {
        self.observed.clone()
    }

    /// Asks at once, since something does not agree with what is known.
    pub fn look_now(&self) {
        self.now.notify_one();
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watcher {
    server: Server,
    reach: Arc<dyn Reach>,
    settings: MonitorSettings,
    said: watch::Sender<Observed>,
    now: Arc<Notify>,
    round_trip: Option<Duration>,
}

impl Watcher {
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        // The last connection was lost after a single answer.
        let mut was_short = false;
        loop {
            let why = match connect(&self.server, self.reach.as_ref()).await {
                Err(error) => error,
                Ok((connection, _)) => match self.watch(&connection).await {
                    // It answered over this connection: whether it still does, the next connect tells.
                    (answers, error) if answers > 0 && error.kind() == "connection_lost" => {
                        let is_short = answers == 1;
                        if is_short && was_short {
                            // One that ends every connection is no reason to hurry.
                            sleep(jittered(pause)).await;
                            pause = (pause * 2).min(self.settings.interval);
                        } else {
                            pause = FIRST_PAUSE;
                        }
                        was_short = is_short;
                        continue;
                    }
                    (_, error) => error,
                },
            };
            self.said.send_replace(Observed::Down(why.to_string().into()));
            tokio::select! {
                () = sleep(jittered(pause)) => pause = (pause * 2).min(self.settings.interval),
                () = self.now.notified() => pause = FIRST_PAUSE,
            }
        }
    }

    /// Asks and tells, until that fails; with the number of answers.
    async fn watch(&mut self, connection: &Connection) -> (u64, Error) {
        let mut answers = 0;
        loop {
            match self.look(connection).await {
                Ok(observation) => self.said.send_replace(Observed::Up(observation)),
                Err(error) => return (answers, error.at(&self.server)),
            };
            answers += 1;
            tokio::select! {
                () = sleep(self.settings.interval) => {}
                () = self.now.notified() => {}
                () = connection.lost() => {
                    let lost = std::io::ErrorKind::ConnectionAborted.into();
                    return (answers, Error::io(Phase::Statement, lost).at(&self.server));
                }
            }
        }
    }

    async fn look(&mut self, connection: &Connection) -> Result<Observation, Error> {
        let asking = async {
            let statement = connection.prepared(LOOK, &[]).await?;
            let at = Instant::now();
            let row = connection.query_one(&statement, &[]).await?;
            Ok::<_, tokio_postgres::Error>((row, at, at.elapsed()))
        };
        let (row, at, round_trip) = timeout(self.settings.deadline, asking)
            .await
            .map_err(|_| Error::deadline(Phase::Statement, self.settings.deadline))?
            .map_err(|error| Error::database(Phase::Statement, error))?;
        let smoothed = match self.round_trip {
            None => round_trip,
            Some(before) => before * (SMOOTHING - 1) / SMOOTHING + round_trip / SMOOTHING,
        };
        self.round_trip = Some(smoothed);
        Observation::from_row(&row, at, smoothed).map_err(|error| Error::database(Phase::Statement, error))
    }
}
