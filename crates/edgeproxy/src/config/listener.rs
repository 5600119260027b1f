//! Sections `listener` and `check`: how clients come in, and how backends are checked.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use edgeproxy_proxy::{CheckKind, CheckSettings, ListenerSettings, Password, PostgresCheck, WhenAllDown};
use edgeproxy_route::{CheckPace, Fallback, Wanted};

use super::problem::Origin;
use super::reader::{Reader, Section};

/// A database that was not heard for five seconds is taken for gone: its check has to come well before.
const LONGEST_SILENCE: Duration = Duration::from_secs(4);

/// Every listener; one with the defaults when the file has none.
pub(super) fn read_listeners(reader: &mut Reader<'_>) -> Vec<ListenerSettings> {
    let tables = reader.count("listener");
    if tables > 1 {
        reader.refuse_outside("listener");
    }
    let mut listeners: Vec<ListenerSettings> = Vec::new();
    for index in 0..tables.max(1) {
        let mut section = reader.nth("listener", index);
        let listener = read_listener(&mut section);
        if let Some(other) = listeners.iter().position(|other| overlap(other.bind, listener.bind)) {
            let message =
                format!("{} is taken by listener[{other}], which binds {}", listener.bind, listeners[other].bind);
            section.complain("bind", message);
        }
        listeners.push(listener);
    }
    listeners
}

/// Whether two addresses cannot be bound beside each other. Port 0 is another port each time.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (one, other) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() != 0 && a.port() == b.port() && (one == other || takes(one, other) || takes(other, one))
}

/// Whether one is a wildcard that takes the other: `[::]` takes IPv4 as well, `0.0.0.0` takes no IPv6.
fn takes(wildcard: IpAddr, other: IpAddr) -> bool {
    wildcard.is_unspecified() && (wildcard.is_ipv6() || other.is_ipv4())
}

fn read_listener(section: &mut Section<'_, '_>) -> ListenerSettings {
    let listener = ListenerSettings {
        bind: section.address("bind"),
        interface: None,
        app: section.text("app"),
        wanted: read_role(section),
        hold: section.duration("hold"),
        hold_limit: section.count("hold_limit"),
        close_stale: section.text("stale_sessions").is_some_and(|word| word == "close"),
        policy: section.word("policy", |word| word.parse().ok()),
        affinity_ttl: section.duration("affinity_ttl"),
        affinity_capacity: section.count("affinity_capacity"),
        trust_proxy: section.networks("trust_proxy"),
        proxy_header_timeout: section.duration("proxy_header_timeout"),
        connect_timeout: section.duration("connect_timeout"),
        connect_attempts: section.count("connect_attempts"),
        connect_deadline: section.duration("connect_deadline"),
        queue: section.count("queue"),
        queue_timeout: section.duration("queue_timeout"),
        when_all_down: section.word("when_all_down", when_all_down),
        idle_timeout: section.duration_or_never("idle_timeout"),
        half_close_timeout: section.duration_or_never("half_close_timeout"),
        max_lifetime: section.duration_or_never("max_lifetime"),
        keepalive: section.duration_or_never("keepalive"),
        user_timeout: section.duration_or_never("user_timeout"),
    };
    // A shorter deadline alone is a wish like any other; a longer timeout that can never be used is a mistake.
    let asked = section.origin("connect_timeout") != Origin::Default;
    if asked && !listener.connect_deadline.is_zero() && listener.connect_timeout > listener.connect_deadline {
        let message = format!(
            "{} is longer than connect_deadline ({}), which ends all connects of a client; raise that too",
            humantime::format_duration(listener.connect_timeout),
            humantime::format_duration(listener.connect_deadline)
        );
        section.complain("connect_timeout", message);
    }
    if listener.wanted == Wanted::Any {
        for name in ["hold", "hold_limit"] {
            if section.is_set(name) {
                let key = section.shown(name);
                section.reader.notices.push(format!("{key} is of no use: the role is \"any\", for which nobody waits"));
            }
        }
    } else if listener.app.is_none() {
        let message = "needs an app: there is one primary in each".to_owned();
        section.complain("role", message);
    }
    listener
}

fn read_role(section: &mut Section<'_, '_>) -> Wanted {
    #[derive(Default)]
    enum Role {
        #[default]
        Any,
        Primary,
        Replica,
    }
    let role = section.word("role", |word| match word {
        "any" => Some(Role::Any),
        "primary" => Some(Role::Primary),
        "replica" => Some(Role::Replica),
        _ => None,
    });
    let fallback = section.word("replica_fallback", |word| match word {
        "none" => Some(Fallback::None),
        "primary" => Some(Fallback::Primary),
        "stale" => Some(Fallback::Stale),
        _ => None,
    });
    match role {
        Role::Any => Wanted::Any,
        Role::Primary => Wanted::Primary,
        Role::Replica => Wanted::Replica(fallback),
    }
}

/// A listener for a role whose app is not checked for roles would refuse everybody.
pub(super) fn check_roles(reader: &mut Reader<'_>, listeners: &[ListenerSettings], checks: &[CheckSettings]) {
    for (index, listener) in listeners.iter().enumerate() {
        let Some(app) = listener.app.as_deref().filter(|_| listener.wanted != Wanted::Any) else { continue };
        let check = checks.iter().position(|check| check.app.as_deref() == Some(app));
        let check = check.or_else(|| checks.iter().position(|check| check.app.is_none()));
        if check.is_some_and(|check| matches!(checks[check].kind, CheckKind::Postgres(_))) {
            continue;
        }
        let what =
            check.map_or("no check is".to_owned(), |check| format!("check[{check}] is not of that kind, and is"));
        let message = format!("needs a [[check]] with kind = \"postgres\", which tells roles; {what} for app {app:?}");
        reader.nth("listener", index).complain("role", message);
    }
}

fn when_all_down(word: &str) -> Option<WhenAllDown> {
    match word {
        "refuse" => Some(WhenAllDown::Refuse),
        "try" => Some(WhenAllDown::Try),
        _ => None,
    }
}

/// Every check; one `tcp` check for all apps when the file has none.
pub(super) fn read_checks(reader: &mut Reader<'_>) -> Vec<CheckSettings> {
    let tables = reader.count("check").max(1);
    let mut seen = BTreeMap::new();
    let mut read = |index| {
        let mut section = reader.nth("check", index);
        let check = read_check(&mut section);
        if let Some(other) = seen.insert(check.app.clone(), index) {
            let what = check.app.as_ref().map_or("all other apps".to_owned(), |app| format!("app {app:?}"));
            section.complain("app", format!("check[{other}] is for {what} as well; an app has one check"));
        }
        check
    };
    (0..tables).map(&mut read).collect()
}

/// A kind of check before its details are read.
#[derive(Clone, Copy, Default)]
enum CheckWord {
    #[default]
    Tcp,
    Http,
    Tls,
    Exchange,
    Postgres,
    None,
}

fn read_check(section: &mut Section<'_, '_>) -> CheckSettings {
    let app = section.text("app");
    let word = section.word("kind", |word| match word {
        "tcp" => Some(CheckWord::Tcp),
        "http" => Some(CheckWord::Http),
        "tls" => Some(CheckWord::Tls),
        "exchange" => Some(CheckWord::Exchange),
        "postgres" => Some(CheckWord::Postgres),
        "none" => Some(CheckWord::None),
        _ => None,
    });
    if matches!(word, CheckWord::Postgres) {
        // A change of roles has to be seen within two seconds.
        section.falls_back("interval", "1s");
        // A login over half the Earth takes five round trips.
        section.falls_back("timeout", "2s");
    }
    let pace =
        CheckPace { interval: section.duration("interval"), rise: section.count("rise"), fall: section.count("fall") };
    let timeout = section.duration("timeout");
    if matches!(word, CheckWord::Postgres) && pace.interval + timeout > LONGEST_SILENCE {
        let message = format!(
            "with timeout ({}) and interval ({}) a database would be silent for longer than {}, and what is known of it \
             grows old: lower them",
            humantime::format_duration(timeout),
            humantime::format_duration(pace.interval),
            humantime::format_duration(LONGEST_SILENCE)
        );
        section.complain("interval", message);
    }
    let port = section.maybe_count("port");
    // All are read, whatever the kind: one that another kind needs is a mistake.
    let (path, host, statuses) = (section.text("path"), section.text("host"), section.statuses("statuses"));
    let server_name = section.text("server_name");
    let (send, expect) = (section.bytes("send"), section.bytes("expect"));
    if expect.as_ref().is_some_and(Vec::is_empty) {
        section.complain("expect", "is empty; a check that expects nothing is kind = \"tcp\"".to_owned());
    }
    let postgres = read_postgres(section);
    let kind = match word {
        CheckWord::Tcp => CheckKind::Tcp,
        CheckWord::Http => {
            CheckKind::Http { path: path.unwrap_or_default(), host, statuses: statuses.unwrap_or(200..=399) }
        }
        CheckWord::Tls => CheckKind::Tls { server_name },
        CheckWord::Exchange => {
            CheckKind::Exchange { send: send.unwrap_or_default(), expect: expect.unwrap_or_default() }
        }
        CheckWord::Postgres => CheckKind::Postgres(postgres),
        CheckWord::None => CheckKind::None,
    };
    CheckSettings { app, kind, pace, timeout, port }
}

fn read_postgres(section: &mut Section<'_, '_>) -> PostgresCheck {
    PostgresCheck {
        user: section.text("user").unwrap_or_default(),
        password: section.password("password_file").map(Password::new),
        database: section.text("database").unwrap_or_default(),
        encrypted: section.text("encryption").is_some_and(|word| word == "tls"),
        max_lag: section.duration_or_never("max_lag"),
        max_lag_bytes: section.maybe_count("max_lag_bytes").filter(|bytes| *bytes > 0),
    }
}
