//! Taking a backend, a region or this POP out of service without cutting anybody off, until a deadline if one is set.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use edgeproxy_proxy::{Phase, Pop};
use edgeproxy_route::Backend;
use edgeproxy_store::DrainTarget;
use serde::Deserialize;
use serde_json::json;

use super::input::{Body, given};
use super::problem::Problem;
use super::{Api, to_the_end};
use crate::running::Running;

/// Longest deadline.
const MAX_DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    scope: Scope,
    #[serde(default, deserialize_with = "given")]
    name: Option<String>,
    #[serde(default)]
    undo: bool,
    /// Such as "30s"; `None`: who is connected may stay.
    deadline: Option<String>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Scope {
    #[serde(rename = "self")]
    Pop,
    Backend,
    Region,
}

/// What is drained.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Target {
    Backend(String),
    Region(String),
}

impl Target {
    fn covers(&self, backend: &Backend) -> bool {
        match self {
            Self::Backend(id) => backend.id == *id,
            Self::Region(code) => backend.region == *code,
        }
    }

    fn in_store(&self) -> DrainTarget<'_> {
        match self {
            Self::Backend(id) => DrainTarget::Backend(id),
            Self::Region(code) => DrainTarget::Region(code),
        }
    }
}

pub(super) async fn drain(State(api): State<Arc<Api>>, Body { value, .. }: Body<Order>) -> Result<Response, Problem> {
    let deadline = value.deadline.as_deref().map(parse_deadline).transpose()?;
    if value.undo && deadline.is_some() {
        return Err(Problem::field("deadline", "makes no sense with undo"));
    }
    let named = |name: Option<String>| {
        name.ok_or_else(|| Problem::field("name", "is missing; it must name the backend or region"))
    };
    match value.scope {
        Scope::Pop if value.name.is_some() => Err(Problem::field("name", "makes no sense with scope \"self\"")),
        Scope::Pop => drain_pop(&api, value.undo, deadline),
        Scope::Backend => {
            to_the_end(drain_target(api, Target::Backend(named(value.name)?), value.undo, deadline)).await
        }
        Scope::Region => to_the_end(drain_target(api, Target::Region(named(value.name)?), value.undo, deadline)).await,
    }
}

fn parse_deadline(text: &str) -> Result<Duration, Problem> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| Problem::field("deadline", format!("{text:?} is not a duration (such as 30s or 5m)")))?;
    if duration > MAX_DEADLINE {
        let most = humantime::format_duration(MAX_DEADLINE);
        return Err(Problem::field("deadline", format!("{text:?} is more than {most}")));
    }
    Ok(duration)
}

fn drain_pop(api: &Api, undo: bool, deadline: Option<Duration>) -> Result<Response, Problem> {
    let running = &api.running;
    if undo {
        return Err(Problem::conflict("the drain of a POP cannot be undone: start it again once it has ended"));
    }
    if running.pop.drain.phase() != Phase::Serving {
        return Err(Problem::conflict("this POP is draining already; SIGTERM ends it at once"));
    }
    let within = deadline.unwrap_or(running.config.proxy.drain_timeout);
    let connections = running.pop.open_connections();
    running.order_drain(within);
    let answer = json!({
        "draining": true,
        "connections": connections,
        "delay": humantime::format_duration(running.config.proxy.drain_delay).to_string(),
        "deadline": humantime::format_duration(within).to_string(),
    });
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

async fn drain_target(
    api: Arc<Api>,
    target: Target,
    undo: bool,
    deadline: Option<Duration>,
) -> Result<Response, Problem> {
    let stored = target.clone();
    let count = api.edit(move |editor| editor.set_drained(stored.in_store(), !undo)).await?;
    if count == 0 {
        // An unknown backend has been told already.
        return Err(Problem::unknown(format!("no backend matches {target:?}")));
    }
    api.follow(|table| {
        let mut covered = table.backends().filter(|(backend, _)| target.covers(backend));
        covered.all(|(backend, _)| backend.drained != undo)
    })
    .await;
    // The last order about a target counts, with its deadline or without.
    api.cut_timers.cancel(&target);
    tracing::info!(?target, undo, ?deadline, backends = count, "drain ordered through the API");
    if undo {
        return Ok(Json(json!({ "undone": count })).into_response());
    }
    if let Some(deadline) = deadline {
        let pop = Arc::clone(&api.running.pop);
        let cut = {
            let target = target.clone();
            move || cut(&pop, &target)
        };
        let undone = undone(Arc::clone(&api.running), target.clone());
        api.cut_timers.start(target, deadline, undone, cut);
    }
    Ok(Json(json!({ "drained": count })).into_response())
}

/// Resolves once the target is in service again, whoever took the drain mark away: the deadline must not outlive the
/// drain it was set for, and end the connections of a later one. A backend that was removed does not count.
async fn undone(running: Arc<Running>, target: Target) {
    let mut changes = running.table_changes();
    let mut was_drained = false;
    loop {
        let marks: Vec<bool> = {
            let table = running.pop.table();
            let covered = table.backends().filter(|(backend, _)| target.covers(backend));
            covered.map(|(backend, _)| backend.drained).collect()
        };
        let is_drained = marks.contains(&true);
        if was_drained && !marks.is_empty() && !is_drained {
            tracing::info!(?target, "in service again, its drain's deadline is off");
            return;
        }
        was_drained |= is_drained;
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Cuts who is still connected, except to backends that are in service again. (One that was removed meanwhile is not.)
fn cut(pop: &Pop, target: &Target) {
    let table = pop.table();
    let undone: HashSet<String> = table
        .backends()
        .filter(|(backend, _)| target.covers(backend) && !backend.drained)
        .map(|(backend, _)| backend.id.clone())
        .collect();
    let covered = target.clone();
    let cut = pop.cut_backends(move |backend| covered.covers(backend) && !undone.contains(&backend.id));
    tracing::info!(?target, connections = cut, "the drain's deadline is over");
}
