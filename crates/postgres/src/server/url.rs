//! A server by its URL, as libpq's documentation defines it (section 34.1.1.2).

use super::{Duration, Negotiation, PORT, PathBuf, Server, TlsMode};

/// What stands in a URL about TLS, before it is known what it amounts to.
#[derive(Default)]
struct Tls {
    mode: Option<String>,
    negotiation: Option<String>,
    root: Option<PathBuf>,
}

pub(super) fn parse(url: &str) -> Result<Server, String> {
    let rest = ["postgres://", "postgresql://"]
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme))
        .ok_or("a database URL begins with postgres:// or postgresql://")?;
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
    // A password that was not encoded may hold an @ itself: the last one ends it.
    let (login, address) =
        authority.rsplit_once('@').map_or((None, authority), |(login, address)| (Some(login), address));

    let mut server = Server::new("", PORT);
    if let Some(login) = login {
        let (user, password) = login.split_once(':').map_or((login, None), |(user, word)| (user, Some(word)));
        set(&mut server, &mut Tls::default(), "user", decoded("user", user)?)?;
        if let Some(password) = password {
            server = server.password(decoded("password", password)?);
        }
    }
    let (host, port) = host_and_port(address)?;
    server.host = decoded("host", host)?;
    if let Some(port) = port {
        server.port = port_number(port)?;
    }
    if let Some(database) = path.filter(|path| !path.is_empty()) {
        server.database = Some(decoded("database", database)?);
    }
    let mut tls = Tls::default();
    for pair in query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or("a parameter of the database URL has no value")?;
        let key = decoded("key", key)?;
        let value = decoded(&key, value)?;
        set(&mut server, &mut tls, &key, value)?;
    }
    server.tls = tls.amounts_to()?;
    Ok(server)
}

fn set(server: &mut Server, tls: &mut Tls, key: &str, value: String) -> Result<(), String> {
    match key {
        // An empty name is none, as libpq has it.
        "user" => server.user = Some(value).filter(|user| !user.is_empty()),
        "password" => *server = server.clone().password(value),
        "dbname" => server.database = Some(value).filter(|name| !name.is_empty()),
        "host" if value.contains(',') => return Err(ONE_HOST.into()),
        "host" => server.host = value,
        "port" => server.port = port_number(&value)?,
        "application_name" => server.application = value,
        "connect_timeout" => {
            let seconds = value.parse().ok().filter(|seconds| (1..=3600).contains(seconds));
            let seconds = seconds.ok_or("connect_timeout: seconds, from 1 to 3600")?;
            server.connect_timeout = Duration::from_secs(seconds);
        }
        "sslmode" => tls.mode = Some(value),
        "sslnegotiation" => tls.negotiation = Some(value),
        "sslrootcert" => tls.root = Some(value.into()),
        other => return Err(format!("the database URL has the parameter {other:?}, which is not known here")),
    }
    Ok(())
}

impl Tls {
    /// Never less than was asked for: what would be weaker than its name says is refused.
    fn amounts_to(self) -> Result<TlsMode, String> {
        let negotiation = match self.negotiation.as_deref() {
            None | Some("postgres") => Negotiation::Classic,
            Some("direct") => Negotiation::Direct,
            Some(_) => return Err("sslnegotiation: postgres or direct".into()),
        };
        let mode = self.mode.as_deref().unwrap_or("disable");
        match (mode, self.root) {
            ("disable", None) if negotiation == Negotiation::Direct => {
                Err("sslnegotiation=direct needs sslmode=require or verify-full".into())
            }
            ("disable", None) => Ok(TlsMode::Disable),
            ("require", None) => Ok(TlsMode::Require(negotiation)),
            ("verify-full", Some(root)) => Ok(TlsMode::VerifyFull(negotiation, root)),
            ("verify-full", None) => Err("sslmode=verify-full needs sslrootcert, a file of authorities".into()),
            ("disable" | "require", Some(_)) => Err("sslrootcert is used with sslmode=verify-full".into()),
            _ => Err("sslmode: disable, require or verify-full".into()),
        }
    }
}

const ONE_HOST: &str = "the database URL names several hosts; give each server its own URL";

fn host_and_port(address: &str) -> Result<(&str, Option<&str>), String> {
    if address.contains(',') {
        return Err(ONE_HOST.into());
    }
    let port = |rest: &'_ str| -> Result<bool, String> {
        if rest.is_empty() || rest.starts_with(':') { Ok(!rest.is_empty()) } else { Err("host: [address]:port".into()) }
    };
    let (host, rest) = match address.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').ok_or("host: the address has no closing ]")?,
        None => address.split_at(address.find(':').unwrap_or(address.len())),
    };
    Ok((host, port(rest)?.then(|| &rest[1..]).filter(|port| !port.is_empty())))
}

fn port_number(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|&port| port > 0).ok_or_else(|| "port: from 1 to 65535".into())
}

/// `%41` is `A`. `what` is named if that cannot be.
fn decoded(what: &str, text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(format!("{what}: % is followed by two hexadecimal digits (%25 is %)"));
        };
        let byte = u8::try_from(high << 4 | low).map_err(|_| "two digits")?;
        // No name or password can hold one: it ends each of them in the protocol.
        if byte == 0 {
            return Err(format!("{what}: holds %00"));
        }
        bytes.push(byte);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| format!("{what}: is not UTF-8"))
}
