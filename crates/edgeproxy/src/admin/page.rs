//! Lists in pages: `?limit=&cursor=`, answered by `{"items":[..],"next":cursor or null}`.

use std::fmt::Write;

use serde::Serialize;

use super::problem::Problem;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// One page of a list.
#[derive(Serialize)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// Where the next page begins; `None`: this is the last.
    pub(super) next: Option<String>,
}

impl<T> Page<T> {
    /// Of `items`, which hold one more than `limit` when there is a further page.
    pub(super) fn of(mut items: Vec<T>, limit: usize, cursor: impl FnOnce(&T) -> String) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(cursor);
        Self { items, next }
    }
}

/// Items a page may have.
pub(super) fn limit(parameter: Option<&str>) -> Result<usize, Problem> {
    let Some(text) = parameter else { return Ok(DEFAULT_LIMIT) };
    // `parse` would take a plus sign, which in a query is a space.
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number
        .filter(|number| (1..=MAX_LIMIT).contains(number))
        .ok_or_else(|| Problem::field("limit", format!("{text:?} is not a number from 1 to {MAX_LIMIT}")))
}

/// A cursor that stands for a name. In hex: any name survives in a URL, and nobody takes it for one to make up.
pub(super) fn cursor_of_name(name: &str) -> String {
    name.bytes().fold(String::with_capacity(2 * name.len()), |mut cursor, byte| {
        let _ = write!(cursor, "{byte:02x}");
        cursor
    })
}

/// The name a cursor stands for.
pub(super) fn name_of_cursor(cursor: &str) -> Result<String, Problem> {
    let digits: Option<Vec<u8>> =
        cursor.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    digits
        .filter(|digits| digits.len().is_multiple_of(2))
        .and_then(|digits| String::from_utf8(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()).ok())
        .ok_or_else(foreign_cursor)
}

/// A cursor that stands for a number.
pub(super) fn cursor_of_number(number: u64) -> String {
    format!("{number:016x}")
}

/// The number a cursor stands for.
pub(super) fn number_of_cursor(cursor: &str) -> Result<u64, Problem> {
    let is_hex = cursor.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u64::from_str_radix(cursor, 16).ok()).flatten().ok_or_else(foreign_cursor)
}

fn foreign_cursor() -> Problem {
    Problem::field("cursor", "is none that this list gave out as \"next\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_stand_for_what_they_were_made_of() {
        for name in ["b1", "", "näme/with ?&%", "\u{1F310}"] {
            assert_eq!(name_of_cursor(&cursor_of_name(name)).unwrap(), name);
        }
        for number in [0, 1, u64::MAX] {
            assert_eq!(number_of_cursor(&cursor_of_number(number)).unwrap(), number);
        }
        for foreign in ["x", "abc", "ff", "b1+", "é"] {
            assert!(name_of_cursor(foreign).is_err(), "{foreign}");
        }
        for foreign in ["", "x", "+1", "-1", "11111111111111111"] {
            assert!(number_of_cursor(foreign).is_err(), "{foreign}");
        }
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!(limit(None).unwrap(), 100);
        assert_eq!(limit(Some("1000")).unwrap(), 1000);
        for wrong in ["", "0", "1001", "-1", "+1", "1.0", "99999999999999999999999"] {
            assert!(limit(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_page_tells_whether_there_is_another() {
        let page = Page::of(vec![1, 2, 3], 2, |last| last.to_string());
        assert_eq!((page.items, page.next.as_deref()), (vec![1, 2], Some("2")));
        let page = Page::of(vec![1, 2], 2, |last| last.to_string());
        assert_eq!((page.items, page.next), (vec![1, 2], None));
    }
}
