//! The rate over time: what went out in each second of a run.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::meter::Meter;

pub(super) struct Seconds {
    meter: Meter,
    ticks: Interval,
    before: u64,
    /// Bytes; the last second may be shorter.
    pub(super) series: Vec<u64>,
}

impl Seconds {
    pub(super) fn start(meter: Meter) -> Self {
        let second = Duration::from_secs(1);
        let mut ticks = interval_at(Instant::now() + second, second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { before: meter.out(), meter, ticks, series: Vec::new() }
    }

    /// Notes while this goes on, and once more at its end.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                _ = self.ticks.tick() => self.note(),
            }
        };
        self.note();
        result
    }

    fn note(&mut self) {
        let now = self.meter.out();
        self.series.push(now - self.before);
        self.before = now;
    }
}
