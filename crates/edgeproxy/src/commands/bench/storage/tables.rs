//! The figures in columns, and what else is to be known in sentences.

use edgeproxy_bench::storage::{Difference, MB, MIB, Outcome, Report, Setting};

use crate::commands::{columns, say};

const COLUMNS: usize = 11;
const NAMES: [&str; COLUMNS] = [
    "place",
    "setting",
    "runs",
    "MB/s",
    "MiB/s",
    "goodput",
    "spread %",
    "seconds",
    "slowest part",
    "resent MB",
    "CPU s/GB",
];
const NUMERIC: [usize; 9] = [2, 3, 4, 5, 6, 7, 8, 9, 10];

/// Names of columns and a row a setting: medians, and beside them the run in the middle.
pub(super) fn settings(report: &Report) -> ([&'static str; COLUMNS], Vec<[String; COLUMNS]>) {
    (NAMES, report.settings.iter().map(row).collect())
}

fn row(setting: &Setting) -> [String; COLUMNS] {
    let place = if setting.place.is_empty() { "here".to_owned() } else { setting.place.clone() };
    let head = [place, setting.name.clone(), setting.runs.len().to_string()];
    let figures = match setting.typical().zip(setting.median_mb_per_second) {
        None => [const { String::new() }; COLUMNS - 3].map(|_| "-".to_owned()),
        Some((run, median)) => [
            format!("{median:.2}"),
            format!("{:.2}", median * MB as f64 / MIB as f64),
            format!("{:.2}", run.goodput_mb_per_second),
            format!("{:.0}", setting.spread_percent.unwrap_or(0.0)),
            format!("{:.2}", run.seconds),
            run.slowest_part().map_or_else(|| "-".to_owned(), |part| format!("{:.2}", part.seconds())),
            format!("{:.1}", run.resent_bytes as f64 / MB as f64),
            format!("{:.2}", run.cpu_seconds_per_gb()),
        ],
    };
    let mut cells = head.into_iter().chain(figures);
    std::array::from_fn(|_| cells.next().unwrap_or_default())
}

/// What the columns do not say.
pub(super) fn facts(report: &Report) -> Vec<String> {
    let mut facts = Vec::new();
    for setting in &report.settings {
        if let Some(run) = setting.typical() {
            let rate = setting.shape.published_rate(run.seconds);
            let place = if setting.place.is_empty() { String::new() } else { format!("{}, ", setting.place) };
            facts.push(format!("as published: {rate} in {:.2} s ({place}{})", run.seconds, setting.name));
        }
    }
    if let Some((best, run)) = report.best().and_then(|best| Some((best, best.typical()?))) {
        if report.settings.len() > 1 {
            facts.push(format!("best: {} {}", best.place, best.name).replace(":  ", ": "));
        }
        facts.extend(of_run(run));
    }
    if let Some((bound, buffer)) = report.single_stream_bound.zip(report.send_buffer_most) {
        facts.push(format!(
            "one stream sends at most a send buffer ({:.1} MiB) per round trip: {:.0} MB/s here",
            buffer as f64 / MIB as f64,
            bound / MB as f64
        ));
    }
    facts
}

fn of_run(run: &Outcome) -> Vec<String> {
    let mut facts = Vec::new();
    let server = &run.server;
    let told =
        [("", Some(&server.address)), ("Server: ", server.software.as_ref()), ("region ", server.region.as_ref())];
    let told: Vec<String> = told.into_iter().filter_map(|(what, text)| Some(format!("{what}{}", text?))).collect();
    facts.push(format!("store: {}", told.join(", ")));
    if let Some(connect) = run.connect.iter().max_by(|one, other| one.tcp_ms.total_cmp(&other.tcp_ms)) {
        facts.push(format!(
            "connecting, beforehand: name {:.1} ms, TCP {:.1} ms, TLS {:.1} ms",
            connect.name_ms, connect.tcp_ms, connect.tls_ms
        ));
    }
    if let Some(socket) = run.sockets.first() {
        let retransmits: u32 = run.sockets.iter().map(|socket| socket.retransmits).sum();
        facts.push(format!(
            "TCP: {}, round trip {:.2} ms at least, window {} x {} bytes, {retransmits} retransmits, {:.0} % of the time held up by \
             the send buffer, {:.0} % by the store's window",
            socket.congestion_control,
            run.min_round_trip_ms().unwrap_or(0.0),
            socket.congestion_window,
            socket.segment_bytes,
            socket.send_buffer_limited_percent,
            socket.receiver_limited_percent
        ));
    }
    if let Some(back) = &run.read_back {
        facts.push(format!(
            "read back and compared: {:.2} MB/s, first byte after {:.1} ms",
            back.mb_per_second, back.first_byte_ms
        ));
    }
    facts.push(format!(
        "this process: {:.1} MB of memory at most, {:.2} CPU s; {} requests with data, {} failed and made good",
        run.process.peak_resident_bytes as f64 / MB as f64,
        run.process.cpu_seconds,
        run.attempts,
        run.troubles
    ));
    facts
}

pub(super) fn print(report: &Report, details: bool) {
    let (names, rows) = settings(report);
    columns::print(names, &NUMERIC, rows);
    facts(report).into_iter().for_each(say::line);
    if !details {
        return;
    }
    for (setting, run) in report.settings.iter().filter_map(|setting| Some((setting, setting.typical()?))) {
        say::line(format_args!("\n{} {}", setting.place, setting.name));
        let parts = run.parts.iter().map(|part| {
            let seconds = |seconds: f64| format!("{seconds:.3}");
            [
                part.number.to_string(),
                part.stream.to_string(),
                seconds(part.began),
                seconds(part.answered),
                seconds(part.ended),
                seconds(part.seconds()),
                part.attempts.to_string(),
            ]
        });
        let names = ["part", "stream", "began s", "answered s", "ended s", "took s", "attempts"];
        columns::print(names, &[0, 1, 2, 3, 4, 5, 6], parts.collect());
        let seconds: Vec<String> = run.series.iter().map(|bytes| format!("{:.1}", *bytes as f64 / MB as f64)).collect();
        say::line(format_args!("MB second by second: {}", seconds.join(" ")));
    }
}

pub(super) fn print_differences(differences: &[Difference]) {
    let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    let rows = differences.iter().map(|difference| {
        [
            format!("{} {}", difference.place, difference.name).trim().to_owned(),
            figure(difference.before_mb_per_second),
            figure(difference.now_mb_per_second),
            difference.change_percent.map_or_else(|| "-".to_owned(), |change| format!("{change:+.1}")),
            if difference.regression { "slower".to_owned() } else { String::new() },
        ]
    });
    say::line("");
    columns::print(["setting", "before MB/s", "now MB/s", "change %", ""], &[1, 2, 3], rows.collect());
}
