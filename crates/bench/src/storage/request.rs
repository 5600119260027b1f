//! A request to a store, signed (AWS signature version 4, in headers).

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use http_body_util::Full;
use hyper::header::{CONTENT_LENGTH, HOST};
use hyper::{Method, Request};

use super::checksum::Checksum;
use super::connection::Outgoing;
use super::data::PartBody;
use super::failure::Reason;
use super::store::Store;

/// One operation, before it is signed: it is made again for every attempt.
pub(super) struct Call {
    pub(super) method: Method,
    /// `None` for the bucket itself.
    pub(super) key: Option<String>,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: Payload,
}

pub(super) enum Payload {
    Empty,
    Xml(String),
    /// Its bytes are not part of the signature: TLS guards them, or a checksum behind them.
    Part(PartBody),
}

impl Call {
    pub(super) fn new(method: Method, key: Option<&str>) -> Self {
        let key = key.map(str::to_owned);
        Self { method, key, query: Vec::new(), headers: Vec::new(), payload: Payload::Empty }
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }

    /// Headers of a body with its checksum behind it.
    pub(super) fn with_trailer(self, checksum: Option<Checksum>, length: u64) -> Self {
        match checksum {
            None => self,
            Some(checksum) => self
                .header("content-encoding", "aws-chunked")
                .header("x-amz-decoded-content-length", length.to_string())
                .header("x-amz-trailer", checksum.header()),
        }
    }

    pub(super) fn sign(self, store: &Store) -> Result<Request<Outgoing>, Reason> {
        let query: Vec<(&str, &str)> = self.query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let target = store.target(self.key.as_deref(), &query);
        let authority = store.authority();
        let mut headers = self.headers;
        headers.push(("host", authority.clone()));
        let signable = match &self.payload {
            Payload::Empty => SignableBody::Bytes(b""),
            Payload::Xml(text) => SignableBody::Bytes(text.as_bytes()),
            Payload::Part(_) if store.checksum.is_some() => SignableBody::StreamingUnsignedPayloadTrailer,
            Payload::Part(_) => SignableBody::UnsignedPayload,
        };
        let signed = signed(
            store,
            self.method.as_str(),
            &format!("{}://{authority}{target}", scheme(store)),
            &headers,
            signable,
        );
        let signed = signed.map_err(|error| Reason::Odd(format!("the request cannot be signed: {error}")))?;

        let (length, body) = match self.payload {
            Payload::Empty => (0, Outgoing::Whole(Full::default())),
            Payload::Xml(text) => (text.len() as u64, Outgoing::Whole(Full::from(text))),
            Payload::Part(body) => (body.wire_length(), Outgoing::Part(body)),
        };
        let mut request = Request::builder().method(&self.method).uri(target);
        for (name, value) in headers.iter().filter(|(name, _)| *name != "host") {
            request = request.header(*name, value);
        }
        for (name, value) in signed {
            request = request.header(name, value);
        }
        request = request.header(HOST, authority);
        // Also where there is no body: some stores answer 411 without it.
        if matches!(self.method, Method::PUT | Method::POST) {
            request = request.header(CONTENT_LENGTH, length);
        }
        request.body(body).map_err(|error| Reason::Odd(format!("the request cannot be made: {error}")))
    }
}

fn scheme(store: &Store) -> &'static str {
    if store.endpoint.tls { "https" } else { "http" }
}

type Signed = Vec<(String, String)>;

fn signed(
    store: &Store,
    method: &str,
    url: &str,
    headers: &[(&'static str, String)],
    body: SignableBody<'_>,
) -> Result<Signed, Box<dyn std::error::Error + Send + Sync>> {
    let keys = &store.keys;
    let session = keys.session.as_ref().map(|token| token.to_string());
    let identity = Credentials::new(&keys.id, keys.secret.as_str(), session, None, "edgeproxy").into();
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(&store.region)
        .name("s3")
        .time(SystemTime::now())
        .settings(settings)
        .build()?;
    let headers = headers.iter().map(|(name, value)| (*name, value.as_str()));
    let request = SignableRequest::new(method, url, headers, body)?;
    let (instructions, _) = sign(request, &parameters.into())?.into_parts();
    let (headers, _) = instructions.into_parts();
    Ok(headers.into_iter().map(|header| (header.name().to_owned(), header.value().to_owned())).collect())
}
