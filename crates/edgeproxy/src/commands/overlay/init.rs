//! `init`: a hub and its regions, from nothing to files that can be carried to the machines.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use edgeproxy_overlay::{Endpoint, HUB, Interface, PeerConfig, RoutingTable, WgQuick};
use edgeproxy_route::Regions;
use edgeproxy_tunnel::{Prefix, PrivateKey, PublicKey};
use serde::Serialize;

use super::key_files::{self, KeyFile};
use super::plan::{self, HUB_ADDRESS, PART_LENGTH, SETTLED, Seat};
use crate::commands::keygen::new_private_key;
use crate::commands::{Failure, say};
use crate::config::{Origin, Problem};

/// Keeps the way to the hub open through whatever translates addresses: most of them forget after 30 s or more.
const KEEPALIVE: NonZeroU16 = NonZeroU16::new(25).expect("25 is not 0");
/// Bits of an address that is shared with nobody.
const HOST_LENGTH: u8 = 32;

/// Makes keys and wg-quick files for a hub and a machine in each region; overwrites nothing
///
/// The hub has the overlay address 10.50.0.1. The regions gru, iad, ord, lax, lhr, fra, cdg, nrt, sin and syd have always
/// the same addresses; other known ones get the next that is free in the network of their part of the world: 10.50.1.0/24
/// sa, 10.50.2.0/24 us, 10.50.3.0/24 eu, 10.50.4.0/24 ap, 10.50.5.0/24 af, 10.50.6.0/24 me.
#[derive(clap::Args)]
pub(super) struct Init {
    /// Where the regions find the hub: its public name or address, and the UDP port it listens on
    #[arg(long, value_name = "HOST:PORT")]
    hub: Endpoint,
    /// Regions, separated by commas; one that is not known with its address, as in attic=10.50.9.1
    #[arg(long, value_name = "CODE,...", value_delimiter = ',', default_values = SETTLED.map(|(region, _)| region))]
    regions: Vec<String>,
    /// Folder for the files: hub.conf, and one called after each region
    #[arg(long, value_name = "FOLDER", default_value = "overlay")]
    dir: PathBuf,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answer {
    /// Where the regions find the hub.
    endpoint: String,
    hub: Machine,
    regions: Vec<Machine>,
}

/// One machine of the overlay.
#[derive(Serialize)]
struct Machine {
    region: String,
    address: Ipv4Addr,
    public_key: String,
    file: String,
}

impl Init {
    pub(super) fn run(self) -> Result<(), Failure> {
        let seats = plan::seats(&self.regions, &Regions::default()).map_err(|mistakes| {
            let problem = |message| Problem { origin: Origin::Flag("regions"), key: None, message };
            Failure::Config(mistakes.into_iter().map(problem).collect())
        })?;
        let hub_key = new_private_key()?;
        let keyed: Vec<(Seat, PrivateKey)> =
            seats.iter().map(|seat| Ok((seat.clone(), new_private_key()?))).collect::<Result<_, Failure>>()?;

        let networks = plan::networks(&seats);
        let spokes = keyed.iter().map(|((region, address), key)| {
            (file_name(region), self.spoke(*address, key, hub_key.public(), &networks).to_text())
        });
        let mut files: Vec<KeyFile> = spokes.collect();
        files.push((file_name(HUB), self.hub(&hub_key, &keyed).to_text()));
        key_files::put(&self.dir, &files).map_err(Failure::Failed)?;

        let machine = |region: &str, address: Ipv4Addr, key: &PrivateKey| Machine {
            region: region.to_owned(),
            address,
            public_key: key.public().to_string(),
            file: self.dir.join(file_name(region)).display().to_string(),
        };
        let answer = Answer {
            endpoint: self.hub.to_string(),
            hub: machine(HUB, HUB_ADDRESS, &hub_key),
            regions: keyed.iter().map(|((region, address), key)| machine(region, *address, key)).collect(),
        };
        if self.json {
            say::json(&answer);
        } else {
            answer.print(self.hub.port);
        }
        self.warn_of_readers();
        Ok(())
    }

    fn hub(&self, key: &PrivateKey, regions: &[(Seat, PrivateKey)]) -> WgQuick {
        let peers = regions.iter().map(|((region, address), key)| PeerConfig {
            name: Some(region.clone()),
            public_key: key.public(),
            preshared_key: None,
            allowed_ips: vec![Prefix::host((*address).into())],
            endpoint: None,
            persistent_keepalive: None,
        });
        let mut interface = interface(key, HUB_ADDRESS, PART_LENGTH);
        interface.listen_port = Some(self.hub.port);
        WgQuick { interface, peers: peers.collect(), notes: Vec::new() }
    }

    fn spoke(&self, address: Ipv4Addr, key: &PrivateKey, hub: PublicKey, networks: &[Prefix]) -> WgQuick {
        let hub = PeerConfig {
            name: Some(HUB.to_owned()),
            public_key: hub,
            preshared_key: None,
            allowed_ips: networks.to_vec(),
            endpoint: Some(self.hub.clone()),
            persistent_keepalive: Some(KEEPALIVE),
        };
        WgQuick { interface: interface(key, address, HOST_LENGTH), peers: vec![hub], notes: Vec::new() }
    }

    /// A folder that was there before is left as it is.
    fn warn_of_readers(&self) {
        let mode = self.dir.metadata().map_or(0, |metadata| metadata.permissions().mode());
        if mode & 0o077 != 0 {
            let dir = self.dir.display();
            say::note(format_args!("{dir} was there before and is open to other users; close it with `chmod 700`"));
        }
    }
}

impl Answer {
    fn print(&self, port: u16) {
        let row = |machine: &Machine| {
            let Machine { region, address, public_key, file } = machine;
            [region.clone(), address.to_string(), public_key.clone(), file.clone()]
        };
        let rows: Vec<_> = [&self.hub].into_iter().chain(&self.regions).map(row).collect();
        say::table(["region", "address", "public key", "file"], &rows);
        say::line(format_args!(
            "\nCopy {} to the hub, let UDP port {port} in there, and run: edgeproxy gateway --overlay hub.conf\n\
             Copy each region's file to that region's machine, and to no other: it holds its private key.",
            self.hub.file
        ));
    }
}

fn interface(key: &PrivateKey, address: Ipv4Addr, length: u8) -> Interface {
    Interface {
        private_key: key.clone(),
        addresses: vec![(address.into(), length)],
        listen_port: None,
        mtu: None,
        fwmark: None,
        table: RoutingTable::Auto,
    }
}

/// As [`edgeproxy_overlay::region_file`] looks for it.
fn file_name(region: &str) -> String {
    format!("{region}.conf")
}
