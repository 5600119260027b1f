//! The result of a session: medians, ratios and goals, as data and as tables.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::case::{Case, Column, Goal};
use crate::cpu::Clock;
use crate::measurement::Sample;
use crate::peer::{Group, Peer};
use crate::schedule::NOISY_PERCENT;
use crate::statistics::{median, ratio, spread_percent};
use crate::table::{Table, figure};

/// What the tables must know of a peer.
pub(crate) struct Entrant {
    pub(crate) name: String,
    pub(crate) label: String,
    pub(crate) group: Group,
    /// Others are compared with this one.
    pub(crate) reference: bool,
}

impl From<&Peer> for Entrant {
    fn from(peer: &Peer) -> Self {
        Self { name: peer.name.clone(), label: peer.label.clone(), group: peer.group, reference: peer.reference }
    }
}

/// The words of one kind of run, above its tables and its chart.
pub(crate) struct Subject {
    pub(crate) title: &'static str,
    /// How the figures were had, in a sentence or two; empty where the README says it all.
    pub(crate) method: &'static str,
    pub(crate) chart: &'static str,
}

#[derive(Serialize)]
pub(crate) struct Summary {
    #[serde(skip)]
    pub(crate) subject: &'static Subject,
    pub(crate) date: String,
    pub(crate) machine: String,
    pub(crate) rounds: u32,
    pub(crate) quick: bool,
    pub(crate) cases: Vec<CaseSummary>,
    /// Peers that could not be measured, and why.
    pub(crate) left_out: BTreeMap<String, String>,
    /// Of every peer, for tables that stand without `machine.md`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) versions: BTreeMap<String, String>,
}

#[derive(Serialize)]
pub(crate) struct CaseSummary {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) what: String,
    pub(crate) unit: String,
    pub(crate) primary: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Row>,
    pub(crate) goals: Vec<GoalResult>,
}

/// One peer in one case.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) peer: String,
    pub(crate) label: String,
    pub(crate) group: Group,
    pub(crate) reference: bool,
    pub(crate) rounds: usize,
    /// Medians over the rounds, of every metric that was measured.
    pub(crate) medians: BTreeMap<String, f64>,
    /// Distance of the extremes of the primary metric, in percent of its median.
    pub(crate) spread_percent: Option<f64>,
    /// Median of the per-round ratios of the primary metric, by reference.
    pub(crate) ratios: BTreeMap<String, f64>,
    pub(crate) errors: BTreeMap<String, u64>,
    /// Whether every round was read from the scheduler's nanoseconds.
    pub(crate) nanosecond_clock: bool,
}

#[derive(Serialize)]
pub(crate) struct GoalResult {
    #[serde(flatten)]
    pub(crate) goal: Goal,
    pub(crate) ratio: Option<f64>,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    StretchMet,
    Met,
    Missed,
    NotMeasured,
}

impl CaseSummary {
    pub(crate) fn of<L>(case: &Case<L>, peers: &[Entrant], samples: &[Sample]) -> Self {
        let samples: Vec<&Sample> = samples.iter().filter(|sample| sample.case == case.name).collect();
        let references: Vec<&Entrant> = peers.iter().filter(|peer| peer.reference).collect();
        let row = |peer: &Entrant| row(case, peer, &references, &samples);
        let goals = case.goals.iter().map(|goal| {
            let of = series(&samples, &goal.peer, &goal.metric);
            let ratio = ratio(&of, &series(&samples, &goal.reference, &goal.metric));
            GoalResult { goal: goal.clone(), ratio, verdict: judge(goal, ratio) }
        });
        Self {
            name: case.name.clone(),
            title: case.title.clone(),
            what: case.what.clone(),
            unit: case.unit.clone(),
            primary: case.primary.clone(),
            columns: case.columns.clone(),
            rows: peers.iter().map(row).collect(),
            goals: goals.collect(),
        }
    }

    fn label<'a>(&'a self, peer: &'a str) -> &'a str {
        self.rows.iter().find(|row| row.peer == peer).map_or(peer, |row| &row.label)
    }
}

fn row<L>(case: &Case<L>, peer: &Entrant, references: &[&Entrant], samples: &[&Sample]) -> Row {
    let own: Vec<&&Sample> = samples.iter().filter(|sample| sample.peer == peer.name).collect();
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    for sample in &own {
        for (&metric, &value) in &sample.metrics {
            values.entry(metric.to_owned()).or_default().push(value);
        }
        for (kind, count) in &sample.errors {
            *errors.entry(kind.clone()).or_default() += count;
        }
    }
    let primary = series(samples, &peer.name, &case.primary);
    let to = |reference: &&&Entrant| {
        let base = series(samples, &reference.name, &case.primary);
        Some((reference.name.clone(), ratio(&primary, &base)?))
    };
    let medians = values.iter().filter_map(|(metric, values)| Some((metric.clone(), median(values)?)));
    Row {
        peer: peer.name.clone(),
        label: peer.label.clone(),
        group: peer.group,
        reference: peer.reference,
        rounds: own.iter().filter(|sample| sample.metrics.contains_key("operations")).count(),
        medians: medians.collect(),
        spread_percent: values.get(&case.primary).and_then(|values| spread_percent(values)),
        ratios: references.iter().filter_map(|reference| to(&reference)).collect(),
        errors,
        nanosecond_clock: own.iter().all(|sample| sample.clock != Some(Clock::Ticks)),
    }
}

/// The values of one metric of one peer, by round.
fn series(samples: &[&Sample], peer: &str, metric: &str) -> Vec<(u32, f64)> {
    let own = samples.iter().filter(|sample| sample.peer == peer);
    own.filter_map(|sample| Some((sample.round, *sample.metrics.get(metric)?))).collect()
}

fn judge(goal: &Goal, ratio: Option<f64>) -> Verdict {
    match ratio {
        None => Verdict::NotMeasured,
        Some(ratio) if goal.stretch.is_some_and(|stretch| ratio <= stretch) => Verdict::StretchMet,
        Some(ratio) if ratio <= goal.at_most => Verdict::Met,
        Some(_) => Verdict::Missed,
    }
}

impl Summary {
    /// The tables of every case, and what was left out.
    pub(crate) fn to_markdown(&self) -> String {
        let mut text = format!("# {} of {} on {}\n\n", self.subject.title, self.date, self.machine);
        if !self.subject.method.is_empty() {
            text.push_str(&format!("{}\n\n", self.subject.method));
        }
        text.push_str(&format!(
            "Medians of {} round{}; ratios are medians of the ratios of each round. Lower is better, except for rates.\n",
            self.rounds,
            if self.rounds == 1 { "" } else { "s" }
        ));
        if self.quick {
            text.push_str("\nA quick run: the loads are tiny and the figures mean nothing.\n");
        }
        for case in &self.cases {
            text.push('\n');
            text.push_str(&case.to_markdown());
        }
        if !self.versions.is_empty() {
            text.push_str("\n## Versions\n\n");
            for (peer, version) in &self.versions {
                text.push_str(&format!("- {peer}: {version}\n"));
            }
        }
        if !self.left_out.is_empty() {
            text.push_str("\n## Not measured\n\n");
            for (peer, reason) in &self.left_out {
                text.push_str(&format!("- {peer}: {reason}\n"));
            }
        }
        text
    }
}

impl CaseSummary {
    fn to_markdown(&self) -> String {
        let mut text = format!("## {}\n\n{}\n", self.title, self.what);
        for (group, heading) in [(Group::Plain, ""), (Group::Logged, "With a line per connection:\n\n")] {
            if self.rows.iter().any(|row| row.group == group) {
                text.push('\n');
                text.push_str(heading);
                text.push_str(&self.table(group).to_markdown());
            }
        }
        if !self.goals.is_empty() {
            text.push('\n');
            text.push_str(&self.goal_table().to_markdown());
        }
        text.push_str(&self.remarks());
        text
    }

    fn table(&self, group: Group) -> Table {
        let rows: Vec<&Row> = self.rows.iter().filter(|row| row.group == group).collect();
        let references: Vec<&&Row> = rows.iter().filter(|row| row.reference).collect();
        let mut headings = vec![format!("per {}", self.unit)];
        for column in &self.columns {
            headings.push(column.heading.clone());
            if column.metric == self.primary {
                headings.push("spread %".to_owned());
                headings.extend(references.iter().map(|row| format!("÷ {}", row.label)));
            }
        }
        headings.push("errors".to_owned());
        let mut table = Table::new(headings);
        for row in &rows {
            let mut cells = vec![row.label.clone()];
            for column in &self.columns {
                cells.push(figure(row.medians.get(&column.metric).copied(), column.decimals));
                if column.metric == self.primary {
                    cells.push(figure(row.spread_percent, 0));
                    cells.extend(references.iter().map(|to| figure(row.ratios.get(&to.peer).copied(), 2)));
                }
            }
            cells.push(row.errors.values().sum::<u64>().to_string());
            table.add(cells);
        }
        table
    }

    fn goal_table(&self) -> Table {
        let headings = ["goal", "limit", "stretch", "measured", ""];
        let mut table = Table::new(headings.map(str::to_owned).into());
        for result in &self.goals {
            let goal = &result.goal;
            let column = self.columns.iter().find(|column| column.metric == goal.metric);
            let heading = column.map_or(goal.metric.as_str(), |column| &column.heading);
            let verdict = match result.verdict {
                Verdict::StretchMet => "stretch met",
                Verdict::Met => "met",
                Verdict::Missed => "MISSED",
                Verdict::NotMeasured => "not measured",
            };
            table.add(vec![
                format!("{}: {heading} ÷ {}", self.label(&goal.peer), self.label(&goal.reference)),
                format!("{:.2}", goal.at_most),
                figure(goal.stretch, 2),
                figure(result.ratio, 2),
                verdict.to_owned(),
            ]);
        }
        table
    }

    /// Errors by kind, noise of the machine, and the clock where it is not the usual one.
    fn remarks(&self) -> String {
        let mut lines = Vec::new();
        for row in &self.rows {
            for (kind, count) in &row.errors {
                lines.push(format!("{}: {count} x {kind}", row.label));
            }
            let other = row.medians.get("other_percent").copied().unwrap_or(0.0);
            if other > NOISY_PERCENT {
                lines.push(format!("{}: other work took {other:.0}% of the machine", row.label));
            }
            if !row.nanosecond_clock {
                lines.push(format!("{}: some rounds are read from 10 ms ticks", row.label));
            }
        }
        let mut text = String::new();
        if !lines.is_empty() {
            text.push_str("\nRemarks:\n");
        }
        for line in lines {
            text.push_str(&format!("- {line}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal(stretch: Option<f64>) -> Goal {
        Goal {
            peer: "edgeproxy".to_owned(),
            metric: "proxy_us".to_owned(),
            reference: "haproxy".to_owned(),
            at_most: 0.92,
            stretch,
        }
    }

    #[test]
    fn a_goal_is_met_at_its_limit_and_not_above() {
        assert_eq!(judge(&goal(None), Some(0.92)), Verdict::Met);
        assert_eq!(judge(&goal(Some(0.85)), Some(0.85)), Verdict::StretchMet);
        assert_eq!(judge(&goal(Some(0.85)), Some(0.921)), Verdict::Missed);
        assert_eq!(judge(&goal(None), None), Verdict::NotMeasured);
    }
}
