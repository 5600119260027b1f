//! TLS as servers of PostgreSQL expect it: asked for or direct, and bound to the login.

use std::io;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs::default_provider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{AlgorithmIdentifier, CertificateDer, ServerName, UnixTime, alg_id};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::reach::Bytes;
use crate::server::{Negotiation, TlsMode};

/// Without this name a server refuses direct TLS (PostgreSQL documentation, section 55.2.11).
const ALPN: &[u8] = b"postgresql";
/// Length 8 and the code 1234 5679: "is there TLS?"
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Secures `stream` as the mode says; `None` where it says not to.
///
/// # Errors
///
/// The server has no TLS, its certificate is not acceptable, or the stream ended.
pub(crate) async fn secure(
    mode: &TlsMode,
    host: &str,
    mut stream: Box<dyn Bytes>,
) -> io::Result<Result<TlsStream<Box<dyn Bytes>>, Box<dyn Bytes>>> {
    let (negotiation, roots) = match mode {
        TlsMode::Disable => return Ok(Err(stream)),
        TlsMode::Require(negotiation) => (negotiation, None),
        TlsMode::VerifyFull(negotiation, roots) => (negotiation, Some(roots.as_path())),
    };
    let config = client_config(roots)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, "the host is no name that a certificate could have")
    })?;
    if *negotiation == Negotiation::Classic {
        stream.write_all(&SSL_REQUEST).await?;
        // One byte and no more: whatever came with it in clear would be taken for the first that was encrypted.
        match stream.read_u8().await? {
            b'S' => {}
            b'N' => return Err(io::Error::new(io::ErrorKind::Unsupported, "the server has no TLS")),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "what answers does not speak PostgreSQL")),
        }
    }
    Ok(Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}

fn client_config(roots: Option<&Path>) -> io::Result<ClientConfig> {
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let mut config = match roots {
        Some(file) => builder.with_root_certificates(authorities(file)?).with_no_client_auth(),
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))).with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn authorities(file: &Path) -> io::Result<RootCertStore> {
    let named = |why: String| io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {why}", file.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| named(error.to_string()))? {
        let certificate = certificate.map_err(|error| named(error.to_string()))?;
        roots.add(certificate).map_err(|error| named(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(named("no certificate in it".into()));
    }
    Ok(roots)
}

/// Takes any certificate, but only from whoever has its key: what `sslmode=require` means everywhere.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a login can be bound to: the hash of the server's certificate (RFC 5929, section 4.1), by the algorithm that the
/// certificate is signed with. `None` where that names no hash; the login then goes unbound.
pub(crate) fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = signature_algorithm(certificate)?;
    let is = |known: &[AlgorithmIdentifier]| known.iter().any(|known| known.as_ref() == algorithm);
    let hash = if is(&[alg_id::RSA_PKCS1_SHA256, alg_id::ECDSA_SHA256, alg_id::RSA_PSS_SHA256]) {
        &digest::SHA256
    } else if is(&[alg_id::RSA_PKCS1_SHA384, alg_id::ECDSA_SHA384, alg_id::RSA_PSS_SHA384]) {
        &digest::SHA384
    } else if is(&[alg_id::RSA_PKCS1_SHA512, alg_id::ECDSA_SHA512, alg_id::RSA_PSS_SHA512]) {
        &digest::SHA512
    } else {
        return None;
    };
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}

/// `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { .. }, signatureValue }` (RFC 5280): what
/// stands in the second.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (inside, _) = sequence(certificate)?;
    let (_, after) = sequence(inside)?;
    let (algorithm, _) = sequence(after)?;
    Some(algorithm)
}

/// The inside of the SEQUENCE that `der` begins with, and what follows it.
fn sequence(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = if short < 0x80 {
        (usize::from(short), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
        let length = digits
            .iter()
            .try_fold(0usize, |length, &digit| length.checked_mul(256)?.checked_add(usize::from(digit)))?;
        (length, rest)
    };
    (tag == 0x30).then(|| rest.split_at_checked(length)).flatten()
}
