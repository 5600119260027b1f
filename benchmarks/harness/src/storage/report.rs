//! The figures of all rounds as tables.

use serde::Serialize;

use super::client::{Client, Mode, Sample};
use super::link::{RATES, Region};
use super::service::Service;
use crate::statistics::{median, spread_percent};
use crate::table::{Table, figure};

#[derive(Serialize)]
pub(crate) struct Report {
    rounds: u32,
    rows: Vec<Row>,
    left_out: Vec<String>,
    service: Option<Service>,
    links: Vec<Region>,
    samples: Vec<Sample>,
}

/// Medians of all rounds.
#[derive(Serialize)]
struct Row {
    client: &'static str,
    ours: bool,
    mode: Mode,
    mb_per_second: Option<f64>,
    spread_percent: Option<f64>,
    process_seconds: Option<f64>,
    cpu_seconds_per_gb: Option<f64>,
    peak_mb: Option<f64>,
}

impl Report {
    pub(super) fn of(
        rounds: u32,
        clients: &[&Client],
        samples: &[Sample],
        left_out: Vec<String>,
        service: Option<Service>,
        links: Vec<Region>,
    ) -> Self {
        let modes = [Mode::Parts, Mode::Single];
        let rows = modes.into_iter().flat_map(|mode| clients.iter().map(move |client| Row::of(client, mode, samples)));
        Self { rounds, rows: rows.collect(), left_out, service, links, samples: samples.to_vec() }
    }

    pub(crate) fn to_markdown(&self, date: &str, machine: &str) -> String {
        let mut text = format!("# Uploads to an object store, {date}\n\n{machine}.\n");
        let heading = |names: &[&str]| Table::new(names.iter().map(|name| (*name).to_owned()).collect());
        if !self.rows.is_empty() {
            text.push_str(&format!(
                "\nMedians of {} interleaved rounds; 1,000,000,000 bytes each, over plain HTTP on loopback to one store that \
                 forgets what comes.\n",
                self.rounds
            ));
        }
        let modes = [Mode::Parts, Mode::Single].into_iter().filter(|_| !self.rows.is_empty());
        for mode in modes {
            text.push_str(&format!("\n## {}\n\n", mode.name()));
            let mut table = heading(&["", "MB/s", "spread %", "process s", "CPU s per GB", "most memory, MB"]);
            for row in self.rows.iter().filter(|row| row.mode == mode) {
                let figures = [
                    figure(row.mb_per_second, 0),
                    figure(row.spread_percent, 0),
                    figure(row.process_seconds, 2),
                    figure(row.cpu_seconds_per_gb, 2),
                    figure(row.peak_mb, 1),
                ];
                table.add(std::iter::once(row.client.to_owned()).chain(figures).collect());
            }
            text.push_str(&table.to_markdown());
        }
        text.push_str("\n## Goals\n\n");
        for (what, met, value) in self.goals() {
            text.push_str(&format!("- {}: {what}: {value}\n", if met { "met" } else { "MISSED" }));
        }
        if let Some(first) = self.links.first() {
            text.push_str(&format!(
                "\n## Over the distance of each region\n\nA link of so many Mbit/s with a queue of a tenth of a second, real TCP \
                 with this system's congestion control ({}). Shares are of what the link carries beside headers, from the first \
                 request to the last answer; *all* is what arrived after four seconds and while all five streams had something to send, with \
                 the pauses between their two parts: what is missing from it is TCP's and theirs, and what is missing beyond it \
                 is slow start, the requests before and after, and streams that end before others. 10 parts of 100 MB, 5 at once; 100 MB in one request.\n\n",
                first.congestion_control
            ));
            let mut table = heading(&[
                "region",
                "round trip, ms",
                "Mbit/s",
                "MB/s",
                "share %",
                "all, share %",
                "one request, share %",
            ]);
            for region in &self.links {
                let figures = [
                    figure(Some(region.round_trip_ms), 2),
                    region.link_mbit.to_string(),
                    figure(Some(region.mb_per_second), 2),
                    figure(Some(region.share_percent), 1),
                    figure(region.share_of_all_percent, 1),
                    figure(Some(region.share_single_percent), 1),
                ];
                table.add(std::iter::once(region.name.to_owned()).chain(figures).collect());
            }
            text.push_str(&table.to_markdown());
        }
        for name in &self.left_out {
            text.push_str(&format!("\n{name} is left out: it is not here.\n"));
        }
        text
    }

    fn goals(&self) -> Vec<(String, bool, String)> {
        let mut goals = Vec::new();
        let ours = |mode| self.rows.iter().find(move |row| row.mode == mode && row.ours);
        let best = |mode| {
            let others = self.rows.iter().filter(move |row| row.mode == mode && !row.ours);
            others.filter_map(|row| row.cpu_seconds_per_gb).min_by(f64::total_cmp)
        };
        if let Some(rate) = ours(Mode::Parts).and_then(|row| row.mb_per_second) {
            goals.push(("at least 1 GB/s in parts".to_owned(), rate >= 1000.0, format!("{rate:.0} MB/s")));
        }
        for (mode, what) in [
            (Mode::Parts, "CPU per GB at most half of the best other, in parts"),
            (Mode::Single, "CPU per GB at most half of the best other, in one request"),
        ] {
            if let Some((own, other)) = ours(mode).and_then(|row| row.cpu_seconds_per_gb).zip(best(mode)) {
                goals.push((what.to_owned(), own <= other / 2.0, format!("{:.2}", own / other)));
            }
        }
        if let Some(service) = &self.service {
            let (before, most) = (service.started_mb, service.after_both_mb);
            let value = format!("{most:.1} MB, {before:.1} MB before the first");
            goals.push(("the service below 32 MB of memory in both uploads".to_owned(), most < 32.0, value));
        }
        for rate in RATES {
            let links = self.links.iter().filter(|region| region.link_mbit == rate);
            let Some(least) = links.map(|region| region.share_percent).min_by(f64::total_cmp) else { continue };
            let what = format!("90 % of a link of {rate} Mbit/s at every distance with 5 streams");
            goals.push((what, least >= 90.0, format!("{least:.1} % at least")));
        }
        goals
    }
}

impl Row {
    fn of(client: &Client, mode: Mode, samples: &[Sample]) -> Self {
        let own = || samples.iter().filter(|sample| sample.client == client.label && sample.mode == mode);
        let all = |value: fn(&Sample) -> f64| own().map(value).collect::<Vec<f64>>();
        let rates = all(|sample| sample.mb_per_second);
        Self {
            client: client.label,
            ours: client.is_ours(),
            mode,
            mb_per_second: median(&rates),
            spread_percent: spread_percent(&rates),
            process_seconds: median(&all(|sample| sample.process_seconds)),
            cpu_seconds_per_gb: median(&all(|sample| sample.cpu_seconds_per_gb)),
            peak_mb: median(&all(|sample| sample.peak_mb)),
        }
    }
}
