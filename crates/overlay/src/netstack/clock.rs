//! The stack's time, which runs faster than ours.

use std::time::Duration;

use edgeproxy_tunnel::Moment;
use smoltcp::time::{Duration as StackDuration, Instant};

/// How much faster. The stack waits a second at least before it sends again what was lost (RFC 6298 2.4), and longer each
/// time, for few of its losses can it find otherwise. By this clock it waits 250 ms; Linux waits 200 ms. Its CUBIC
/// finds back to its window sooner as well: from 4 MiB at a loss, in 3 s instead of 13 s.
const PACE: u32 = 4;

/// Started with the stack.
pub(super) struct Clock(std::time::Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(std::time::Instant::now())
    }

    pub(super) fn now(&self) -> Instant {
        Instant::ZERO + stack_time(self.0.elapsed())
    }

    pub(super) fn moment(&self) -> Moment {
        Moment::from_millis(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// When that is by our time: never before it.
pub(super) fn moment_of(at: Instant) -> Moment {
    let micros = u64::try_from(at.total_micros()).unwrap_or(0);
    Moment::from_millis(micros.div_ceil(1000 * u64::from(PACE)))
}

/// As long by the stack's time.
pub(super) fn stack_time(duration: Duration) -> StackDuration {
    StackDuration::from(duration) * PACE
}

/// As long by our time.
pub(super) fn our_time(duration: StackDuration) -> Duration {
    Duration::from(duration) / PACE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_met_too_early() {
        for micros in [0, 1, 3999, 4000, 4001] {
            let at = Instant::from_micros(micros);
            let stack = |moment: Moment| stack_time(moment.since(Moment::from_millis(0)));
            assert!(Instant::ZERO + stack(moment_of(at)) >= at, "{micros}");
        }
        assert_eq!(our_time(stack_time(Duration::from_secs(127))), Duration::from_secs(127));
    }
}
