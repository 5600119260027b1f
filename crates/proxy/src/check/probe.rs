//! One check of one backend.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use edgeproxy_route::BackendAddr;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::dial::{Connected, DialError, Dialler};
use crate::settings::{CheckKind, CheckSettings};

/// Longest HTTP status line read.
const LONGEST_STATUS_LINE: usize = 1024;

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Connect(#[from] DialError),
    #[error("no result within {0:?}")]
    Timeout(Duration),
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("the answer is no HTTP")]
    NotHttp,
    #[error("the answer begins otherwise than expected")]
    Unexpected,
}

impl ProbeError {
    /// Whether it says anything about the backend. A shortage of our own does not.
    pub(super) fn blames_backend(&self) -> bool {
        !matches!(self, Self::Connect(error) if !error.blames_backend())
    }
}

/// Checks a backend. Returns how long connecting took.
pub(super) async fn probe(
    check: &CheckSettings,
    backend: BackendAddr,
    dialler: &Dialler,
) -> Result<Duration, ProbeError> {
    let addr = SocketAddr::new(backend.0.ip(), check.port.unwrap_or(backend.0.port()));
    let checked = tokio::time::timeout(check.timeout, async {
        let started = Instant::now();
        let stream = dialler.connect(addr).await?;
        let connect = started.elapsed();
        match &check.kind {
            CheckKind::None | CheckKind::Tcp | CheckKind::Postgres(_) => {}
            CheckKind::Http { path, host, statuses } => {
                let status = http_status(stream, path, host.as_deref(), addr).await?;
                if !statuses.contains(&status) {
                    return Err(ProbeError::Status(status));
                }
            }
            CheckKind::Tls { server_name } => shake_hands(stream, server_name.as_deref(), addr).await?,
            CheckKind::Exchange { send, expect } => exchange(stream, send, expect).await?,
        }
        Ok(connect)
    });
    checked.await.unwrap_or(Err(ProbeError::Timeout(check.timeout)))
}

async fn http_status(
    mut stream: Box<dyn Connected>,
    path: &str,
    host: Option<&str>,
    addr: SocketAddr,
) -> Result<u16, ProbeError> {
    let host = host.map_or_else(|| addr.to_string(), str::to_owned);
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: edgeproxy-check\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let line_end = loop {
        if let Some(at) = answer.iter().position(|&byte| byte == b'\n') {
            break at;
        }
        if answer.len() >= LONGEST_STATUS_LINE || stream.read_buf(&mut answer).await? == 0 {
            return Err(ProbeError::NotHttp);
        }
    };
    parse_status(&answer[..line_end]).ok_or(ProbeError::NotHttp)
}

/// The status of an HTTP/1 status line without its line feed; `None` where it is none.
pub fn parse_status(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line).ok()?;
    let (version, rest) = line.split_once(' ')?;
    let status = rest.split([' ', '\r']).next()?;
    let is_status = status.len() == 3 && status.bytes().all(|byte| byte.is_ascii_digit());
    (version.starts_with("HTTP/1.") && is_status).then(|| status.parse().ok())?
}

async fn shake_hands(stream: Box<dyn Connected>, name: Option<&str>, addr: SocketAddr) -> Result<(), ProbeError> {
    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider supports the default protocol versions")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Arc::new(config)
    });
    let name = match name {
        Some(name) => ServerName::try_from(name.to_owned()).map_err(|error| io::Error::other(error.to_string()))?,
        None => ServerName::IpAddress(addr.ip().into()),
    };
    let mut tls = TlsConnector::from(Arc::clone(&CONFIG)).connect(name, stream).await?;
    // Servers log a peer that leaves without saying so.
    let _ = tls.shutdown().await;
    Ok(())
}

async fn exchange(mut stream: Box<dyn Connected>, send: &[u8], expect: &[u8]) -> Result<(), ProbeError> {
    stream.write_all(send).await?;
    let mut answer = vec![0; expect.len()];
    match stream.read_exact(&mut answer).await {
        Ok(_) if answer == expect => Ok(()),
        Ok(_) => Err(ProbeError::Unexpected),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(ProbeError::Unexpected),
        Err(error) => Err(error.into()),
    }
}

/// Accepts every certificate, but not a signature that does not fit it: the check asks whether TLS works there, not
/// whose it is. Nothing secret is ever sent over such a connection.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        assert_eq!(parse_status(b"HTTP/1.1 200 OK\r"), Some(200));
        assert_eq!(parse_status(b"HTTP/1.0 503\r"), Some(503));
        for line in
            [&b"SSH-2.0-x"[..], b"HTTP/2 200", b"HTTP/1.1 2000 x", b"HTTP/1.1 +20 x", b"HTTP/1.1", b"\xff\xfe 200"]
        {
            assert_eq!(parse_status(line), None);
        }
    }
}
