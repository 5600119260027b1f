//! Passive health: connects that fail take a backend out for a while; one trial connection brings it back.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::moment::Moment;

/// When failed connects eject a backend, and for how long.
#[derive(Clone, PartialEq, Debug)]
pub struct OutlierPolicy {
    /// Failures in a row that eject; 0 never does. Default 5.
    pub consecutive_failures: u32,
    /// Share of failed connects within [`Self::window`] that ejects, once there were [`Self::window_volume`] of them;
    /// above 1 never does. Default 0.5.
    pub failure_ratio: f32,
    /// Connects a window needs before its ratio counts. Default 20, at most 65,535.
    pub window_volume: u32,
    /// Length of a window. Default 10 s.
    pub window: Duration,
    /// First pause; doubled with each trial that fails. Default 5 s.
    pub base_pause: Duration,
    /// Longest pause. Default 60 s.
    pub max_pause: Duration,
}

impl Default for OutlierPolicy {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            failure_ratio: 0.5,
            window_volume: 20,
            window: Duration::from_secs(10),
            base_pause: Duration::from_secs(5),
            max_pause: Duration::from_secs(60),
        }
    }
}

/// The recent connects of one backend, and its ejections in a row.
///
/// Counts are kept with relaxed loads and stores: two cores that fail in the same instant may count once, which delays
/// an ejection by one connect and costs nothing on the path of a success.
#[derive(Default)]
pub(crate) struct FailureRun {
    /// Failures in a row (low half) and ejections in a row (high half).
    runs: AtomicU64,
    /// Window start in seconds (high half), connects and failures in it (16 bits each).
    window: AtomicU64,
}

#[derive(Clone, Copy)]
struct Window {
    start_secs: u32,
    connects: u16,
    failures: u16,
}

impl Window {
    #[allow(clippy::cast_possible_truncation, reason = "unpacking the parts that `pack` put there")]
    fn unpack(bits: u64) -> Self {
        Self { start_secs: (bits >> 32) as u32, connects: (bits >> 16) as u16, failures: bits as u16 }
    }

    fn pack(self) -> u64 {
        u64::from(self.start_secs) << 32 | u64::from(self.connects) << 16 | u64::from(self.failures)
    }
}

impl FailureRun {
    pub(crate) fn succeeded(&self, policy: &OutlierPolicy, now: Moment) {
        let runs = self.runs.load(Relaxed);
        if runs & u64::from(u32::MAX) != 0 {
            self.runs.store(runs & !u64::from(u32::MAX), Relaxed);
        }
        self.count(now, false, policy.window);
    }

    /// Nothing counts any more, as after a trial that succeeded: the next ejection starts with the shortest pause.
    pub(crate) fn clear(&self) {
        self.runs.store(0, Relaxed);
        self.window.store(0, Relaxed);
    }

    pub(crate) fn failed(&self, policy: &OutlierPolicy, trial: bool, now: Moment) -> Option<Duration> {
        let runs = self.runs.load(Relaxed);
        let (ejections, failures) = ((runs >> 32), (runs & u64::from(u32::MAX)) + 1);
        let window = self.count(now, true, policy.window);
        let too_many_in_a_row = policy.consecutive_failures > 0 && failures >= u64::from(policy.consecutive_failures);
        let too_many_in_the_window = u32::from(window.connects) >= policy.window_volume
            && f32::from(window.failures) >= policy.failure_ratio * f32::from(window.connects);
        if !(trial || too_many_in_a_row || too_many_in_the_window) {
            self.runs.store(ejections << 32 | failures, Relaxed);
            return None;
        }
        self.runs.store((ejections + 1).min(63) << 32, Relaxed);
        self.window.store(0, Relaxed);
        let doublings = u32::try_from(ejections.min(16)).expect("at most 16");
        Some(policy.base_pause.saturating_mul(1 << doublings).min(policy.max_pause))
    }

    fn count(&self, now: Moment, failed: bool, length: Duration) -> Window {
        let now_secs = u32::try_from(now.as_millis() / 1000).unwrap_or(u32::MAX);
        let mut window = Window::unpack(self.window.load(Relaxed));
        if u64::from(now_secs.saturating_sub(window.start_secs)) >= length.as_secs().max(1) {
            window = Window { start_secs: now_secs, connects: 0, failures: 0 };
        }
        if window.connects == u16::MAX {
            // Both halved: the ratio stays what it is, however many connects a window holds.
            (window.connects, window.failures) = (window.connects >> 1, window.failures >> 1);
        }
        window.connects += 1;
        // Never more than the connects.
        window.failures += u16::from(failed);
        self.window.store(window.pack(), Relaxed);
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Moment {
        Moment::from_millis(secs * 1000)
    }

    #[test]
    fn a_success_ends_a_run_of_failures() {
        let policy = OutlierPolicy { consecutive_failures: 3, failure_ratio: 2.0, ..OutlierPolicy::default() };
        let run = FailureRun::default();
        for _ in 0..10 {
            assert_eq!(run.failed(&policy, false, at(1)), None);
            assert_eq!(run.failed(&policy, false, at(1)), None);
            run.succeeded(&policy, at(1));
        }
        assert_eq!(run.failed(&policy, false, at(1)), None);
        assert_eq!(run.failed(&policy, false, at(1)), None);
        assert_eq!(run.failed(&policy, false, at(1)), Some(Duration::from_secs(5)));
    }

    #[test]
    fn half_of_a_busy_window_failing_ejects() {
        let policy = OutlierPolicy { consecutive_failures: 0, ..OutlierPolicy::default() };
        let run = FailureRun::default();
        let ejected_at = (0..40).find(|i| {
            run.succeeded(&policy, at(100));
            run.failed(&policy, false, at(100 + i / 20)).is_some()
        });
        assert_eq!(ejected_at, Some(9), "the twentieth connect of the window");
    }

    #[test]
    fn the_ratio_is_that_of_all_connects_however_many_there_are() {
        let policy =
            OutlierPolicy { consecutive_failures: 0, window: Duration::from_secs(3600), ..OutlierPolicy::default() };
        let run = FailureRun::default();
        for n in 0..400_000 {
            if n % 10 == 0 {
                assert_eq!(run.failed(&policy, false, at(100)), None, "a tenth fails, after {n}");
            } else {
                run.succeeded(&policy, at(100));
            }
        }
        let ejects_after = (0..200_000).find(|_| run.failed(&policy, false, at(100)).is_some());
        assert!(ejects_after.is_some_and(|n| n > 20_000), "{ejects_after:?}");
    }

    #[test]
    fn old_failures_do_not_count() {
        let policy = OutlierPolicy { consecutive_failures: 0, ..OutlierPolicy::default() };
        let run = FailureRun::default();
        for i in 0..40 {
            assert_eq!(run.failed(&policy, false, at(100 + i)), None, "20 connects never fall into one window");
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let policy = OutlierPolicy::default();
        let run = FailureRun::default();
        let pauses: Vec<u64> =
            (0..6).map(|_| run.failed(&policy, true, at(1)).map_or(0, |pause| pause.as_secs())).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        run.clear();
        assert_eq!(run.failed(&policy, true, at(1)), Some(Duration::from_secs(5)));
    }
}
