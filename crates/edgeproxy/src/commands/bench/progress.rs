//! How far a run is, for people at a terminal.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use edgeproxy_bench::fleet::News;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two pictures.
const TICK: Duration = Duration::from_millis(120);

/// A bar on standard error; nothing where that is no terminal.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// For so many requests.
    pub(super) fn new(sites: usize, requests: usize) -> Self {
        let target = if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let length = u64::try_from(sites.saturating_mul(requests)).unwrap_or(u64::MAX);
        let bar = ProgressBar::with_draw_target(Some(length), target);
        if let Ok(style) = ProgressStyle::with_template("{elapsed:>4} [{bar:30}] {pos}/{len} {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    pub(super) fn tell(&self, news: &News<'_>) {
        match news {
            News::Connected(site) => self.0.set_message(format!("{} reached", site.name)),
            News::Answered(site) => {
                self.0.inc(1);
                self.0.set_message(format!("{} measured", site.name));
            }
            News::Over(site, Some(error)) => self.0.set_message(format!("{}: {error}", site.name)),
            News::Over(_, None) => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
