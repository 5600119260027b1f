//! Over TLS, with an authority that is not the system's.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use edgeproxy_bench::storage::{Settings, Store};
use edgeproxy_world::Bucket;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::{parts, run, single, store_at};

/// Makes `cert.pem` and `key.pem` for localhost.
fn certificate(folder: &Path) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    command.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
    command.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key.pem", "-out", "cert.pem"]);
    let status = command.current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success());
}

/// TLS before the bucket; the port it has.
async fn front(folder: &Path, bucket: &Bucket) -> u16 {
    let chain = vec![CertificateDer::from_pem_file(folder.join("cert.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, target) = (listener.local_addr().unwrap().port(), bucket.address());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let Ok(mut inside) = TcpStream::connect(target).await else { return };
                // Either may go first.
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    port
}

fn store(port: u16, ca_file: Option<&Path>) -> Store {
    let like = store_at("http://127.0.0.1:1", "speed");
    let settings = Settings {
        endpoint: Some(format!("https://localhost:{port}")),
        bucket: Some("speed".to_owned()),
        keys: Some(like.keys),
        ca_file: ca_file.map(Path::to_path_buf),
        ..Settings::default()
    };
    Store { retries: 0, ..settings.store().unwrap() }
}

#[tokio::test]
async fn an_authority_that_is_named_is_trusted_and_no_other() {
    let (bucket, folder) = (Bucket::start().unwrap(), tempfile::tempdir().unwrap());
    certificate(folder.path());
    let port = front(folder.path(), &bucket).await;
    let ca_file = folder.path().join("cert.pem");
    let outcome = run(store(port, Some(&ca_file)), &parts(3, 2)).await.unwrap();
    assert!(outcome.connect.iter().all(|times| times.tls_ms > 0.0), "{:?}", outcome.connect);
    assert_eq!(outcome.sockets.len(), 2);
    run(store(port, Some(&ca_file)), &single(3_000_000)).await.unwrap();
    assert_eq!((bucket.uploads(), bucket.objects()), (vec![], vec![]));

    let failure = run(store(port, None), &single(1000)).await.unwrap_err();
    assert_eq!(failure.code(), "NoTls", "{failure}");
    assert!(failure.advice().contains("--ca-file"));
    // A store that does not speak TLS at all.
    let mut plain = store(bucket.address().port(), Some(&ca_file));
    plain.patience.connect = Duration::from_millis(500);
    let failure = run(plain, &single(1000)).await.unwrap_err();
    assert_eq!(failure.code(), "NoTls", "{failure}");
}

#[tokio::test]
async fn a_file_without_certificates_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    let like = store_at("http://127.0.0.1:1", "speed");
    let mut settings = Settings {
        endpoint: Some("https://localhost".to_owned()),
        bucket: Some("speed".to_owned()),
        keys: Some(like.keys),
        ca_file: Some(empty),
        ..Settings::default()
    };
    assert!(settings.store().unwrap_err()[0].contains("has no certificate"));
    settings.ca_file = Some(folder.path().join("missing.pem"));
    assert!(settings.store().unwrap_err()[0].contains("cannot be read"));
}
