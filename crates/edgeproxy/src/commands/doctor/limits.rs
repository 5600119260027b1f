//! How many descriptors a process and the machine may have.

use super::{Item, Machine, Verdict};

/// What is recommended: room for half a million connections.
pub(super) const DESCRIPTORS: u64 = 1_048_576;
/// Below this a POP runs out under a load that is usual.
const TOO_FEW: u64 = 4_096;
/// From here on the limit is not what a POP meets first.
const PLENTY: u64 = 1_000_000;

/// The limits of this shell, which are those of what it starts.
pub(super) fn examine(machine: &Machine) -> Vec<Item> {
    let (soft, hard) = machine.descriptors;
    let item = |name: &str, limit: Option<u64>, verdict, advice: &str| Item {
        item: name.to_owned(),
        current: limit.map_or("unlimited".to_owned(), |limit| limit.to_string()),
        recommended: DESCRIPTORS.to_string(),
        verdict,
        advice: advice.to_owned(),
        why: "a connection holds two descriptors",
    };
    let hard_verdict = judge(hard);
    let hard_advice = match hard_verdict {
        Verdict::Ok => "",
        _ => "systemd: LimitNOFILE=1048576 in the unit; login: limits.d (below); container: --ulimit nofile=1048576",
    };
    // `proxy` raises its own soft limit to the hard one, so a low soft limit alone is no harm to it.
    let (soft_verdict, soft_advice) = match judge(soft) {
        Verdict::Ok => (Verdict::Ok, ""),
        _ if hard_verdict == Verdict::Ok => (Verdict::Info, "raised to the hard limit at start"),
        _ => (hard_verdict, "as the hard limit, to which it is raised at start"),
    };
    vec![
        item("open files, soft limit", soft, soft_verdict, soft_advice),
        item("open files, hard limit", hard, hard_verdict, hard_advice),
    ]
}

fn judge(limit: Option<u64>) -> Verdict {
    match limit {
        Some(limit) if limit < TOO_FEW => Verdict::Fail,
        Some(limit) if limit < PLENTY => Verdict::Warn,
        _ => Verdict::Ok,
    }
}
