//! `edgeproxy doctor`: is this machine set up for very many connections?

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use rustix::process::{Resource, getrlimit, getuid};
use serde::Serialize;

use super::say;

mod limits;
mod script;
mod sysctl;

/// Looks at this machine's limits and kernel settings, and tells what to change, with the commands
#[derive(clap::Args)]
pub(crate) struct Doctor {
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    /// Print a script that makes the recommended settings permanent, and nothing else: pipe it into `sudo sh`
    #[arg(long, conflicts_with = "json")]
    fix_script: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    /// Nothing fails; there may be warnings.
    ok: bool,
    items: Vec<Item>,
    fix_script: String,
}

/// One line of the examination.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Item {
    item: String,
    current: String,
    recommended: String,
    verdict: Verdict,
    /// What to do about it, a command where one does it; empty when there is nothing to do.
    advice: String,
    /// What it is good for, where the name does not say it.
    #[serde(skip_serializing_if = "str::is_empty")]
    why: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As recommended.
    Ok,
    /// Good to know.
    Info,
    /// Works, with less room or speed than the machine has.
    Warn,
    /// Would refuse clients under a load that is usual.
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// Where the facts come from.
struct Machine {
    /// Root of the file system that `/proc` is looked for in.
    root: PathBuf,
    /// RLIMIT_NOFILE, soft and hard; `None`: no limit.
    descriptors: (Option<u64>, Option<u64>),
    cores: usize,
    user: u32,
}

impl Machine {
    fn this() -> Self {
        let descriptors = getrlimit(Resource::Nofile);
        Self {
            root: PathBuf::from("/"),
            descriptors: (descriptors.current, descriptors.maximum),
            cores: thread::available_parallelism().map_or(1, usize::from),
            user: getuid().as_raw(),
        }
    }

    /// A kernel setting, as `sysctl` names it; `None` where this machine or container does not show it.
    fn sysctl(&self, name: &str) -> Option<String> {
        let path = Path::new("proc/sys").join(name.replace('.', "/"));
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    fn examine(&self) -> Vec<Item> {
        let mut items = limits::examine(self);
        items.extend(sysctl::examine(self));
        items.extend(self.facts());
        items
    }

    /// What explains other findings and has no right value.
    fn facts(&self) -> Vec<Item> {
        let info = |item: &str, current: String, recommended: &str, advice: &str| Item {
            item: item.to_owned(),
            current,
            recommended: recommended.to_owned(),
            verdict: Verdict::Info,
            advice: advice.to_owned(),
            why: "",
        };
        let shown = |name: &str| self.sysctl(name).unwrap_or_else(|| "not shown here".to_owned());
        let user = match self.user {
            0 => info("user", "root".to_owned(), "any", "root is not needed; run it as a user of its own"),
            user => info("user", format!("uid {user}"), "any", ""),
        };
        vec![
            info("congestion control", shown("net.ipv4.tcp_congestion_control"), "any", ""),
            info("cores", self.cores.to_string(), "any", "one data-plane thread each"),
            info("kernel", shown("kernel.osrelease"), "any", ""),
            user,
        ]
    }
}

impl Doctor {
    /// Exit code 1 when something fails; warnings are allowed.
    pub(crate) fn run(self) -> ExitCode {
        let machine = Machine::this();
        let script = script::script(&machine);
        if self.fix_script {
            say::line(script.trim_end());
            return ExitCode::SUCCESS;
        }
        let items = machine.examine();
        let healthy = items.iter().all(|item| item.verdict != Verdict::Fail);
        if self.json {
            say::json(&Report { ok: healthy, items, fix_script: script });
        } else {
            print(&items, &script);
        }
        if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn print(items: &[Item], script: &str) {
    let rows: Vec<[String; 5]> = items.iter().map(row).collect();
    say::table(["item", "current", "recommended", "verdict", "what to do"], &rows);
    if items.iter().any(|item| matches!(item.verdict, Verdict::Warn | Verdict::Fail)) {
        say::line("\nTo make all of it permanent, run this as root (edgeproxy doctor --fix-script prints it alone):\n");
        say::line(script.trim_end());
    }
}

fn row(item: &Item) -> [String; 5] {
    let Item { item, current, recommended, verdict, advice, .. } = item.clone();
    [item, current, recommended, verdict.word().to_owned(), advice]
}

#[cfg(test)]
mod tests;
