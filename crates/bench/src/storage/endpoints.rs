//! The endpoints of the regional service that measure object storage.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Json;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Map, Value, json};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::download;
use super::failure::Failure;
use super::janitor::Janitor;
use super::meter::Meter;
use super::outcome::Outcome;
use super::plan::{GB, PART_LEAST, POOL, Plan, Shape, parse_size};
use super::store::{Patience, RETRIES, Settings, Store, VARIABLES};
use super::upload::upload;
use crate::turn::{Activity, NoTurn, Turn, Turns};

/// Method, path and what it does, for `GET /`.
pub const ENDPOINTS: [(&str, &str, &str); 4] = [
    (
        "POST",
        "/upload",
        "multipart upload: 10 parts of 100 MB, 5 at once; ?parts=&part_size=&streams=&read_back=&keep=&retries=",
    ),
    ("POST", "/upload-single", "one upload of 1 GB; ?size=&read_back=&keep=&retries="),
    ("GET", "/generate", "1 GB of test data; ?size="),
    ("GET", "/env", "which variables are set"),
];

/// Holds a bearer token; whoever comes without it is turned away from what costs money.
pub const TOKEN_VARIABLE: &str = "EDGEPROXY_STORAGE_TOKEN";

/// An object that is asked for by a parameter is no larger.
const OBJECT_MOST: u64 = 10 * GB;

/// The part of the service that has a store.
pub struct Uploads {
    /// What is missing, when there is none.
    store: Result<Store, Vec<String>>,
    token: Option<Zeroizing<String>>,
    set: [bool; VARIABLES.len()],
    turns: Turns,
    janitor: Janitor,
}

/// A run that goes on.
struct Transfer {
    path: &'static str,
    meter: Meter,
}

impl Uploads {
    /// As the environment has it. Without a store all but `/env` and `/generate` say what is missing. A run takes one of
    /// `turns`.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>, turns: Turns) -> Arc<Self> {
        let set = VARIABLES.map(|name| variable(name).is_some_and(|value| !value.is_empty()));
        let store = Settings::from_environment(&variable).store();
        match &store {
            Ok(store) => tracing::info!(endpoint = %store.endpoint, bucket = store.bucket, "storage benchmark enabled"),
            Err(missing) => tracing::info!("storage benchmark disabled: {}", missing.join("; ")),
        }
        let token = variable(TOKEN_VARIABLE).filter(|token| !token.is_empty()).map(Zeroizing::new);
        Arc::new(Self { store, token, set, turns, janitor: Janitor::new(|stays| tracing::warn!("storage: {stays}")) })
    }

    /// `/upload`, `/upload-single`, `/generate`, `/env`.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/upload", post(upload_parts))
            .route("/upload-single", post(upload_single))
            .route("/generate", get(generate))
            .route("/env", get(environment))
            .with_state(Arc::clone(self))
    }

    /// Ends the run that goes on, begins no other, and waits until what was cut off is out of the store.
    pub async fn settle(&self, limit: Duration) {
        let until = Instant::now() + limit;
        // What else may go on is for others to tell of.
        self.turns.settle(limit).await;
        self.janitor.finish(until.saturating_duration_since(Instant::now())).await;
    }

    fn begin(&self, path: &'static str, meter: &Meter) -> Result<Turn, Box<Response>> {
        let begun = self.turns.begin(Arc::new(Transfer { path, meter: meter.clone() }));
        begun.map_err(|reason| match reason {
            NoTurn::Stopping => Box::new(stopping()),
            NoTurn::Running(other) => {
                let mut body = refusal("Busy: one run at a time", "BusyError");
                body.insert("running".to_owned(), other);
                Box::new((StatusCode::CONFLICT, Json(body)).into_response())
            }
        })
    }

    fn admit(&self, headers: &HeaderMap) -> Result<(), Box<Response>> {
        let Some(token) = &self.token else { return Ok(()) };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        if given.is_some_and(|given| bool::from(given.ct_eq(token.as_bytes()))) {
            return Ok(());
        }
        let body = refusal("Unauthorized: a bearer token is needed", "UnauthorizedError");
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        Err(Box::new((StatusCode::UNAUTHORIZED, challenge, Json(body)).into_response()))
    }

    async fn run(
        self: &Arc<Self>,
        path: &'static str,
        headers: &HeaderMap,
        asked: Asked,
    ) -> Result<Response, Box<Response>> {
        self.admit(headers)?;
        let (plan, retries) = asked.read().map_err(|why| Box::new(bad_parameter(&why)))?;
        let Ok(store) = &self.store else {
            let missing = self.store.as_ref().err().map(|missing| missing.join("; ")).unwrap_or_default();
            let body = refusal(&format!("Storage not configured: {missing}"), "ConfigurationError");
            return Err(Box::new((StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()));
        };
        let meter = Meter::new();
        let turn = self.begin(path, &meter)?;
        let store = Arc::new(Store { retries, ..store.clone() });
        // Whoever hangs up drops this, and what was begun is aborted; when the process is to end as well.
        let uploaded = tokio::select! {
            uploaded = upload(&store, &plan, &meter, &self.janitor) => uploaded,
            () = turn.stopped() => return Err(Box::new(stopping())),
        };
        Ok(match uploaded {
            Ok(outcome) => Json(success(&outcome)).into_response(),
            Err(failure) => {
                tracing::error!(%failure, step = %failure.step, code = failure.code(), advice = failure.advice(), "upload failed");
                (StatusCode::BAD_GATEWAY, Json(failed(&failure))).into_response()
            }
        })
    }
}

impl Activity for Transfer {
    fn told(&self, since: SystemTime) -> Value {
        let since = humantime::format_rfc3339_millis(since).to_string();
        json!({ "path": self.path, "since": since, "bytes": self.meter.out() })
    }
}

async fn upload_parts(State(uploads): State<Arc<Uploads>>, parameters: Parameters, headers: HeaderMap) -> Response {
    let asked = Asked { shape: Shape::PARTS, parameters: parameters.0 };
    uploads.run("/upload", &headers, asked).await.unwrap_or_else(|refused| *refused)
}

async fn upload_single(State(uploads): State<Arc<Uploads>>, parameters: Parameters, headers: HeaderMap) -> Response {
    let asked = Asked { shape: Shape::SINGLE, parameters: parameters.0 };
    uploads.run("/upload-single", &headers, asked).await.unwrap_or_else(|refused| *refused)
}

async fn generate(State(uploads): State<Arc<Uploads>>, parameters: Parameters, headers: HeaderMap) -> Response {
    let made = || -> Result<Response, Box<Response>> {
        uploads.admit(&headers)?;
        let asked = Asked { shape: Shape::SINGLE, parameters: parameters.0 };
        let (plan, _) = asked.read().map_err(|why| Box::new(bad_parameter(&why)))?;
        let meter = Meter::new();
        let turn = uploads.begin("/generate", &meter)?;
        Ok(download::answer(&plan, &meter, turn, Patience::default().for_bytes(plan.shape.bytes())))
    };
    made().unwrap_or_else(|refused| *refused)
}

/// Which variables are set, never what to.
async fn environment(State(uploads): State<Arc<Uploads>>) -> Response {
    let set = VARIABLES.into_iter().zip(uploads.set).map(|(name, set)| (name.to_owned(), Value::Bool(set)));
    Json(set.collect::<Map<_, _>>()).into_response()
}

type Parameters = Query<Vec<(String, String)>>;

/// What a request asks for, before it is checked.
struct Asked {
    shape: Shape,
    parameters: Vec<(String, String)>,
}

impl Asked {
    fn read(&self) -> Result<(Plan, u32), String> {
        let mut plan = Plan { shape: self.shape, ..Plan::default() };
        let mut retries = RETRIES;
        for (name, value) in &self.parameters {
            let odd = |what: &str| format!("{name}={value}: {what}");
            let number = || value.parse::<u32>().map_err(|_| odd("it is a number"));
            let switch = || value.parse::<bool>().map_err(|_| odd("it is true or false"));
            match (name.as_str(), &mut plan.shape) {
                ("parts", Shape::Parts { count, .. }) => *count = number()?,
                ("part_size", Shape::Parts { bytes, .. }) => *bytes = parse_size(value)?,
                ("streams" | "concurrency", Shape::Parts { streams, .. }) => *streams = number()? as usize,
                ("size", Shape::Single { bytes }) => *bytes = parse_size(value)?,
                ("seed", _) => plan.seed = value.parse().map_err(|_| odd("it is a number"))?,
                ("keep", _) => plan.keep = switch()?,
                ("read_back", _) => plan.read_back = switch()?,
                ("retries", _) => retries = number()?.min(10),
                _ => return Err(format!("{name}: there is no such parameter here")),
            }
        }
        plan.shape.check(OBJECT_MOST)?;
        if plan.shape.streams() > POOL {
            return Err(format!("{} streams: the service has {POOL} connections", plan.shape.streams()));
        }
        if matches!(plan.shape, Shape::Single { bytes } if bytes > 1024 * PART_LEAST) {
            return Err("stores take at most 5 GiB in one request".to_owned());
        }
        Ok((plan, retries))
    }
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// The published fields first, then what they leave out, then everything.
fn success(outcome: &Outcome) -> Value {
    json!({
        "success": true,
        "uploadTime": millis(outcome.seconds),
        "uploadSpeed": outcome.plan.shape.published_rate(outcome.seconds),
        "fileKey": outcome.key,
        "timestamp": now(),
        "bytes": outcome.bytes,
        "seconds": outcome.seconds,
        "megabytesPerSecond": outcome.mb_per_second,
        "mebibytesPerSecond": outcome.mib_per_second,
        "details": outcome,
    })
}

fn millis(seconds: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(seconds + 0.0005).as_millis()).unwrap_or(u64::MAX)
}

fn failed(failure: &Failure) -> Value {
    let mut body = refusal(&failure.to_string(), failure.name());
    body.insert("code".to_owned(), failure.code().into());
    body.insert("step".to_owned(), failure.step.to_string().into());
    body.insert("advice".to_owned(), failure.advice().into());
    Value::Object(body)
}

fn refusal(error: &str, name: &str) -> Map<String, Value> {
    let fields: [(&str, Value); 4] =
        [("success", false.into()), ("error", error.into()), ("errorName", name.into()), ("timestamp", now().into())];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn stopping() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Json(refusal("Stopping", "StoppingError"))).into_response()
}

fn bad_parameter(why: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(refusal(&format!("Bad parameter: {why}"), "ParameterError"))).into_response()
}
