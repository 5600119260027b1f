//! Shared by the tests below: a configuration from a file's text, variables and flags.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::Role;
use super::{Config, Problem, ProxyFlags};

mod environment;
mod keys;
mod places;
mod rules;

/// A folder with an `edgeproxy.toml`, and what else applies.
struct Setup {
    folder: TempDir,
    variables: Vec<(OsString, OsString)>,
    flags: ProxyFlags,
}

impl Setup {
    /// With a file.
    fn file(text: &str) -> Self {
        let setup = Self::bare();
        setup.write("edgeproxy.toml", text, 0o600);
        let flags = ProxyFlags { config: Some(setup.folder.path().join("edgeproxy.toml")), ..ProxyFlags::default() };
        Self { flags, ..setup }
    }

    /// Without any file.
    fn bare() -> Self {
        Self { folder: TempDir::new().unwrap(), variables: Vec::new(), flags: ProxyFlags::default() }
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    fn flags(mut self, set: impl FnOnce(&mut ProxyFlags)) -> Self {
        set(&mut self.flags);
        self
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn load(&self) -> Result<Config, Vec<Problem>> {
        self.load_as(Role::Proxy)
    }

    fn load_as(&self, role: Role) -> Result<Config, Vec<Problem>> {
        Config::load(role, &self.flags, self.variables.clone())
    }

    /// The configuration, which must be good.
    fn config(&self) -> Config {
        self.load().unwrap_or_else(|problems| panic!("{problems:#?}"))
    }

    /// Every mistake as it is printed, without the folder's name.
    fn problems(&self) -> Vec<String> {
        let folder = format!("{}/", self.path().display());
        let problems = self.load().err().unwrap_or_default();
        problems.iter().map(|problem| problem.to_string().replace(&folder, "")).collect()
    }
}
