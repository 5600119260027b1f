//! Programs that the packages of this machine do not bring: newer Debian packages, unpacked and never installed, and
//! crates. They are fetched outside the namespace, which has no network, and listed in the cache for the copy inside.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::implementation::{Engine, Implementation, Origin};
use crate::failure::{Context, Failure};
use crate::peer::find_program;
use crate::progress;

const LIST: &str = "provided.json";
/// Signs all suites; apt checks the package by way of it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// So old a list of packages is read again.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// What was found of one origin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Provided {
    /// `None` where it cannot be had.
    pub(super) program: Option<PathBuf>,
    /// Its version and where it is from, or why there is none.
    pub(super) note: String,
}

pub(super) type AllProvided = BTreeMap<String, Provided>;

/// The folder of programs, kept from run to run.
pub(crate) fn default_cache() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("edgeproxy-benchmarks")
}

/// Fetches what is wanted; what cannot be had is left out with the reason, and is no failure.
pub(super) fn provide(wanted: &[Implementation], cache: &Path) -> Result<(), Failure> {
    fs::create_dir_all(cache).context(format!("cannot make {}", cache.display()))?;
    // A run of a few peers does not forget the others; a list that cannot be read is written anew.
    let mut all = provided(cache).unwrap_or_default();
    for implementation in wanted {
        let found = match &implementation.origin {
            Some(Origin::Debian(package)) => from_debian(package, &implementation.program, cache),
            Some(Origin::Crate(name)) => from_crate(name, &implementation.program, cache),
            None => continue,
        };
        let none = |reason: Failure| Provided { program: None, note: reason.to_string() };
        all.insert(implementation.name.clone(), found.unwrap_or_else(none));
    }
    let text = serde_json::to_string_pretty(&all).context("cannot write JSON")?;
    fs::write(cache.join(LIST), text).context("cannot write the list of programs")
}

/// What [`provide`] found, this time or the last.
pub(super) fn provided(cache: &Path) -> Result<AllProvided, Failure> {
    match fs::read_to_string(cache.join(LIST)) {
        Ok(text) => serde_json::from_str(&text).context(cache.join(LIST).display()),
        Err(_) => Ok(AllProvided::new()),
    }
}

/// A program that was fetched.
pub(crate) fn program(cache: &Path, name: &str) -> Option<PathBuf> {
    provided(cache).ok()?.remove(name)?.program
}

/// From the newest suite that has it.
fn from_debian(package: &str, program: &str, cache: &Path) -> Result<Provided, Failure> {
    let site = apt_site()?;
    let own = debian_codename().unwrap_or_else(|| "stable".to_owned());
    let mut reasons = Vec::new();
    for (place, suite) in ["sid".to_owned(), format!("{own}-backports"), own].iter().enumerate() {
        match from_suite(package, program, &site, suite, &cache.join(package).join(suite)) {
            Ok(mut provided) => {
                if place > 0 {
                    provided.note.push_str(", not the newest: sid could not be read");
                }
                return Ok(provided);
            }
            Err(reason) => reasons.push(format!("{suite}: {reason}")),
        }
    }
    Err(Failure::new(reasons.join("; ")))
}

/// apt does it all with lists of its own: it knows the proxies, and checks the signature of the suite, the digest of
/// its list and the SHA256 of the package. Nothing of the machine's own package state changes.
fn from_suite(package: &str, program: &str, site: &str, suite: &str, folder: &Path) -> Result<Provided, Failure> {
    for name in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(folder.join(name)).context(format!("cannot make {}", folder.display()))?;
    }
    let sources = folder.join("sources.list");
    fs::write(&sources, format!("deb [signed-by={KEYRING}] {site} {suite} main\n")).context("cannot write sources")?;
    let at = |name: &str| folder.join(name).display().to_string();
    let options = [
        format!("Dir::Etc::SourceList={}", sources.display()),
        "Dir::Etc::SourceParts=/dev/null".to_owned(),
        format!("Dir::State::Lists={}", at("lists")),
        format!("Dir::Cache={}", at("cache")),
        "Acquire::Languages=none".to_owned(),
        "APT::Sandbox::User=root".to_owned(),
        "APT::Update::Error-Mode=any".to_owned(),
    ];
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(options.iter().flat_map(|option| ["-o", option])).arg("-qq").args(words).current_dir(folder);
        run(command)
    };
    let (program, stamp) = (folder.join("unpacked/usr/bin").join(program), folder.join("version"));
    if is_fresh(&stamp) && program.is_file() {
        let version = fs::read_to_string(&stamp).context("cannot read the version")?;
        return Ok(Provided { program: Some(program), note: format!("{package} {version} of Debian {suite}") });
    }
    remove_packages(folder);
    apt(&["update"])?;
    apt(&["download", package])?;
    let file = packages(folder).into_iter().next().context("apt brought no package")?;
    let mut command = Command::new("dpkg-deb");
    command.arg("-x").arg(&file).arg(folder.join("unpacked"));
    run(command)?;
    let mut command = Command::new("dpkg-deb");
    command.arg("-f").arg(&file).arg("Version");
    let version = run(command)?;
    let mut trial = Command::new(&program);
    trial.arg("--version");
    run(trial)?;
    fs::write(&stamp, &version).context("cannot write the version")?;
    Ok(Provided { program: Some(program), note: format!("{package} {version} of Debian {suite}") })
}

fn from_crate(name: &str, program: &str, cache: &Path) -> Result<Provided, Failure> {
    let path = cache.join("bin").join(program);
    if !path.is_file() {
        progress::note(&format!("building {name}, once"));
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        // A target folder of the caller would be left with the crate's own leftovers.
        command.args(["install", "--quiet", "--locked", "--root"]).arg(cache).arg(name).current_dir(cache);
        run(command.env_remove("CARGO_TARGET_DIR"))?;
    }
    let mut command = Command::new(&path);
    command.arg("--version");
    Ok(Provided { program: Some(path), note: format!("{}, from crates.io", run(command)?) })
}

/// Where the machine's own packages come from.
fn apt_site() -> Result<String, Failure> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(SITE)", "Created-By: Packages", "Origin: Debian"]);
    let text = run(&mut command)?;
    // Security updates have a site of their own, without the suites.
    let site = text.lines().find(|site| !site.trim_end_matches('/').ends_with("-security"));
    site.map(str::to_owned).context("apt has no Debian site configured")
}

fn debian_codename() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).map(|name| name.trim_matches('"').to_owned())
}

fn is_fresh(file: &Path) -> bool {
    let changed = fs::metadata(file).and_then(|metadata| metadata.modified());
    changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|age| age < FRESH))
}

fn packages(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect()
}

/// An older version beside the new one would be as good a find.
fn remove_packages(folder: &Path) {
    for file in packages(folder) {
        let _ = fs::remove_file(file);
    }
    let _ = fs::remove_dir_all(folder.join("unpacked"));
}

/// What the command prints; otherwise its name and its last words.
fn run(mut command: impl std::borrow::BorrowMut<Command>) -> Result<String, Failure> {
    let command = command.borrow_mut();
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().context(format!("cannot run {name}"))?;
    if output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        return Ok(if name == "apt-get" { text.trim().to_owned() } else { first_line(&text) });
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(Failure::new(format!("{name}: {}", last.trim())))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// The program of an implementation, if it is here, and its version.
pub(super) fn find(
    implementation: &Implementation,
    edgeproxy: &Path,
    provided: &AllProvided,
) -> Result<(PathBuf, String), Failure> {
    let version = |program: &Path| {
        let mut command = Command::new(program);
        run(command.arg("--version"))
    };
    match (implementation.engine, &implementation.origin) {
        (Engine::None, _) => Ok((PathBuf::new(), "no process".to_owned())),
        (Engine::Edgeproxy, _) => Ok((edgeproxy.to_path_buf(), version(edgeproxy)?)),
        (Engine::Uapi, Some(_)) => {
            let found = provided.get(&implementation.name).context("it was never fetched")?;
            let program = found.program.clone().filter(|program| program.is_file()).context(&found.note)?;
            Ok((program, found.note.clone()))
        }
        (Engine::Uapi, None) => {
            let program = find_program(&implementation.program).context("it is not installed")?;
            let version = version(&program)?;
            Ok((program, version))
        }
    }
}
