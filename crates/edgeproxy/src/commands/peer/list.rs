//! `list`: the peers there are, page by page.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::item::{COLUMNS, Item, NUMERIC};
use super::{get, odd_answer};
use crate::admin_client::{AdminClient, encoded};
use crate::commands::{Failure, columns, say};

/// Peers listed where nobody says otherwise.
const LIMIT: usize = 100;
/// Peers of one page, at most, as the API has it.
const PAGE_MOST: usize = 1000;

/// Shows peers by number, oldest first
#[derive(clap::Args)]
pub(super) struct List {
    /// Those of this name only
    #[arg(long)]
    name: Option<String>,
    /// Those made for this region only
    #[arg(long, value_name = "CODE")]
    region: Option<String>,
    /// Those with this tag only
    #[arg(long, value_name = "WORD")]
    tag: Option<String>,
    /// So many at most [default: 100]
    #[arg(long, value_name = "N", value_parser = limit)]
    limit: Option<usize>,
    /// However many there are
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// A page as the API answers it, and what `--json` prints. Where there are more, `next` tells where they begin.
#[derive(Serialize, Deserialize)]
struct Page {
    items: Vec<Value>,
    next: Option<String>,
}

impl List {
    pub(super) fn run(self, client: &AdminClient) -> Result<(), Failure> {
        let most = if self.all { usize::MAX } else { self.limit.unwrap_or(LIMIT) };
        let mut listed = Page { items: Vec::new(), next: None };
        loop {
            let path = self.path(listed.next.as_deref(), (most - listed.items.len()).min(PAGE_MOST));
            let page: Page = get(client, &path)?;
            // A page can be empty before the end, where what it would have shown was being removed.
            listed.items.extend(page.items);
            listed.next = page.next;
            if listed.next.is_none() || listed.items.len() >= most {
                break;
            }
        }
        if self.json {
            say::json(&listed);
            return Ok(());
        }
        let is_empty = listed.items.is_empty();
        let rows = listed.items.into_iter().map(|item| serde_json::from_value(item).map(Item::row));
        columns::print(COLUMNS, &NUMERIC, rows.collect::<Result<_, _>>().map_err(odd_answer)?);
        if is_empty {
            let is_any = self.name.is_none() && self.region.is_none() && self.tag.is_none();
            say::note(format_args!("the gateway has no {}", if is_any { "peers" } else { "such peers" }));
        }
        if listed.next.is_some() {
            say::note("there are more; --limit N shows so many, --all shows all");
        }
        Ok(())
    }

    fn path(&self, cursor: Option<&str>, limit: usize) -> String {
        let mut path = format!("/api/v1/peers?limit={limit}");
        for (name, value) in [
            ("cursor", cursor),
            ("name", self.name.as_deref()),
            ("region", self.region.as_deref()),
            ("tag", self.tag.as_deref()),
        ] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", encoded(value)));
            }
        }
        path
    }
}

/// For clap.
fn limit(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|limit| *limit > 0).ok_or_else(|| "it is not a number from 1 on".to_owned())
}
