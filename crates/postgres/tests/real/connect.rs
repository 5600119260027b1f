//! Connects: phases, TLS and what is said when it fails.

use std::io;
use std::process::Command;
use std::sync::Arc;

use edgeproxy_postgres::{Direct, Negotiation, Phase, Server, Side, TlsMode, connect};
use edgeproxy_world::postgres::ScratchPostgres;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::stage::{run, server, superuser};

#[test]
fn each_phase_has_its_time() {
    run(async {
        let primary = ScratchPostgres::start("lhr").await?;
        let (_, phases) = connect(&server(&primary), &Direct).await.unwrap();
        assert!(!phases.login.is_zero() && !phases.tcp.is_zero() && phases.dns.is_zero() && phases.tls < phases.login);
        assert_eq!(phases.total(), phases.dns + phases.tcp + phases.tls + phases.login);

        let named = Server { host: "localhost".into(), ..server(&primary) };
        let (_, phases) = connect(&named, &Direct).await.unwrap();
        assert!(!phases.dns.is_zero());
        Ok(())
    });
}

#[test]
fn a_failure_says_on_which_side_and_in_which_phase() {
    run(async {
        let mut primary = ScratchPostgres::start("lhr").await?;
        let good = server(&primary);
        let failure = async |server: &Server| connect(server, &Direct).await.unwrap_err();

        let error = failure(&good.clone().password("wrong")).await;
        assert_eq!((error.kind(), error.phase(), error.side()), ("refused", Phase::Login, Side::Us));
        assert_eq!((error.sqlstate(), error.server()), (Some("28P01"), Some(primary.address().to_string().as_str())));
        assert!(!format!("{error} {error:?}").contains("wrong"), "{error:?}");

        let error = failure(&good.clone().database("nowhere")).await;
        assert_eq!((error.sqlstate(), error.phase()), (Some("3D000"), Phase::Login));

        let error = failure(&good.clone().tls(TlsMode::Require(Negotiation::Classic))).await;
        assert_eq!((error.kind(), error.phase(), error.side()), ("tls", Phase::Tls, Side::Network));

        primary.kill().await?;
        let error = failure(&good).await;
        assert_eq!((error.kind(), error.phase(), error.side()), ("unreachable", Phase::Dial, Side::Network));

        // Somebody is there who says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").await?;
        let mut patient = Server::new("127.0.0.1", silent.local_addr()?.port()).user("u");
        patient.connect_timeout = std::time::Duration::from_millis(50);
        let error = failure(&patient).await;
        assert_eq!((error.kind(), error.phase(), error.side()), ("timeout", Phase::Login, Side::Network));
        Ok(())
    });
}

/// A certificate for `localhost` that signs itself, with its key.
fn certificate(key: &[&str]) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(key)
        .arg("-out")
        .arg(file("crt"))
        .arg("-keyout")
        .arg(file("key"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = |name: &str| std::fs::read_to_string(file(name)).unwrap();
    (text("crt"), text("key"))
}

const P256: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

#[test]
fn tls_is_what_its_mode_says() {
    run(async {
        let (trusted, key) = certificate(&P256);
        let (stranger, _) = certificate(&P256);
        let primary = ScratchPostgres::plan("lhr").tls(&trusted, &key).start().await?;
        let folder = tempfile::tempdir()?;
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        };
        let (trusted, stranger) = (file("trusted", &trusted), file("stranger", &stranger));
        let with = |host: &str, tls| Server { host: host.into(), ..superuser(&primary) }.tls(tls);
        let verify = |file: &std::path::Path| TlsMode::VerifyFull(Negotiation::Classic, file.to_owned());

        let version = primary.binaries().version().unwrap_or_default();
        let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default();
        let direct = (major >= 17).then_some(TlsMode::Require(Negotiation::Direct));
        println!(
            "PostgreSQL {version}: TLS from the first byte {}",
            if direct.is_some() { "too" } else { "it knows not" }
        );
        for tls in [TlsMode::Require(Negotiation::Classic), verify(&trusted)].into_iter().chain(direct) {
            let (connection, phases) = connect(&with("localhost", tls), &Direct).await.unwrap();
            let row = connection.query_typed_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await;
            assert!(row.unwrap().get::<_, bool>(0));
            assert!(!phases.tls.is_zero());
        }
        // The certificate is for another host, or from another authority.
        for (host, tls) in [("127.0.0.1", verify(&trusted)), ("localhost", verify(&stranger))] {
            let error = connect(&with(host, tls), &Direct).await.unwrap_err();
            assert_eq!((error.kind(), error.phase()), ("tls", Phase::Tls), "{error}");
        }
        let missing = verify(&folder.path().join("missing"));
        let error = connect(&with("localhost", missing), &Direct).await.unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
        Ok(())
    });
}

#[test]
fn the_login_is_bound_to_the_certificate_whatever_signed_it() {
    run(async {
        for key in [&P256[..], &["-newkey", "rsa:2048", "-sha384"], &["-newkey", "rsa:2048", "-sha512"]] {
            let (theirs, their_key) = certificate(key);
            let primary = ScratchPostgres::plan("lhr").tls(&theirs, &their_key).start().await?;
            let server = superuser(&primary).tls(TlsMode::Require(Negotiation::Classic));
            // A server refuses a binding that is not right; that there is one at all, a man in the middle shows.
            connect(&server, &Direct).await.unwrap();
            let between = man_in_the_middle(&primary, &theirs, certificate(key)).await?;
            let error = connect(&server.at_port(between), &Direct).await.unwrap_err();
            assert_eq!((error.phase(), error.sqlstate()), (Phase::Login, Some("28000")), "{error}");
        }
        Ok(())
    });
}

/// Speaks TLS to both sides, with a certificate of its own towards the client.
async fn man_in_the_middle(primary: &ScratchPostgres, theirs: &str, own: (String, String)) -> io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let (acceptor, connector, target) = (acceptor(&own.0, &own.1), connector(theirs), primary.address());
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await?;
        let mut request = [0; 8];
        client.read_exact(&mut request).await?;
        client.write_all(b"S").await?;
        let mut client = acceptor.accept(client).await?;
        let mut server = TcpStream::connect(target).await?;
        server.write_all(&request).await?;
        server.read_u8().await?;
        let mut server = connector.connect("localhost".try_into().unwrap(), server).await?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    });
    Ok(port)
}

/// Speaks TLS from the first byte, as servers from 17 on do, in front of one that does not.
async fn direct_tls(primary: &ScratchPostgres) -> io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let (own, key) = certificate(&P256);
    let (acceptor, target) = (acceptor(&own, &key), primary.address());
    tokio::spawn(async move {
        let (client, _) = listener.accept().await?;
        let mut client = acceptor.accept(client).await?;
        assert_eq!(client.get_ref().1.alpn_protocol(), Some(b"postgresql".as_slice()));
        let mut server = TcpStream::connect(target).await?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    });
    Ok(port)
}

#[test]
fn direct_tls_says_what_it_is_for() {
    run(async {
        let primary = ScratchPostgres::start("lhr").await?;
        let port = direct_tls(&primary).await?;
        let server = server(&primary).at_port(port).tls(TlsMode::Require(Negotiation::Direct));
        let (connection, _) = connect(&server, &Direct).await.unwrap();
        connection.check_connection().await.unwrap();
        Ok(())
    });
}

fn connector(trusted: &str) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn acceptor(certificate: &str, key: &str) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
