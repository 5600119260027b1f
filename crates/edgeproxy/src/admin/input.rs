//! What requests carry, read such that every mistake is told as a problem document.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error, Visitor};

use super::problem::Problem;

/// How long a client may take to send its body.
const BODY_WITHIN: Duration = Duration::from_secs(15);

/// A JSON body.
pub(super) struct Body<T> {
    pub(super) value: T,
    /// As it was sent.
    pub(super) raw: Bytes,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        // Also keeps web pages out: a browser sends this type to another origin only after asking for permission.
        if !is_json(request.headers()) {
            let detail = "the body must be JSON, with the header `Content-Type: application/json`";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        let raw = tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, state))
            .await
            .map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"))?
            .map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
        // A struct would also be read from a list of its fields' values in order.
        if Json::<serde_json::Value>::from_bytes(&raw).is_ok_and(|value| !value.is_object()) {
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the body must be a JSON object"));
        }
        let Json(value) = Json::from_bytes(&raw).map_err(|rejection| match rejection {
            JsonRejection::JsonDataError(_) => {
                let text = rejection.body_text();
                let what = text.strip_prefix("Failed to deserialize the JSON body into the target type: ");
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what.unwrap_or(&text))
            }
            // Every other way to fail is about the text itself, and says at which line and column.
            _ => Problem::new(StatusCode::BAD_REQUEST, rejection.body_text()),
        })?;
        Ok(Self { value, raw })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json") || kind.eq_ignore_ascii_case("application/merge-patch+json")
}

/// Query parameters.
pub(super) struct Parameters<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Query(value) = Query::try_from_uri(&parts.uri)
            .map_err(|rejection| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, rejection.body_text()))?;
        Ok(Self(value))
    }
}

/// The name in a path.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(name) = Path::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
        Ok(Self(name))
    }
}

/// For fields that are objects themselves.
pub(super) fn object<'de, T: DeserializeOwned, D: Deserializer<'de>>(field: D) -> Result<T, D::Error> {
    let object = serde_json::Map::deserialize(field)?;
    T::deserialize(serde_json::Value::Object(object)).map_err(Error::custom)
}

/// For fields that may be left out but not be null.
pub(super) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(field: D) -> Result<Option<T>, D::Error> {
    T::deserialize(field).map(Some)
}

/// For fields where null takes the value away; `empty` is how the table's editor is told so.
pub(super) fn given_or<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    field: D,
    empty: T,
) -> Result<Option<T>, D::Error> {
    Ok(Some(Option::deserialize(field)?.unwrap_or(empty)))
}

/// `true` and `false`, and 1 and 0 as the table has them. Other numbers are left to the rule of the column.
pub(super) fn flag<'de, D: Deserializer<'de>>(field: D) -> Result<Option<i64>, D::Error> {
    struct Flag;

    impl Visitor<'_> for Flag {
        type Value = i64;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("true or false")
        }

        fn visit_bool<E: Error>(self, value: bool) -> Result<i64, E> {
            Ok(value.into())
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<i64, E> {
            Ok(value)
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<i64, E> {
            Ok(i64::try_from(value).unwrap_or(i64::MAX))
        }
    }

    field.deserialize_any(Flag).map(Some)
}
