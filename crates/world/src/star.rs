//! Regions around a hub, as the published benchmark has them: a hub that publishes a database inside its overlay, a
//! regional service in each region that reaches it through a WireGuard tunnel of its own, and a POP in front of them all.
//!
//! Each is the binary itself, a process of its own; their datagrams go through a [`Wan`]. None of them needs a privilege.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::deadline::{LONG, eventually};
use crate::lines::Lines;
use crate::pop::Pop;
use crate::postgres::{DATABASE, PASSWORD, USER};
use crate::process::Process;
use crate::site::{Site, row};
use crate::wan::{Link, UdpPath, Wan};

/// Where the hub publishes the database.
const PUBLISHED: &str = "10.50.0.1:5432";
/// The POP's file and its address, in the network of hub and POPs.
const POP: &str = "pop";
const POP_ADDRESS: &str = "10.50.0.2";
/// What the hub's files are made with, until its port is known.
const NO_ENDPOINT: &str = "127.0.0.1:1";
const NO_PORT: &str = "ListenPort = 1";

/// How TCP inside the overlay is had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Inside {
    /// By an interface in a user namespace of each process.
    UserNamespace,
    /// By a stack in each process.
    Netstack {
        /// Why not by an interface, and what would help, as the process said it.
        reason: String,
    },
}

/// Hub, regions and POP. They end when this is dropped.
#[derive(Debug)]
pub struct Star {
    pop: Pop,
    spokes: Vec<Spoke>,
    hub: Service,
    inside: Inside,
    wan: Wan,
    /// Their files.
    _site: Site,
}

/// One region.
#[derive(Debug)]
pub struct Spoke {
    region: String,
    front: SocketAddr,
    service: Service,
    path: UdpPath,
}

impl Star {
    /// Starts all of it for a database; there is no distance between any of them until [`Spoke::path`] is told one.
    ///
    /// # Errors
    /// One of them does not start; the error tells what it said.
    pub async fn start(binary: &Path, regions: &[&str], database: SocketAddr, seed: u64) -> io::Result<Self> {
        let (site, wan) = (Site::new(binary)?, Wan::start(seed)?);
        let files = site.file("overlay");
        make_files(binary, &files, regions).await?;
        edit(&files, "hub", NO_PORT, "ListenPort = 0")?;
        let config = site.file("hub.toml");
        // Whose tunnel has ended cannot say so any more: nobody to wait for.
        let drain = "[proxy]\ndrain_timeout = \"0s\"\n";
        let publish =
            format!("region = \"hub\"\n{drain}[[publish]]\nlisten = \"{PUBLISHED}\"\ntarget = \"{database}\"\n");
        std::fs::write(&config, publish)?;
        let (hub, inside) = start_hub(binary, &config, &files.join("hub.conf")).await?;
        let target = SocketAddr::from(([127, 0, 0, 1], hub.number("overlay up", "port")?));

        edit(&files, POP, NO_ENDPOINT, &target.to_string())?;
        let mut services = Vec::new();
        for &region in regions {
            let path = wan.udp(target, Link::one_way(Duration::ZERO))?;
            edit(&files, region, NO_ENDPOINT, &path.address().to_string())?;
            let file = files.join(format!("{region}.conf"));
            services.push((region, path, spawn_backend(binary, region, &file, &inside)?));
        }
        let mut ready = Vec::new();
        for (region, path, service) in services {
            service.ready("backend running").await?;
            let listening = service.said("listening inside the overlay");
            let address = listening.first().and_then(|line| line["address"].as_str()?.parse().ok());
            let address: SocketAddr =
                address.ok_or_else(|| io::Error::other(format!("{region} is not inside; {}", service.log.tail())))?;
            let mut backend = row(region, region, address);
            backend.app = Some(region.to_owned());
            site.add(backend)?;
            ready.push((region, path, service));
        }
        let pop = start_pop(&site, regions, &files.join(format!("{POP}.conf")), &inside).await?;
        let fronts = pop.addresses().to_vec();
        let spokes = ready.into_iter().zip(fronts).map(|((region, path, service), front)| Spoke {
            region: region.to_owned(),
            front,
            service,
            path,
        });
        Ok(Self { spokes: spokes.collect(), pop, hub, inside, wan, _site: site })
    }

    /// The regions, in the order they were given.
    pub fn spokes(&self) -> &[Spoke] {
        &self.spokes
    }

    /// The POP in front of them.
    pub fn pop(&self) -> &Pop {
        &self.pop
    }

    /// The network they are in; other paths can be laid in it.
    pub fn wan(&self) -> &Wan {
        &self.wan
    }

    /// How TCP inside is had.
    pub fn inside(&self) -> &Inside {
        &self.inside
    }

    /// Tells all of them to stop, and waits until they have.
    ///
    /// # Errors
    /// One does not, or not well.
    pub async fn close(self, within: Duration) -> io::Result<()> {
        self.pop.stop(within).await?;
        for spoke in &self.spokes {
            spoke.service.process.signal(Signal::TERM)?;
        }
        for spoke in self.spokes {
            spoke.service.stop(within).await?;
        }
        self.hub.stop(within).await
    }
}

impl Spoke {
    /// Its code.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Where the POP takes connections for its service.
    pub fn front(&self) -> SocketAddr {
        self.front
    }

    /// Its way to the hub.
    pub fn path(&self) -> &UdpPath {
        &self.path
    }

    /// What its service has said.
    pub fn log(&self) -> &Lines {
        &self.service.log
    }
}

/// One of the processes.
#[derive(Debug)]
struct Service {
    process: Process,
    log: Lines,
}

impl Service {
    fn start(mut command: Command) -> io::Result<Self> {
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path))).env("EDGEPROXY_LOG", "info");
        let (process, log) = Process::told(command)?;
        Ok(Self { process, log })
    }

    /// Waits until it has said that it is.
    async fn ready(&self, message: &str) -> io::Result<Value> {
        self.log.wait_for(message, LONG, |line| line["message"] == message).await
    }

    fn said(&self, message: &str) -> Vec<Value> {
        self.log.all_json().into_iter().filter(|line| line["message"] == message).collect()
    }

    fn number(&self, message: &str, key: &str) -> io::Result<u16> {
        let number = self.said(message).first().and_then(|line| line[key].as_u64()?.try_into().ok());
        number.ok_or_else(|| io::Error::other(format!("it did not say {message:?} with {key}; {}", self.log.tail())))
    }

    async fn stop(self, within: Duration) -> io::Result<()> {
        let status = self.process.end(Signal::TERM, within).await;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(io::Error::other(format!("it ended with {status}; {}", self.log.tail()))),
            Err(error) => Err(error),
        }
    }
}

fn command(binary: &Path, name: &str) -> Command {
    let mut command = Command::new(binary);
    command.env_clear().arg(name);
    command
}

/// As an operator makes them.
async fn make_files(binary: &Path, folder: &Path, regions: &[&str]) -> io::Result<()> {
    let mut init = command(binary, "overlay");
    init.args(["init", "--hub", NO_ENDPOINT, "--regions", &format!("{},{POP}={POP_ADDRESS}", regions.join(","))]);
    init.arg("--dir").arg(folder);
    let (mut process, log) = Process::told(init)?;
    let ended = eventually("edgeproxy overlay init", LONG, async || process.ended()).await?;
    if ended.success() {
        return Ok(());
    }
    log.ended("its last words", LONG).await?;
    Err(io::Error::other(format!("edgeproxy overlay init failed; {}", log.tail())))
}

fn edit(folder: &Path, name: &str, from: &str, to: &str) -> io::Result<()> {
    let file: PathBuf = folder.join(format!("{name}.conf"));
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(file, text.replace(from, to))
}

/// Where user namespaces are refused, a stack of its own does.
async fn start_hub(binary: &Path, config: &Path, overlay: &Path) -> io::Result<(Service, Inside)> {
    let mut inside = Inside::UserNamespace;
    loop {
        let mut hub = command(binary, "gateway");
        hub.arg("--config").arg(config).arg("--overlay").arg(overlay).args(["--admin", "127.0.0.1:0"]);
        hub.env("EDGEPROXY_OVERLAY_MODE", inside.word());
        let hub = Service::start(hub)?;
        // Without an overlay it goes on or ends: either way it has said so.
        let told = |line: &Value| line["message"] == "overlay up" || refusal(line).is_some();
        let line = hub.log.wait_for("a hub", LONG, told).await?;
        match (refusal(&line), &inside) {
            (None, _) => {
                hub.ready("ready").await?;
                return Ok((hub, inside));
            }
            (Some(reason), Inside::UserNamespace) => inside = Inside::Netstack { reason: reason.to_owned() },
            (Some(_), _) => return Err(io::Error::other(format!("no overlay can be had; {}", hub.log.tail()))),
        }
    }
}

/// Why there is no overlay, if that is what the line says.
fn refusal(line: &Value) -> Option<&str> {
    line["message"].as_str()?.strip_prefix("no overlay: ")
}

fn spawn_backend(binary: &Path, region: &str, overlay: &Path, inside: &Inside) -> io::Result<Service> {
    let (host, port) = PUBLISHED.split_once(':').unwrap_or((PUBLISHED, "5432"));
    let mut backend = command(binary, "backend");
    backend.env("FLY_REGION", region).env("PORT", "0");
    backend.env("DB_HOST", host).env("DB_PORT", port);
    backend.env("DB_USER", USER).env("DB_PASSWORD", PASSWORD).env("DB_NAME", DATABASE);
    backend.env("EDGEPROXY_OVERLAY", overlay).env("EDGEPROXY_OVERLAY_MODE", inside.word());
    Service::start(backend)
}

/// With a listener for each region, so that each can be asked from here.
async fn start_pop(site: &Site, regions: &[&str], overlay: &Path, inside: &Inside) -> io::Result<Pop> {
    let listeners: String = regions
        .iter()
        .map(|region| format!("[[listener]]\nbind = \"127.0.0.1:0\"\napp = {region:?}\nconnect_timeout = \"5s\"\n"))
        .collect();
    let plan = site.plan(&format!("[[check]]\nkind = \"none\"\n{listeners}"));
    plan.flag("--overlay").flag(overlay).variable("EDGEPROXY_OVERLAY_MODE", inside.word()).start().await
}

impl Inside {
    fn word(&self) -> &'static str {
        match self {
            Self::UserNamespace => "userns",
            Self::Netstack { .. } => "netstack",
        }
    }
}
