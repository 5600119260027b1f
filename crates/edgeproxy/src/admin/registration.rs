//! Backends that register themselves and say from time to time that they are there. The paths and fields are those of
//! the older tool, so that its agents work unchanged.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use edgeproxy_route::{Backend, RawBackend};
use edgeproxy_store::{EditError, RoutingEditor};
use serde::Deserialize;
use serde_json::{Value, json};

use super::backends::{find, serving};
use super::input::{Body, Name};
use super::problem::Problem;
use super::{Api, to_the_end};

/// Of a new backend that does not say.
const DEFAULT_WEIGHT: i64 = 2;
const DEFAULT_SOFT_LIMIT: i64 = 100;
const DEFAULT_HARD_LIMIT: i64 = 150;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Registration {
    id: String,
    app: String,
    region: String,
    ip: String,
    port: i64,
    country: Option<String>,
    weight: Option<i64>,
    soft_limit: Option<i64>,
    hard_limit: Option<i64>,
    heartbeat_secs: Option<i64>,
}

pub(super) async fn register(
    State(api): State<Arc<Api>>,
    Body { value, .. }: Body<Registration>,
) -> Result<Json<Value>, Problem> {
    let default_ttl = api.running.config.routing.heartbeat_ttl.into();
    let heartbeat_secs = value.heartbeat_secs.unwrap_or(default_ttl);
    if heartbeat_secs == 0 {
        return Err(Problem::field("heartbeat_secs", "0 is not in 1 to 86400: who registers must show signs of life"));
    }
    let fields = RawBackend {
        id: Some(value.id),
        app: Some(value.app),
        region: Some(value.region),
        country: value.country,
        wg_ip: Some(value.ip),
        port: Some(value.port),
        weight: value.weight,
        soft_limit: value.soft_limit,
        hard_limit: value.hard_limit,
        heartbeat_secs: Some(heartbeat_secs),
        // The operator's words: a backend that comes back has no say in them.
        healthy: None,
        drained: None,
    };
    to_the_end(async move {
        let stored = api.edit(|editor| set_or_add(editor, fields)).await;
        let stored = stored.map_err(|problem| problem.renamed("wg_ip", "ip"))?;
        let id = stored.id.clone();
        serving(&api, stored).await;
        // Also when nothing has changed: to register is a sign of life.
        api.running.checks.heartbeat(&id);
        Ok(Json(json!({ "registered": true, "id": id })))
    })
    .await
}

/// Defaults are for new backends only, or each return would undo what the operator has changed since.
fn set_or_add(editor: &RoutingEditor, fields: RawBackend) -> Result<Backend, EditError> {
    let id = fields.id.clone().unwrap_or_default();
    match editor.set(&id, fields.clone()) {
        Err(EditError::Unknown { .. }) => {}
        done => return done,
    }
    let complete = RawBackend {
        weight: fields.weight.or(Some(DEFAULT_WEIGHT)),
        soft_limit: fields.soft_limit.or(Some(DEFAULT_SOFT_LIMIT)),
        hard_limit: fields.hard_limit.or(Some(DEFAULT_HARD_LIMIT)),
        ..fields.clone()
    };
    match editor.add(complete) {
        // Another program has added it since.
        Err(EditError::Exists { .. }) => editor.set(&id, fields),
        done => done,
    }
}

pub(super) async fn heartbeat(State(api): State<Arc<Api>>, Name(id): Name) -> Result<StatusCode, Problem> {
    sign_of_life(&api, &id)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn older_heartbeat(State(api): State<Arc<Api>>, Name(id): Name) -> Result<Json<Value>, Problem> {
    sign_of_life(&api, &id)?;
    Ok(Json(json!({ "status": "ok" })))
}

fn sign_of_life(api: &Api, id: &str) -> Result<(), Problem> {
    if api.running.checks.heartbeat(id) {
        return Ok(());
    }
    match find(&api.running.pop.table(), id) {
        None => Err(Problem::unknown_backend(id)),
        Some(_) => Err(Problem::conflict(format!(
            "backend {id:?} is there, and no heartbeat is expected of it: its heartbeat_secs is not set"
        ))),
    }
}
