//! `edgeproxy keygen`: keys for WireGuard, as `wg genkey` and `wg genpsk` make them.

use std::io;
use std::process::ExitCode;

use aws_lc_rs::rand;
use edgeproxy_tunnel::{KEY, PresharedKey, PrivateKey};
use rustix::fs::{FileType, Mode, fstat};
use zeroize::Zeroizing;

use super::{Failure, say};

/// Prints a new private key for WireGuard; `edgeproxy pubkey` tells the public key that belongs to it
#[derive(clap::Args)]
pub(crate) struct Keygen {
    /// Print a preshared key instead, for both ends of one tunnel
    #[arg(long)]
    psk: bool,
}

impl Keygen {
    /// Exit code 0 done, 1 failed.
    pub(crate) fn run(self) -> ExitCode {
        let key = match self.psk {
            false => new_private_key().map(|key| key.to_base64()),
            true => random().map(|bytes| PresharedKey::from_bytes(*bytes).to_base64()),
        };
        match key {
            Ok(key) => {
                warn_of_readers();
                say::line(&*key);
                ExitCode::SUCCESS
            }
            Err(failure) => failure.tell(),
        }
    }
}

/// A key nobody else has.
pub(super) fn new_private_key() -> Result<PrivateKey, Failure> {
    random().map(|bytes| PrivateKey::from_bytes(*bytes))
}

fn random() -> Result<Zeroizing<[u8; KEY]>, Failure> {
    let mut bytes = Zeroizing::new([0; KEY]);
    rand::fill(&mut *bytes).map_err(|_| Failure::Failed("the system gives no random numbers; try again".to_owned()))?;
    Ok(bytes)
}

/// A file made by the shell's `>` is open to everybody unless the umask says otherwise.
pub(super) fn warn_of_readers() {
    let Ok(stat) = fstat(io::stdout()) else { return };
    let others = Mode::RWXG | Mode::RWXO;
    if FileType::from_raw_mode(stat.st_mode).is_file() && Mode::from_raw_mode(stat.st_mode).intersects(others) {
        say::note("the file this key goes to is open to other users; run `umask 077` before you make it");
    }
}
