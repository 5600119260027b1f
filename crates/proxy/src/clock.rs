use std::time::Instant;

use edgeproxy_route::Moment;

/// The process's monotonic clock, in the unit routing works with.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero: Instant,
}

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Self {
        Self { zero: Instant::now() }
    }

    /// The present.
    pub fn now(&self) -> Moment {
        self.at(Instant::now())
    }

    /// An instant on this clock.
    pub fn at(&self, instant: Instant) -> Moment {
        Moment::from_millis(0).after(instant.saturating_duration_since(self.zero))
    }
}
