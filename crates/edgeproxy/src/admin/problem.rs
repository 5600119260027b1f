//! Every error answer: a problem document (RFC 9457) that says what is wrong and what would be right.

use std::borrow::Cow;
use std::fmt::Display;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use edgeproxy_route::BackendError;
use edgeproxy_store::{EditError, StoreError};
use serde_json::json;

/// Why a request was not done.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    /// Which field or parameter is meant, where one is.
    field: Option<String>,
    header: Option<(HeaderName, Cow<'static, str>)>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), field: None, header: None }
    }

    /// 422: a field or parameter breaks its rule.
    pub(super) fn field(field: &str, rule: impl Display) -> Self {
        let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{field} {rule}"));
        Self { field: Some(field.to_owned()), ..problem }
    }

    /// 404: there is no such thing.
    pub(super) fn unknown(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 404 for a backend.
    pub(super) fn unknown_backend(id: &str) -> Self {
        Self::unknown(format!("there is no backend {id:?}; GET /api/v1/backends lists those there are"))
    }

    /// 409: not as things are.
    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// The same about a field.
    pub(super) fn about(self, field: &str) -> Self {
        Self { field: Some(field.to_owned()), ..self }
    }

    /// For a document that has several of them: status, detail and field.
    pub(super) fn parts(self) -> (u16, String, Option<String>) {
        (self.status.as_u16(), self.detail, self.field)
    }

    pub(super) fn no_such_path(uri: &Uri) -> Self {
        Self::unknown(format!("there is nothing at {}; GET / lists what there is", uri.path()))
    }

    pub(super) fn wrong_method() -> Self {
        let detail = "this path does not take this method; the Allow header lists those it takes";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, detail)
    }

    /// 401: the token is missing or wrong. `whose` opens what was asked for.
    pub(super) fn token_needed(whose: &str) -> Self {
        let detail = format!("needs the header `Authorization: Bearer TOKEN`, with the token of {whose}");
        let header = Some((header::WWW_AUTHENTICATE, "Bearer realm=\"edgeproxy\"".into()));
        Self { header, ..Self::new(StatusCode::UNAUTHORIZED, detail) }
    }

    /// 403: the token is known, and does not open this.
    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// 429: too much at once; may be asked again after this time.
    pub(super) fn too_many(detail: impl Into<String>, wait: Duration) -> Self {
        // Whole seconds, and no sooner.
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        let header = Some((header::RETRY_AFTER, seconds.to_string().into()));
        Self { header, ..Self::new(StatusCode::TOO_MANY_REQUESTS, detail) }
    }

    /// The same about a field that this request calls otherwise.
    pub(super) fn renamed(mut self, field: &str, here: &str) -> Self {
        if self.field.as_deref() == Some(field) {
            self.detail = self.detail.replacen(field, here, 1);
            self.field = Some(here.to_owned());
        }
        self
    }

    /// 500: a fault of ours or of this machine; also goes to the log, as it is for the operator.
    pub(super) fn internal(error: &dyn Display) -> Self {
        tracing::error!(%error, "an API request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl From<EditError> for Problem {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Exists { id, .. } => {
                Self::conflict(format!("backend {id:?} exists; change it with PATCH, or choose another id"))
            }
            EditError::Unknown { id, .. } => Self::unknown_backend(&id),
            EditError::Rejected(BackendError { field, rule, .. }) => Self::field(field, rule),
            EditError::Store(error @ StoreError::Locked { .. }) => Self {
                header: Some((header::RETRY_AFTER, "1".into())),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            },
            EditError::Store(error) => Self::internal(&error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut document = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(field) = self.field {
            document["field"] = field.into();
        }
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, kind, document.to_string()).into_response();
        if let Some((name, value)) = self.header
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
