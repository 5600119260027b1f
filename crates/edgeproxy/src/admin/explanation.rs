//! Where a client would go, and why.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use edgeproxy_proxy::{ListenerSettings, WhenAllDown};
use edgeproxy_route::{Candidate, Country, Exclusions, Fallback, Policy, Request, Wanted};
use serde::{Deserialize, Serialize};

use super::input::Parameters;
use super::problem::Problem;
use super::{Api, off_thread};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    client: Option<String>,
    app: Option<String>,
    role: Option<String>,
    policy: Option<String>,
}

/// The answer.
#[derive(Serialize)]
struct Explanation {
    client: Client,
    /// Region of this machine.
    pop: String,
    /// `None`: backends of all apps.
    app: Option<String>,
    /// Which of those.
    role: &'static str,
    policy: &'static str,
    /// The chosen one first, then by standing and rank.
    candidates: Vec<Candidate>,
}

/// Where the client is, as far as it is known.
#[derive(Serialize)]
struct Client {
    ip: IpAddr,
    country: Option<Country>,
    area: Option<&'static str>,
    /// Its position is finer than the country.
    precise: bool,
}

/// What is not asked for is as the first listener has it.
pub(super) async fn explain(
    State(api): State<Arc<Api>>,
    Parameters(question): Parameters<Question>,
) -> Result<Response, Problem> {
    let ip = client(question.client.as_deref())?;
    let listener = api.running.config.proxy.listeners.first();
    let policy = match question.policy.as_deref() {
        Some(name) => policy_named(name)?,
        None => listener.map(|listener| listener.policy).unwrap_or_default(),
    };
    let app = question.app.or_else(|| listener.and_then(|listener: &ListenerSettings| listener.app.clone()));
    let wanted = match question.role.as_deref() {
        Some(name) => role_named(name, app.as_deref(), &api.running.config.proxy.listeners)?,
        None => listener.map(|listener| listener.wanted).unwrap_or_default(),
    };
    let forced = listener.is_some_and(|listener| listener.when_all_down == WhenAllDown::Try);
    let running = Arc::clone(&api.running);
    // A large table makes a large answer.
    let answer = off_thread(move || {
        let place = running.pop.geo().lookup(ip);
        let candidates = running.pop.table().explain(&Request {
            place,
            app: app.as_deref(),
            wanted,
            policy,
            tried: &Exclusions::default(),
            bound: None,
            forced,
            now: running.pop.clock.now(),
            random: 0,
        });
        let explanation = Explanation {
            client: Client {
                ip,
                country: place.country,
                area: place.area.map(edgeproxy_route::Area::code),
                precise: place.precise,
            },
            pop: running.config.proxy.region.clone(),
            app,
            role: wanted.name(),
            policy: policy.name(),
            candidates,
        };
        serde_json::to_vec(&explanation)
    })
    .await?;
    let answer = answer.map_err(|error| Problem::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], answer).into_response())
}

fn client(parameter: Option<&str>) -> Result<IpAddr, Problem> {
    let text = parameter.ok_or_else(|| Problem::field("client", "is missing; it must be the client's IP address"))?;
    let ip: IpAddr = text.parse().map_err(|_| Problem::field("client", format!("{text:?} is not an IP address")))?;
    Ok(ip.to_canonical())
}

fn policy_named(name: &str) -> Result<Policy, Problem> {
    name.parse().map_err(|rule: String| Problem::field("policy", rule))
}

/// What takes the place of replicas is as the first listener for this app's replicas has it.
fn role_named(name: &str, app: Option<&str>, listeners: &[ListenerSettings]) -> Result<Wanted, Problem> {
    let listener = listeners.iter().find(|listener| listener.wanted.name() == name && listener.app.as_deref() == app);
    match (listener, name) {
        (Some(listener), _) => Ok(listener.wanted),
        (None, "any") => Ok(Wanted::Any),
        (None, "primary") => Ok(Wanted::Primary),
        (None, "replica") => Ok(Wanted::Replica(Fallback::default())),
        (None, _) => Err(Problem::field("role", format!("{name:?} is none of any, primary, replica"))),
    }
}
