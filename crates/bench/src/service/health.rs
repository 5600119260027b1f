//! Who this is, whether it lives, and whether its database answers.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use edgeproxy_postgres::ReadPolicy;
use serde::Serialize;
use serde_json::json;

use super::Service;
use super::benchmark::REGION_HEADER;
use crate::storage::ENDPOINTS;

#[derive(Serialize)]
struct Health {
    region: String,
    db_host: String,
    /// "connected", "disabled" or "error".
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// Whether the database answers. The status is 200 whatever it is, as published, unless EDGEPROXY_STATUS is "strict".
pub(super) async fn health(State(service): State<Arc<Service>>) -> Response {
    let (status, message) = match &service.database {
        None => ("disabled", None),
        Some(database) => match database.ask().await {
            Ok(()) => ("connected", None),
            Err(message) => ("error", Some(message)),
        },
    };
    let settings = &service.settings;
    let health = Health { region: settings.region.clone(), db_host: settings.db_host(), status, message };
    let is_fault = settings.strict && status == "error";
    let code = if is_fault { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, [(REGION_HEADER, service.region_header())], Json(health)).into_response()
}

/// Which machine this is.
pub(super) async fn info(State(service): State<Arc<Service>>) -> Response {
    let settings = &service.settings;
    let info = json!({ "region": settings.region, "hostname": settings.instance });
    ([(REGION_HEADER, service.region_header())], Json(info)).into_response()
}

/// A trivial query of the near database, or of the primary where that is not there, and what there is to ask. A service
/// without a database is well without.
pub(super) async fn trivial_query(State(service): State<Arc<Service>>) -> Response {
    let answer = match (&service.near, &service.database) {
        (Some(near), _) => near.read(ReadPolicy::Any, "SELECT 1").await.map(drop).map_err(|error| error.to_string()),
        (None, Some(database)) => database.ask().await,
        (None, None) => Ok(()),
    };
    let databases =
        [("GET", "/api/rds/benchmark", "measures the database"), ("GET", "/api/rds/health", "whether it answers")];
    let endpoints: Vec<_> = ENDPOINTS
        .into_iter()
        .chain(databases)
        .map(|(method, path, what)| json!({ "method": method, "path": path, "description": what }))
        .collect();
    match answer {
        Ok(()) => Json(json!({ "status": "ok", "endpoints": endpoints })).into_response(),
        Err(message) => {
            let body = json!({ "status": "error", "message": message, "endpoints": endpoints });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

pub(super) async fn alive() -> &'static str {
    "ok\n"
}
