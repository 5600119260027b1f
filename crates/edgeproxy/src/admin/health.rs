//! Is the process alive, and should clients be sent here?

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use edgeproxy_proxy::{ListenerSettings, Phase, WhenAllDown};
use edgeproxy_route::Backend;
use serde_json::json;

use super::Api;
use crate::config::Role;
use crate::running::Running;

pub(super) async fn alive() -> &'static str {
    "ok\n"
}

pub(super) async fn ready(State(api): State<Arc<Api>>) -> Response {
    let reasons = reasons_against(&api.running);
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": reasons.is_empty(), "reasons": reasons }))).into_response()
}

pub(super) fn reasons_against(running: &Running) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    if running.pop.drain.phase() != Phase::Serving {
        reasons.push("draining");
    }
    if running.config.role == Role::Proxy && !serves_someone(running) {
        reasons.push("no_backend_in_service");
    }
    reasons
}

/// Whether some listener has a backend for its clients.
///
/// An ejected backend counts: only a client's connection can end an ejection, so a POP that asked for none while all
/// are ejected would never come back. So does one that is down, for a listener that then tries it all the same.
fn serves_someone(running: &Running) -> bool {
    let listeners = &running.config.proxy.listeners;
    let table = running.pop.table();
    table.backends().any(|(backend, key)| {
        let is_down = table.states().is_down(key.slot());
        backend.accepts_new() && listeners.iter().any(|listener| can_send_to(listener, backend, is_down))
    })
}

fn can_send_to(listener: &ListenerSettings, backend: &Backend, is_down: bool) -> bool {
    listener.app.as_ref().is_none_or(|app| *app == backend.app)
        && (!is_down || listener.when_all_down == WhenAllDown::Try)
}
