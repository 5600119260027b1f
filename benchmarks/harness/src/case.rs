//! A benchmark case: a folder with a `case.toml` that holds its load, its columns and its goals.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure};
use crate::load::{Patience, bulk::Direction};

/// Order of the tables of `run`; a case that is not named here comes after these.
pub(crate) const ORDER: [&str; 5] = ["short", "pingpong", "bulk", "bulk-upload", "idle"];

/// `L` is the load: proxies and tunnels are put to different work, and their results have the same form.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case<L> {
    /// Name of the folder.
    #[serde(skip_deserializing)]
    pub(crate) name: String,
    pub(crate) title: String,
    /// What one operation is, for "per ...".
    pub(crate) unit: String,
    pub(crate) what: String,
    /// The metric that ratios and the chart are made of.
    pub(crate) primary: String,
    pub(crate) load: L,
    /// The load of `--quick`.
    pub(crate) quick: L,
    #[serde(rename = "column")]
    pub(crate) columns: Vec<Column>,
    #[serde(rename = "goal", default)]
    pub(crate) goals: Vec<Goal>,
}

/// One column of the table of a case.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Column {
    pub(crate) metric: String,
    pub(crate) heading: String,
    pub(crate) decimals: usize,
}

/// A limit on edgeproxy's ratio to another peer.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Goal {
    #[serde(default = "edgeproxy")]
    pub(crate) peer: String,
    pub(crate) metric: String,
    pub(crate) reference: String,
    pub(crate) at_most: f64,
    /// What would be better still.
    pub(crate) stretch: Option<f64>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Load {
    Short(Closed),
    Pingpong(Closed),
    Bulk(Streams),
    Idle(Idle),
}

/// Clients that start their next operation when the last one is done.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Closed {
    pub(crate) clients: usize,
    pub(crate) bytes: usize,
    /// Uncounted operations before the counted ones.
    pub(crate) warm_up: u64,
    pub(crate) operations: u64,
    pub(crate) timeout_s: u64,
    pub(crate) deadline_s: u64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Streams {
    pub(crate) direction: Direction,
    pub(crate) streams: usize,
    pub(crate) warm_up_mb: u64,
    /// In total, over all streams; a megabyte is 1e6 bytes.
    pub(crate) megabytes: u64,
    /// Longest time in which nothing moves.
    pub(crate) timeout_s: u64,
    pub(crate) deadline_s: u64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Idle {
    pub(crate) connections: usize,
    pub(crate) bytes: usize,
    /// Rest between the last exchange and the reading.
    pub(crate) settle_ms: u64,
    pub(crate) timeout_s: u64,
    pub(crate) deadline_s: u64,
}

impl Closed {
    pub(crate) fn patience(&self) -> Patience {
        patience(self.timeout_s, self.deadline_s)
    }
}

impl Streams {
    pub(crate) fn patience(&self) -> Patience {
        patience(self.timeout_s, self.deadline_s)
    }
}

impl Idle {
    pub(crate) fn patience(&self) -> Patience {
        patience(self.timeout_s, self.deadline_s)
    }
}

/// Reads every case of the folder in `order`, or those of `wanted`; a wanted case that is not there is an error.
pub(crate) fn read_all<L: DeserializeOwned>(
    folder: &Path,
    order: &[&str],
    wanted: &[String],
) -> Result<Vec<Case<L>>, Failure> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(folder).context(format!("cannot list {}", folder.display()))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let file = entry.path().join("case.toml");
        if file.is_file() && (wanted.is_empty() || wanted.contains(&name)) {
            cases.push(read(&file, name)?);
        }
    }
    if let Some(missing) = wanted.iter().find(|name| cases.iter().all(|case| case.name != **name)) {
        return Err(Failure::new(format!("no case named {missing} in {}", folder.display())));
    }
    let place = |case: &Case<L>| order.iter().position(|name| *name == case.name).unwrap_or(order.len());
    cases.sort_by_key(|case| (place(case), case.name.clone()));
    Ok(cases)
}

fn read<L: DeserializeOwned>(file: &Path, name: String) -> Result<Case<L>, Failure> {
    let text = fs::read_to_string(file).context(format!("cannot read {}", file.display()))?;
    let mut case: Case<L> = toml::from_str(&text).context(file.display())?;
    case.name = name;
    Ok(case)
}

fn patience(timeout_s: u64, deadline_s: u64) -> Patience {
    Patience { operation: Duration::from_secs(timeout_s), whole: Duration::from_secs(deadline_s) }
}

fn edgeproxy() -> String {
    "edgeproxy".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../cases")
    }

    #[test]
    fn every_case_parses_and_its_primary_metric_is_a_column() {
        let cases = read_all::<Load>(&folder(), &ORDER, &[]).unwrap();
        let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names, ORDER);
        for case in cases {
            let is_column = |metric: &str| case.columns.iter().any(|column| column.metric == metric);
            assert!(is_column(&case.primary), "{}", case.name);
            assert!(case.goals.iter().all(|goal| is_column(&goal.metric)), "{}", case.name);
        }
    }

    #[test]
    fn an_unknown_case_is_refused() {
        assert!(read_all::<Load>(&folder(), &ORDER, &["short".to_owned(), "nonsense".to_owned()]).is_err());
    }
}
