//! Every rule and its message.

use super::Setup;
use crate::config::{Config, GatewayFlags, Role};

/// A file's text, and all that is said about it when the region is given.
#[rustfmt::skip]
const RULES: &[(&str, &[&str])] = &[
    // Texts.
    ("region = \"\"", &["edgeproxy.toml:1: region: \"\" is not a name"]),
    ("region = \"a\\u0007\"", &["edgeproxy.toml:1: region: \"a\\u{7}\" holds a control character"]),
    (
        "region = 5",
        &[
            "edgeproxy.toml:1: region: is not a text; this machine's region is region = \"...\", further ones are [[routing.region]]",
            "edgeproxy.toml:1: region: 5 is not a text in quotes",
        ],
    ),
    ("[routing]\ndb = \"\"", &["edgeproxy.toml:2: routing.db: \"\" is not a path"]),
    ("[log]\nconnections = false", &["edgeproxy.toml:2: log.connections: false is not a text in quotes"]),
    // What the kernel's WireGuard does not do.
    (
        "[overlay]\nmode = \"kernel\"\nforward = \"on\"",
        &[
            "edgeproxy.toml:2: overlay.mode: is \"kernel\", but packets of one peer for another are passed on by edgeproxy itself \
         only; with this mode the host does so (sysctl net.ipv4.ip_forward): set forward to \"off\", or choose another mode",
        ],
    ),
    (
        "[overlay]\nmode = \"kernel\"\n[[tenant]]\nname = \"blue\"\nnetworks = [\"10.50.1.0/24\"]",
        &[
            "edgeproxy.toml:2: overlay.mode: is \"kernel\", which knows no tenants and would let each reach the other: choose \
         another mode, or keep them apart by the host's firewall and remove the sections tenant",
        ],
    ),
    // Durations.
    (
        "[[listener]]\nconnect_timeout = \"2x\"",
        &["edgeproxy.toml:2: listener[0].connect_timeout: \"2x\" is not a duration (such as 500ms, 2s, 10m)"],
    ),
    (
        "[routing]\npoll = 5",
        &["edgeproxy.toml:2: routing.poll: 5 is not a duration (such as \"500ms\", \"2s\", \"10m\", with the quotes)"],
    ),
    ("[routing]\npoll = \"5\"", &["edgeproxy.toml:2: routing.poll: \"5\" is not a duration (such as 500ms, 2s, 10m)"]),
    ("[proxy]\ndrain_timeout = \"25h\"", &["edgeproxy.toml:2: proxy.drain_timeout: \"25h\" is not in 0s to 1day"]),
    (
        "[[listener]]\naffinity_ttl = \"1ms\"",
        &["edgeproxy.toml:2: listener[0].affinity_ttl: \"1ms\" is not in 100ms to 30days, nor 0s (never)"],
    ),
    (
        "[routing]\nheartbeat_ttl = \"1500ms\"",
        &["edgeproxy.toml:2: routing.heartbeat_ttl: is not a whole number of seconds"],
    ),
    // Numbers.
    ("[proxy]\nthreads = \"4\"", &["edgeproxy.toml:2: proxy.threads: \"4\" is not a whole number"]),
    ("[proxy]\nthreads = -1", &["edgeproxy.toml:2: proxy.threads: -1 is not in 0 to 1024"]),
    ("[[listener]]\nconnect_attempts = 0", &["edgeproxy.toml:2: listener[0].connect_attempts: 0 is not in 1 to 8"]),
    ("[[listener]]\nconnect_attempts = 9", &["edgeproxy.toml:2: listener[0].connect_attempts: 9 is not in 1 to 8"]),
    ("[outlier]\nfailure_ratio = \"x\"", &["edgeproxy.toml:2: outlier.failure_ratio: \"x\" is not a number"]),
    ("[[check]]\nport = 65536", &["edgeproxy.toml:2: check[0].port: 65536 is not in 1 to 65535"]),
    // Addresses and networks.
    (
        "[admin]\nlisten = \"localhost:9090\"",
        &[
            "edgeproxy.toml:2: admin.listen: \"localhost:9090\" is not an IP address with a port (such as 0.0.0.0:8080 or [::]:8080)",
        ],
    ),
    (
        "[[listener]]\ntrust_proxy = [\"10.1.0.0/8\", 5, \"::/129\"]",
        &[
            "edgeproxy.toml:2: listener[0].trust_proxy: \"10.1.0.0/8\" has bits beyond its prefix; the network is 10.0.0.0/8; \
         5 is not a network or an address (such as 10.0.0.0/8 or 192.0.2.7); \
         \"::/129\" is not a network or an address (such as 10.0.0.0/8 or 192.0.2.7)",
        ],
    ),
    (
        "[[listener]]\ntrust_proxy = true",
        &["edgeproxy.toml:2: listener[0].trust_proxy: true is not a list, such as [\"10.0.0.0/8\"]"],
    ),
    // Words.
    (
        "[[listener]]\npolicy = \"gio\"",
        &["edgeproxy.toml:2: listener[0].policy: \"gio\" is none of geo, score, latency; did you mean geo?"],
    ),
    (
        "[log]\nlevel = \"inof\"",
        &[
            "edgeproxy.toml:2: log.level: \"inof\" is none of off, error, warn, info, debug, trace (nor target=level); did you mean info?",
        ],
    ),
    (
        "[log]\nlevel = \"warn,edgeproxy\"",
        &[
            "edgeproxy.toml:2: log.level: \"warn,edgeproxy\" is not a log filter: \"edgeproxy\" is none of off, error, warn, info, debug, trace (nor target=level)",
        ],
    ),
    (
        "[log]\nlevel = \"edgeproxy=loud\"",
        &["edgeproxy.toml:2: log.level: \"edgeproxy=loud\" is not a log filter: error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5"],
    ),
    // Roles.
    (
        "[[listener]]\nrole = \"primary\"\n[[check]]\nkind = \"postgres\"\nuser = \"monitor\"",
        &["edgeproxy.toml:2: listener[0].role: needs an app: there is one primary in each"],
    ),
    (
        "[[listener]]\nrole = \"replica\"\napp = \"db\"",
        &[
            "edgeproxy.toml:2: listener[0].role: needs a [[check]] with kind = \"postgres\", which tells roles; \
         check[0] is not of that kind, and is for app \"db\"",
        ],
    ),
    (
        "[[listener]]\nrole = \"primary\"\napp = \"db\"\n[[check]]\napp = \"other\"\nkind = \"postgres\"\nuser = \"monitor\"",
        &[
            "edgeproxy.toml:2: listener[0].role: needs a [[check]] with kind = \"postgres\", which tells roles; \
         no check is for app \"db\"",
        ],
    ),
    (
        "[[listener]]\nreplica_fallback = \"none\"",
        &["edgeproxy.toml:2: listener[0].replica_fallback: means something with role = \"replica\" only"],
    ),
    (
        "[[check]]\nkind = \"postgres\"",
        &["edgeproxy.toml:1: check[0].user: is not set (who logs in, such as \"edgeproxy\")"],
    ),
    (
        "[[check]]\nkind = \"postgres\"\nuser = \"monitor\"\nmax_lag = \"1ms\"",
        &["edgeproxy.toml:4: check[0].max_lag: \"1ms\" is not in 10ms to 1day, nor 0s (any)"],
    ),
    (
        "[[check]]\nkind = \"postgres\"\nuser = \"monitor\"\ninterval = \"3s\"",
        &[
            "edgeproxy.toml:4: check[0].interval: with timeout (2s) and interval (3s) a database would be silent for longer \
         than 4s, and what is known of it grows old: lower them",
        ],
    ),
    // Checks.
    (
        "[[check]]\nkind = \"http\"\npath = \"health\"",
        &[
            "edgeproxy.toml:3: check[0].path: \"health\" is not a path: it begins with / and has no spaces (such as /healthz)",
        ],
    ),
    (
        "[[check]]\nkind = \"http\"\nhost = \"a b\"",
        &[
            "edgeproxy.toml:3: check[0].host: \"a b\" is not a host name (such as api.example.com or api.example.com:8443)",
        ],
    ),
    (
        "[[check]]\nkind = \"http\"\nstatuses = \"399-200\"",
        &[
            "edgeproxy.toml:3: check[0].statuses: \"399-200\" is not a status or a range of statuses from 100 to 599 (such as 200-399)",
        ],
    ),
    (
        "[[check]]\nkind = \"http\"\nstatuses = 600",
        &[
            "edgeproxy.toml:3: check[0].statuses: 600 is not a status or a range of statuses from 100 to 599 (such as 200-399)",
        ],
    ),
    (
        "[[check]]\nkind = \"tls\"\nserver_name = \"-a.example\"",
        &[
            "edgeproxy.toml:3: check[0].server_name: \"-a.example\" is not a DNS name or an IP address (such as db.example.com)",
        ],
    ),
    ("[[check]]\nsend = \"PING\"", &["edgeproxy.toml:2: check[0].send: means something with kind = \"exchange\" only"]),
    (
        "[[check]]\nkind = \"tls\"\npath = \"/\"",
        &["edgeproxy.toml:3: check[0].path: means something with kind = \"http\" only"],
    ),
    (
        "[[check]]\nkind = \"exchange\"",
        &["edgeproxy.toml:1: check[0].expect: is not set (what the answer must begin with)"],
    ),
    (
        "[[check]]\nkind = \"exchange\"\nexpect = \"\"",
        &["edgeproxy.toml:3: check[0].expect: is empty; a check that expects nothing is kind = \"tcp\""],
    ),
    (
        "[[check]]\nkind = \"exchange\"\nexpect = [0, 256]",
        &["edgeproxy.toml:3: check[0].expect: 256 is not a byte value (0 to 255, or 0x00 to 0xFF)"],
    ),
    (
        "[[check]]\nkind = \"exchange\"\nexpect = 5",
        &["edgeproxy.toml:3: check[0].expect: 5 is neither a text nor a list of byte values"],
    ),
    (
        "[[check]]\napp = \"a\"\n[[check]]\napp = \"a\"",
        &["edgeproxy.toml:4: check[1].app: check[0] is for app \"a\" as well; an app has one check"],
    ),
    (
        "[[check]]\n[[check]]",
        &["edgeproxy.toml:2: check[1].app: check[0] is for all other apps as well; an app has one check"],
    ),
    (
        "[[check]]\nkind = \"tls\"\nserver_name = \"cache.1\"",
        &[
            "edgeproxy.toml:3: check[0].server_name: \"cache.1\" is not a DNS name or an IP address (such as db.example.com)",
        ],
    ),
    // Regions.
    (
        "[[routing.region]]\ncode = \"x\"\nlatitude = 0x5B\nlongitude = 0x10\ncountry = \"ES\"",
        &["edgeproxy.toml:3: routing.region[0].latitude: 0x5B is not in -90 to 90"],
    ),
    (
        "[[routing.region]]\ncode = \"BCN\"\nlatitude = 91\nlongitude = 0\ncountry = \"ESP\"",
        &[
            "edgeproxy.toml:2: routing.region[0].code: \"BCN\" is not a code of 1 to 32 lower-case letters, digits and '-'",
            "edgeproxy.toml:3: routing.region[0].latitude: 91 is not in -90 to 90",
            "edgeproxy.toml:5: routing.region[0].country: \"ESP\" is not an ISO 3166-1 alpha-2 country code (two letters, such as DE)",
        ],
    ),
    (
        "[[routing.region]]\ncode = \"x\"",
        &[
            "edgeproxy.toml:1: routing.region[0].latitude: is not set (degrees north, such as 41.39)",
            "edgeproxy.toml:1: routing.region[0].longitude: is not set (degrees east, such as 2.17)",
            "edgeproxy.toml:1: routing.region[0].country: is not set (the country it lies in, such as \"ES\")",
        ],
    ),
    (
        "[routing]\nregion = [{code = \"x\", latitude = 1, longitude = 2, country = \"ES\"},\n\
      {code = \"x\", latitude = 1, longitude = 2, country = \"ES\"}]",
        &["edgeproxy.toml:3: routing.region[1].code: \"x\" is declared by routing.region[0] already"],
    ),
    (
        "[[region]]\ncode = \"x\"",
        &[
            "edgeproxy.toml:1: region: is not a text; this machine's region is region = \"...\", further ones are [[routing.region]]",
            "edgeproxy.toml:1: region: a list is not a text in quotes",
        ],
    ),
    // Settings that contradict each other.
    (
        "[[listener]]\nbind = \"127.0.0.1:80\"\n[[listener]]\nbind = \"127.0.0.1:80\"",
        &["edgeproxy.toml:4: listener[1].bind: 127.0.0.1:80 is taken by listener[0], which binds 127.0.0.1:80"],
    ),
    (
        "[[listener]]\n[[listener]]\nbind = \"[::]:8080\"",
        &["edgeproxy.toml:3: listener[1].bind: [::]:8080 is taken by listener[0], which binds 0.0.0.0:8080"],
    ),
    ("[[listener]]\nbind = \"0.0.0.0:80\"\n[[listener]]\nbind = \"127.0.0.1:80\"",
        &["edgeproxy.toml:4: listener[1].bind: 127.0.0.1:80 is taken by listener[0], which binds 0.0.0.0:80"]),
    ("[[listener]]\nbind = \"127.0.0.1:80\"\n[[listener]]\nbind = \"127.0.0.2:80\"", &[]),
    ("[[listener]]\nbind = \"127.0.0.1:80\"\n[[listener]]\nbind = \"[::ffff:127.0.0.1]:80\"",
        &["edgeproxy.toml:4: listener[1].bind: [::ffff:127.0.0.1]:80 is taken by listener[0], which binds 127.0.0.1:80"]),
    ("[[listener]]\nbind = \"127.0.0.1:0\"\n[[listener]]\nbind = \"127.0.0.1:0\"", &[]),
    ("[[listener]]\nbind = \"0.0.0.0:80\"\n[[listener]]\nbind = \"[2001:db8::1]:80\"", &[]),
    ("[[listener]]\nbind = \"[2001:db8::1]:80\"\n[[listener]]\nbind = \"0.0.0.0:80\"", &[]),
    ("[admin]\nlisten = \"[::1]:8080\"", &[]),
    ("[[listener]]\nbind = \"[::]:80\"\n[[listener]]\nbind = \"[2001:db8::1]:80\"",
        &["edgeproxy.toml:4: listener[1].bind: [2001:db8::1]:80 is taken by listener[0], which binds [::]:80"]),
    ("[[listener]]\nbind = \"127.0.0.1:80\"\n[[listener]]\nbind = \"[::]:80\"",
        &["edgeproxy.toml:4: listener[1].bind: [::]:80 is taken by listener[0], which binds 127.0.0.1:80"]),
    ("[[listener]]\nbind = \"0.0.0.0:80\"\n[[listener]]\nbind = \"[::ffff:192.0.2.1]:80\"",
        &["edgeproxy.toml:4: listener[1].bind: [::ffff:192.0.2.1]:80 is taken by listener[0], which binds 0.0.0.0:80"]),
    (
        "[admin]\nlisten = \"127.0.0.1:8080\"",
        &["edgeproxy.toml:2: admin.listen: 127.0.0.1:8080 is taken by listener[0], which binds 0.0.0.0:8080"],
    ),
    (
        "[[listener]]\nbind = \"127.0.0.1:9090\"",
        &["admin.listen: 127.0.0.1:9090 is taken by listener[0], which binds 127.0.0.1:9090"],
    ),
    (
        "[[listener]]\nconnect_timeout = \"6s\"",
        &[
            "edgeproxy.toml:2: listener[0].connect_timeout: 6s is longer than connect_deadline (5s), which ends all connects of a client; raise that too",
        ],
    ),
    ("[[listener]]\nconnect_deadline = \"1s\"", &[]),
    ("[outlier]\nbase_pause = \"2m\"", &["edgeproxy.toml:2: outlier.base_pause: 2m is longer than max_pause (1m)"]),
    ("[outlier]\nmax_pause = \"1s\"", &["edgeproxy.toml:1: outlier.base_pause: 5s is longer than max_pause (1s)"]),
    // What is not known.
    ("colour = \"red\"", &["edgeproxy.toml:1: colour: unknown key"]),
    ("\"a\\nb\" = 1", &["edgeproxy.toml:1: a\\nb: unknown key"]),
    ("\"\" = {x = 1}", &["edgeproxy.toml:1: : unknown key"]),
    (
        "\"log.level\" = \"off\"",
        &["edgeproxy.toml:1: log.level: unknown key: in quotes a dot is part of the name; write it without them"],
    ),
    (
        "\"routing.region\" = [{code = \"x\"}]",
        &["edgeproxy.toml:1: routing.region: unknown key: in quotes a dot is part of the name; write it without them"],
    ),
    ("log.level = \"off\"", &[]),
    ("[amdin]\nlisten = \"x\"", &["edgeproxy.toml:1: amdin: unknown key; did you mean admin?"]),
    (
        "[[listener]]\n[[listener]]\nbind = \"0.0.0.0:1\"\nqeue = 1",
        &["edgeproxy.toml:4: listener[1].qeue: unknown key; did you mean queue?"],
    ),
    ("[proxy]\nqueue = 1", &["edgeproxy.toml:2: proxy.queue: unknown key; did you mean listener.queue?"]),
    ("[routing]\n[[routing.regoin]]", &["edgeproxy.toml:2: routing.regoin: unknown key; did you mean region?"]),
    ("[listener]\nqueue = 1", &["edgeproxy.toml:1: listener: must be written [[listener]], as there can be several"]),
    ("listener = [1]", &["edgeproxy.toml:1: listener: must be written [[listener]], as there can be several"]),
    ("[[admin]]", &["edgeproxy.toml:1: admin: must be written [admin], as there is one"]),
    ("admin = 5", &["edgeproxy.toml:1: admin: must be written [admin], as there is one"]),
    // What is not TOML.
    (
        "region = \n[admin\nx = 1",
        &[
            "edgeproxy.toml:1: not TOML: string values must be quoted, expected literal string",
            "edgeproxy.toml:2: not TOML: unclosed table, expected `]`",
        ],
    ),
    ("[admin]\n[admin]", &["edgeproxy.toml:2: not TOML: duplicate key"]),
    (
        "region = \"fra\"\n[[region]]",
        &[
            "edgeproxy.toml:2: not TOML: duplicate key; this machine's region is region = \"...\", further ones are [[routing.region]]",
        ],
    ),
];

#[test]
fn each_mistake_is_told_by_place_value_and_rule() {
    for (text, expected) in RULES {
        let names_region = text.starts_with("region") || text.contains("[[region]]");
        // On a line of its own the region would move every number.
        let setup = Setup::file(text);
        let setup = if names_region { setup } else { setup.flags(|flags| flags.region = Some("fra".into())) };
        assert_eq!(setup.problems(), *expected, "{text}");
    }
}

#[test]
fn all_mistakes_come_at_once_in_order() {
    let setup = Setup::file("[proxy]\nthreads = 2000\n[[listener]]\nqueue = -1\n[log]\nformat = \"xml\"\n")
        .variable("EDGEPROXY_REGON", "fra")
        .variable("EDGEPROXY_ADMIN_ADDR", "9090")
        .flags(|flags| flags.listen = Some(":80".into()));
    assert_eq!(
        setup.problems(),
        [
            "--listen: \":80\" is not an IP address with a port (such as 0.0.0.0:8080 or [::]:8080)",
            "EDGEPROXY_ADMIN_ADDR: \"9090\" is not an IP address with a port (such as 0.0.0.0:8080 or [::]:8080)",
            "EDGEPROXY_REGON: unknown variable; did you mean EDGEPROXY_REGION?",
            "edgeproxy.toml:2: proxy.threads: 2000 is not in 0 to 1024",
            "edgeproxy.toml:4: listener[0].queue: -1 is not in 0 to 1000000",
            "edgeproxy.toml:6: log.format: \"xml\" is none of auto, json, text",
            "region: is not set (this machine's region, such as \"fra\"): give it by --region or EDGEPROXY_REGION or region in the configuration file",
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_hides_what_it_may_hold() {
    let missing = "edgeproxy.toml: cannot be read: No such file or directory (os error 2)";
    let setup = Setup::file("");
    std::fs::remove_file(setup.path().join("edgeproxy.toml")).unwrap();
    assert_eq!(setup.problems(), [missing], "not also that the region is missing");
    let setup = setup.variable("EDGEPROXY_PROXY_THREADS", "x");
    assert_eq!(setup.problems(), ["EDGEPROXY_PROXY_THREADS: \"x\" is not a whole number", missing]);

    let setup = Setup::file("");
    setup.write("edgeproxy.toml", b"region = \"\xff\"", 0o600);
    assert_eq!(setup.problems(), ["edgeproxy.toml: is not UTF-8"]);
}

#[test]
fn the_password_of_a_check_is_its_owners_alone_and_never_shown() {
    let text = "region = \"fra\"\n[[check]]\nkind = \"postgres\"\nuser = \"monitor\"\npassword_file = \"pw\"\n";
    for (password, mode, expected) in [
        ("s3cret\n", 0o640, "is open to its group or to others (mode 0640): chmod 600 pw"),
        ("\n", 0o600, "has no password on its first line"),
    ] {
        let setup = Setup::file(text);
        setup.write("pw", password, mode);
        assert_eq!(setup.problems(), [format!("edgeproxy.toml:5: check[0].password_file: pw {expected}")]);
    }
    let setup = Setup::file(text);
    setup.write("pw", "schlüssel mit Leerzeichen\n", 0o600);
    let shown = format!("{:?}", setup.config());
    assert!(shown.contains("Password(..)") && !shown.contains("Leerzeichen"), "{shown}");
}

#[test]
fn what_is_of_no_use_is_noted() {
    let notices = Setup::file("region = \"fra\"\n[[listener]]\nhold = \"1s\"\n").config().notices;
    assert_eq!(notices, ["listener[0].hold is of no use: the role is \"any\", for which nobody waits"]);
}

#[test]
fn an_admin_address_that_others_reach_needs_a_token() {
    let setup = || Setup::file("region = \"fra\"\n[admin]\nlisten = \"0.0.0.0:9090\"\ntoken_file = \"token\"\n");
    let without = Setup::file("region = \"fra\"\n[admin]\nlisten = \"0.0.0.0:9090\"\n");
    assert_eq!(
        without.problems(),
        [
            "edgeproxy.toml:2: admin.token_file: is not set, and must be as admin.listen is 0.0.0.0:9090 (edgeproxy.toml:3), \
          which is not a loopback address: put a token into a file that only its owner can read"
        ]
    );
    for (listen, refused) in
        [("127.8.0.1:1", false), ("[::1]:1", false), ("[::ffff:127.0.0.1]:1", false), ("10.0.0.1:1", true)]
    {
        let setup =
            Setup::bare().flags(|flags| (flags.region, flags.admin) = (Some("fra".into()), Some(listen.to_owned())));
        assert_eq!(setup.load().is_err(), refused, "{listen}");
    }

    let missing = setup().problems();
    assert_eq!(
        missing,
        ["edgeproxy.toml:4: admin.token_file: token cannot be read: No such file or directory (os error 2)"]
    );
    let unprintable = "holds a token that no HTTP header can carry: use letters, digits and punctuation";
    for (text, mode, expected) in [
        ("s3cret\n", 0o640, "is open to its group or to others (mode 0640): chmod 600 token"),
        ("s3cret\n", 0o604, "is open to its group or to others (mode 0604): chmod 600 token"),
        ("", 0o600, "has no token on its first line"),
        ("  \ns3cret", 0o600, "has no token on its first line"),
        ("two words", 0o600, unprintable),
        ("schlüssel", 0o600, unprintable),
        (&"x".repeat(70_000), 0o600, "has 70000 bytes, too many for a token"),
    ] {
        let setup = setup();
        setup.write("token", text, mode);
        assert_eq!(setup.problems(), [format!("edgeproxy.toml:4: admin.token_file: token {expected}")]);
    }

    for (text, mode) in [(" s3cret \r\nrest\n", 0o600), ("s3cret", 0o400)] {
        let setup = setup();
        setup.write("token", text, mode);
        let token = setup.config().admin.token.unwrap();
        assert_eq!(token.reveal(), "s3cret", "{text:?}");
    }
}

#[test]
fn a_gateway_needs_an_overlay_and_little_else() {
    let load = |text: &str| {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("edgeproxy.toml");
        std::fs::write(&path, text).unwrap();
        let flags = GatewayFlags { config: Some(path), ..GatewayFlags::default() };
        Config::load(Role::Gateway, &flags.into(), [])
    };
    let gateway = load("[overlay]\nconfig = \"hub.conf\"\n").unwrap();
    assert!(gateway.overlay.forward && gateway.proxy.listeners.is_empty());
    assert_eq!((gateway.proxy.region.as_str(), gateway.notices.len()), ("hub", 0));
    let named = load("region = \"fra\"\n[overlay]\nconfig = \"hub.conf\"\nforward = \"off\"\n").unwrap();
    assert!(!named.overlay.forward && named.proxy.region == "fra");
    let problems = load("").unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].message.contains("a gateway is nothing without"), "{}", problems[0].message);
}

#[test]
fn a_service_is_published_once_and_has_a_host_and_a_port() {
    let twice = "[[publish]]\nlisten = \"10.50.0.1:5432\"\ntarget = \"db:5432\"\n";
    let problems = Setup::file(&format!("region = \"fra\"\n{twice}{twice}")).problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("10.50.0.1:5432 is taken by publish[0]"), "{problems:?}");
    for target in ["db", "db:0", ":5432", "db:port", "0.0.0.0:5432"] {
        let file = format!("region = \"fra\"\n[[publish]]\nlisten = \"10.50.0.1:5432\"\ntarget = \"{target}\"\n");
        let problems = Setup::file(&file).problems();
        assert_eq!(problems.len(), 1, "{target}: {problems:?}");
        assert!(problems[0].contains("publish[0].target"), "{problems:?}");
    }
}
