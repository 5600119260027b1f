//! What is to be measured, as a request asks for it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Reads and inserts where nobody says how many, or says what makes no sense.
pub const ITERATIONS_DEFAULT: usize = 10;
/// Reads and inserts of one request, at most.
pub const ITERATIONS_MOST: usize = 100;
/// How long an operation may take. The farthest regions are 0.3 s from each other.
const PATIENCE: Duration = Duration::from_secs(10);

/// How statements are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One flight for a statement with parameters, whose types are given.
    #[default]
    One,
    /// As lib/pq does by default: parse and describe, wait, then bind and execute.
    Pq,
}

/// What is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadKind {
    /// `SELECT COUNT(*)` of the table: takes longer the more rows there are.
    #[default]
    Count,
    /// `SELECT 1`: takes as long whatever is in the table.
    One,
}

/// Which comes after which.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Reads and inserts in turn, so that what changes meanwhile changes both.
    #[default]
    Interleaved,
    /// All reads, then all inserts.
    Blocks,
}

/// A run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Reads, and inserts, that count.
    pub iterations: usize,
    /// How statements are sent.
    pub mode: Mode,
    /// What is read.
    pub read: ReadKind,
    /// Reads go to the replica that is near, not to where the inserts go.
    pub near: bool,
    /// Which comes after which.
    pub order: Order,
    /// Rounds that do not count come first.
    pub warm_up: bool,
    /// Transactions and prepared statements are measured beside.
    pub phases: bool,
    /// Faults are answered by a status of their own, not by 200.
    pub strict: bool,
    /// How long an operation may take before it counts as failed.
    pub patience: Duration,
}

/// A parameter with a value that it cannot have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("parameter {name} cannot be {value:?}: it is one of {known}")]
pub struct PlanError {
    name: &'static str,
    value: String,
    known: &'static str,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            iterations: ITERATIONS_DEFAULT,
            mode: Mode::default(),
            read: ReadKind::default(),
            near: false,
            order: Order::default(),
            warm_up: true,
            phases: true,
            strict: false,
            patience: PATIENCE,
        }
    }
}

impl Plan {
    /// Reads the parameters of a request, of each the first. `iterations` that are no number of 1 to 100 are the default,
    /// as published; of the other parameters every mistake is told.
    ///
    /// # Errors
    /// The first parameter with a value that it cannot have.
    pub fn read(parameters: &[(String, String)]) -> Result<Self, PlanError> {
        let value = |name: &str| parameters.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
        let one_of = |name: &'static str, known: &'static str| match value(name) {
            None | Some("") => Ok(None),
            Some(word) => match known.split(' ').position(|known| known == word) {
                Some(position) => Ok(Some(position)),
                None => Err(PlanError { name, value: word.to_owned(), known }),
            },
        };
        let iterations = value("iterations").and_then(|text| text.parse().ok());
        let iterations = iterations.filter(|count| (1..=ITERATIONS_MOST).contains(count)).unwrap_or(ITERATIONS_DEFAULT);
        let mode = if one_of("mode", "one pq")? == Some(1) { Mode::Pq } else { Mode::One };
        let order = match (one_of("order", "interleaved blocks")?, mode) {
            (Some(0), _) | (None, Mode::One) => Order::Interleaved,
            _ => Order::Blocks,
        };
        let warm_up = match one_of("warmup", "on off")? {
            Some(position) => position == 0,
            None => mode == Mode::One,
        };
        Ok(Self {
            iterations,
            mode,
            read: if one_of("read", "count one")? == Some(1) { ReadKind::One } else { ReadKind::Count },
            near: one_of("reads", "primary near")? == Some(1),
            order,
            warm_up,
            phases: one_of("phases", "on off")? != Some(1),
            strict: one_of("status", "published strict")? == Some(1),
            patience: PATIENCE,
        })
    }

    /// The same as parameters; [`read`](Self::read) of them gives it again, but for its patience.
    pub fn query(&self) -> String {
        let Self { iterations, mode, read, near, order, warm_up, phases, strict, patience: _ } = self;
        let mode = if *mode == Mode::Pq { "pq" } else { "one" };
        let read = if *read == ReadKind::One { "one" } else { "count" };
        let near = if *near { "near" } else { "primary" };
        let order = if *order == Order::Blocks { "blocks" } else { "interleaved" };
        let [warm_up, phases] = [warm_up, phases].map(|is_on| if *is_on { "on" } else { "off" });
        let status = if *strict { "strict" } else { "published" };
        format!(
            "iterations={iterations}&mode={mode}&read={read}&reads={near}&order={order}&warmup={warm_up}&phases={phases}\
             &status={status}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(query: &str) -> Result<Plan, PlanError> {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Plan::read(&pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<Vec<_>>())
    }

    #[test]
    fn iterations_fall_back_in_silence() {
        for (text, expected) in [
            ("1", 1),
            ("100", 100),
            ("37", 37),
            ("0", 10),
            ("101", 10),
            ("-5", 10),
            ("ten", 10),
            ("", 10),
            ("1.5", 10),
            ("99999999999999999999999", 10),
        ] {
            assert_eq!(plan(&format!("iterations={text}")).unwrap().iterations, expected, "{text:?}");
        }
        assert_eq!(plan("").unwrap(), Plan::default());
        assert_eq!(plan("iterations=3&iterations=4").unwrap().iterations, 3);
    }

    #[test]
    fn what_lib_pq_does_comes_in_blocks_and_cold_unless_asked_otherwise() {
        assert_eq!(plan("mode=pq").unwrap().order, Order::Blocks);
        assert!(!plan("mode=pq").unwrap().warm_up && plan("mode=pq&warmup=on").unwrap().warm_up);
        assert!(plan("mode=one").unwrap().warm_up && !plan("warmup=off").unwrap().warm_up);
        assert_eq!(plan("mode=pq&order=interleaved").unwrap().order, Order::Interleaved);
        assert_eq!(plan("order=blocks").unwrap().order, Order::Blocks);
    }

    #[test]
    fn other_mistakes_are_told() {
        let error = plan("mode=two").unwrap_err().to_string();
        assert_eq!(error, "parameter mode cannot be \"two\": it is one of one pq");
        assert!(plan("read=all").is_err() && plan("order=random").is_err() && plan("status=404").is_err());
    }

    #[test]
    fn a_plan_survives_the_way() {
        let plan_of =
            Plan { iterations: 7, mode: Mode::Pq, read: ReadKind::One, near: true, strict: true, ..Plan::default() };
        assert_eq!(plan(&plan_of.query()).unwrap(), plan_of);
    }
}
