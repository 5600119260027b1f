//! CPU time of a process tree and of the whole machine, from `/proc`.
//!
//! The scheduler's own sum (`schedstat`, nanoseconds) is used where the kernel has it. It covers the threads that live
//! at the reading; if one has ended meanwhile, the 10 ms ticks of `/proc/PID/stat` are used, which keep ended threads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

/// Which clock a figure comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Clock {
    Schedstat,
    Ticks,
}

/// CPU of a process tree at one moment.
#[derive(Debug)]
pub(crate) struct TreeCpu {
    /// Nanoseconds of each thread, `None` where the kernel keeps no schedstat.
    threads: BTreeMap<u32, Option<u64>>,
    user_ticks: u64,
    system_ticks: u64,
}

/// CPU that a tree used between two readings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) nanos: u64,
    /// Share of user time in percent, from ticks.
    pub(crate) user_percent: f64,
    pub(crate) clock: Clock,
}

impl TreeCpu {
    /// Reads `root` and all its descendants.
    pub(crate) fn read(root: u32) -> Self {
        let mut reading = Self { threads: BTreeMap::new(), user_ticks: 0, system_ticks: 0 };
        for pid in tree(root) {
            if let Some((user, system)) = read(&format!("/proc/{pid}/stat")).as_deref().and_then(ticks) {
                reading.user_ticks += user;
                reading.system_ticks += system;
            }
            for thread in numbers_in(&format!("/proc/{pid}/task")) {
                let schedstat = read(&format!("/proc/{pid}/task/{thread}/schedstat"));
                let nanos = schedstat.and_then(|text| text.split(' ').next()?.parse().ok());
                reading.threads.insert(thread, nanos);
            }
        }
        reading
    }

    pub(crate) fn since(&self, before: &Self) -> Used {
        let user = self.user_ticks.saturating_sub(before.user_ticks);
        let system = self.system_ticks.saturating_sub(before.system_ticks);
        let user_percent = if user + system > 0 { 100.0 * user as f64 / (user + system) as f64 } else { 0.0 };
        match self.scheduled_since(before) {
            Some(nanos) => Used { nanos, user_percent, clock: Clock::Schedstat },
            None => {
                let nanos = (user + system) * tick_nanos();
                Used { nanos, user_percent, clock: Clock::Ticks }
            }
        }
    }

    /// `None` when a thread has ended in between or has no schedstat.
    fn scheduled_since(&self, before: &Self) -> Option<u64> {
        if before.threads.keys().any(|thread| !self.threads.contains_key(thread)) {
            return None;
        }
        let mut sum: u64 = 0;
        for (thread, nanos) in &self.threads {
            let earlier = before.threads.get(thread).copied().unwrap_or(Some(0))?;
            sum += (*nanos)?.saturating_sub(earlier);
        }
        Some(sum)
    }
}

/// Busy and stolen time of all cores since start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachineCpu {
    busy: u64,
    stolen: u64,
}

impl MachineCpu {
    pub(crate) fn read() -> Self {
        let text = read("/proc/stat").unwrap_or_default();
        parse_machine(&text).unwrap_or(Self { busy: 0, stolen: 0 })
    }

    pub(crate) fn busy_since(&self, before: &Self) -> Duration {
        Duration::from_nanos(self.busy.saturating_sub(before.busy) * tick_nanos())
    }

    pub(crate) fn stolen_since(&self, before: &Self) -> Duration {
        Duration::from_nanos(self.stolen.saturating_sub(before.stolen) * tick_nanos())
    }
}

/// A process and its descendants that have not ended.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut living = BTreeSet::new();
    for pid in numbers_in("/proc") {
        if let Some(parent) = read(&format!("/proc/{pid}/stat")).as_deref().and_then(parent_of_living) {
            living.insert(pid);
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        if living.contains(&pid) {
            found.push(pid);
        }
        next.extend(children.remove(&pid).unwrap_or_default());
    }
    found
}

/// CPU of all children of this process that have ended and been waited for, theirs included; from ticks.
pub(crate) fn waited_for() -> Duration {
    let ticks = read("/proc/self/stat").as_deref().and_then(waited_ticks).unwrap_or(0);
    Duration::from_nanos(ticks * tick_nanos())
}

fn tick_nanos() -> u64 {
    1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn numbers_in(folder: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The fields of `stat` after the command, which may itself hold spaces and brackets: state first.
fn fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    Some(stat.rsplit_once(')')?.1.split_whitespace())
}

fn parent_of_living(stat: &str) -> Option<u32> {
    let mut fields = fields(stat)?;
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.next()?.parse().ok()
}

/// `utime` and `stime`.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = fields(stat)?.skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// `cutime` and `cstime` together.
fn waited_ticks(stat: &str) -> Option<u64> {
    let mut fields = fields(stat)?.skip(13);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn parse_machine(stat: &str) -> Option<MachineCpu> {
    let line = stat.lines().find(|line| line.starts_with("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let &[user, nice, system, _, _, irq, softirq, stolen, ..] = ticks.as_slice() else {
        return None;
    };
    Some(MachineCpu { busy: user + nice + system + irq + softirq, stolen })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a ) (b) S 7 42 42 0 -1 4194560 1 0 0 0 13 29 5 6 20 0 1 0 100 1 1";

    #[test]
    fn a_command_with_brackets_does_not_shift_the_fields() {
        assert_eq!(parent_of_living(STAT), Some(7));
        assert_eq!(ticks(STAT), Some((13, 29)));
        assert_eq!(waited_ticks(STAT), Some(11));
    }

    #[test]
    fn a_process_that_has_ended_is_not_living() {
        assert_eq!(parent_of_living("42 (x) Z 7 42"), None);
    }

    #[test]
    fn machine_time_leaves_out_idle_and_counts_steal_apart() {
        let machine = parse_machine("cpu  1 2 4 1000 500 8 16 32 0 0\ncpu0 1 1 1 1").unwrap();
        assert_eq!((machine.busy, machine.stolen), (31, 32));
    }

    #[test]
    fn an_ended_thread_falls_back_to_ticks() {
        let reading = |threads: &[(u32, u64)], user_ticks| TreeCpu {
            threads: threads.iter().map(|&(thread, nanos)| (thread, Some(nanos))).collect(),
            user_ticks,
            system_ticks: 0,
        };
        let before = reading(&[(1, 100), (2, 50)], 10);
        let used = reading(&[(1, 300), (2, 50), (3, 5)], 11).since(&before);
        assert_eq!((used.nanos, used.clock), (205, Clock::Schedstat));
        let used = reading(&[(1, 300)], 12).since(&before);
        assert_eq!((used.nanos, used.clock), (2 * tick_nanos(), Clock::Ticks));
    }

    #[test]
    fn the_tree_of_this_process_holds_it() {
        assert!(tree(std::process::id()).contains(&std::process::id()));
        // Work that takes longer than a tick.
        let before = TreeCpu::read(std::process::id());
        let until = std::time::Instant::now() + std::time::Duration::from_millis(50);
        while std::time::Instant::now() < until {}
        assert!(TreeCpu::read(std::process::id()).since(&before).nanos > 0);
    }
}
