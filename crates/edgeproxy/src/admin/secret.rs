//! Answers that hold keys: what is made of them here is wiped once it was sent and is remembered no more.

use std::io;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use super::problem::Problem;

/// A text with a key in it.
pub(super) struct Secret(pub(super) Zeroizing<String>);

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A mark on answers with a private key, which is kept nowhere else.
#[derive(Clone, Copy)]
pub(super) struct HoldsPrivateKey;

/// A JSON answer.
pub(super) fn answer(status: StatusCode, value: &impl Serialize, holds_private_key: bool) -> Response {
    let bytes = match json(value) {
        Ok(bytes) => bytes,
        Err(error) => return Problem::internal(&error).into_response(),
    };
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let mut response = (status, kind, Body::from(Bytes::from_owner(bytes))).into_response();
    if holds_private_key {
        response.extensions_mut().insert(HoldsPrivateKey);
    }
    response
}

/// In a place that is large enough from the start: one that grows leaves copies behind.
fn json(value: &impl Serialize) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    let mut length = Length(0);
    serde_json::to_writer(&mut length, value)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *bytes, value)?;
    Ok(bytes)
}

/// Counts what is written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_to_one_place() {
        let value = serde_json::json!({ "keys": vec!["k".repeat(44); 1000] });
        let bytes = json(&value).unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&bytes).unwrap(), value);
        assert_eq!(bytes.capacity(), bytes.len());
    }
}
