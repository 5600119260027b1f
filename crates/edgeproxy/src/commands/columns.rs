//! Tables with numbers in them: right-aligned, as they are compared digit by digit.

use crate::commands::say;

/// Prints `rows` below `names`; the columns in `numeric` are aligned to the right, names included.
pub(crate) fn print<const N: usize>(names: [&str; N], numeric: &[usize], mut rows: Vec<[String; N]>) {
    let names = align(names, numeric, &mut rows);
    say::table(std::array::from_fn(|column| names[column].as_str()), &rows);
}

fn align<const N: usize>(names: [&str; N], numeric: &[usize], rows: &mut [[String; N]]) -> [String; N] {
    let mut names = names.map(str::to_owned);
    for &column in numeric {
        let cells = || rows.iter().map(|row| &row[column]).chain([&names[column]]);
        let width = cells().map(|cell| cell.chars().count()).max().unwrap_or(0);
        for cell in rows.iter_mut().map(|row| &mut row[column]).chain([&mut names[column]]) {
            *cell = format!("{cell:>width$}");
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::align;

    #[test]
    fn numbers_end_where_their_column_ends() {
        let mut rows = vec![["b1".to_owned(), "7".to_owned()], ["bö".to_owned(), "12345".to_owned()]];
        let names = align(["id", "soft"], &[1], &mut rows);
        assert_eq!(names, ["id", " soft"]);
        assert_eq!(rows[0], ["b1", "    7"]);
        assert_eq!(rows[1], ["bö", "12345"]);
    }
}
