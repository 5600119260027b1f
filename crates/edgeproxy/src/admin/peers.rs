//! The peers that a gateway hands out.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use edgeproxy_gateway::{AddressError, Created, End, Gateway, GatewayError, Shown, wg_quick};
use edgeproxy_store::peers::{PeerFilter, PeerId, PeersError};
use edgeproxy_tunnel::PublicKey;
use serde::{Deserialize, Serialize};

use super::caller::Caller;
use super::idempotency::{self, Claim, NothingDone};
use super::input::{Body, Name, Parameters};
use super::page::{self, Page};
use super::peer_fields::PeerFields;
use super::problem::Problem;
use super::secret::{self, Secret};
use super::{Api, off_thread, to_the_end};
use crate::config::Scope;

/// Peers of one batch, at most.
const BATCH_MOST: usize = 1000;
/// Peers that a dry run tells of, at most.
const TOLD_MOST: usize = 1000;
/// Numbers of peers end here, as those of the file's rows do.
const LAST_NUMBER: u64 = i64::MAX as u64;
/// How long a replaced key may count.
const OVERLAP_MOST: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a replaced key counts where nobody says otherwise.
const OVERLAP: Duration = Duration::from_secs(600);

/// A peer as the API shows it.
#[derive(Serialize)]
pub(super) struct Item {
    id: String,
    public_key: String,
    name: Option<String>,
    region: Option<String>,
    tags: Vec<String>,
    addresses: Vec<String>,
    prefixes: Vec<String>,
    created: String,
    expires: Option<String>,
    idle_ttl_s: Option<u64>,
    keep: bool,
    /// Whether a secret is mixed into its handshakes.
    preshared: bool,
    /// The key it had before, while it counts.
    former_public_key: Option<String>,
    /// The gateway has or had a session with it and remembers.
    awake: bool,
    last_handshake: Option<String>,
    endpoint: Option<String>,
    bytes_received: u64,
    bytes_sent: u64,
    /// The name of the token it was made with.
    owner: Option<String>,
}

/// A new peer, and what it has to be told.
#[derive(Serialize)]
pub(super) struct New {
    #[serde(flatten)]
    peer: Item,
    /// Made here and kept nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preshared_key: Option<Secret>,
    /// A wg-quick file.
    config: Secret,
    /// It was there already, as it is.
    existing: bool,
}

/// What became of one of a batch.
#[derive(Serialize)]
#[serde(untagged)]
enum Outcome {
    Done(Box<New>),
    Failed { status: u16, detail: String, field: Option<String> },
}

/// What became of a batch, in its order.
#[derive(Serialize)]
struct Outcomes {
    items: Vec<Outcome>,
}

impl Outcomes {
    fn into_answer(self) -> Response {
        let holds_key = |outcome: &Outcome| matches!(outcome, Outcome::Done(new) if new.private_key.is_some());
        let mut answer = secret::answer(StatusCode::OK, &self, self.items.iter().any(holds_key));
        let statuses = self.items.iter().map(|outcome| match outcome {
            Outcome::Done(_) => None,
            Outcome::Failed { status, .. } => Some(*status),
        });
        // Where some were done, whoever asks again has to be told of those.
        if statuses.clone().all(|status| status.is_some()) && statuses.flatten().any(|status| status >= 500) {
            answer.extensions_mut().insert(NothingDone);
        }
        answer
    }
}

impl Item {
    pub(super) fn of(shown: &Shown) -> Self {
        let (peer, row) = (&shown.peer, &shown.peer.row);
        let addresses = row.v4.iter().map(ToString::to_string).chain(row.v6.iter().map(ToString::to_string));
        Self {
            id: row.id.to_string(),
            public_key: row.public.to_string(),
            name: peer.name.clone(),
            region: peer.region.clone(),
            tags: peer.tags.clone(),
            addresses: addresses.collect(),
            prefixes: row.prefixes.iter().map(ToString::to_string).collect(),
            created: time(row.created),
            expires: row.expires.map(time),
            idle_ttl_s: row.idle,
            keep: row.keep,
            preshared: row.preshared.is_set(),
            former_public_key: row.former.map(|former| former.public.to_string()),
            awake: shown.awake.is_some(),
            last_handshake: row.handshake.map(time),
            endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
            bytes_received: peer.received,
            bytes_sent: peer.sent,
            owner: peer.owner.clone(),
        }
    }
}

impl New {
    fn of(created: Created, api: &Api, gateway: &Gateway) -> Self {
        let Created { peer, private, existing } = created;
        let config = wg_quick(&peer.row, private.as_ref(), &api.running.bearings(gateway));
        let preshared = &peer.row.preshared;
        Self {
            private_key: private.map(|private| Secret(private.to_base64())),
            preshared_key: preshared.is_set().then(|| Secret(preshared.to_base64())),
            config: Secret(config),
            existing,
            peer: Item { awake: gateway.is_awake(&peer.row), ..Item::of(&Shown { peer, awake: None }) },
        }
    }

    fn into_answer(self, status: StatusCode) -> Response {
        secret::answer(status, &self, self.private_key.is_some())
    }
}

fn time(seconds: u64) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH);
    // Beyond the year 9999 there is no such text.
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(at.min(last)).to_string()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    limit: Option<String>,
    cursor: Option<String>,
    name: Option<String>,
    region: Option<String>,
    tag: Option<String>,
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Parameters(filter): Parameters<Filter>,
) -> Result<Json<Page<Item>>, Problem> {
    let gateway = gateway(&api)?;
    let limit = page::limit(filter.limit.as_deref())?;
    // Beyond the numbers that the file can have there is nothing.
    let after = filter.cursor.as_deref().map(page::number_of_cursor).transpose()?.unwrap_or(0).min(LAST_NUMBER);
    let wanted = PeerFilter { name: filter.name, region: filter.region, tag: filter.tag };
    let (shown, next) = gateway.page(PeerId(after), limit, wanted).await?;
    let items = off_thread(move || shown.iter().map(Item::of).collect()).await?;
    Ok(Json(Page { items, next: next.map(|next| page::cursor_of_number(next.0)) }))
}

pub(super) async fn show(State(api): State<Arc<Api>>, Name(name): Name) -> Result<Json<Item>, Problem> {
    let gateway = gateway(&api)?;
    let id = find(&gateway, &name)?;
    let shown = gateway.show(id).await?.ok_or_else(|| unknown(&name))?;
    Ok(Json(Item::of(&shown)))
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    Body { value, raw }: Body<PeerFields>,
) -> Result<Response, Problem> {
    caller.take(1)?;
    once(api, &headers, &raw, caller, |api, caller| async move {
        let gateway = gateway(&api)?;
        let request = value.into_request(caller.as_owner())?;
        let created = own(gateway.create(request).await, &caller)?;
        let status = if created.existing { StatusCode::OK } else { StatusCode::CREATED };
        let location = [(header::LOCATION, format!("/api/v1/peers/{}", created.peer.row.id))];
        told(&api, &caller, &created);
        Ok((location, New::of(created, &api, &gateway).into_answer(status)).into_response())
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Batch {
    peers: Vec<PeerFields>,
}

pub(super) async fn create_batch(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    Body { value, raw }: Body<Batch>,
) -> Result<Response, Problem> {
    if value.peers.len() > BATCH_MOST {
        return Err(Problem::field("peers", format!("are more than the {BATCH_MOST} of a batch")));
    }
    caller.take(value.peers.len())?;
    once(api, &headers, &raw, caller, |api, caller| async move {
        let gateway = gateway(&api)?;
        let request = |fields: PeerFields| fields.into_request(caller.as_owner());
        let (requests, broken): (Vec<_>, Vec<_>) =
            value.peers.into_iter().map(request).enumerate().partition(|(_, request)| request.is_ok());
        let (places, requests): (Vec<_>, Vec<_>) =
            requests.into_iter().filter_map(|(at, ok)| Some((at, ok.ok()?))).unzip();
        let created = gateway.create_all(requests).await;
        // A thousand answers take some milliseconds to write.
        let answer = move || {
            let failed = |problem: Problem| {
                let (status, detail, field) = problem.parts();
                api.running.peer_metrics.refused(status);
                Outcome::Failed { status, detail, field }
            };
            let done = |result: Result<Created, GatewayError>| match own(result, &caller) {
                Ok(created) => {
                    told(&api, &caller, &created);
                    Outcome::Done(Box::new(New::of(created, &api, &gateway)))
                }
                Err(problem) => failed(problem),
            };
            let mut outcomes: Vec<_> = places.into_iter().zip(created.into_iter().map(done)).collect();
            outcomes.extend(broken.into_iter().filter_map(|(at, broken)| Some((at, failed(broken.err()?)))));
            outcomes.sort_unstable_by_key(|(at, _)| *at);
            Outcomes { items: outcomes.into_iter().map(|(_, outcome)| outcome).collect() }.into_answer()
        };
        off_thread(answer).await
    })
    .await
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Name(name): Name,
) -> Result<StatusCode, Problem> {
    caller.take(1)?;
    to_the_end(async move {
        let gateway = gateway(&api)?;
        let id = find_to_change(&gateway, &name, &caller).await?;
        gateway.remove(id).await?;
        api.running.peer_metrics.removed();
        tracing::info!(target: "audit", token = caller.name(), from = %caller.from, peer = %id, "peer removed");
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    public_key: Option<String>,
    overlap_s: Option<u64>,
}

pub(super) async fn rotate(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Name(name): Name,
    Body { value, .. }: Body<Rotation>,
) -> Result<Response, Problem> {
    caller.take(1)?;
    to_the_end(async move {
        let gateway = gateway(&api)?;
        let id = find_to_change(&gateway, &name, &caller).await?;
        let public = value.public_key.as_deref().map(|key| super::peer_fields::key("public_key", key)).transpose()?;
        let overlap = value.overlap_s.map_or(OVERLAP, Duration::from_secs);
        if overlap > OVERLAP_MOST {
            return Err(Problem::field("overlap_s", format!("is longer than {} s", OVERLAP_MOST.as_secs())));
        }
        let rotated = gateway.rotate(id, public, overlap).await?;
        if !rotated.existing {
            api.running.peer_metrics.rotated();
            let key = rotated.peer.row.public;
            tracing::info!(
                target: "audit", token = caller.name(), from = %caller.from, peer = %id, public_key = %key, "peer has another key"
            );
        }
        Ok(New::of(rotated, &api, &gateway).into_answer(StatusCode::OK))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Collection {
    #[serde(default)]
    dry_run: bool,
}

/// Peers that ended, or would.
#[derive(Serialize)]
pub(super) struct Collected {
    ended: Vec<EndedPeer>,
    dry_run: bool,
}

#[derive(Serialize)]
struct EndedPeer {
    id: String,
    why: &'static str,
}

pub(super) async fn collect(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Body { value: Collection { dry_run }, .. }: Body<Collection>,
) -> Result<Json<Collected>, Problem> {
    caller.needs(Scope::Manage)?;
    to_the_end(async move {
        let gateway = gateway(&api)?;
        let ended = match dry_run {
            true => off_thread(move || gateway.ending(TOLD_MOST)).await?,
            false => gateway.collect().await,
        };
        if !dry_run {
            let peers = ended.len();
            tracing::info!(target: "audit", token = caller.name(), from = %caller.from, peers, "peers were to be collected");
        }
        let ended = ended.into_iter().map(|(id, why)| EndedPeer { id: id.to_string(), why: word(why) });
        Ok(Json(Collected { ended: ended.collect(), dry_run }))
    })
    .await
}

fn word(end: End) -> &'static str {
    match end {
        End::Expired => "expired",
        End::Idle => "idle",
    }
}

/// Does it once for each key of idempotency, and to its end.
async fn once<F: Future<Output = Result<Response, Problem>> + Send + 'static>(
    api: Arc<Api>,
    headers: &HeaderMap,
    raw: &[u8],
    caller: Caller,
    work: impl FnOnce(Arc<Api>, Caller) -> F,
) -> Result<Response, Problem> {
    let Some(key) = idempotency::key(headers)? else { return to_the_end(work(api, caller)).await };
    // The answer may hold keys: it is for nobody else, whatever they call their requests.
    let key = format!("{} {key}", caller.name().unwrap_or_default());
    match api.answers.claim(&key, raw)? {
        Claim::Answered(answer) => Ok(answer.into_response()),
        Claim::Open(ticket) => {
            let work = work(Arc::clone(&api), caller);
            to_the_end(async move {
                let response = work.await.unwrap_or_else(IntoResponse::into_response);
                Ok(api.answers.settle(ticket, response).await)
            })
            .await
        }
    }
}

/// A peer that was there already is told to whoever may change it: the answer has its preshared key.
fn own(created: Result<Created, GatewayError>, caller: &Caller) -> Result<Created, Problem> {
    let created = created?;
    if created.existing && !caller.may_change(created.peer.owner.as_deref()) {
        return Err(GatewayError::KeyTaken(created.peer.row.public).into());
    }
    Ok(created)
}

fn told(api: &Api, caller: &Caller, created: &Created) {
    let row = &created.peer.row;
    if !created.existing {
        api.running.peer_metrics.created();
        let (name, from) = (&created.peer.name, caller.from);
        tracing::info!(
            target: "audit", token = caller.name(), %from, peer = %row.id, public_key = %row.public, name, "peer created"
        );
    }
}

fn gateway(api: &Api) -> Result<Arc<Gateway>, Problem> {
    let none = || Problem::unknown("this process hands out no peers; a gateway with gateway.db does".to_owned());
    api.running.gateway.clone().ok_or_else(none)
}

/// By number, or by public key; in a path one of the alphabet for URLs is easier.
fn find(gateway: &Gateway, name: &str) -> Result<PeerId, Problem> {
    if name.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(number) = name.parse()
    {
        return Ok(PeerId(number));
    }
    let key: Option<PublicKey> = name.replace('-', "+").replace('_', "/").parse().ok();
    key.and_then(|key| gateway.find(&key)).ok_or_else(|| unknown(name))
}

/// The same for whoever is to change it.
async fn find_to_change(gateway: &Gateway, name: &str, caller: &Caller) -> Result<PeerId, Problem> {
    let id = find(gateway, name)?;
    if caller.manages() {
        return Ok(id);
    }
    let peer = gateway.show(id).await?.ok_or_else(|| unknown(name))?.peer;
    if !caller.may_change(peer.owner.as_deref()) {
        let (token, from) = (caller.name().unwrap_or_default(), caller.from);
        tracing::info!(target: "audit", token, %from, peer = %id, "refused: a peer of another");
        return Err(Problem::forbidden(format!(
            "peer {id} was not made with the token {token:?}; to change it needs scope {}",
            Scope::Manage.word()
        )));
    }
    Ok(id)
}

fn unknown(name: &str) -> Problem {
    Problem::unknown(format!("there is no peer {name:?}; GET /api/v1/peers lists those there are"))
}

impl From<GatewayError> for Problem {
    fn from(error: GatewayError) -> Self {
        match &error {
            GatewayError::Request(rule) => Self::field(rule.field, &rule.rule),
            GatewayError::Unknown(id) => unknown(&id.to_string()),
            GatewayError::Address(AddressError::Overlap(..)) => Self::conflict(error.to_string()).about("prefixes"),
            GatewayError::Address(AddressError::Exhausted { .. }) | GatewayError::Full(_) => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, error.to_string())
            }
            GatewayError::Address(
                AddressError::Elsewhere(_) | AddressError::Beyond(..) | AddressError::TwoOfAKind(..),
            ) => Self::field("addresses", error),
            GatewayError::Address(_) => Self::conflict(error.to_string()).about("addresses"),
            GatewayError::OwnKey(_) | GatewayError::KeyTaken(_) => {
                Self::conflict(error.to_string()).about("public_key")
            }
            // Not a conflict: that would be remembered as the answer to the same request.
            GatewayError::Busy(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            // Of the machine, and soon over if somebody makes room.
            GatewayError::Store(PeersError::NoRoom { .. }) => {
                tracing::error!(%error, "a peer could not be written");
                Self::new(StatusCode::INSUFFICIENT_STORAGE, error.to_string())
            }
            GatewayError::Twice { .. } | GatewayError::Reserved { .. } | GatewayError::Store(_) => {
                Self::internal(&error)
            }
        }
    }
}
