//! `import`: the peers of files that another WireGuard was run by.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use edgeproxy_overlay::PeersOf;
use edgeproxy_tunnel::PublicKey;
use ipnet::IpNet;
use serde::Deserialize;

use self::batch::Batch;
use self::draft::draft;
use self::tally::{Origin, Tally};
use super::{get, odd_answer};
use crate::admin_client::AdminClient;
use crate::commands::{Failure, say};

mod batch;
mod draft;
mod tally;

/// Registers the peers of wg-quick files, of a hub's or of what `wg showconf` prints, however many they are
///
/// Keys, preshared keys and addresses stay, so that the peers need not be told of anything but where the gateway is. Of
/// AllowedIPs, one IPv4 and one IPv6 address inside the gateway's pools become the peer's own, all else networks behind
/// it. A comment above or below [Peer], `# x` or `# Name = x`, becomes its name. Peers that are there already are left as
/// they are; run it again as often as you like.
#[derive(clap::Args)]
pub(super) struct Import {
    /// Files; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A network of the setting gateway.pools; may be given several times [default: those of the gateway's own addresses]
    #[arg(long, value_name = "NETWORK")]
    pool: Vec<IpNet>,
    /// A word to find them by; may be given up to 16 times
    #[arg(long, value_name = "WORD")]
    tag: Vec<String>,
    /// Read the files, tell their mistakes, and register nothing
    #[arg(long)]
    dry_run: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// What the import asks of the overlay.
#[derive(Deserialize)]
struct OverlayShown {
    addresses: Vec<String>,
}

/// Where each key has been met: two peers with one key are a mistake, and within one batch a race.
type Met = HashMap<PublicKey, Origin>;

impl Import {
    pub(super) fn run(self, client: &AdminClient) -> Result<(), Failure> {
        // Before anything is done.
        for file in self.files.iter().filter(|file| !is_stdin(file)) {
            File::open(file).map_err(|error| cannot_read(file, &error))?;
        }
        let pools = self.pools(client)?;
        let mut tally = Tally::new(self.files.iter().map(|file| file.display().to_string()).collect(), self.json);
        let mut batch = Batch::new(client, self.dry_run);
        let mut met = Met::new();
        let read = (0..self.files.len())
            .try_for_each(|file| self.read(file, &pools, &mut met, &mut batch, &mut tally))
            .and_then(|()| batch.send(&mut tally));
        tally.tell(self.dry_run);
        read?;
        match tally.failed() {
            0 => Ok(()),
            failed => Err(Failure::Failed(format!("{failed} of {} peers cannot be imported", tally.all()))),
        }
    }

    fn pools(&self, client: &AdminClient) -> Result<Vec<IpNet>, Failure> {
        if !self.pool.is_empty() {
            return Ok(self.pool.clone());
        }
        let shown: OverlayShown = get(client, "/api/v1/overlay")?;
        let networks = shown.addresses.iter().map(|address| address.parse::<IpNet>().map_err(odd_answer));
        networks.collect()
    }

    fn read(
        &self,
        file: usize,
        pools: &[IpNet],
        met: &mut Met,
        batch: &mut Batch<'_>,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let path = &self.files[file];
        let name = path.display().to_string();
        let (input, size) = open(path)?;
        let mut peers = PeersOf::new(&name, input);
        let before = tally.all() + batch.len();
        while let Some(found) = peers.next() {
            let found = match found {
                Ok(found) => found,
                Err(mistakes) => {
                    tally.note_mistakes(&mistakes);
                    continue;
                }
            };
            let origin = Origin { file, line: found.line };
            let first = *met.entry(found.peer.public_key).or_insert(origin);
            if first != origin {
                tally.note_failed(origin, None, &format!("is the peer of {} again; join the two", tally.place(first)));
                continue;
            }
            if let Some(full) = batch.push(origin, draft(&found, pools, &self.tag)) {
                batch.send(tally)?;
                batch.push(origin, full);
                tally.show_progress(peers.bytes(), size);
            }
        }
        if tally.all() + batch.len() == before {
            say::note(format_args!("{name}: has no [Peer]"));
        }
        Ok(())
    }
}

/// The file, and how many bytes it has, if that is known.
fn open(path: &Path) -> Result<(Box<dyn BufRead>, Option<u64>), Failure> {
    if is_stdin(path) {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let file = File::open(path).map_err(|error| cannot_read(path, &error))?;
    let size = file.metadata().ok().filter(|metadata| metadata.is_file()).map(|metadata| metadata.len());
    Ok((Box::new(BufReader::new(file)), size))
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("{}: cannot be read: {error}; nothing was done with it", path.display()))
}
