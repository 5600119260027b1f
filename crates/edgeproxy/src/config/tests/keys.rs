//! The table of keys: complete, consistent with the libraries' defaults, and the source of the page.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Args;
use edgeproxy_proxy::{CheckSettings, ListenerSettings};
use edgeproxy_route::{Exclusions, OutlierPolicy};
use humantime::format_duration;

use super::Setup;
use crate::config::keys::{Fallback, KEYS, Key, SECTIONS};
use crate::config::kind::Kind;
use crate::config::reference;
use crate::config::{Config, ProxyFlags, Role};

/// A file that has a table of every section, and a check of every kind with keys of its own.
const EVERYTHING: &str = r#"
region = "fra"
[[listener]]
[[routing.region]]
code = "bcn"
latitude = 41.39
longitude = 2.17
country = "ES"
[[check]]
app = "a"
kind = "http"
[[check]]
app = "b"
kind = "tls"
[[check]]
kind = "exchange"
expect = "+PONG"
[[tenant]]
name = "blue"
networks = ["10.50.1.0/24"]
[[publish]]
listen = "10.50.0.1:5432"
target = "db.example.internal:5432"
[[gateway.pool]]
region = "sa"
networks = ["10.50.1.0/24"]
[[gateway.token]]
name = "ci"
file = "ci.token"
"#;

/// Databases, whose keys mean something for a role other than any.
const DATABASES: &str = r#"
[[listener]]
bind = "127.0.0.1:5433"
app = "db"
role = "replica"
[[check]]
app = "db"
kind = "postgres"
user = "monitor"
"#;

#[test]
fn every_key_is_read_and_every_key_read_is_known() {
    // A key that is read without being in the table ends the test by its `expect`.
    let read: BTreeSet<String> = Setup::file(&format!("{EVERYTHING}{DATABASES}"))
        .config()
        .settings
        .into_iter()
        .map(|setting| setting.key.replace(|c: char| c.is_ascii_digit() || c == '[' || c == ']', ""))
        .collect();
    let known: BTreeSet<String> = KEYS.iter().map(Key::path).collect();
    assert_eq!(read, known);
    for key in KEYS {
        assert!(SECTIONS.iter().any(|section| section.path == key.section), "{}", key.path());
        assert!(key.doc.ends_with('.') && !key.doc.contains('|'), "{}", key.path());
    }
}

#[test]
fn the_page_is_the_one_that_is_generated() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.md");
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(page == reference(), "docs/config.md is not up to date; run: edgeproxy check --reference > docs/config.md");
}

#[test]
fn defaults_are_those_of_the_libraries() {
    let config = Setup::file(EVERYTHING.replace("kind = \"exchange\"\nexpect = \"+PONG\"", "").as_str()).config();
    let listener = ListenerSettings::at("0.0.0.0:8080".parse().unwrap());
    assert_eq!(format!("{:?}", config.proxy.listeners), format!("{:?}", [listener]));
    assert_eq!(format!("{:?}", config.proxy.checks[2]), format!("{:?}", CheckSettings::default()));
    assert_eq!(config.proxy.outlier, OutlierPolicy::default());
    let bare = Setup::bare().flags(|flags| flags.region = Some("fra".into())).config();
    assert_eq!(format!("{:?}", bare.proxy.listeners), format!("{:?}", config.proxy.listeners));
    assert_eq!(format!("{:?}", bare.proxy.checks), format!("{:?}", [CheckSettings::default()]));
    assert!(bare.proxy.threads > 0, "0 stands for the number of cores");
    assert_eq!(bare.proxy.max_connections, 0, "0 stands for what the descriptor limit allows");
    assert_eq!(bare.notices, [""; 0]);
}

#[test]
fn databases_are_asked_once_a_second_unless_somebody_says_otherwise() {
    for (more, interval) in [("", 1), ("interval = \"2s\"\n", 2)] {
        let config = Setup::file(&format!("region = \"fra\"\n{DATABASES}{more}")).config();
        assert_eq!(config.proxy.checks[0].pace.interval, std::time::Duration::from_secs(interval));
        let shown = config.settings.iter().find(|setting| setting.key == "check[0].interval").unwrap();
        assert_eq!(shown.value, Some(format!("{interval}s")));
    }
}

#[test]
fn variables_and_flags_are_unique() {
    let names: Vec<String> = KEYS.iter().filter_map(Key::variable).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    let flags: Vec<_> = KEYS.iter().filter_map(|key| key.flag).collect();
    assert_eq!(flags, ["region", "admin", "db", "geoip", "threads", "listen", "trust-proxy", "overlay", "log"]);
    let attempts = KEYS.iter().find(|key| key.name == "connect_attempts").unwrap();
    let Kind::Count { most, .. } = attempts.kind else { panic!() };
    assert_eq!(usize::try_from(most), Ok(Exclusions::CAPACITY), "a connection remembers no more backends");
}

#[test]
fn the_help_of_each_flag_names_its_variable_and_default() {
    let command = ProxyFlags::augment_args(clap::Command::new("proxy"));
    for key in KEYS {
        let Some(flag) = key.flag else { continue };
        let argument = command.get_arguments().find(|argument| argument.get_long() == Some(flag)).unwrap();
        let help = argument.get_help().unwrap().to_string();
        let variable = key.variable().unwrap();
        assert!(help.contains(&format!("[env: {variable}]")), "--{flag}: {help}");
        let default = match (key.name, key.fallback) {
            // In words, as 0 says nothing here.
            ("threads", _) => Some("one per core"),
            ("geoip", _) => Some("the table inside the binary"),
            (_, Fallback::Value(text)) => Some(text),
            (_, Fallback::Unset(meaning)) => Some(meaning),
            (_, Fallback::Required(_)) => None,
        };
        let shown = help.split_once("[default: ").map(|(_, rest)| rest.trim_end_matches(']'));
        assert_eq!(shown, default, "--{flag}: {help}");
    }
}

/// What a file says that sets one key, beside what the key needs to mean something.
fn file_with(key: &Key, value: &str) -> String {
    let section = match SECTIONS.iter().find(|section| section.path == key.section).unwrap() {
        section if section.several => format!("[[{}]]\n", section.path),
        section if section.path.is_empty() => String::new(),
        section => format!("[{}]\n", section.path),
    };
    let with = key.only_with.map(|(other, word)| format!("{other} = \"{word}\"\n")).unwrap_or_default();
    format!("{section}{with}{} = {value}\n", key.name)
}

/// What is said about this key, other keys aside.
fn said_about(key: &Key, value: &str) -> Vec<String> {
    let about = format!("{}: ", key.name);
    let problems = Setup::file(&file_with(key, value)).problems();
    problems.into_iter().filter_map(|problem| Some(problem.split_once(&about)?.1.to_owned())).collect()
}

#[test]
fn bounds_hold_and_are_told() {
    for key in KEYS {
        let (good, bad): (Vec<String>, Vec<String>) = match key.kind {
            Kind::Count { least, most } => {
                let below = i128::from(least) - 1;
                (vec![least.to_string(), most.to_string()], vec![below.to_string(), (most + 1).to_string()])
            }
            Kind::Number { least, most } => (
                vec![format!("{least:?}"), format!("{most:?}")],
                vec![format!("{:?}", least - 0.1), format!("{:?}", most + 0.1), "nan".into(), "inf".into()],
            ),
            Kind::Duration { least, most, zero } => {
                let step = std::time::Duration::from_nanos(1);
                let text = |duration| format!("\"{}\"", format_duration(duration));
                let mut bad = vec![text(most + step)];
                bad.extend(least.checked_sub(step).map(text));
                let mut good = vec![text(least), text(most)];
                if zero.is_some() { &mut good } else { &mut bad }.extend((!least.is_zero()).then(|| "\"0s\"".into()));
                (good, bad)
            }
            _ => continue,
        };
        for value in good {
            let said = said_about(key, &value);
            assert!(!said.iter().any(|rule| rule.contains("is not in")), "{} = {value}: {said:?}", key.path());
        }
        for value in bad {
            let said = said_about(key, &value);
            assert_eq!(said.len(), 1, "{} = {value}: {said:?}", key.path());
            assert!(said[0].contains(" is not in "), "{} = {value}: {said:?}", key.path());
        }
    }
}

/// What a gateway's token needs around it.
const A_GATEWAY: &str = r#"name = "ci"
file = "ci.token"
[gateway]
db = "peers.db"
[overlay]
config = "hub.conf"
"#;

#[test]
fn every_word_is_understood() {
    let mut words_seen = 0;
    for key in KEYS {
        let Kind::Word(words) = key.kind else { continue };
        let mut meanings = BTreeSet::new();
        for word in words {
            let needed = match (key.name, *word) {
                (_, "exchange") => "expect = \"x\"\n",
                ("kind", "postgres") | ("encryption", _) => "user = \"monitor\"\n",
                ("role" | "replica_fallback" | "stale_sessions", _) => {
                    "app = \"db\"\n[[check]]\nkind = \"postgres\"\nuser = \"monitor\"\n"
                }
                _ => "",
            };
            let text = file_with(key, &format!("\"{word}\"")) + needed;
            let of_gateway = key.section == "gateway.token";
            let more = if of_gateway { A_GATEWAY } else { "" };
            let setup = Setup::file(&format!("region = \"fra\"\n{text}{more}"));
            setup.write("ci.token", "s3cret", 0o600);
            let role = if of_gateway { Role::Gateway } else { Role::Proxy };
            let config = setup.load_as(role).unwrap_or_else(|problems| panic!("{problems:#?}"));
            let Config { proxy, log, overlay, gateway, .. } = &config;
            // What was made of the word, wherever it ended up.
            meanings.insert(format!("{:?} {:?} {:?} {:?} {gateway:?}", proxy.listeners, proxy.checks, log, overlay));
            words_seen += 1;
        }
        assert_eq!(meanings.len(), words.len(), "{}: two words mean the same", key.path());
        assert!(said_about(key, "\"other\"")[0].starts_with("\"other\" is none of "), "{}", key.path());
    }
    assert_eq!(words_seen, 34);
}

#[test]
fn a_value_of_another_type_is_refused_by_every_key() {
    for key in KEYS {
        for value in ["true", "1979-05-27", "{ a = 1 }", "[[1]]"] {
            let said = said_about(key, value);
            assert!(!said.is_empty(), "{} = {value}", key.path());
            assert!(!said.iter().any(|rule| rule.contains("another kind")), "{} = {value}: {said:?}", key.path());
        }
    }
}

#[test]
fn defaults_keep_their_own_rules() {
    for key in KEYS {
        if let Fallback::Value(text) = key.fallback {
            let value = match key.kind {
                Kind::Count { .. } | Kind::Number { .. } => text.to_owned(),
                _ => format!("{text:?}"),
            };
            assert_eq!(said_about(key, &value), [""; 0], "{}", key.path());
        }
    }
}

#[test]
fn no_text_ends_the_program() {
    let setup = Setup::file("");
    for at in 0..EVERYTHING.len() {
        for other in ["", "[", "\"", "\n", "\\", "ü", "9"] {
            let text = format!("{}{other}{}", &EVERYTHING[..at], &EVERYTHING[at + 1..]);
            setup.write("edgeproxy.toml", text, 0o600);
            // Good or bad, it is an answer.
            let _ = setup.load();
        }
        setup.write("edgeproxy.toml", &EVERYTHING[..at], 0o600);
        let _ = setup.load();
    }
}
