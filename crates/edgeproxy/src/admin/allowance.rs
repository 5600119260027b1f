//! How much may be done in a second.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What may be done at once: as much as in this time.
const BURST: Duration = Duration::from_secs(1);

/// So many changes a second, of which a second's worth may come at once.
pub(super) struct Allowance {
    /// What one change takes; `None`: nothing.
    each: Option<Duration>,
    /// When all that was done is paid for. Behind the present: there is something to spare.
    paid: Mutex<Instant>,
}

impl Allowance {
    /// `rate` changes a second; 0: any number.
    pub(super) fn new(rate: u32, now: Instant) -> Self {
        Self { each: (rate > 0).then(|| BURST / rate.max(1)), paid: Mutex::new(now) }
    }

    /// Lets so many changes through together as soon as there is room for one; what they take over is waited for by
    /// those that follow.
    ///
    /// # Errors
    /// There is none, for so long.
    pub(super) fn take(&self, changes: u32, now: Instant) -> Result<(), Duration> {
        let Some(each) = self.each else { return Ok(()) };
        let mut paid = self.paid.lock();
        let from = (*paid).max(now);
        let after_one = (from - now) + each;
        if after_one > BURST {
            return Err(after_one - BURST);
        }
        *paid = from + each * changes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_comes_at_once_and_then_as_many_as_are_allowed() {
        let start = Instant::now();
        let allowance = Allowance::new(10, start);
        assert!((0..10).all(|_| allowance.take(1, start).is_ok()));
        assert_eq!(allowance.take(1, start), Err(Duration::from_millis(100)));
        let later = start + Duration::from_millis(250);
        assert!((0..2).all(|_| allowance.take(1, later).is_ok()));
        assert_eq!(allowance.take(1, later), Err(Duration::from_millis(50)));
        // However long nothing came, no more than a second's worth is spared.
        let much_later = start + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| allowance.take(1, much_later).is_ok()).count(), 10);
    }

    #[test]
    fn a_batch_comes_whole_and_is_paid_for_afterwards() {
        let start = Instant::now();
        let allowance = Allowance::new(10, start);
        assert!(allowance.take(1000, start).is_ok());
        assert_eq!(allowance.take(1, start), Err(Duration::from_millis(99_100)));
        assert!(allowance.take(1, start + Duration::from_millis(99_100)).is_ok());
    }

    #[test]
    fn one_a_second_is_one_a_second_and_none_is_any_number() {
        let start = Instant::now();
        let one = Allowance::new(1, start);
        assert!(one.take(1, start).is_ok());
        assert_eq!(one.take(1, start), Err(Duration::from_secs(1)));
        let any = Allowance::new(0, start);
        assert!((0..1000).all(|_| any.take(1000, start).is_ok()));
    }
}
