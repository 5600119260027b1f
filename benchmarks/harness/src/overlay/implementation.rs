//! The implementations that `peers.toml` names, and a running end of a tunnel.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::network::{Network, ip};
use crate::failure::{Context, Failure};
use crate::peer::Group;
use crate::site::Site;
use crate::summary::Entrant;

/// Where wireguard-go and those like it listen for `wg`; the benchmark has a /run of its own.
pub(super) const SOCKETS: &str = "/run/wireguard";
pub(super) const PORT: u16 = 51820;
pub(super) const MTU: u16 = 1420;
const START: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Implementation {
    pub(super) name: String,
    pub(super) label: String,
    pub(super) engine: Engine,
    /// Others are compared with this one.
    #[serde(default)]
    reference: bool,
    #[serde(default)]
    pub(super) program: String,
    #[serde(default)]
    args: Vec<String>,
    pub(super) origin: Option<Origin>,
    /// Debian packages of the release that this machine runs.
    #[serde(default)]
    pub(super) packages: Vec<String>,
    /// Measured only when it is asked for by name.
    #[serde(default)]
    extra: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Engine {
    /// The bare link, for comparison.
    None,
    Edgeproxy,
    /// Configured over a socket by `wg`.
    Uapi,
}

/// Where a program comes from that this machine's own packages do not bring.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Origin {
    Debian(String),
    Crate(String),
}

#[derive(Deserialize)]
struct List {
    #[serde(rename = "peer")]
    peers: Vec<Implementation>,
}

/// All that are no extras, or those of `wanted`; a wanted one that is not listed is an error.
pub(super) fn read_all(folder: &Path, wanted: &[String]) -> Result<Vec<Implementation>, Failure> {
    let file = folder.join("peers.toml");
    let text = fs::read_to_string(&file).context(format!("cannot read {}", file.display()))?;
    let list: List = toml::from_str(&text).context(file.display())?;
    let known = |name: &String| list.peers.iter().any(|peer| peer.name == *name);
    if let Some(unknown) = wanted.iter().find(|name| !known(name)) {
        return Err(Failure::new(format!("no peer named {unknown} in {}", file.display())));
    }
    let is_wanted = |peer: &Implementation| if wanted.is_empty() { !peer.extra } else { wanted.contains(&peer.name) };
    Ok(list.peers.into_iter().filter(is_wanted).collect())
}

impl Implementation {
    pub(super) fn entrant(&self) -> Entrant {
        Entrant { name: self.name.clone(), label: self.label.clone(), group: Group::Plain, reference: self.reference }
    }

    /// As it is started, for readers.
    pub(super) fn command_line(&self) -> String {
        match self.engine {
            Engine::None => String::new(),
            Engine::Edgeproxy => "EDGEPROXY_OVERLAY_MODE=tun edgeproxy proxy --overlay FILE".to_owned(),
            Engine::Uapi => format!("{} {} INTERFACE", self.program, self.args.join(" ")),
        }
    }
}

/// One end of a tunnel, as `wg` and wg-quick would have it.
pub(super) struct Interface<'a> {
    pub(super) name: &'static str,
    pub(super) key: &'a Key,
    pub(super) address: Ipv4Addr,
    pub(super) peers: Vec<Remote<'a>>,
    /// Packets of one peer for another are passed on.
    pub(super) forward: bool,
}

pub(super) struct Remote<'a> {
    pub(super) key: &'a Key,
    /// With a prefix length.
    pub(super) allowed: String,
    pub(super) endpoint: Ipv4Addr,
}

/// A key pair in the base64 of `wg`.
pub(super) struct Key {
    private: String,
    public: String,
}

impl Key {
    pub(super) fn generate() -> Result<Self, Failure> {
        let private = wg(&["genkey"], "")?;
        let public = wg(&["pubkey"], &private)?;
        Ok(Self { private, public })
    }
}

/// A program with an interface of its own, that `wg` steers.
pub(crate) struct Daemon {
    pub(crate) interface: &'static str,
    _end: End,
}

impl Daemon {
    /// Starts one in the namespace of the calling thread, without any peer.
    pub(crate) fn start(program: &Path, dir: &Path) -> Result<Self, Failure> {
        let key = Key::generate()?;
        let address = Ipv4Addr::new(10, 99, 0, 1);
        let interface = Interface { name: "wg0", key: &key, address, peers: Vec::new(), forward: false };
        let end = start_uapi(program, &["-f".to_owned()], &interface, dir)?;
        Ok(Self { interface: interface.name, _end: end })
    }
}

/// A running end; dropping it ends it, and its interface with it.
pub(super) struct End {
    child: Child,
    socket: PathBuf,
}

impl End {
    /// Starts `program` in `network`, with its configuration and output in `dir`.
    pub(super) fn start(
        implementation: &Implementation,
        program: &Path,
        site: &Site,
        network: &Network,
        interface: &Interface,
        dir: &Path,
    ) -> Result<Self, Failure> {
        network
            .within(|| match implementation.engine {
                Engine::None => Err(Failure::new("a bare link has no ends")),
                Engine::Edgeproxy => start_edgeproxy(program, site, interface, dir),
                Engine::Uapi => start_uapi(program, &implementation.args, interface, dir),
            })
            .context(&implementation.name)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn await_socket(&mut self) -> Result<(), Failure> {
        let socket = self.socket.clone();
        self.wait_until(&socket.display().to_string(), || socket.exists())
    }

    /// In the namespace of the calling thread: the address may be used.
    fn await_address(&mut self, address: Ipv4Addr) -> Result<(), Failure> {
        self.wait_until(&address.to_string(), || TcpListener::bind((address, 0)).is_ok())
    }

    fn wait_until(&mut self, what: &str, is_there: impl Fn() -> bool) -> Result<(), Failure> {
        let began = Instant::now();
        while !is_there() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Failure::new(format!("ended at start: {status}")));
            }
            if began.elapsed() > START {
                return Err(Failure::new(format!("no {what} after {START:?}")));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Already ended is as good. A killed program leaves its socket, over which the next one would stumble.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

fn start_edgeproxy(program: &Path, site: &Site, interface: &Interface, dir: &Path) -> Result<End, Failure> {
    let file = dir.join(format!("{}.conf", interface.name));
    write_secret(&file, &wg_quick(interface))?;
    let mut command = Command::new(program);
    let words = ["proxy", "--listen", "{listen}", "--db", "{db}", "--region", "fra", "--overlay"];
    command.args(words.map(|word| site.fill(word, dir))).arg(&file);
    let forward = if interface.forward { "on" } else { "off" };
    let settings = [("EDGEPROXY_OVERLAY_MODE", "tun"), ("EDGEPROXY_OVERLAY_FORWARD", forward)];
    let mut end = spawn(command, &settings, interface, dir)?;
    end.await_address(interface.address)?;
    Ok(end)
}

fn start_uapi(program: &Path, args: &[String], interface: &Interface, dir: &Path) -> Result<End, Failure> {
    let mut command = Command::new(program);
    command.args(args).arg(interface.name);
    let mut end = spawn(command, &[], interface, dir)?;
    end.await_socket()?;
    let key = dir.join(format!("{}.key", interface.name));
    write_secret(&key, &interface.key.private)?;
    let (key, port) = (key.display().to_string(), PORT.to_string());
    wg(&["set", interface.name, "private-key", &key, "listen-port", &port], "")?;
    for peer in &interface.peers {
        let endpoint = format!("{}:{PORT}", peer.endpoint);
        let words = ["set", interface.name, "peer", &peer.key.public, "allowed-ips", &peer.allowed, "endpoint"];
        wg(&[&words[..], &[&endpoint]].concat(), "")?;
    }
    ip(&["address", "add", &format!("{}/32", interface.address), "dev", interface.name])?;
    ip(&["link", "set", interface.name, "mtu", &MTU.to_string(), "up"])?;
    for peer in &interface.peers {
        ip(&["route", "add", &peer.allowed, "dev", interface.name])?;
    }
    if interface.forward {
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot let the kernel forward")?;
    }
    Ok(end)
}

/// In the namespace of the calling thread. Settings in the environment of whoever runs the benchmark are no part of it.
fn spawn(mut command: Command, settings: &[(&str, &str)], interface: &Interface, dir: &Path) -> Result<End, Failure> {
    let output = |kind: &str| {
        let file = dir.join(format!("{}.{kind}", interface.name));
        File::create(&file).context(format!("cannot make {}", file.display()))
    };
    let child = command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(settings.iter().copied())
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(output("stdout")?)
        .stderr(output("stderr")?)
        .spawn()
        .context("cannot start")?;
    Ok(End { child, socket: Path::new(SOCKETS).join(format!("{}.sock", interface.name)) })
}

fn wg_quick(interface: &Interface) -> String {
    let mut text = format!(
        "[Interface]\nPrivateKey = {}\nAddress = {}/32\nListenPort = {PORT}\nMTU = {MTU}\n",
        interface.key.private, interface.address
    );
    for peer in &interface.peers {
        text.push_str(&format!(
            "\n[Peer]\nPublicKey = {}\nAllowedIPs = {}\nEndpoint = {}:{PORT}\n",
            peer.key.public, peer.allowed, peer.endpoint
        ));
    }
    text
}

/// Both `wg` and edgeproxy want keys that nobody else can read.
fn write_secret(file: &Path, text: &str) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(file).and_then(|mut file| file.write_all(text.as_bytes()));
    written.context(format!("cannot write {}", file.display()))
}

/// What `wg` prints, without the line end.
pub(crate) fn wg(words: &[&str], input: &str) -> Result<String, Failure> {
    let mut command = Command::new("wg");
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run wg (wireguard-tools)")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A `wg` that has ended before it read says why below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().context("cannot run wg")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let what = words.first().copied().unwrap_or_default();
    Err(Failure::new(format!("wg {what}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_parses_and_extras_come_only_by_name() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../overlay");
        let peers = read_all(&folder, &[]).unwrap();
        assert_eq!(peers.iter().filter(|peer| peer.reference).count(), 1);
        assert!(peers.iter().all(|peer| !peer.extra));
        assert_eq!(read_all(&folder, &["wireguard-go-stable".to_owned()]).unwrap().len(), 1);
        assert!(read_all(&folder, &["nonsense".to_owned()]).is_err());
    }
}
