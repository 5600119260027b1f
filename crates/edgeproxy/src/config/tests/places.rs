//! Who wins, and what a value is taken to mean.

use std::path::{Path, PathBuf};
use std::time::Duration;

use edgeproxy_proxy::{CheckKind, WhenAllDown};
use edgeproxy_route::{Point, Policy};

use super::Setup;
use crate::config::{ConnectionLog, LogFormat, Origin};

#[test]
fn flag_wins_over_variable_over_file_over_default() {
    let region = |setup: Setup| {
        let config = setup.config();
        let setting = config.settings.iter().find(|setting| setting.key == "region").unwrap().clone();
        assert_eq!(setting.value.as_ref(), Some(&config.proxy.region));
        (config.proxy.region, setting.origin)
    };
    let file = || Setup::file("\nregion = \"fra\"");
    let name = |setup: &Setup| setup.path().join("edgeproxy.toml").display().to_string();
    let setup = file();
    let origin = Origin::File { name: name(&setup), line: Some(2) };
    assert_eq!(region(setup), ("fra".into(), origin));
    let setup = file().variable("EDGEPROXY_REGION", "lhr");
    assert_eq!(region(setup), ("lhr".into(), Origin::Variable("EDGEPROXY_REGION".into())));
    let setup = file().variable("EDGEPROXY_REGION", "lhr").flags(|flags| flags.region = Some("nrt".into()));
    assert_eq!(region(setup), ("nrt".into(), Origin::Flag("region")));
    let setup = file().variable("EDGEPROXY_REGION", "");
    assert_eq!(region(setup).0, "fra", "a variable set to nothing is not set");
}

#[test]
fn a_variable_names_the_file_and_a_flag_another() {
    let (named, other) = (Setup::file("region = \"fra\""), Setup::file("region = \"nrt\""));
    let path = named.flags.config.as_ref().unwrap().to_str().unwrap();
    assert_eq!(Setup::bare().variable("EDGEPROXY_CONFIG", path).config().proxy.region, "fra");
    assert_eq!(other.variable("EDGEPROXY_CONFIG", path).config().proxy.region, "nrt");
}

#[test]
fn paths_are_relative_to_who_names_them() {
    let setup = Setup::file(
        "region = \"fra\"\n[routing]\ndb = \"data/a.db\"\ngeoip = \"/srv/city.mmdb\"\n[log]\nconnections = \"c.log\"\n",
    );
    let config = setup.config();
    assert_eq!(config.routing.db, setup.path().join("data/a.db"));
    assert_eq!(config.routing.geoip.as_deref(), Some(Path::new("/srv/city.mmdb")));
    assert_eq!(config.log.connections, ConnectionLog::File(setup.path().join("c.log")));

    let setup = setup.variable("EDGEPROXY_DB_PATH", "b.db").flags(|flags| flags.geoip = Some("c.mmdb".into()));
    let config = setup.config();
    assert_eq!(config.routing.db, PathBuf::from("b.db"));
    assert_eq!(config.routing.geoip, Some(PathBuf::from("c.mmdb")));
    assert_eq!(Setup::file("region = \"fra\"").config().routing.db, PathBuf::from("routing.db"));
}

#[test]
fn every_value_arrives() {
    let setup = Setup::file(
        r#"
region = "bcn"
[routing]
poll = "2s"
[[routing.region]]
code = "bcn"
latitude = 41.39
longitude = 2
country = "es"
[proxy]
threads = 3
max_connections = 1_000
drain_timeout = "1m 30s"
[[listener]]
bind = "[::]:5432"
app = "db"
policy = "latency"
trust_proxy = ["10.0.0.0/8", "192.0.2.7", "::1"]
when_all_down = "try"
idle_timeout = "1h"
half_close_timeout = "0s"
max_lifetime = "1day"
keepalive = "0s"
[[listener]]
bind = "0.0.0.0:80"
[[check]]
app = "db"
kind = "exchange"
send = [0, 0x08, 255]
expect = "S"
[[check]]
kind = "http"
host = "h"
statuses = 204
rise = 1
port = 8081
[log]
format = "json"
connections = "off"
"#,
    );
    let config = setup.config();
    assert_eq!(config.routing.poll, Duration::from_secs(2));
    let [region] = &config.routing.regions[..] else { panic!() };
    assert_eq!((region.code.as_str(), region.country.as_str()), ("bcn", "ES"));
    assert_eq!(Some(region.point), Point::from_degrees(41.39, 2.0));
    assert_eq!(config.notices, [""; 0], "a declared region is known");
    let proxy = &config.proxy;
    assert_eq!((proxy.threads, proxy.max_connections), (3, 1000));
    assert_eq!(proxy.drain_timeout, Duration::from_secs(90));
    let [db, web] = &proxy.listeners[..] else { panic!() };
    assert_eq!((db.bind.to_string(), db.app.as_deref()), ("[::]:5432".to_owned(), Some("db")));
    assert_eq!((db.policy, db.when_all_down), (Policy::Latency, WhenAllDown::Try));
    let networks: Vec<String> = db.trust_proxy.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "192.0.2.7/32", "::1/128"]);
    assert_eq!(db.idle_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(db.max_lifetime, Some(Duration::from_secs(86_400)));
    assert_eq!((db.half_close_timeout, db.keepalive), (None, None));
    assert_eq!((web.bind.port(), web.idle_timeout, &web.trust_proxy[..]), (80, None, &[][..]));
    let [exchange, http] = &proxy.checks[..] else { panic!() };
    assert_eq!(exchange.kind, CheckKind::Exchange { send: vec![0, 8, 255], expect: b"S".to_vec() });
    let expected = CheckKind::Http { path: "/".into(), host: Some("h".into()), statuses: 204..=204 };
    assert_eq!((&http.kind, http.port, http.pace.rise), (&expected, Some(8081), 1));
    assert_eq!((config.log.format, config.log.connections), (LogFormat::Json, ConnectionLog::Off));
}

#[test]
fn lists_outside_the_file_are_separated_by_commas() {
    let setup = Setup::file("region = \"fra\"\n[[listener]]\ntrust_proxy = [\"10.0.0.0/8\"]\n")
        .variable("EDGEPROXY_TRUST_PROXY", "127.0.0.0/8, ::1");
    let networks: Vec<String> = setup.config().proxy.listeners[0].trust_proxy.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["127.0.0.0/8", "::1/128"]);
}

#[test]
fn flags_and_variables_set_a_single_listener_only() {
    let single = Setup::file("region = \"fra\"\n[[listener]]\nqueue = 1\nqueue_timeout = \"1s\"\n")
        .variable("EDGEPROXY_LISTENER_QUEUE", "7")
        .flags(|flags| flags.listen = Some("127.0.0.1:81".into()));
    let listener = &single.config().proxy.listeners[0];
    assert_eq!((listener.queue, listener.bind.port()), (7, 81));
    assert_eq!(listener.queue_timeout, Duration::from_secs(1));

    let two = Setup::file("region = \"fra\"\n[[listener]]\n[[listener]]\nbind = \"0.0.0.0:81\"\n")
        .variable("EDGEPROXY_LISTENER_QUEUE", "7")
        .variable("EDGEPROXY_BINDING_TTL_SECS", "7")
        .flags(|flags| flags.listen = Some("127.0.0.1:81".into()));
    let told = "but the file has 2 of them; set it there";
    assert_eq!(
        two.problems(),
        [
            format!("--listen: sets the listener's bind, {told}"),
            format!("EDGEPROXY_BINDING_TTL_SECS: sets the listener's affinity_ttl, {told}"),
            format!("EDGEPROXY_LISTENER_QUEUE: sets the listener's queue, {told}"),
        ]
    );
}

#[test]
fn an_unknown_region_is_worth_a_notice() {
    let notices = Setup::file("region = \"xyz\"").config().notices;
    assert_eq!(notices.len(), 1);
    assert!(notices[0].starts_with("nothing is known of region \"xyz\": "), "{notices:?}");
}
