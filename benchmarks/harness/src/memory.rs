//! Memory of a process tree and the kernel's slab, from `/proc`.

use std::fs;
use std::ops::AddAssign;

use crate::cpu::tree;

/// Bytes of user memory of a process tree.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct UserMemory {
    /// Proportional set size: a page shared by two workers counts half for each.
    pub(crate) proportional: u64,
    pub(crate) private: u64,
    /// The part of the proportional size that no file backs: heap, stacks, shared memory; not program text, whose
    /// pages come and go with what else the machine does.
    pub(crate) own: u64,
}

impl UserMemory {
    pub(crate) fn read(root: u32) -> Self {
        let mut sum = Self::default();
        for pid in tree(root) {
            if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
                sum += parse_rollup(&text);
            }
        }
        sum
    }
}

impl AddAssign for UserMemory {
    fn add_assign(&mut self, other: Self) {
        self.proportional += other.proportional;
        self.private += other.private;
        self.own += other.own;
    }
}

/// Bytes of a process that are in memory, program and all.
pub(crate) fn resident(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    kilobytes(&text, "VmRSS:")
}

/// Bytes of kernel slab of the whole machine.
pub(crate) fn slab() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    kilobytes(&text, "Slab:")
}

fn parse_rollup(text: &str) -> UserMemory {
    UserMemory {
        proportional: kilobytes(text, "Pss:"),
        private: kilobytes(text, "Private_Clean:") + kilobytes(text, "Private_Dirty:"),
        own: kilobytes(text, "Pss_Anon:") + kilobytes(text, "Pss_Shmem:"),
    }
}

/// The value of a `Name:   123 kB` line in bytes, 0 if there is none.
fn kilobytes(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok());
    value.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_is_read_in_bytes() {
        let text = "00400000-7fff r-xp 00000000 00:00 0 [rollup]\nRss: 100 kB\nPss: 40 kB\nPss_Anon: 8 kB\nPss_File: 30 kB\nPss_Shmem: 2 kB\n\
                    Private_Clean: 1 kB\nPrivate_Dirty:    2 kB\n";
        let expected = UserMemory { proportional: 40 * 1024, private: 3 * 1024, own: 10 * 1024 };
        assert_eq!(parse_rollup(text), expected);
    }
}
