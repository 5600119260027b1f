//! What a run over a fleet found, as it is saved.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Site;
use super::http::AskError;
use crate::db::Operation;
use crate::sample::Sample;
use crate::service::{Answer, Phases};

/// A run over all sites. Saved as JSON, read again to be compared.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Of the form of this file.
    pub version: u32,
    /// When it began: RFC 3339, UTC.
    pub started: String,
    /// What was asked for, as parameters of the services.
    pub asked: String,
    /// Requests to each site.
    pub requests: usize,
    /// What the sites are together.
    pub source: String,
    /// Where the database is.
    pub database: String,
    /// In the order of the fleet.
    pub rows: Vec<Row>,
}

/// One site, and what became of asking it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Whom.
    #[serde(flatten)]
    pub site: Site,
    /// What came.
    pub outcome: Outcome,
}

/// What a site answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Latencies.
    Measured(Box<Measured>),
    /// Nothing, or that it cannot.
    Failed(AskError),
}

/// All answers of a site together.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// The region that the service says it is in.
    pub region: String,
    /// The database, as the service calls it.
    pub db_host: String,
    /// When the last one ended.
    pub timestamp: String,
    /// In ms, in the order they were measured.
    pub samples: BTreeMap<Operation, Sample>,
    /// Cold connects, in ms; none where the service does not tell.
    pub connect: Sample,
    /// First queries on them.
    pub first: Sample,
    /// Parts of the last cold connect.
    pub phases: Option<Phases>,
    /// Failures by SQLSTATE or kind.
    pub errors: BTreeMap<String, usize>,
    /// Those of them without an answer in time.
    pub timeouts: usize,
    /// Rows that were removed.
    pub removed: u64,
    /// What is to be known beside: rows that are left, runs that ended early.
    pub notes: Vec<String>,
}

impl Run {
    /// Puts a later run over the same sites together with this one, as if each site had been asked once more.
    #[must_use]
    pub fn joined(mut self, later: Self) -> Self {
        self.requests += later.requests;
        for row in later.rows {
            if let Some(earlier) = self.rows.iter_mut().find(|earlier| earlier.site.name == row.site.name) {
                earlier.outcome.join(row.outcome);
            }
        }
        self
    }
}

impl Outcome {
    /// What was measured counts; a failure beside it is a note.
    fn join(&mut self, later: Self) {
        match (&mut *self, later) {
            (Self::Measured(earlier), Self::Measured(later)) => earlier.join(*later),
            (Self::Measured(earlier), Self::Failed(error)) => earlier.notes.push(error.to_string()),
            (Self::Failed(error), Self::Measured(mut later)) => {
                later.notes.push(error.to_string());
                *self = Self::Measured(later);
            }
            (Self::Failed(_), Self::Failed(_)) => {}
        }
    }
}

impl Row {
    /// What was measured, if anything was.
    pub fn measured(&self) -> Option<&Measured> {
        match &self.outcome {
            Outcome::Measured(measured) => Some(measured),
            Outcome::Failed(_) => None,
        }
    }
}

impl Measured {
    /// What was measured of an operation; nothing, if nothing was.
    pub fn sample(&self, operation: Operation) -> Sample {
        self.samples.get(&operation).cloned().unwrap_or_default()
    }

    /// How many failures there were.
    pub fn failures(&self) -> usize {
        self.errors.values().sum()
    }

    /// An operation's median in medians of the probe; `None`: one of both was not measured.
    pub fn round_trips(&self, operation: Operation) -> Option<f64> {
        let middle = |operation| self.samples.get(&operation)?.summary().middle();
        Some(middle(operation)? / middle(Operation::Probe).filter(|probe| *probe > 0.0)?)
    }

    fn join(&mut self, later: Self) {
        let Self { region, db_host, timestamp, samples, connect, first, phases, errors, timeouts, removed, notes } =
            later;
        (self.region, self.db_host, self.timestamp) = (region, db_host, timestamp);
        for (operation, sample) in samples {
            self.samples.entry(operation).or_default().0.extend(sample.0);
        }
        self.connect.0.extend(connect.0);
        self.first.0.extend(first.0);
        self.phases = phases.or(self.phases);
        for (kind, count) in errors {
            *self.errors.entry(kind).or_default() += count;
        }
        self.timeouts += timeouts;
        self.removed += removed;
        self.notes.extend(notes);
    }

    pub(super) fn add(&mut self, answer: Answer) {
        let Answer { region, db_host, timestamp, read_latencies, insert_latencies, latencies, .. } = answer;
        (self.region, self.db_host, self.timestamp) = (region, db_host, timestamp);
        let published = [(Operation::Read, read_latencies), (Operation::Insert, insert_latencies)];
        for (operation, sample) in published.into_iter().chain(latencies) {
            self.samples.entry(operation).or_default().0.extend(sample.0);
        }
        self.connect.0.extend(answer.connect_ms);
        self.first.0.extend(answer.first_ms);
        self.phases = answer.phases.or(self.phases);
        for (kind, count) in answer.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        self.timeouts += answer.timeouts;
        self.notes.extend(answer.ended_early.map(|reason| format!("ended early: {reason}")));
        if let Some(cleanup) = answer.cleanup {
            self.removed += cleanup.deleted + cleanup.leftovers;
            self.notes.extend(cleanup.error.map(|reason| format!("rows are left: {reason}")));
        }
    }
}

#[cfg(test)]
impl Run {
    /// A run over the usual sites, in their order: each has measured these inserts, or was too late.
    pub(crate) fn of_inserts(inserts: impl IntoIterator<Item = Option<Vec<f64>>>) -> Self {
        let rows = super::Fleet::default().sites.into_iter().zip(inserts).map(|(site, inserts)| {
            let outcome = inserts.map_or(Outcome::Failed(AskError::Late(10)), |inserts| {
                let samples = BTreeMap::from([(Operation::Insert, Sample(inserts))]);
                Outcome::Measured(Box::new(Measured { samples, ..Measured::default() }))
            });
            Row { site, outcome }
        });
        Self {
            version: super::VERSION,
            started: String::new(),
            asked: String::new(),
            requests: 1,
            source: String::new(),
            database: String::new(),
            rows: rows.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(inserts: [Option<f64>; 3]) -> Run {
        Run::of_inserts(inserts.map(|insert| insert.map(|insert| vec![insert])))
    }

    #[test]
    fn two_runs_are_one_and_a_failure_is_not_lost() {
        let joined = run([Some(1.0), Some(2.0), None]).joined(run([Some(3.0), None, Some(4.0)]));
        assert_eq!(joined.requests, 2);
        let found = |at: usize| {
            let measured = joined.rows[at].measured().unwrap();
            (measured.sample(Operation::Insert).0, measured.notes.len())
        };
        assert_eq!([found(0), found(1), found(2)], [(vec![1.0, 3.0], 0), (vec![2.0], 1), (vec![4.0], 1)]);
    }
}
