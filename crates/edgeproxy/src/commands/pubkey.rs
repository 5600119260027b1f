//! `edgeproxy pubkey`: the public key of a private one, as `wg pubkey` tells it.

use std::io::{self, Read};
use std::process::ExitCode;

use edgeproxy_tunnel::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::{Failure, say};

/// A key and more white space than anybody leaves behind it, in bytes; what is longer is no key.
const MOST_INPUT: usize = 4096;

/// Reads a private key from standard input and prints its public key
#[derive(clap::Args)]
pub(crate) struct Pubkey {}

impl Pubkey {
    /// Exit code 0 done, 1 what was read is no private key.
    pub(crate) fn run(self) -> ExitCode {
        match public_key(io::stdin()) {
            Ok(key) => {
                say::line(key);
                ExitCode::SUCCESS
            }
            Err(failure) => failure.tell(),
        }
    }
}

fn public_key(input: impl Read) -> Result<PublicKey, Failure> {
    let broken = |reason: &dyn std::fmt::Display| {
        Failure::Failed(format!(
            "standard input: {reason}; give it one private key and nothing else, as in `edgeproxy keygen | edgeproxy pubkey`"
        ))
    };
    // Room for all of it at once: a buffer that grows leaves copies of the key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MOST_INPUT));
    input.take(MOST_INPUT as u64).read_to_end(&mut bytes).map_err(|error| broken(&error))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| broken(&"is not text"))?.trim_end();
    if text.is_empty() {
        return Err(broken(&"is empty"));
    }
    if bytes.len() == MOST_INPUT {
        return Err(broken(&"is too long for a key"));
    }
    text.parse::<PrivateKey>().map(|key| key.public()).map_err(|error| broken(&error))
}
