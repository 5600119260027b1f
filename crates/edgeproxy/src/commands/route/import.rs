//! `import`: many backends at once, from a file of another kind.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use edgeproxy_route::{Backend, BackendError, RawBackend};
use edgeproxy_store::{RoutingDb, RoutingEditor};

use super::Failure;
use super::source::SourceFlags;
use crate::commands::say;

mod cell;
mod csv;
mod json;

/// How every SQLite file begins (<https://sqlite.org/fileformat.html>, section 1.3.1).
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";

/// Adds the backends of a file, and changes those that are there: all, or none when a row is bad
#[derive(clap::Args)]
pub(super) struct Import {
    /// CSV with a header of column names, a JSON array of objects (or what `list --json` prints), or another routing.db;
    /// `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Import the good rows when some are bad
    #[arg(long)]
    skip_bad: bool,
    #[command(flatten)]
    source: SourceFlags,
}

/// One row of the file, and the line it begins on where the file has lines. `Ok(None)`: marked as deleted.
struct FoundRow {
    line: Option<usize>,
    backend: Result<Option<RawBackend>, BackendError>,
}

impl Import {
    pub(super) fn run(self) -> Result<(), Failure> {
        let source = self.source.read()?;
        let file = self.file.display();
        let rows = read(&self.file).map_err(|reason| Failure::Failed(format!("{file}: {reason}")))?;
        let mut lines = Vec::new();
        let mut given = Vec::new();
        let mut deleted = 0;
        for FoundRow { line, backend } in rows {
            match backend.transpose() {
                Some(backend) => {
                    lines.push(line);
                    given.push(backend);
                }
                None => deleted += 1,
            }
        }
        let count = given.len();
        let editor = RoutingEditor::create(&source.db).map_err(Failure::from_display)?;
        let editor = editor.with_regions(source.regions.clone());
        let imported = editor.import(given, self.skip_bad).map_err(Failure::from_display)?;

        for (index, error) in &imported.bad {
            match lines[*index] {
                Some(line) => say::mistake(format_args!("{file}:{line}: {error}")),
                None => say::mistake(format_args!("{file}: {error}")),
            }
        }
        let bad = imported.bad.len();
        if !imported.committed {
            return Err(Failure::Failed(format!(
                "{file}: nothing was imported, as {bad} of {count} rows are bad; mend them, or leave them out with \
                 --skip-bad"
            )));
        }
        let mut left_out = String::new();
        for (n, why) in [(bad, "bad"), (deleted, "marked as deleted")] {
            if n > 0 {
                left_out.push_str(&format!("; {n} {why}, left out"));
            }
        }
        say::line(format_args!(
            "{}: {} added, {} changed, {} as before{left_out}",
            source.db.display(),
            imported.added,
            imported.changed,
            imported.unchanged
        ));
        // It is done, whatever a look at it afterwards says.
        if let Ok(loaded) = source.load() {
            source.tell_unknown_regions(&loaded.backends);
        }
        Ok(())
    }
}

/// The rows, by what the file looks like; its name says nothing.
fn read(path: &Path) -> Result<Vec<FoundRow>, String> {
    let cannot = |error: io::Error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        io::stdin().read_to_end(&mut bytes).map_err(cannot)?;
    } else {
        bytes = fs::read(path).map_err(cannot)?;
    }
    if bytes.starts_with(SQLITE_MAGIC) {
        return from_sqlite(path);
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| "neither text in UTF-8 nor an SQLite database; give CSV, JSON or a routing.db".to_owned())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    match text.trim_start().chars().next() {
        None => Err("is empty; give CSV with a header of column names, JSON or a routing.db".to_owned()),
        Some('[' | '{') => json::rows(text),
        Some(_) => csv::rows(text),
    }
}

fn from_sqlite(path: &Path) -> Result<Vec<FoundRow>, String> {
    let loaded = RoutingDb::open(path).and_then(|db| db.load()).map_err(|error| {
        // The caller names the file.
        let text = error.to_string();
        text.strip_prefix(&format!("{}: ", path.display())).map(str::to_owned).unwrap_or(text)
    })?;
    let has_country = loaded.has_country;
    let good = loaded.backends.into_iter().map(|backend| Ok(Some(raw(backend, has_country))));
    let bad = loaded.rejected.into_iter().map(Err);
    Ok(good.chain(bad).map(|backend| FoundRow { line: None, backend }).collect())
}

/// Says of every column that the other table has, also that it is empty: left out, it would be as here, or as the region.
fn raw(backend: Backend, has_country: bool) -> RawBackend {
    RawBackend {
        id: Some(backend.id),
        app: Some(backend.app),
        region: Some(backend.region),
        country: has_country.then(|| backend.country.map_or_else(String::new, |country| country.to_string())),
        wg_ip: Some(backend.addr.0.ip().to_string()),
        port: Some(backend.addr.0.port().into()),
        healthy: Some(backend.healthy.into()),
        weight: Some(backend.limits.weight.into()),
        soft_limit: Some(backend.limits.soft.into()),
        hard_limit: Some(backend.limits.hard.into()),
        drained: Some(backend.drained.into()),
        heartbeat_secs: Some(backend.heartbeat_secs.map_or(0, i64::from)),
    }
}
