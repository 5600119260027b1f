//! Backends: shown as they serve, changed in the file.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use edgeproxy_route::{Backend, RawBackend, SlotKey, Table};
use serde::{Deserialize, Serialize};

use super::backend_fields::BackendFields;
use super::idempotency::{self, Claim};
use super::input::{Body, Name, Parameters};
use super::page::{self, Page};
use super::problem::Problem;
use super::{Api, off_thread, to_the_end};
use crate::admin_client::encoded;

/// A backend and how it does, seen from this POP.
#[derive(Serialize)]
pub(super) struct Item {
    #[serde(flatten)]
    backend: Arc<Backend>,
    /// Open from this POP.
    connections: u32,
    /// Established by this POP since it first saw the backend.
    served: u64,
    /// Checks or a missed heartbeat hold it down.
    down: bool,
    /// Failed connects have ejected it.
    ejected: bool,
    /// Measured from this POP.
    round_trip_ms: Option<f32>,
}

impl Item {
    fn of(backend: &Arc<Backend>, key: SlotKey, table: &Table) -> Self {
        let (states, slot) = (table.states(), key.slot());
        Self {
            backend: Arc::clone(backend),
            connections: states.connections(slot),
            served: states.served(slot),
            down: states.is_down(slot),
            ejected: states.is_ejected(slot),
            round_trip_ms: states.round_trip_ms(slot),
        }
    }

    /// A row that has just been stored, with the state of the backend it is about.
    pub(super) fn of_stored(stored: Backend, table: &Table) -> Self {
        let backend = Arc::new(stored);
        match find(table, &backend.id) {
            Some((_, key)) => Self::of(&backend, key, table),
            None => Self { backend, connections: 0, served: 0, down: false, ejected: false, round_trip_ms: None },
        }
    }
}

/// The backend with this id, if it serves.
pub(super) fn find<'a>(table: &'a Table, id: &str) -> Option<(&'a Arc<Backend>, SlotKey)> {
    table.backends().find(|(backend, _)| backend.id == id)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    limit: Option<String>,
    cursor: Option<String>,
    app: Option<String>,
    region: Option<String>,
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Parameters(filter): Parameters<Filter>,
) -> Result<Json<Page<Item>>, Problem> {
    let limit = page::limit(filter.limit.as_deref())?;
    let after = filter.cursor.as_deref().map(page::name_of_cursor).transpose()?;
    let table = api.running.pop.table();
    off_thread(move || {
        let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        let mut found: Vec<(&Arc<Backend>, SlotKey)> = table
            .backends()
            .filter(|(backend, _)| is(&filter.app, &backend.app) && is(&filter.region, &backend.region))
            .filter(|(backend, _)| after.as_ref().is_none_or(|after| backend.id > *after))
            .collect();
        found.sort_unstable_by(|(a, _), (b, _)| a.id.cmp(&b.id));
        found.truncate(limit + 1);
        let items = found.into_iter().map(|(backend, key)| Item::of(backend, key, &table)).collect();
        Json(Page::of(items, limit, |last: &Item| page::cursor_of_name(&last.backend.id)))
    })
    .await
}

pub(super) async fn show(State(api): State<Arc<Api>>, Name(id): Name) -> Result<Json<Item>, Problem> {
    let table = api.running.pop.table();
    let (backend, key) = find(&table, &id).ok_or_else(|| Problem::unknown_backend(&id))?;
    Ok(Json(Item::of(backend, key, &table)))
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Body { value, raw }: Body<BackendFields>,
) -> Result<Response, Problem> {
    let fields = value.into_raw()?;
    let Some(key) = idempotency::key(&headers)? else {
        return to_the_end(async move { add(&api, fields).await }).await;
    };
    match api.answers.claim(&key, &raw)? {
        Claim::Answered(answer) => Ok(answer.into_response()),
        Claim::Open(ticket) => {
            // A client that hangs up now is the one that will ask again, and must find its answer.
            to_the_end(async move {
                let response = add(&api, fields).await.unwrap_or_else(IntoResponse::into_response);
                Ok(api.answers.settle(ticket, response).await)
            })
            .await
        }
    }
}

async fn add(api: &Api, fields: RawBackend) -> Result<Response, Problem> {
    let stored = api.edit(|editor| editor.add(fields)).await?;
    let location = format!("/api/v1/backends/{}", encoded(&stored.id));
    let item = serving(api, stored).await;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(item)).into_response())
}

pub(super) async fn change(
    State(api): State<Arc<Api>>,
    Name(id): Name,
    Body { value, .. }: Body<BackendFields>,
) -> Result<Json<Item>, Problem> {
    let mut fields = value.into_raw()?;
    if fields.id.take().is_some_and(|other| other != id) {
        let rule = "cannot be changed: add the backend under its new id, then delete the old one";
        return Err(Problem::field("id", rule));
    }
    to_the_end(async move {
        let stored = api.edit(move |editor| editor.set(&id, fields)).await?;
        Ok(Json(serving(&api, stored).await))
    })
    .await
}

/// The stored row as an answer, once this POP serves by it.
pub(super) async fn serving(api: &Api, stored: Backend) -> Item {
    api.follow(|table| find(table, &stored.id).is_some_and(|(serving, _)| **serving == stored)).await;
    Item::of_stored(stored, &api.running.pop.table())
}

pub(super) async fn remove(State(api): State<Arc<Api>>, Name(id): Name) -> Result<StatusCode, Problem> {
    to_the_end(async move {
        let gone = id.clone();
        api.edit(move |editor| editor.remove(&[&id])).await?;
        api.follow(|table| find(table, &gone).is_none()).await;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}
