//! The reference page, `docs/config.md`, from the table of keys.

use std::fmt::Write;

use super::keys::{Fallback, KEYS, Key, SECTIONS, SectionName};

const PREFACE: &str = "\
# Configuration

<!-- Written by `edgeproxy check --reference > docs/config.md`; change crates/edgeproxy/src/config/keys.rs. -->

`edgeproxy proxy --region fra` is enough to run a POP; everything else has a default. Settings come from a flag, else
an environment variable, else a file, else the default. The file is the one that `-c FILE` or `EDGEPROXY_CONFIG` names;
none is read without being named, not even an `edgeproxy.toml` in the working directory.

Everything is read before anything is bound. Unknown keys, unknown `EDGEPROXY_` variables, bad values and settings that
contradict each other stop the start with exit code 2, all told at once, each with its place. `edgeproxy check` with the
same flags tells the same without starting, and otherwise what applies and who set it.

- Durations carry their unit: `500ms`, `2s`, `10m`, `1h 30m`.
- Paths in the file are relative to the file's folder; in flags and variables, to the working directory.
- Lists are `[\"a\", \"b\"]` in the file and `a,b` in flags and variables.
- A variable that is set to nothing counts as not set.

```toml
region = \"fra\"

[admin]
listen = \"0.0.0.0:9090\"
token_file = \"admin.token\"

[[listener]]
bind = \"0.0.0.0:6379\"
app = \"cache\"
connect_timeout = \"1s\"
queue = 500

[[check]]
app = \"cache\"
kind = \"exchange\"
send = \"PING\\r\\n\"
expect = \"+PONG\"
```
";

const OLDER: &str = "
## Variables of the older tool

| variable | here |
|---|---|
";

const OLDER_REST: &str = "\
| `DEBUG` | `1` or `true`: `log.level` is `debug`, unless `EDGEPROXY_LOG` is set |
| `EDGEPROXY_BINDING_GC_INTERVAL_SECS`, `EDGEPROXY_API_ENABLED`, `EDGEPROXY_API_LISTEN_ADDR` | no effect, which is said at the start; the API is part of `admin.listen` |
| `EDGEPROXY_TLS_*`, `EDGEPROXY_DNS_*`, `EDGEPROXY_REPLICATION_*` | not supported yet; refused where `..._ENABLED` asks for it, otherwise no effect |

Variables of this form that Kubernetes and Docker make for a service called `edgeproxy` (`EDGEPROXY_SERVICE_HOST`,
`EDGEPROXY_PORT_8080_TCP`, ...) are passed over.
";

/// The page, in Markdown.
pub(crate) fn reference() -> String {
    let mut page = PREFACE.to_owned();
    for section in SECTIONS {
        write_section(&mut page, section).expect("a String takes every write");
    }
    page.push_str(OLDER);
    for key in KEYS {
        if let Some(older) = key.older {
            writeln!(page, "| `{older}` | `{}`, in whole seconds |", key.path()).expect("a String takes every write");
        }
    }
    page.push_str(OLDER_REST);
    page
}

fn write_section(page: &mut String, section: &SectionName) -> std::fmt::Result {
    match (section.path, section.several) {
        ("", _) => writeln!(page, "\n## Top\n\n{}\n", section.doc)?,
        (path, true) => writeln!(page, "\n## `[[{path}]]`\n\n{}\n", section.doc)?,
        (path, false) => writeln!(page, "\n## `[{path}]`\n\n{}\n", section.doc)?,
    }
    let keys: Vec<&Key> = KEYS.iter().filter(|key| key.section == section.path).collect();
    let outside = keys.iter().any(|key| key.variable().is_some());
    writeln!(page, "| key | value | default |{} meaning |", if outside { " flag, variable |" } else { "" })?;
    writeln!(page, "|---|---|---|---|{}", if outside { "---|" } else { "" })?;
    for key in keys {
        write!(page, "| `{}` | {} | {} |", key.name, key.kind, fallback(key.fallback))?;
        if outside {
            write!(page, " {} |", ways(key))?;
        }
        match key.only_with {
            Some((other, word)) => writeln!(page, " With `{other} = \"{word}\"`: {} |", key.doc)?,
            None => writeln!(page, " {} |", key.doc)?,
        }
    }
    Ok(())
}

fn fallback(fallback: Fallback) -> String {
    match fallback {
        Fallback::Value(text) => format!("`{text}`"),
        Fallback::Unset(meaning) => meaning.to_owned(),
        Fallback::Required(_) => "**required**".to_owned(),
    }
}

fn ways(key: &Key) -> String {
    let flag = key.flag.map(|flag| format!("`--{flag}`"));
    let variable = key.variable().map(|variable| format!("`{variable}`"));
    flag.into_iter().chain(variable).collect::<Vec<_>>().join(", ")
}
