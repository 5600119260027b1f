//! A text as a QR code of half blocks, two rows of modules to a line.

use std::io::{self, IsTerminal};

use fast_qr::{ECL, QRBuilder, QRCode};

use crate::commands::Failure;

/// Modules of white around the code (ISO/IEC 18004 asks for four).
const QUIET: usize = 4;
/// Black on white, whatever the terminal's own colours are.
const COLOURS: &str = "\x1b[38;5;16;48;5;231m";
const NO_COLOURS: &str = "\x1b[0m";

/// For standard output: in colours on a terminal, else for text that is light on dark.
pub(super) fn picture(text: &str) -> Result<String, Failure> {
    // The least correction, for the smallest code: a screen has no stains.
    let code = QRBuilder::new(text).ecl(ECL::L).build();
    let code = code.map_err(|error| Failure::Failed(format!("this is too long for a QR code: {error:?}")))?;
    Ok(draw(&code, io::stdout().is_terminal()))
}

fn draw(code: &QRCode, in_colours: bool) -> String {
    let is_dark = |x: usize, y: usize| {
        let inside = |at: usize| at.checked_sub(QUIET).filter(|at| *at < code.size);
        matches!((inside(x), inside(y)), (Some(x), Some(y)) if code[y][x].value())
    };
    let side = code.size + 2 * QUIET;
    let mut picture = String::new();
    for y in (0..side).step_by(2) {
        picture.push_str(if in_colours { COLOURS } else { "" });
        for x in 0..side {
            // Ink is what is dark in colours, and what is light without. Below the last row there is nothing to ink.
            let ink = |y: usize| y < side && is_dark(x, y) == in_colours;
            picture.push(match (ink(y), ink(y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        picture.push_str(if in_colours { NO_COLOURS } else { "" });
        picture.push('\n');
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of modules again: whether each is dark.
    fn modules(picture: &str, in_colours: bool) -> Vec<Vec<bool>> {
        let rows = picture.lines().flat_map(|line| {
            let line = line.trim_start_matches(COLOURS).trim_end_matches(NO_COLOURS);
            let half = |inked: [char; 2]| line.chars().map(|c| inked.contains(&c) == in_colours).collect::<Vec<_>>();
            [half(['█', '▀']), half(['█', '▄'])]
        });
        rows.collect()
    }

    #[test]
    fn every_module_is_where_it_belongs() {
        let code = QRBuilder::new("[Interface]\nPrivateKey = x\n").ecl(ECL::L).build().unwrap();
        for in_colours in [false, true] {
            let rows = modules(&draw(&code, in_colours), in_colours);
            let side = code.size + 2 * QUIET;
            assert!(rows.len() >= side && rows.iter().all(|row| row.len() == side));
            for (y, row) in rows[..side].iter().enumerate() {
                for (x, dark) in row.iter().enumerate() {
                    let inside = (QUIET..QUIET + code.size).contains(&x) && (QUIET..QUIET + code.size).contains(&y);
                    assert_eq!(*dark, inside && code[y - QUIET][x - QUIET].value(), "{x} {y}");
                }
            }
        }
    }

    #[test]
    fn what_is_too_long_is_refused() {
        assert!(picture(&"x".repeat(3000)).is_err());
        assert!(picture(&"x".repeat(2900)).is_ok());
    }
}
