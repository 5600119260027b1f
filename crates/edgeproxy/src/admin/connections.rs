//! Live connections: who is connected to what, and ending one.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use edgeproxy_proxy::LiveConnection;
use serde::Deserialize;

use super::input::{Name, Parameters};
use super::page::{self, Page};
use super::problem::Problem;
use super::{Api, off_thread};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    limit: Option<String>,
    cursor: Option<String>,
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Parameters(place): Parameters<Place>,
) -> Result<Json<Page<LiveConnection>>, Problem> {
    let limit = page::limit(place.limit.as_deref())?;
    let after = place.cursor.as_deref().map(page::number_of_cursor).transpose()?;
    let pop = Arc::clone(&api.running.pop);
    off_thread(move || {
        let cursor = |last: &LiveConnection| page::cursor_of_number(last.cursor());
        Json(Page::of(pop.connections(after, limit + 1), limit, cursor))
    })
    .await
}

pub(super) async fn cut(State(api): State<Arc<Api>>, Name(id): Name) -> Result<StatusCode, Problem> {
    let pop = Arc::clone(&api.running.pop);
    let wanted = id.clone();
    if off_thread(move || pop.cut_connection(&wanted)).await? {
        tracing::info!(connection = id, "cut through the API");
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::unknown(format!("there is no open connection {id:?}; it may have ended")))
}
