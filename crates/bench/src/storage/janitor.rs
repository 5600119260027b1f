//! What must happen after a run however it ended: uploads aborted, objects deleted. Also when nobody waits any more.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::Method;
use parking_lot::Mutex;
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

/// Does the work of runs that were dropped, on the runtime they were dropped on, and tells what stays in the store against
/// its will.
#[derive(Clone)]
pub struct Janitor {
    tasks: Arc<Mutex<JoinSet<()>>>,
    tell: Arc<dyn Fn(String) + Send + Sync>,
}

impl Janitor {
    /// With nothing to do; `tell` gets a sentence for each object or upload that could not be removed.
    #[must_use]
    pub fn new(tell: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self { tasks: Arc::default(), tell: Arc::new(tell) }
    }

    /// Waits until nothing is to be removed any more, and gives up after `limit`, which is told as well.
    pub async fn finish(&self, limit: Duration) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        let ended = tokio::time::timeout(limit, async { while tasks.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            (self.tell)(format!(
                "something may be left under {PREFIX} in the store: it was not removed within {limit:?}"
            ));
        }
    }

    fn later(&self, work: impl Future<Output = ()> + Send + 'static) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            (self.tell)(format!("something is left under {PREFIX} in the store: the process ends"));
            return;
        };
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(work, &runtime);
    }
}

/// What is in the store because of a run, until it is removed or kept on purpose.
pub(super) struct Left {
    janitor: Janitor,
    store: Arc<Store>,
    remains: Remains,
}

/// It, by its name.
struct Remains {
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
        let remains = Remains { key: key.to_owned(), state: State::Nothing, unnamed: false };
        Self { janitor: janitor.clone(), store: store.clone(), remains }
    }

    /// A request goes out that begins an upload.
    pub(super) fn beginning(&mut self) {
        self.remains.unnamed = true;
    }

    /// None was begun that has no name.
    pub(super) fn all_named(&mut self) {
        self.remains.unnamed = false;
    }

    pub(super) fn upload(&mut self, id: &str) {
        self.remains.state = State::Upload(id.to_owned());
    }

    pub(super) fn completing(&mut self, id: &str) {
        self.remains.state = State::Completing(id.to_owned());
    }

    pub(super) fn object(&mut self) {
        self.remains.state = State::Object;
    }

    /// The object is wanted; an upload without a name is not.
    pub(super) async fn keep(mut self) -> Result<(), String> {
        self.remains.state = State::Nothing;
        self.remove().await
    }

    /// Removes it and waits for that. What stays is told, by the error as well.
    pub(super) async fn remove(mut self) -> Result<(), String> {
        let removed = self.remains.remove(&self.store).await;
        // Not before: who is dropped while it waits leaves it to the janitor.
        self.remains.take();
        removed.inspect_err(|stays| (self.janitor.tell)(stays.clone()))
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        let (remains, store, tell) = (self.remains.take(), self.store.clone(), self.janitor.tell.clone());
        if matches!(remains.state, State::Nothing) && !remains.unnamed {
            return;
        }
        self.janitor.later(async move {
            if let Err(stays) = remains.remove(&store).await {
                tell(stays);
            }
        });
    }
}

impl Remains {
    /// Nothing is left in its place.
    fn take(&mut self) -> Self {
        let nothing = Self { key: String::new(), state: State::Nothing, unnamed: false };
        std::mem::replace(self, nothing)
    }

    /// The error says what stays, and why.
    async fn remove(&self, store: &Arc<Store>) -> Result<(), String> {
        self.try_remove(store).await.map_err(|failure| {
            let is_object = matches!(self.state, State::Object | State::Completing(_));
            let later = match is_object && !is_swept(&self.key) {
                true => "no run removes it",
                false => "a run after a day removes it",
            };
            format!("{} is left in the store, {later}: {failure}", self.key)
        })
    }

    async fn try_remove(&self, store: &Arc<Store>) -> Result<(), Failure> {
        let (mut line, key) = (Line::new(store, &Troubles::default()), &self.key);
        match &self.state {
            State::Nothing => {}
            State::Upload(id) => abort(&mut line, key, id).await?,
            State::Completing(id) => {
                abort(&mut line, key, id).await?;
                delete(&mut line, key).await?;
            }
            State::Object => delete(&mut line, key).await?,
        }
        if self.unnamed {
            let uploads = line.ask(Step::List, 0, || list("uploads", key)).await?.answer();
            for entry in uploads.entries("Upload").filter(|entry| entry.field("Key") == Some(key)) {
                abort(&mut line, key, entry.field("UploadId").unwrap_or_default()).await?;
            }
        }
        Ok(())
    }
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
