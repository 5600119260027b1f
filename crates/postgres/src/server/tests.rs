use super::*;

fn refused(url: &str) -> String {
    Server::from_url(url).expect_err(url).to_string()
}

#[test]
fn everything_in_a_url_has_its_place() {
    let server = Server::from_url(
        "postgresql://app%40eu:p%3Ass@w@db.internal:5433/con%20tacts?sslmode=verify-full&sslnegotiation=direct\
         &sslrootcert=/etc/ca.pem&application_name=x&connect_timeout=3",
    )
    .unwrap();
    assert_eq!(server.user.as_deref(), Some("app@eu"));
    assert_eq!(server.password.as_ref().unwrap().reveal(), "p:ss@w");
    assert_eq!((server.host.as_str(), server.port), ("db.internal", 5433));
    assert_eq!(server.database.as_deref(), Some("con tacts"));
    assert_eq!(server.tls, TlsMode::VerifyFull(Negotiation::Direct, "/etc/ca.pem".into()));
    assert_eq!((server.application.as_str(), server.connect_timeout), ("x", Duration::from_secs(3)));
}

#[test]
fn what_a_url_leaves_out_has_a_default() {
    let server = Server::from_url("postgres:///db").unwrap();
    assert_eq!((server.host.as_str(), server.port, server.database.as_deref()), ("", 5432, Some("db")));
    assert_eq!((server.user, server.password, server.tls), (None, None, TlsMode::Disable));
    assert_eq!(Server::from_url("postgres://h").unwrap().to_string(), "h:5432");
    assert_eq!(Server::from_url("postgres://h:/").unwrap().to_string(), "h:5432");
    assert_eq!(Server::from_url("postgres://[::1]:5433/x").unwrap().to_string(), "[::1]:5433");
    assert_eq!(Server::from_url("postgres://%2Frun%2Fpg/x").unwrap().host, "/run/pg");
    assert_eq!(Server::from_url("postgres://h/x?user=u&password=p&port=6").unwrap().port, 6);
}

#[test]
fn what_would_not_be_kept_is_refused() {
    for url in [
        "mysql://h/db",
        "postgres://h:0/db",
        "postgres://h:65536/db",
        "postgres://[::1/db",
        "postgres://[::1]5432/db",
        "postgres://a,b/db",
        "postgres://h:1,i:2/db",
        "postgres://h/db?host=a,b",
        "postgres://h/db?sslmode=prefer",
        "postgres://h/db?sslmode=verify-ca",
        "postgres://h/db?sslmode=verify-full",
        "postgres://h/db?sslmode=require&sslrootcert=ca",
        "postgres://h/db?sslnegotiation=direct",
        "postgres://h/db?sslmode",
        "postgres://h/db?keepalive=1",
        "postgres://h/db?connect_timeout=0",
        "postgres://h/%zz",
        "postgres://h/%00",
        "postgres://u:%ff@h/db",
    ] {
        refused(url);
    }
}

#[test]
fn the_password_is_shown_nowhere() {
    let server = Server::from_url("postgres://u:hunter2@h/db").unwrap();
    assert!(!format!("{server:?} {server}").contains("hunter2"));
    for url in ["postgres://u:hunter2@h:x/db", "postgres://u:hunter2%@h", "postgres://u:hunter2@h/?password=hunter2%"] {
        let message = refused(url);
        assert!(!message.contains("hunter2"), "{message}");
    }
}
