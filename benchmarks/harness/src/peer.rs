//! The peers: what `peers.toml` says of them, and one running instance.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::cpu;
use crate::failure::{Context, Failure};
use crate::site::{self, Site};

const START: Duration = Duration::from_secs(10);
const STOP: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) label: String,
    pub(crate) group: Group,
    /// Others are compared with this one.
    #[serde(default)]
    pub(crate) reference: bool,
    /// `None` for a direct connection to the backend.
    program: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    /// File in the peers folder that is rendered to `{config}`.
    template: Option<String>,
    /// Command whose first line tells the version.
    #[serde(default)]
    version: Vec<String>,
    /// Debian packages that bring the program.
    #[serde(default)]
    pub(crate) packages: Vec<String>,
    #[serde(default)]
    values: BTreeMap<String, String>,
}

/// Peers are compared within their group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Group {
    Plain,
    /// Writes a line per connection.
    Logged,
}

#[derive(Deserialize)]
struct List {
    #[serde(rename = "peer")]
    peers: Vec<Peer>,
}

/// All peers, or those of `wanted`; a wanted peer that is not listed is an error.
pub(crate) fn read_all(folder: &Path, wanted: &[String]) -> Result<Vec<Peer>, Failure> {
    let file = folder.join("peers.toml");
    let text = fs::read_to_string(&file).context(format!("cannot read {}", file.display()))?;
    let list: List = toml::from_str(&text).context(file.display())?;
    let known = |name: &String| list.peers.iter().any(|peer| peer.name == *name);
    if let Some(unknown) = wanted.iter().find(|name| !known(name)) {
        return Err(Failure::new(format!("no peer named {unknown} in {}", file.display())));
    }
    let is_wanted = |peer: &Peer| wanted.is_empty() || wanted.contains(&peer.name);
    Ok(list.peers.into_iter().filter(is_wanted).collect())
}

impl Peer {
    /// Why this peer cannot be started here, if so.
    pub(crate) fn missing(&self, site: &Site) -> Option<String> {
        if let Some(program) = &self.program {
            let program = site.fill(program, &site.scratch);
            if find_program(&program).is_none() {
                return Some(format!("{program} is not there"));
            }
        }
        let template = self.template.as_ref().map(|name| site.peers_folder().join(name));
        template.filter(|file| !file.is_file()).map(|file| format!("{} is not there", file.display()))
    }

    /// The first line that the program prints about itself.
    pub(crate) fn version(&self, site: &Site) -> Option<String> {
        let words: Vec<String> = self.version.iter().map(|word| site.fill(word, &site.scratch)).collect();
        let (program, args) = words.split_first()?;
        let output = Command::new(find_program(program)?).args(args).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().next().map(str::to_owned)
    }

    /// The command line, with placeholders.
    pub(crate) fn command_line(&self) -> String {
        let program = self.program.iter().map(String::as_str);
        program.chain(self.args.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
    }

    /// Starts a fresh process with its own folder `dir` and waits until it listens.
    pub(crate) fn start(&self, site: &Site, dir: PathBuf) -> Result<Running, Failure> {
        let Some(program) = &self.program else {
            return Ok(Running { child: None, target: site::BACKEND, dir });
        };
        fs::create_dir_all(&dir).context(format!("cannot make {}", dir.display()))?;
        let fill = |text: &str| {
            let own = |text: String, (name, value): (&String, &String)| text.replace(&format!("{{{name}}}"), value);
            site.fill(&self.values.iter().fold(text.to_owned(), own), &dir)
        };
        if let Some(name) = &self.template {
            let file = site.peers_folder().join(name);
            let template = fs::read_to_string(&file).context(format!("cannot read {}", file.display()))?;
            fs::write(dir.join("config"), fill(&template)).context("cannot write the configuration")?;
        }
        let program = find_program(&fill(program)).context(format!("{program} is not there"))?;
        let output = |name: &str| File::create(dir.join(name)).context(format!("cannot make {name}"));
        // Settings in the environment of whoever runs the benchmark are not part of it.
        let child = Command::new(program)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .args(self.args.iter().map(|arg| fill(arg)))
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(output("stdout")?)
            .stderr(output("stderr")?)
            .spawn()
            .context(format!("cannot start {}", self.name))?;
        let mut running = Running { child: Some(child), target: site::LISTEN, dir };
        running.await_listening().context(&self.name)?;
        Ok(running)
    }
}

/// A started peer; dropping it ends all its processes.
pub(crate) struct Running {
    child: Option<Child>,
    /// Where clients connect.
    pub(crate) target: SocketAddrV4,
    dir: PathBuf,
}

impl Running {
    /// `None` for a direct connection.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn await_listening(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        while !is_listening(self.target) {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                return Err(Failure::new(format!("ended at start ({status}): {}", self.last_words())));
            }
            if began.elapsed() > START {
                return Err(Failure::new(format!("does not listen after {START:?}: {}", self.last_words())));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// The end of what it printed, for error messages.
    fn last_words(&self) -> String {
        let printed = |name| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        let text = format!("{}{}", printed("stdout"), printed("stderr"));
        let lines: Vec<&str> = text.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }

    /// Asks it to end, then insists.
    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let processes = cpu::tree(child.id());
        signal(child.id(), Signal::TERM);
        let began = Instant::now();
        while began.elapsed() < STOP && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(LOOK);
        }
        for pid in processes {
            signal(pid, Signal::KILL);
        }
        // It has been killed at the latest now; an error means that it was already waited for.
        let _ = child.wait();
        while is_listening(self.target) && began.elapsed() < 2 * STOP {
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A process that has ended meanwhile needs no signal.
fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    let paths = std::env::split_paths(&folders).chain(system).map(|folder| folder.join(name));
    paths.into_iter().find(|path| path.is_file())
}

/// Read from the kernel's table, so that no probe connection reaches the peer. A thread may have a namespace of its own.
pub(crate) fn is_listening(at: SocketAddrV4) -> bool {
    let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap_or_default();
    lists(&table, at)
}

fn lists(table: &str, at: SocketAddrV4) -> bool {
    // The address is printed as the number that its bytes are in memory.
    let address = u32::from_ne_bytes(at.ip().octets());
    let wanted = format!("{address:08X}:{:04X}", at.port());
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(&wanted) && fields.nth(1) == Some("0A")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_parses_and_every_template_exists() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../peers");
        let peers = read_all(&folder, &[]).unwrap();
        assert!(peers.iter().filter(|peer| peer.reference).count() >= 3);
        for template in peers.iter().filter_map(|peer| peer.template.as_ref()) {
            assert!(folder.join(template).is_file(), "{template}");
        }
        assert!(read_all(&folder, &["nonsense".to_owned()]).is_err());
    }

    #[test]
    fn only_a_listening_socket_counts() {
        let table = "  sl  local_address rem_address   st\n   0: 0100007F:1B58 00000000:0000 0A 0\n\
                     \x20  1: 0100007F:1B59 0100007F:1234 01 0\n";
        let at = |port| SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port);
        assert!(lists(table, at(7000)));
        assert!(!lists(table, at(7001)));
    }
}
