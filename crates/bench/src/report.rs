//! What a run found, for people and programs.
//!
//! ```text
//! published  the table of the published benchmark, to the letter; the ranked one
//! honest     what that table leaves out
//! csv        a line per site
//! chart      SVG: bars, and how the latencies are distributed
//! page       HTML: all of it in one file
//! log        HdrHistogram V2, for its tools
//! folder     a saved run: all of the above, and the run itself as JSON
//! ```

mod chart;
mod csv;
mod folder;
mod honest;
mod log;
mod page;
mod published;
mod table;

pub use chart::{ChartError, chart};
pub use csv::csv;
pub use folder::{FolderError, RUN_FILE, read_run, save};
pub use honest::{honest, notes};
pub use log::LogError;
pub use page::page;
pub use published::{Marks, ranked, table};
pub use table::Table;
