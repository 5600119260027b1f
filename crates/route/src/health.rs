//! The verdict of active checks on one backend: a state machine that is told results and says when to ask again.

use std::time::Duration;

use crate::moment::Moment;

/// How often to check, and how many results in a row turn a verdict.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckPace {
    /// Time between two checks. Default 2 s; each is moved by up to a tenth of it either way, so that checks of
    /// many machines do not arrive together.
    pub interval: Duration,
    /// Successes in a row that raise a backend. Default 2.
    pub rise: u32,
    /// Failures in a row that take it down. Default 3.
    pub fall: u32,
}

impl Default for CheckPace {
    fn default() -> Self {
        Self { interval: Duration::from_secs(2), rise: 2, fall: 3 }
    }
}

/// What checks say of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Takes clients. Also the verdict before the first result: a fresh start must not refuse everyone.
    Up,
    /// Takes none.
    Down,
}

/// The checks of one backend.
#[derive(Debug)]
pub struct Health {
    verdict: Verdict,
    /// Results in a row that contradict the verdict.
    against: u32,
    next: Moment,
}

impl Health {
    /// Presumed up, first check due after a random share of the interval; `random` is any number.
    pub fn new(pace: &CheckPace, now: Moment, random: u64) -> Self {
        Self { verdict: Verdict::Up, against: 0, next: now.after(share(pace.interval, random)) }
    }

    /// Takes in a check's result. Returns the new verdict if this result turned it.
    pub fn handle_result(&mut self, pace: &CheckPace, passed: bool, now: Moment, random: u64) -> Option<Verdict> {
        self.handle_nothing(pace, now, random);
        let (contradicts, needed, other) = match self.verdict {
            Verdict::Up => (!passed, pace.fall, Verdict::Down),
            Verdict::Down => (passed, pace.rise, Verdict::Up),
        };
        if !contradicts {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.verdict = other;
        Some(other)
    }

    /// A check came to no result: nothing was learnt, and the next comes in its time.
    pub fn handle_nothing(&mut self, pace: &CheckPace, now: Moment, random: u64) {
        let jitter = share(pace.interval / 5, random);
        self.next = now.after(pace.interval - pace.interval / 10 + jitter);
    }

    /// When the next check is due.
    pub fn poll_timeout(&self) -> (Moment, &'static str) {
        (self.next, "health check")
    }

    /// What the checks say now.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }
}

/// A random part of `whole`.
fn share(whole: Duration, random: u64) -> Duration {
    let micros = u64::try_from(whole.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(((u128::from(random) * u128::from(micros)) >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_turn_after_fall_and_rise_results_in_a_row() {
        let pace = CheckPace::default();
        let now = Moment::from_millis(0);
        let mut health = Health::new(&pace, now, 0);
        let mut verdicts = Vec::new();
        for passed in [false, false, true, false, false, false, true, false, true, true, true] {
            verdicts.push(health.handle_result(&pace, passed, now, 0));
        }
        let mut expected = [None; 11];
        expected[5] = Some(Verdict::Down);
        expected[9] = Some(Verdict::Up);
        assert_eq!(verdicts, expected);
        assert_eq!(health.verdict(), Verdict::Up);
    }

    #[test]
    fn checks_keep_their_pace_with_jitter() {
        let pace = CheckPace { interval: Duration::from_secs(10), ..CheckPace::default() };
        let now = Moment::from_millis(1_000);
        for (random, first, then) in [(0, 0, 9_000), (u64::MAX / 2, 4_999, 9_999), (u64::MAX, 9_999, 10_999)] {
            let mut health = Health::new(&pace, now, random);
            assert_eq!(health.poll_timeout().0, Moment::from_millis(1_000 + first));
            health.handle_result(&pace, true, now, random);
            assert_eq!(health.poll_timeout().0, Moment::from_millis(1_000 + then));
        }
    }
}
