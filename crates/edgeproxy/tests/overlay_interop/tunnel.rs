//! A POP and a WireGuard in user space behind which a backend is, both found on loopback.

use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use edgeproxy_world::{
    Backend, Behaviour, Client, Pop, PopPlan, Site, eventually, read_pattern, within, write_pattern,
};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::stage;
use crate::wireguard::{Daemon, Keys, Program, run, write_private};

pub(crate) const MIB: u64 = 1024 * 1024;
pub(crate) const OUR_PORT: u16 = 51_820;
pub(crate) const THEIR_PORT: u16 = 51_821;
pub(crate) const OUR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 2);
pub(crate) const THEIR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 50, 1, 1);
const UNCHECKED: &str = "[[check]]\nkind = \"none\"\n";
/// The file of a site in which it is written what its POP is allowed.
const PRIVILEGES: &str = "privileges";

/// What differs between cases.
#[derive(Default)]
pub(crate) struct Plan<'a> {
    /// Who is on the other side.
    pub(crate) program: Program,
    /// More lines of our section for it.
    pub(crate) our_peer: &'a str,
    /// More words of `wg set ... peer` for us.
    pub(crate) their_peer: &'a [&'a str],
    /// More keys of the section `overlay`, and other sections.
    pub(crate) toml: &'a str,
}

/// Both ends.
pub(crate) struct Tunnel {
    _site: Site,
    pub(crate) pop: Pop,
    pub(crate) theirs: Daemon,
    pub(crate) backend: Backend,
    /// What the POP is known by.
    pub(crate) public: String,
}

impl Tunnel {
    pub(crate) async fn start(plan: Plan<'_>) -> io::Result<Self> {
        let ours = Keys::ours();
        let theirs = Daemon::start(plan.program, "wgb", THEIR_ADDRESS, THEIR_PORT).await;
        let allowed_ips = ["allowed-ips", "10.50.0.2/32"];
        if plan.program != Program::Boringtun {
            theirs.set_peer(&ours.public, &allowed_ips);
        }
        let site = site();
        let text = our_file(&ours, &theirs, plan.our_peer);
        let backend = Backend::start_at("b1", THEIR_ADDRESS, Behaviour::HandOver)?;
        site.add_backend("fra", &backend)?;
        let pop = start(&site, &text, plan.toml).await?;
        // What they begin themselves is answered by now: they would try again only after 5 seconds.
        theirs.set_peer(&ours.public, &[&allowed_ips, plan.their_peer].concat());
        Ok(Self { _site: site, pop, theirs, backend, public: ours.public })
    }

    /// A client, and the backend's end of its connection.
    pub(crate) async fn connect(&self) -> io::Result<(Client, Client)> {
        let client = self.pop.connect().await?;
        Ok((client, self.backend.next().await?))
    }

    /// A client that finds no backend to talk to.
    pub(crate) async fn refused(&self) -> io::Result<()> {
        let mut client = self.pop.connect().await?;
        let (said, _) = client.ending().await?;
        assert_eq!(said, b"", "somebody has answered");
        let line = self.pop.logged_of(client.address()).await?;
        assert_eq!(line["event"], "refused", "{line}");
        Ok(())
    }

    pub(crate) async fn stop(self) -> io::Result<()> {
        self.pop.stop(Duration::from_secs(5)).await?;
        self.theirs.stop();
        Ok(())
    }
}

/// A place for a POP that runs without any capability, and cannot get one. What it is allowed is written down there just
/// before it starts.
pub(crate) fn site() -> Site {
    let wrapper = std::env::temp_dir().join("bare-edgeproxy");
    let text = format!(
        r#"#!/bin/sh
note='grep -E "^(Uid|Gid|Cap|NoNewPrivs)" /proc/self/status >{PRIVILEGES}'
exec setpriv --no-new-privs --ambient-caps=-all --inh-caps=-all --bounding-set=-all \
    sh -c "$note"'; exec "$0" "$@"' '{}' "$@"
"#,
        stage::binary().display()
    );
    std::fs::write(&wrapper, text).unwrap();
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    Site::new(&wrapper).unwrap()
}

/// The POP of a site got nothing from the namespace it was started in.
fn check_privileges(site: &Site) {
    let text = std::fs::read_to_string(site.file(PRIVILEGES)).unwrap();
    let user = stage::user().to_string();
    for line in text.lines() {
        let (name, value) = line.split_once(":\t").unwrap();
        match name {
            "Uid" => assert!(value.split_whitespace().all(|uid| uid == user) && user != "0", "{line}"),
            "Gid" => assert!(value.split_whitespace().all(|gid| gid != "0"), "{line}"),
            "NoNewPrivs" => assert_eq!(value, "1"),
            _ => assert_eq!(value.trim_matches('0'), "", "{line}"),
        }
    }
    assert_eq!(text.lines().count(), 8, "a user, a group, five sets of capabilities, and a switch: {text}");
}

/// Starts a POP with this wg-quick file, which has its overlay as this case wants it.
pub(crate) async fn start(site: &Site, text: &str, toml: &str) -> io::Result<Pop> {
    let file = site.file("overlay.conf");
    write_private(&file, text);
    let pop = launch(site, site.plan(&overlay(&file, toml))).await?;
    assert_eq!(shown(&pop).await?["mode"], stage::mode().word());
    Ok(pop)
}

/// Starts a POP of a site.
pub(crate) async fn launch(site: &Site, plan: PopPlan) -> io::Result<Pop> {
    let pop = plan.start().await?;
    check_privileges(site);
    Ok(pop)
}

/// A configuration with this wg-quick file or folder of them, followed by more keys of its section and other sections.
pub(crate) fn overlay(file: &Path, toml: &str) -> String {
    overlay_of(file, stage::mode().word(), toml)
}

/// The same with another mode.
pub(crate) fn overlay_of(file: &Path, mode: &str, toml: &str) -> String {
    format!("{UNCHECKED}[overlay]\nconfig = {file:?}\nmode = \"{mode}\"\n{toml}\n")
}

/// The overlay as the API shows it.
pub(crate) async fn shown(pop: &Pop) -> io::Result<Value> {
    let (status, body) = pop.get("/api/v1/overlay").await?;
    assert_eq!(status, 200, "{body}; {}", pop.log.tail());
    Ok(serde_json::from_str(&body)?)
}

/// Waits until the API shows something.
pub(crate) async fn until<T>(
    pop: &Pop,
    what: &str,
    limit: Duration,
    mut look: impl FnMut(&Value) -> Option<T>,
) -> io::Result<T> {
    let mut last = Value::Null;
    let seen = eventually(what, limit, async || {
        last = shown(pop).await?;
        Ok(look(&last))
    });
    seen.await.map_err(|error| io::Error::new(error.kind(), format!("{error}: {last:#}; {}", pop.log.tail())))
}

/// What our side is told of itself and of the other.
pub(crate) fn our_file(ours: &Keys, theirs: &Daemon, our_peer: &str) -> String {
    format!(
        "[Interface]\nPrivateKey = {}\nAddress = {OUR_ADDRESS}/32\nListenPort = {OUR_PORT}\n\
         [Peer]\nPublicKey = {}\nAllowedIPs = 10.50.1.0/24\n{our_peer}\n",
        ours.private,
        theirs.public(),
    )
}

/// Sends a pattern each way at once, with other seeds.
pub(crate) async fn transfer(client: Client, server: Client, bytes: u64, limit: Duration) -> io::Result<Duration> {
    let started = Instant::now();
    let (mut client_reads, mut client_writes) = client.stream.into_split();
    let (mut server_reads, mut server_writes) = server.stream.into_split();
    let up = async {
        write_pattern(&mut client_writes, 1, bytes).await?;
        client_writes.shutdown().await
    };
    let down = async {
        write_pattern(&mut server_writes, 2, bytes).await?;
        server_writes.shutdown().await
    };
    let all =
        async { tokio::try_join!(up, down, read_pattern(&mut server_reads, 1), read_pattern(&mut client_reads, 2)) };
    let ((), (), up, down) = within("a transfer", limit, all).await?;
    assert_eq!((up, down), (bytes, bytes));
    Ok(started.elapsed())
}

/// `ping`, once: the time to live with which the answer came.
pub(crate) fn ping(to: Ipv4Addr) -> u8 {
    let said = run("ping", &["-n", "-c", "1", "-W", "10", &to.to_string()]);
    let ttl = said.split_whitespace().find_map(|word| word.strip_prefix("ttl="));
    ttl.and_then(|ttl| ttl.parse().ok()).unwrap_or_else(|| panic!("ping: {said}"))
}
