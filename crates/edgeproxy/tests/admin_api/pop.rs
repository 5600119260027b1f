//! A running binary, what to ask of it, and the backends and clients around it.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Far longer than anything takes; only a failure takes as long.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// `edgeproxy proxy` in a folder of its own.
pub(crate) struct Pop {
    child: Child,
    pub(crate) proxy: SocketAddr,
    pub(crate) admin: SocketAddr,
    folder: TempDir,
    token: Option<&'static str>,
}

/// What the API answered.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    head: String,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body, where this is the status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        if self.text.is_empty() { Value::Null } else { self.json() }
    }
}

impl Pop {
    /// With an empty table and the defaults.
    pub(crate) fn start() -> Self {
        Self::start_with(None, &[])
    }

    /// With a token, and settings by environment variables.
    pub(crate) fn start_with(token: Option<&'static str>, variables: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        make_table(&folder.path().join("routing.db"));
        let mut command = edgeproxy();
        command.args(["proxy", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--region", "fra", "--db"]);
        command.arg(folder.path().join("routing.db"));
        command.envs(variables.iter().copied());
        if let Some(token) = token {
            let file = folder.path().join("token");
            std::fs::write(&file, token).unwrap();
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            command.env("EDGEPROXY_ADMIN_TOKEN_FILE", file);
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (proxy, admin) = addresses(&mut child);
        Self { child, proxy, admin, folder, token }
    }

    pub(crate) fn table(&self) -> PathBuf {
        self.folder.path().join("routing.db")
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], "")
    }

    pub(crate) fn delete(&self, path: &str) -> Reply {
        self.ask("DELETE", path, &[], "")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, body)
    }

    pub(crate) fn send(&self, method: &str, path: &str, body: &Value) -> Reply {
        self.ask(method, path, &["Content-Type: application/json"], &body.to_string())
    }

    /// With the token, unless `headers` bring their own.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Reply {
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        let has = |name: &str| headers.iter().any(|header| header.starts_with(name));
        if !has("Host:") {
            head.push_str(&format!("Host: {}\r\n", self.admin));
        }
        if let Some(token) = self.token.filter(|_| !has("Authorization:")) {
            head.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        headers.iter().for_each(|header| head.push_str(&format!("{header}\r\n")));
        let mut stream = connect(self.admin).unwrap();
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        // Refused before all of it was read, as what is too large is: the answer is there all the same.
        let _ = stream.write_all(body.as_bytes());
        let mut answer = Vec::new();
        // As above: a reset comes after the answer.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head: head.to_owned(), text: text.to_owned() }
    }

    /// Adds a backend through the API.
    pub(crate) fn add(&self, id: &str, region: &str, backend: &Backend) {
        let body = json!({ "id": id, "app": "web", "region": region, "addr": backend.address.to_string() });
        self.post("/api/v1/backends", &body).expect(201);
    }

    /// Sends a request and hangs up before there can be an answer, as it writes to the table, which is locked. That it
    /// has begun is known by another request behind it, which is answered.
    pub(crate) fn post_and_hang_up(&self, path: &str, body: &Value) {
        let mut writer = rusqlite::Connection::open(self.table()).unwrap();
        let locked = writer.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.admin,
            body.len()
        );
        let mut stream = connect(self.admin).unwrap();
        stream.write_all((head + &body).as_bytes()).unwrap();
        for _ in 0..2 {
            self.get("/healthz");
        }
        drop(stream);
        // And that the end has been seen, by two more.
        for _ in 0..2 {
            self.get("/healthz");
        }
        drop(locked);
    }

    /// Another command of the binary, told where this one is.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        self.command_with(arguments, &[])
    }

    /// The same, with further environment variables.
    pub(crate) fn command_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = edgeproxy();
        command.args(arguments).env("EDGEPROXY_ADMIN_ADDR", self.admin.to_string()).envs(variables.iter().copied());
        command.output().unwrap()
    }

    /// The file with the token.
    pub(crate) fn token_file(&self) -> String {
        self.folder.path().join("token").display().to_string()
    }

    /// A file of this name for `--config`, which names this proxy.
    pub(crate) fn configuration(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        let token = self.token.map_or("", |_| "token_file = \"token\"\n");
        let text = format!("region = \"fra\"\n[admin]\nlisten = \"{}\"\n{token}", self.admin);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// How the process ends.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually("the process ends", || self.child.try_wait().unwrap())
    }
}

impl Drop for Pop {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn edgeproxy() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgeproxy"));
    command.env_clear();
    command
}

/// As the older tool makes it: none of our own columns.
fn make_table(path: &Path) {
    let db = rusqlite::Connection::open(path).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE backends (id TEXT PRIMARY KEY, app TEXT, region TEXT, country TEXT, wg_ip TEXT, port INTEGER,
         healthy INTEGER, weight INTEGER, soft_limit INTEGER, hard_limit INTEGER, deleted INTEGER)",
    )
    .unwrap();
}

/// Reads the log up to the line that says that all is ready; what follows is read and dropped.
fn addresses(child: &mut Child) -> (SocketAddr, SocketAddr) {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (send, found) = mpsc::channel();
    thread::spawn(move || {
        let mut log = String::new();
        let (mut proxy, mut admin) = (None, None);
        while let Some(Ok(line)) = lines.next() {
            log.push_str(&line);
            log.push('\n');
            let entry: Value = serde_json::from_str(&line).unwrap_or_default();
            let address = entry["address"].as_str().and_then(|address| address.parse().ok());
            match (entry["message"].as_str(), entry["what"].as_str()) {
                (Some("listening"), Some("proxy")) => proxy = address,
                (Some("listening"), Some("admin")) => admin = address,
                (Some("ready"), _) => break,
                _ => {}
            }
        }
        let _ = send.send((proxy, admin, log));
        while let Some(Ok(_)) = lines.next() {}
    });
    match found.recv_timeout(LONG).expect("it becomes ready or ends") {
        (Some(proxy), Some(admin), _) => (proxy, admin),
        (_, _, log) => panic!("it did not start:\n{log}"),
    }
}

/// A backend that says its name to each client and then echoes.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
}

impl Backend {
    pub(crate) fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                thread::spawn(move || {
                    let mut buffer = [0; 1024];
                    let mut greeted = stream.write_all(format!("{name}\n").as_bytes());
                    while greeted.is_ok() {
                        match stream.read(&mut buffer) {
                            Ok(0) | Err(_) => break,
                            Ok(read) => greeted = stream.write_all(&buffer[..read]),
                        }
                    }
                });
            }
        });
        Self { address }
    }
}

/// A client of the proxy.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects and hears which backend it has got; `None`: it was refused.
    ///
    /// A silent proxy is neither: it fails the test.
    pub(crate) fn connect(pop: &Pop) -> Option<(Self, String)> {
        let was_reset = |error: &io::Error| error.kind() == ErrorKind::ConnectionReset;
        let stream = match connect(pop.proxy) {
            Err(error) if was_reset(&error) => return None,
            stream => stream.unwrap(),
        };
        let mut client = Self { stream: BufReader::new(stream) };
        let mut greeting = String::new();
        match client.stream.read_line(&mut greeting) {
            Err(error) if was_reset(&error) => return None,
            read => assert_ne!(read.unwrap(), 0, "a refused client is reset"),
        }
        greeting.truncate(greeting.trim_end().len());
        Some((client, greeting))
    }

    /// Connects to this backend and to no other.
    #[track_caller]
    pub(crate) fn of(pop: &Pop, backend: &str) -> Self {
        let (client, greeting) = Self::connect(pop).expect("a backend is there");
        assert_eq!(greeting, backend);
        client
    }

    /// Whether what is sent comes back.
    pub(crate) fn echoes(&mut self) -> bool {
        self.stream.get_mut().write_all(b"hello\n").is_ok() && self.line().as_deref() == Some("hello")
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        read.is_ok_and(|read| read > 0).then(|| line.trim_end().to_owned())
    }

    /// Waits for the end, and says whether it was a reset.
    pub(crate) fn was_reset(mut self) -> bool {
        let end = self.stream.read_to_end(&mut Vec::new());
        end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
    }

    pub(crate) fn finish(self) {
        self.stream.get_ref().shutdown(Shutdown::Both).unwrap();
    }
}

/// Fails where the other side resets at once.
fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, LONG)?;
    stream.set_read_timeout(Some(LONG))?;
    stream.set_write_timeout(Some(LONG))?;
    Ok(stream)
}

/// Asks until there is an answer.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {LONG:?}");
        thread::sleep(Duration::from_millis(10));
    }
}
