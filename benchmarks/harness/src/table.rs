//! Markdown tables that also read well in a terminal.

/// A table with a heading per column; the first column is text, the others are figures.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: Vec<String>) -> Self {
        Self { rows: vec![headings] }
    }

    pub(crate) fn add(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn to_markdown(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |column: usize| {
            let lengths = self.rows.iter().map(|row| cell(row, column).chars().count());
            lengths.max().unwrap_or(0).max(3)
        };
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            for column in 0..columns {
                let (value, width) = (cell(row, column), width(column));
                let padded = if column == 0 { format!("{value:<width$}") } else { format!("{value:>width$}") };
                text.push_str(&format!("| {padded} "));
            }
            text.push_str("|\n");
            if number == 0 {
                for column in 0..columns {
                    let dashes = "-".repeat(width(column));
                    let rule = if column == 0 { format!("| {dashes} ") } else { format!("| {}: ", &dashes[1..]) };
                    text.push_str(&rule);
                }
                text.push_str("|\n");
            }
        }
        text
    }
}

/// A figure with a fixed number of decimals, or a dash where there is none.
pub(crate) fn figure(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| grouped(&format!("{value:.decimals$}")))
}

/// Thousands set apart by commas.
fn grouped(digits: &str) -> String {
    let (whole, fraction) = digits.split_once('.').map_or((digits, ""), |(whole, fraction)| (whole, fraction));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let mut text = String::from(sign);
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if !fraction.is_empty() {
        text.push('.');
        text.push_str(fraction);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_missing_cells_are_empty() {
        let mut table = Table::new(vec!["peer".to_owned(), "µs".to_owned()]);
        table.add(vec!["nginx".to_owned(), "10.5".to_owned()]);
        table.add(vec!["none".to_owned()]);
        let expected = "| peer  |   µs |\n| ----- | ---: |\n| nginx | 10.5 |\n| none  |      |\n";
        assert_eq!(table.to_markdown(), expected);
    }

    #[test]
    fn figures_are_grouped_by_thousands() {
        assert_eq!(figure(Some(1_234_567.891), 1), "1,234,567.9");
        assert_eq!(figure(Some(-1234.0), 0), "-1,234");
        assert_eq!(figure(Some(123.0), 0), "123");
        assert_eq!(figure(None, 2), "-");
    }
}
