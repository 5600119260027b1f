//! What must happen after a run however it ended: uploads aborted, objects deleted. Also when nobody waits any more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::Method;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::answer::Entry;
use super::failure::{Failure, Step};
use super::line::Line;
use super::meter::Sent;
use super::random;
use super::request::Call;
use super::store::Store;
use super::troubles::Troubles;

/// Keys of all objects begin so; a UUID follows.
const PREFIX: &str = "speed-test/";
/// Of those that are to stay.
const KEPT: &str = "speed-test/kept/";
/// Younger ones may belong to a run that goes on.
const LEFT_BEHIND: Duration = Duration::from_secs(24 * 60 * 60);

/// The key of a new object.
pub(super) fn key(keep: bool) -> String {
    format!("{}{}", if keep { KEPT } else { PREFIX }, random::uuid())
}

/// Does the work of runs that were dropped, on the runtime they were dropped on.
#[derive(Clone, Default)]
pub struct Janitor(Arc<Mutex<Work>>);

#[derive(Default)]
struct Work {
    tasks: JoinSet<()>,
    /// Some of it came to nothing.
    failed: bool,
}

impl Janitor {
    /// With nothing to do.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until all is tidy, or `limit` is over. False: something may be left in the store.
    pub async fn finish(&self, limit: Duration) -> bool {
        let mut tasks = std::mem::take(&mut self.work().tasks);
        let ended = tokio::time::timeout(limit, async { while tasks.join_next().await.is_some() {} }).await;
        ended.is_ok() && !std::mem::take(&mut self.work().failed)
    }

    /// Something could not be removed.
    pub(super) fn failed(&self, failure: &Failure, key: &str) {
        let later = if is_swept(key) { "a later run removes it after a day" } else { "no later run removes it" };
        tracing::warn!(%failure, key, later, "storage: left behind");
        self.work().failed = true;
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn later(&self, work: impl Future<Output = ()> + Send + 'static) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            tracing::warn!(
                "storage: the process ends with an upload in the store; unless it was to be kept, a later run removes it after a day"
            );
            return;
        };
        let tasks = &mut self.work().tasks;
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(work, &runtime);
    }
}

/// What is in the store because of a run, until it is removed or kept on purpose.
pub(super) struct Left {
    janitor: Janitor,
    store: Arc<Store>,
    key: String,
    state: State,
    /// An answer was lost that may have named an upload.
    unnamed: bool,
}

enum State {
    Nothing,
    Upload(String),
    /// An upload whose parts are being joined: it may be an object by now.
    Completing(String),
    Object,
}

impl Left {
    /// Nothing yet.
    pub(super) fn new(store: &Arc<Store>, janitor: &Janitor, key: &str) -> Self {
        Self {
            janitor: janitor.clone(),
            store: store.clone(),
            key: key.to_owned(),
            state: State::Nothing,
            unnamed: false,
        }
    }

    /// A request goes out that begins an upload.
    pub(super) fn beginning(&mut self) {
        self.unnamed = true;
    }

    /// None was begun that has no name.
    pub(super) fn all_named(&mut self) {
        self.unnamed = false;
    }

    pub(super) fn upload(&mut self, id: &str) {
        self.state = State::Upload(id.to_owned());
    }

    pub(super) fn completing(&mut self, id: &str) {
        self.state = State::Completing(id.to_owned());
    }

    pub(super) fn object(&mut self) {
        self.state = State::Object;
    }

    /// The object is wanted.
    pub(super) async fn keep(mut self) -> Result<(), Failure> {
        self.state = State::Nothing;
        self.remove().await
    }

    /// Removes it and waits for that; what fails is told, and left to the sweep of a later run.
    pub(super) async fn remove(mut self) -> Result<(), Failure> {
        let removed = remove(&self.store, &self.key, &self.state, self.unnamed).await;
        // Not before: who is dropped while it waits leaves it to the janitor.
        (self.state, self.unnamed) = (State::Nothing, false);
        removed
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Nothing);
        let unnamed = self.unnamed;
        if matches!(state, State::Nothing) && !unnamed {
            return;
        }
        let (store, key, janitor) = (self.store.clone(), std::mem::take(&mut self.key), self.janitor.clone());
        self.janitor.later(async move {
            if let Err(failure) = remove(&store, &key, &state, unnamed).await {
                janitor.failed(&failure, &key);
            }
        });
    }
}

async fn remove(store: &Arc<Store>, key: &str, state: &State, unnamed: bool) -> Result<(), Failure> {
    let mut line = Line::new(store, &Troubles::default());
    match state {
        State::Nothing => {}
        State::Upload(id) => abort(&mut line, key, id).await?,
        State::Completing(id) => {
            abort(&mut line, key, id).await?;
            delete(&mut line, key).await?;
        }
        State::Object => delete(&mut line, key).await?,
    }
    if unnamed {
        let uploads = line.ask(Step::List, 0, || list("uploads", key)).await?.answer();
        for entry in uploads.entries("Upload").filter(|entry| entry.field("Key") == Some(key)) {
            abort(&mut line, key, entry.field("UploadId").unwrap_or_default()).await?;
        }
    }
    Ok(())
}

/// Multipart uploads by `uploads`, objects by `list-type`.
fn list(what: &'static str, prefix: &str) -> (Call, Option<Sent>) {
    let call = Call::new(Method::GET, None).query(what, if what == "uploads" { "" } else { "2" });
    (call.query("prefix", prefix), None)
}

async fn abort(line: &mut Line, key: &str, id: &str) -> Result<(), Failure> {
    let call = || (Call::new(Method::DELETE, Some(key)).query("uploadId", id), None);
    gone(line.ask(Step::Abort, 0, call).await.map(drop))
}

async fn delete(line: &mut Line, key: &str) -> Result<(), Failure> {
    gone(line.ask(Step::Delete, 0, || (Call::new(Method::DELETE, Some(key)), None)).await.map(drop))
}

/// What is not there need not be removed.
fn gone(result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(failure) if matches!(failure.code(), "NoSuchUpload" | "NoSuchKey") => Ok(()),
        result => result,
    }
}

/// What earlier runs left, and this one removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// Multipart uploads that were neither completed nor aborted.
    pub uploads: u32,
    /// Objects.
    pub objects: u32,
}

/// Removes what runs left for more than a day, at most a thousand of each kind: no object that was kept on purpose, and nothing
/// whose key is not as runs make them. What failed is told beside: keys may be allowed to write and not to list, and
/// not every store lists uploads.
pub async fn sweep(store: &Arc<Store>) -> (Swept, Vec<Failure>) {
    let mut line = Line::new(store, &Troubles::default());
    let mut swept = Swept::default();
    let uploads = sweep_uploads(&mut line, &mut swept).await;
    let objects = sweep_objects(&mut line, &mut swept).await;
    (swept, [uploads, objects].into_iter().filter_map(Result::err).collect())
}

async fn sweep_uploads(line: &mut Line, swept: &mut Swept) -> Result<(), Failure> {
    let uploads = line.ask(Step::List, 0, || list("uploads", PREFIX)).await?.answer();
    for entry in uploads.entries("Upload").filter(|entry| is_left(entry, is_of_a_run, "Initiated")) {
        if let Some((key, id)) = entry.field("Key").zip(entry.field("UploadId")) {
            abort(line, key, id).await?;
            swept.uploads += 1;
        }
    }
    Ok(())
}

async fn sweep_objects(line: &mut Line, swept: &mut Swept) -> Result<(), Failure> {
    let objects = line.ask(Step::List, 0, || list("list-type", PREFIX)).await?.answer();
    for entry in objects.entries("Contents").filter(|entry| is_left(entry, is_swept, "LastModified")) {
        if let Some(key) = entry.field("Key") {
            delete(line, key).await?;
            swept.objects += 1;
        }
    }
    Ok(())
}

/// Ours, and an object of it is not to be kept.
fn is_swept(key: &str) -> bool {
    key.strip_prefix(PREFIX).is_some_and(random::is_uuid)
}

/// Ours: an upload that did not become an object is of no use, whatever the object was for.
fn is_of_a_run(key: &str) -> bool {
    is_swept(key) || key.strip_prefix(KEPT).is_some_and(random::is_uuid)
}

/// Ours by its key, and old. What has no time that can be read stays.
fn is_left(entry: &Entry<'_>, ours: fn(&str) -> bool, time: &str) -> bool {
    let age = entry
        .field(time)
        .and_then(|time| humantime::parse_rfc3339_weak(time).ok())
        .and_then(|time| SystemTime::now().duration_since(time).ok());
    entry.field("Key").is_some_and(ours) && age.is_some_and(|age| age > LEFT_BEHIND)
}
