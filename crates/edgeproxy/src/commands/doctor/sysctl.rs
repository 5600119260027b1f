//! The kernel's settings.

use super::limits::DESCRIPTORS;
use super::{Item, Machine, Verdict};

/// A kernel setting and what it should be.
pub(super) struct Sysctl {
    pub(super) name: &'static str,
    /// One or several numbers.
    pub(super) wanted: &'static [u64],
    rule: Rule,
    /// What it is good for.
    pub(super) why: &'static str,
}

/// When a current value will do.
#[derive(Clone, Copy)]
enum Rule {
    /// Each number is as high or higher.
    AtLeast,
    /// As high or higher; 0 stands for no limit.
    AtLeastOrZero,
    /// As low or lower.
    AtMost,
    /// Exactly this.
    Exactly,
    /// A range that begins as low and ends as high.
    Spans,
}

/// In the order of the report.
pub(super) static SYSCTLS: &[Sysctl] = &[
    Sysctl {
        name: "fs.file-max",
        wanted: &[DESCRIPTORS],
        rule: Rule::AtLeast,
        why: "descriptors of all processes together",
    },
    Sysctl {
        name: "fs.nr_open",
        wanted: &[DESCRIPTORS],
        rule: Rule::AtLeast,
        why: "how high the limit of one process can be set",
    },
    Sysctl {
        name: "fs.pipe-user-pages-soft",
        wanted: &[262_144],
        rule: Rule::AtLeastOrZero,
        why: "pages in pipes of one user: each direction in bulk uses 256; beyond the limit bytes are copied",
    },
    Sysctl {
        name: "net.core.somaxconn",
        wanted: &[65_535],
        rule: Rule::AtLeast,
        why: "connections that wait to be accepted; more are dropped in a burst",
    },
    Sysctl {
        name: "net.ipv4.tcp_rmem",
        wanted: &[4_096, 87_380, 16_777_216],
        rule: Rule::AtLeast,
        why: "receive buffers of a connection (least, first, most): 16 MB carry 1 Gbit/s over a round trip of 65 ms",
    },
    Sysctl {
        name: "net.ipv4.tcp_wmem",
        wanted: &[4_096, 65_536, 16_777_216],
        rule: Rule::AtLeast,
        why: "send buffers of a connection (least, first, most)",
    },
    Sysctl {
        name: "net.ipv4.ip_local_port_range",
        wanted: &[1_024, 65_535],
        rule: Rule::Spans,
        why: "ports for connections to backends: at most this many to one backend address and port",
    },
    Sysctl {
        name: "net.ipv4.tcp_fin_timeout",
        wanted: &[15],
        rule: Rule::AtMost,
        why: "seconds a closed connection waits for the other side's end",
    },
    Sysctl {
        name: "net.ipv4.tcp_tw_reuse",
        wanted: &[1],
        rule: Rule::Exactly,
        why: "use ports in TIME-WAIT again for connections to backends (2: on loopback only)",
    },
];

pub(super) fn examine(machine: &Machine) -> Vec<Item> {
    SYSCTLS.iter().map(|sysctl| sysctl.examine(machine.sysctl(sysctl.name))).collect()
}

impl Sysctl {
    fn examine(&self, current: Option<String>) -> Item {
        let (verdict, advice) = match current.as_deref().map(numbers) {
            None => (Verdict::Info, "not shown here: look on the host".to_owned()),
            Some(numbers) if self.will_do(&numbers) => (Verdict::Ok, String::new()),
            Some(_) => (Verdict::Warn, self.command(&self.target(&current))),
        };
        Item {
            item: self.name.to_owned(),
            current: current.unwrap_or_else(|| "?".to_owned()),
            recommended: join(self.wanted),
            verdict,
            advice,
            why: self.why,
        }
    }

    fn command(&self, target: &str) -> String {
        let quote = if target.contains(' ') { "\"" } else { "" };
        format!("sysctl -w {}={quote}{target}{quote}", self.name)
    }

    fn will_do(&self, current: &[u64]) -> bool {
        let pairs = || current.iter().zip(self.wanted);
        current.len() == self.wanted.len()
            && match self.rule {
                Rule::AtLeast => pairs().all(|(current, wanted)| current >= wanted),
                Rule::AtLeastOrZero => pairs().all(|(current, wanted)| *current == 0 || current >= wanted),
                Rule::AtMost => pairs().all(|(current, wanted)| current <= wanted),
                Rule::Exactly => current == self.wanted,
                Rule::Spans => current[0] <= self.wanted[0] && current[1] >= self.wanted[1],
            }
    }

    /// What to set: the recommended value, but nothing lower than it is now where more is better.
    pub(super) fn target(&self, current: &Option<String>) -> String {
        let current = current.as_deref().map(numbers).unwrap_or_default();
        if self.will_do(&current) {
            return join(&current);
        }
        match self.rule {
            Rule::AtLeast if current.len() == self.wanted.len() => {
                join(&current.iter().zip(self.wanted).map(|(current, wanted)| *current.max(wanted)).collect::<Vec<_>>())
            }
            _ => join(self.wanted),
        }
    }
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

fn join(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}
