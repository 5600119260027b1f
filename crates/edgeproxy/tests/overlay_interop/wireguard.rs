//! The programs of the other side: `ip`, `wg`, and WireGuard in user space.

use std::io::{self, ErrorKind, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use edgeproxy_world::{LONG, Lines, eventually};

use crate::stage;

/// Runs a program and gives what it says.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    run_with(program, arguments, "")
}

/// The same with something on its standard input.
pub(crate) fn run_with(program: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| missing(program, &error));
    // A program that reads nothing may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {}: {said}", arguments.join(" "), output.status);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(crate) fn missing<T>(program: &str, error: &io::Error) -> T {
    match error.kind() {
        ErrorKind::NotFound => panic!("there is no program {program:?}: `make packages` installs what the tests need"),
        _ => panic!("{program}: {error}"),
    }
}

/// A key pair.
pub(crate) struct Keys {
    pub(crate) private: String,
    pub(crate) public: String,
}

impl Keys {
    /// Made by `edgeproxy keygen`; what is public of it is found by `wg`.
    pub(crate) fn ours() -> Self {
        let private = run(stage::binary().to_str().unwrap(), &["keygen"]);
        Self { public: run_with("wg", &["pubkey"], &private), private }
    }

    /// Made by `wg genkey`; what is public of it is found by `edgeproxy`.
    pub(crate) fn theirs() -> Self {
        let private = run("wg", &["genkey"]);
        Self { public: run_with(stage::binary().to_str().unwrap(), &["pubkey"], &private), private }
    }
}

/// A WireGuard in user space that `wg` tells what to do.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Program {
    #[default]
    WireGuardGo,
    /// It takes a peer once, and changes nothing of it afterwards.
    Boringtun,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::WireGuardGo => "wireguard-go",
            Self::Boringtun => "boringtun-cli",
        }
    }

    fn command(self, interface: &str) -> Command {
        match self {
            Self::WireGuardGo => {
                let mut command = Command::new(self.name());
                command.args(["-f", interface]).env("LOG_LEVEL", "verbose");
                command
            }
            Self::Boringtun => {
                let path = stage::lent(stage::TOOLS).join(self.name());
                if !path.is_file() {
                    stage::lack("there is no boringtun-cli: `make tools` builds it");
                }
                let mut command = Command::new(path);
                command.args(["--foreground", "--disable-drop-privileges", "--verbosity", "debug", interface]);
                command
            }
        }
    }
}

/// One that runs, in the network namespace of the thread that started it.
pub(crate) struct Daemon {
    program: Program,
    name: &'static str,
    child: Child,
    log: Lines,
    keys: Keys,
    /// Nothing is wrong with it.
    stopped: bool,
}

impl Daemon {
    /// With this address inside, where all of 10.50.0.0/16 is reached through it.
    pub(crate) async fn start(program: Program, name: &'static str, address: Ipv4Addr, port: u16) -> Self {
        let mut started = Self::launch(program, name);
        started.listening().await;
        started.configure(address, port);
        started
    }

    /// Starts the program, which is nobody yet.
    pub(crate) fn launch(program: Program, name: &'static str) -> Self {
        let mut command = program.command(name);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| missing(program.name(), &error));
        let log = Lines::of(program.name(), child.stdout.take().unwrap()).unwrap();
        Self { program, name, child, log, keys: Keys::theirs(), stopped: false }
    }

    /// Waits until it can be told what to do.
    pub(crate) async fn listening(&mut self) {
        let Self { program, name, child, log, .. } = self;
        let socket = format!("/var/run/wireguard/{name}.sock");
        let listening = eventually(program.name(), LONG, async || {
            if let Some(status) = child.try_wait()? {
                panic!("{} ended ({status}); {}", program.name(), log.tail());
            }
            Ok(Path::new(&socket).exists().then_some(()))
        });
        listening.await.unwrap_or_else(|error| panic!("{error}; {}", log.tail()));
    }

    /// Gives it a key and addresses. Has to be called in its network namespace.
    pub(crate) fn configure(&self, address: Ipv4Addr, port: u16) {
        let (name, port) = (self.name, port.to_string());
        run_with("wg", &["set", name, "private-key", "/dev/stdin", "listen-port", &port], &self.keys.private);
        run("ip", &["addr", "add", &format!("{address}/32"), "dev", name]);
        run("ip", &["link", "set", name, "mtu", "1420", "up"]);
        run("ip", &["route", "add", "10.50.0.0/16", "dev", name]);
    }

    /// What it is known by.
    pub(crate) fn public(&self) -> &str {
        &self.keys.public
    }

    /// `wg set NAME peer PEER ...`.
    pub(crate) fn set_peer(&self, peer: &str, settings: &[&str]) {
        let mut arguments = vec!["set", self.name, "peer", peer];
        arguments.extend(settings);
        run("wg", &arguments);
    }

    /// The same with a preshared key.
    pub(crate) fn set_preshared(&self, peer: &str, key: &str) {
        run_with("wg", &["set", self.name, "peer", peer, "preshared-key", "/dev/stdin"], key);
    }

    /// Moves to another port.
    pub(crate) fn listen(&self, port: u16) {
        run("wg", &["set", self.name, "listen-port", &port.to_string()]);
    }

    /// Ends it, where all went well: otherwise it tells its last lines at its end.
    pub(crate) fn stop(mut self) {
        self.stopped = true;
    }

    /// Waits until its one peer shook hands: that it does only with the first message in the session.
    pub(crate) async fn shaken(&self) -> io::Result<()> {
        eventually("a handshake as the other side sees it", LONG, async || {
            Ok((self.latest_handshake() > 0).then_some(()))
        })
        .await
    }

    /// When its one peer shook hands last, in seconds since 1970; 0: never.
    pub(crate) fn latest_handshake(&self) -> u64 {
        self.show("latest-handshakes", 1)
    }

    /// Bytes from its one peer.
    pub(crate) fn received(&self) -> u64 {
        self.show("transfer", 1)
    }

    fn show(&self, what: &str, column: usize) -> u64 {
        let line = run("wg", &["show", self.name, what]);
        let word = line.split_whitespace().nth(column);
        word.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("wg show {} {what}: {line:?}", self.name))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.stopped {
            println!("{}", self.log.tail());
        }
        // Gone already: then nothing is left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a file that its owner alone may read, as one with a private key is.
pub(crate) fn write_private(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
