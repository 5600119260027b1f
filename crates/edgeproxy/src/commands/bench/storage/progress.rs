//! How far the uploads are, for people at a terminal: bytes, rate, and what is left.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use edgeproxy_bench::storage::Meter;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two pictures.
const TICK: Duration = Duration::from_millis(120);

/// A bar on standard error; nothing where that is no terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    meter: Meter,
    /// Where the bar was when this run began.
    before: u64,
}

impl Progress {
    /// Of so many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        Self::of(bytes, "{elapsed:>4} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} ETA {eta} {msg}")
    }

    /// Of so many answers.
    pub(super) fn counting(answers: u64) -> Self {
        Self::of(answers, "{elapsed:>4} [{bar:30}] {pos}/{len} {msg}")
    }

    fn of(length: u64, template: &str) -> Self {
        let target = if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(TICK);
        Self { bar, meter: Meter::new(), before: 0 }
    }

    /// The next run, whose bytes `meter` counts.
    pub(super) fn begin(&mut self, what: &str, meter: &Meter) {
        self.meter = meter.clone();
        self.before = self.bar.position();
        self.bar.set_message(what.to_owned());
    }

    /// Shows the run while it goes on. Never resolves.
    pub(super) async fn watch(&self) {
        loop {
            tokio::time::sleep(TICK).await;
            self.show();
        }
    }

    pub(super) fn end(&mut self) {
        self.show();
    }

    pub(super) fn answered(&self, site: &str) {
        self.bar.inc(1);
        self.bar.set_message(format!("{site} measured"));
    }

    fn show(&self) {
        let meter = &self.meter;
        let done = (meter.out() + meter.back()).saturating_sub(meter.repeated());
        if done > 0 {
            self.bar.set_position(self.before + done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
