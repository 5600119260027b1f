//! Variables: ours, the older tool's, and others.

use std::time::Duration;

use super::Setup;

fn with(name: &str, value: &str) -> Setup {
    Setup::bare().flags(|flags| flags.region = Some("fra".into())).variable(name, value)
}

#[test]
fn variables_of_the_older_tool_are_understood() {
    let config = with("EDGEPROXY_DB_RELOAD_SECS", "7")
        .variable("EDGEPROXY_BINDING_TTL_SECS", "0")
        .variable("EDGEPROXY_HEARTBEAT_TTL_SECS", "90")
        .variable("DEBUG", "1")
        .config();
    assert_eq!(config.routing.poll, Duration::from_secs(7));
    assert_eq!(config.proxy.listeners[0].affinity_ttl, Duration::ZERO);
    assert_eq!(config.routing.heartbeat_ttl, 90);
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.notices, [""; 0]);
    assert_eq!(
        with("EDGEPROXY_DB_RELOAD_SECS", "5s").problems(),
        ["EDGEPROXY_DB_RELOAD_SECS: \"5s\" is not a whole number of seconds (such as 60)"]
    );
    assert_eq!(
        with("EDGEPROXY_DB_RELOAD_SECS", "5").variable("EDGEPROXY_ROUTING_POLL", "5s").problems(),
        ["EDGEPROXY_ROUTING_POLL: is set, and so is EDGEPROXY_DB_RELOAD_SECS, which means the same; keep one"]
    );
}

#[test]
fn the_older_switch_for_debug_is_weaker_than_our_variable() {
    for (value, level, notices) in [
        ("1", "debug", vec![]),
        ("true", "debug", vec![]),
        ("0", "info", vec![]),
        ("", "info", vec![]),
        ("app:*", "info", vec!["DEBUG=\"app:*\" has no effect here; EDGEPROXY_LOG=debug logs more"]),
    ] {
        let config = with("DEBUG", value).config();
        assert_eq!(
            (config.log.level.as_str(), config.notices),
            (level, notices.iter().map(|s| s.to_string()).collect())
        );
        let config = with("DEBUG", value).variable("EDGEPROXY_LOG", "warn,edgeproxy_proxy=trace").config();
        assert_eq!(config.log.level, "warn,edgeproxy_proxy=trace");
    }
    let config = with("DEBUG", "1").flags(|flags| flags.log = Some("error".into())).config();
    assert_eq!(config.log.level, "error");
}

#[test]
fn what_has_no_effect_is_told_and_what_is_missing_is_refused() {
    let api = "the API is part of the admin address, EDGEPROXY_ADMIN_ADDR";
    for (name, value, notice) in [
        ("EDGEPROXY_API_ENABLED", "true", format!("EDGEPROXY_API_ENABLED has no effect: {api}")),
        ("EDGEPROXY_API_LISTEN_ADDR", "x", format!("EDGEPROXY_API_LISTEN_ADDR has no effect: {api}")),
        (
            "EDGEPROXY_BINDING_GC_INTERVAL_SECS",
            "60",
            "EDGEPROXY_BINDING_GC_INTERVAL_SECS has no effect: expired bindings leave as new ones come".to_owned(),
        ),
        (
            "EDGEPROXY_DNS_DOMAIN",
            "internal",
            "EDGEPROXY_DNS_DOMAIN has no effect: the DNS server is not supported yet".to_owned(),
        ),
    ] {
        assert_eq!(with(name, value).config().notices, [notice]);
    }
    for (name, what) in [
        ("EDGEPROXY_TLS_ENABLED", "TLS termination"),
        ("EDGEPROXY_DNS_ENABLED", "the DNS server"),
        ("EDGEPROXY_REPLICATION_ENABLED", "replication between machines"),
    ] {
        for value in ["1", "true", "YES", "what"] {
            let expected = format!("{name}: {value:?} asks for {what}, which is not supported yet; unset it");
            assert_eq!(with(name, value).problems(), [expected]);
        }
        for value in ["0", "false", "no", "OFF", ""] {
            assert_eq!(with(name, value).config().notices, [""; 0], "{name}={value}");
        }
    }
}

#[test]
fn unknown_variables_are_refused_with_a_hint() {
    for (name, hint) in [
        ("EDGEPROXY_REGIN", "; did you mean EDGEPROXY_REGION?"),
        ("EDGEPROXY_ADMIN_LISTEN", "; did you mean EDGEPROXY_ADMIN_ADDR?"),
        ("EDGEPROXY_LISTENER_BIND", "; did you mean EDGEPROXY_LISTEN_ADDR?"),
        ("EDGEPROXY_CONFG", "; did you mean EDGEPROXY_CONFIG?"),
        ("EDGEPROXY_CHECK_KIND", "; checks and regions are set in the configuration file only"),
        ("EDGEPROXY_ROUTING_REGION_CODE", "; checks and regions are set in the configuration file only"),
        ("EDGEPROXY_FOO", "; docs/config.md lists all"),
        ("EDGEPROXY_", "; docs/config.md lists all"),
    ] {
        assert_eq!(with(name, "x").problems(), [format!("{name}: unknown variable{hint}")]);
    }
    assert_eq!(with("EDGEPROXY_FOO", "").problems(), [""; 0], "set to nothing is not set");
}

#[test]
fn links_to_a_service_of_our_name_are_passed_over() {
    let links = [
        ("EDGEPROXY_SERVICE_HOST", "10.0.0.1"),
        ("EDGEPROXY_SERVICE_PORT", "8080"),
        ("EDGEPROXY_SERVICE_PORT_HTTP", "8080"),
        ("EDGEPROXY_PORT", "tcp://10.0.0.1:8080"),
        ("EDGEPROXY_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("EDGEPROXY_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ];
    for (name, value) in links {
        assert_eq!(with(name, value).config().notices, [""; 0], "{name}");
    }
    assert_eq!(with("EDGEPROXY_PORT", "8080").problems().len(), 1, "somebody means the listener's port");
}

#[test]
fn variables_that_are_not_text() {
    use std::os::unix::ffi::OsStringExt;
    let broken = || std::ffi::OsString::from_vec(vec![0xff]);
    let mut setup = with("PATH", "/bin");
    setup.variables.push(("EDGEPROXY_DB_PATH".into(), broken()));
    setup.variables.push((broken(), "x".into()));
    setup.variables.push(("OTHER".into(), broken()));
    assert_eq!(setup.problems(), ["EDGEPROXY_DB_PATH: is not UTF-8"]);
}
