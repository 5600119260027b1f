//! What a reader must know of the machine to judge the figures. Never its name.

use std::fs;

use crate::namespace;
use crate::site::Site;

pub(crate) struct Machine {
    model: String,
    cores: usize,
    kernel: String,
    memory_gb: f64,
    virtualised: bool,
    load_before: String,
}

/// A peer, for readers.
pub(crate) struct Described {
    pub(crate) label: String,
    pub(crate) version: String,
    pub(crate) command: String,
}

impl Machine {
    pub(crate) fn read(cores: usize) -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
        let first = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let load = first("/proc/loadavg");
        Self {
            model: model(&cpu).unwrap_or("unknown CPU").to_owned(),
            cores,
            kernel: first("/proc/sys/kernel/osrelease"),
            memory_gb: total.and_then(|total| total.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0 / 1024.0,
            virtualised: cpu.contains(" hypervisor"),
            load_before: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
        }
    }

    /// For folder names: model and cores.
    pub(crate) fn tag(&self) -> String {
        tag(&self.model, self.cores)
    }

    /// For headings.
    pub(crate) fn title(&self) -> String {
        format!("{}, {} cores", self.model, self.cores)
    }

    /// `machine.md`: the machine, its settings, and how each peer was built and started.
    pub(crate) fn to_markdown(&self, site: &Site, peers: &[Described], closing: &str) -> String {
        let mut text = format!(
            "# Machine\n\n- CPU: {}, {} cores{}\n- kernel: Linux {}\n- memory: {:.0} GiB\n\
             - load average before the run: {}\n- descriptor limit: {}\n\n## Settings inside the namespace\n\n",
            self.model,
            self.cores,
            if self.virtualised { ", virtual machine" } else { "" },
            self.kernel,
            self.memory_gb,
            self.load_before,
            site.descriptors,
        );
        for (name, value) in namespace::settings() {
            text.push_str(&format!("- {name} = {value}\n"));
        }
        text.push_str("\n## Peers\n\n");
        for peer in peers {
            text.push_str(&format!("- {}: {}; `{}`\n", peer.label, peer.version, peer.command));
        }
        text.push_str(&format!("\n{closing}\n"));
        text
    }
}

fn model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

/// Words of the model that distinguish it, in lower case, with the cores at the end.
fn tag(model: &str, cores: usize) -> String {
    let plain = model.replace("(R)", "").replace("(TM)", "");
    let plain = plain.split('@').next().unwrap_or_default().to_lowercase();
    let words = plain.split(|letter: char| !letter.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty() && !["cpu", "processor"].contains(word)).collect();
    format!("{}-{cores}-cores", words.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_short_and_names_no_host() {
        assert_eq!(tag("Intel(R) Xeon(R) CPU E5-2690 v4 @ 2.60GHz", 4), "intel-xeon-e5-2690-v4-4-cores");
        assert_eq!(tag("AMD EPYC", 2), "amd-epyc-2-cores");
    }

    #[test]
    fn the_model_is_found() {
        assert_eq!(model("processor : 0\nmodel name\t: AMD EPYC\n"), Some("AMD EPYC"));
        assert_eq!(model("processor : 0\n"), None);
    }
}
