//! The peers that a gateway hands out.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use edgeproxy_gateway::{AddressError, Created, End, Gateway, GatewayError, Shown, wg_quick};
use edgeproxy_store::peers::{PeerFilter, PeerId};
use edgeproxy_tunnel::PublicKey;
use serde::{Deserialize, Serialize};

use super::idempotency::{self, Claim};
use super::input::{Body, Name, Parameters};
use super::page::{self, Page};
use super::peer_fields::PeerFields;
use super::problem::Problem;
use super::{Api, off_thread, to_the_end};

/// Peers of one batch, at most.
const BATCH_MOST: usize = 1000;
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
}

/// A new peer, and what it has to be told.
#[derive(Serialize)]
pub(super) struct New {
    #[serde(flatten)]
    peer: Item,
    /// Made here and kept nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preshared_key: Option<String>,
    /// A wg-quick file.
    config: String,
}

/// What became of one of a batch.
#[derive(Serialize)]
#[serde(untagged)]
enum Outcome {
    Done(Box<New>),
    Failed { status: u16, detail: String, field: Option<String> },
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
        }
    }
}

impl New {
    fn of(created: Created, api: &Api, gateway: &Gateway) -> Self {
        let Created { peer, private, .. } = created;
        let config = wg_quick(&peer.row, private.as_ref(), &api.running.bearings(gateway)).to_string();
        let preshared = &peer.row.preshared;
        Self {
            private_key: private.map(|private| private.to_base64().to_string()),
            preshared_key: preshared.is_set().then(|| preshared.to_base64().to_string()),
            config,
            peer: Item::of(&Shown { peer, awake: None }),
        }
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
    let after = filter.cursor.as_deref().map(page::number_of_cursor).transpose()?.unwrap_or(0);
    let wanted = PeerFilter { name: filter.name, region: filter.region, tag: filter.tag };
    let shown = off_thread(move || gateway.page(PeerId(after), limit + 1, &wanted)).await??;
    let items = Page::of(shown, limit, |last| page::cursor_of_number(last.peer.row.id.0));
    Ok(Json(Page { items: items.items.iter().map(Item::of).collect(), next: items.next }))
}

pub(super) async fn show(State(api): State<Arc<Api>>, Name(name): Name) -> Result<Json<Item>, Problem> {
    let gateway = gateway(&api)?;
    let id = find(&gateway, &name)?;
    let shown = gateway.show(id)?.ok_or_else(|| unknown(&name))?;
    Ok(Json(Item::of(&shown)))
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Body { value, raw }: Body<PeerFields>,
) -> Result<Response, Problem> {
    once(api, &headers, &raw, |api| async move {
        let gateway = gateway(&api)?;
        let created = gateway.create(value.into_request()?).await?;
        let status = if created.existing { StatusCode::OK } else { StatusCode::CREATED };
        let location = [(header::LOCATION, format!("/api/v1/peers/{}", created.peer.row.id))];
        told(&created);
        Ok((status, location, Json(New::of(created, &api, &gateway))).into_response())
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
    headers: HeaderMap,
    Body { value, raw }: Body<Batch>,
) -> Result<Response, Problem> {
    if value.peers.len() > BATCH_MOST {
        return Err(Problem::field("peers", format!("are more than the {BATCH_MOST} of a batch")));
    }
    once(api, &headers, &raw, |api| async move {
        let gateway = gateway(&api)?;
        let (requests, broken): (Vec<_>, Vec<_>) =
            value.peers.into_iter().map(PeerFields::into_request).enumerate().partition(|(_, request)| request.is_ok());
        let (places, requests): (Vec<_>, Vec<_>) =
            requests.into_iter().filter_map(|(at, ok)| Some((at, ok.ok()?))).unzip();
        let created = gateway.create_all(requests).await;
        let failed = |problem: Problem| {
            let (status, detail, field) = problem.parts();
            Outcome::Failed { status, detail, field }
        };
        let done = |result: Result<Created, GatewayError>| match result {
            Ok(created) => {
                told(&created);
                Outcome::Done(Box::new(New::of(created, &api, &gateway)))
            }
            Err(error) => failed(error.into()),
        };
        let mut outcomes: Vec<_> = places.into_iter().zip(created.into_iter().map(done)).collect();
        outcomes.extend(broken.into_iter().filter_map(|(at, broken)| Some((at, failed(broken.err()?)))));
        outcomes.sort_unstable_by_key(|(at, _)| *at);
        let items: Vec<_> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
        Ok(Json(serde_json::json!({ "items": items })).into_response())
    })
    .await
}

pub(super) async fn remove(State(api): State<Arc<Api>>, Name(name): Name) -> Result<StatusCode, Problem> {
    to_the_end(async move {
        let gateway = gateway(&api)?;
        let id = find(&gateway, &name)?;
        gateway.remove(id).await?;
        tracing::info!(target: "audit", peer = %id, "peer removed");
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
    Name(name): Name,
    Body { value, .. }: Body<Rotation>,
) -> Result<Json<New>, Problem> {
    to_the_end(async move {
        let gateway = gateway(&api)?;
        let id = find(&gateway, &name)?;
        let public = value.public_key.as_deref().map(|key| super::peer_fields::key("public_key", key)).transpose()?;
        let overlap = value.overlap_s.map_or(OVERLAP, Duration::from_secs);
        let rotated = gateway.rotate(id, public, overlap).await?;
        tracing::info!(target: "audit", peer = %id, public_key = %rotated.peer.row.public, "peer has another key");
        Ok(Json(New::of(rotated, &api, &gateway)))
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
    Body { value: Collection { dry_run }, .. }: Body<Collection>,
) -> Result<Json<Collected>, Problem> {
    to_the_end(async move {
        let gateway = gateway(&api)?;
        let ended = if dry_run { gateway.ending() } else { gateway.collect().await };
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
    work: impl FnOnce(Arc<Api>) -> F,
) -> Result<Response, Problem> {
    let Some(key) = idempotency::key(headers)? else { return to_the_end(work(api)).await };
    match api.answers.claim(&key, raw)? {
        Claim::Answered(answer) => Ok(answer.into_response()),
        Claim::Open(ticket) => {
            let work = work(Arc::clone(&api));
            to_the_end(async move {
                let response = work.await.unwrap_or_else(IntoResponse::into_response);
                Ok(api.answers.settle(ticket, response).await)
            })
            .await
        }
    }
}

fn told(created: &Created) {
    let row = &created.peer.row;
    if !created.existing {
        tracing::info!(target: "audit", peer = %row.id, public_key = %row.public, name = created.peer.name, "peer created");
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
            GatewayError::Address(AddressError::Elsewhere(_) | AddressError::TwoOfAKind(..)) => {
                Self::field("addresses", error)
            }
            GatewayError::Address(_) => Self::conflict(error.to_string()).about("addresses"),
            GatewayError::OwnKey(_) | GatewayError::KeyTaken(_) => {
                Self::conflict(error.to_string()).about("public_key")
            }
            GatewayError::Busy(_) => Self::conflict(error.to_string()),
            GatewayError::Twice { .. } | GatewayError::Store(_) => Self::internal(&error),
        }
    }
}
