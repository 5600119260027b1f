//! Rows in columns, as Markdown that people can read as it stands.

use std::fmt::Write;

/// A table; numbers are aligned to the right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// Of each column its name, and whether it holds numbers.
    pub columns: Vec<(&'static str, bool)>,
    /// As many cells as columns.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Markdown, each line ended.
    pub fn markdown(&self) -> String {
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(|cell| escaped(cell)).collect()).collect();
        let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column)).map(String::as_str);
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, (name, _))| cells(at).chain([*name]).map(|cell| cell.chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        let names: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        self.line(&mut text, &names, &widths);
        for ((_, is_number), width) in self.columns.iter().zip(&widths) {
            // Writing to a string does not fail, here and below.
            let _ = write!(text, "|{:-<1$}{2}", "", width + 1, if *is_number { ":" } else { "-" });
        }
        text.push_str("|\n");
        for row in &rows {
            self.line(&mut text, row, &widths);
        }
        text
    }

    fn line(&self, text: &mut String, cells: &[String], widths: &[usize]) {
        for ((cell, width), (_, is_number)) in cells.iter().zip(widths).zip(&self.columns) {
            let _ = if *is_number { write!(text, "| {cell:>width$} ") } else { write!(text, "| {cell:<width$} ") };
        }
        text.push_str("|\n");
    }
}

/// A cell of its own, whatever is in it.
pub(super) fn escaped(cell: &str) -> String {
    cell.replace('|', "\\|")
}

/// Two decimals, as published; "n/a": the sample does not carry it.
pub(super) fn two_decimals(value: Option<f64>) -> String {
    value.map_or_else(|| "n/a".to_owned(), |value| format!("{value:.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let rows = vec![vec!["lhr".to_owned(), "1.00".to_owned()], vec!["a|b".to_owned(), "100.00".to_owned()]];
        let table = Table { columns: vec![("Region", false), ("ms", true)], rows };
        let expected = "| Region |     ms |\n|--------|-------:|\n| lhr    |   1.00 |\n| a\\|b   | 100.00 |\n";
        assert_eq!(table.markdown(), expected);
    }
}
