//! Who the server runs as: it refuses to be root.

use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::geteuid;

/// Accounts that serve, the first that exists.
const ACCOUNTS: [&str; 2] = ["postgres", "nobody"];

/// A user and a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    /// `None`: whoever we are.
    other: Option<(u32, u32)>,
}

impl Account {
    /// Ourselves; for root an account that may do nothing.
    pub(super) fn choose() -> io::Result<Self> {
        if !geteuid().is_root() {
            return Ok(Self { other: None });
        }
        let accounts = std::fs::read_to_string("/etc/passwd")?;
        let found = ACCOUNTS.iter().find_map(|name| in_passwd(&accounts, name));
        let missing =
            || io::Error::new(io::ErrorKind::NotFound, "PostgreSQL refuses root, and there is no user `nobody`");
        Ok(Self { other: Some(found.ok_or_else(missing)?) })
    }

    /// The command is run as this account.
    pub(super) fn run_as(self, command: &mut Command) {
        if let Some((user, group)) = self.other {
            command.uid(user).gid(group);
        }
    }

    /// What is there belongs to the account.
    pub(super) fn give(self, path: &Path) -> io::Result<()> {
        match self.other {
            Some((user, group)) => chown(path, Some(user), Some(group)),
            None => Ok(()),
        }
    }

    /// Writes a file that the account alone can read.
    pub(super) fn write(self, path: &Path, text: &str) -> io::Result<()> {
        std::fs::write(path, text)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
        self.give(path)
    }
}

fn in_passwd(accounts: &str, name: &str) -> Option<(u32, u32)> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let (user, group) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        found.then_some((user, group))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let accounts = "root:x:0:0:root:/root:/bin/sh\nnobodyelse:x:7:8::/:\nbroken\nnobody:x:65534:65533::/:\n";
        assert_eq!(in_passwd(accounts, "nobody"), Some((65534, 65533)));
        assert_eq!(in_passwd(accounts, "postgres"), None);
    }
}
