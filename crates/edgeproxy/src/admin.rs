//! Metrics, health and the API, on one address of its own.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use edgeproxy_proxy::Phase;
use tokio::net::TcpListener;

use crate::running::Running;

/// Serves until the process ends.
pub(crate) async fn serve(socket: TcpListener, running: Arc<Running>) {
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(running);
    if let Err(error) = axum::serve(socket, routes).await {
        tracing::error!(%error, "the admin API ended");
    }
}

async fn ready(State(running): State<Arc<Running>>) -> Response {
    let mut reasons = Vec::new();
    if running.pop.drain.phase() != Phase::Serving {
        reasons.push("draining");
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(serde_json::json!({ "ready": reasons.is_empty(), "reasons": reasons }))).into_response()
}

async fn metrics(State(running): State<Arc<Running>>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &running.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
