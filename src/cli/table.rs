//! Aligned tables for people: as wide as the terminal that they are read on, with a little colour there.
//!
//! What is not read on a terminal (a file, `| grep`) is whole and plain. What hosts and clients said is printed with
//! its control characters escaped, so that no reply can write on the operator's terminal.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::kit::text::printable;

/// Of a terminal that does not know its width.
const COLUMNS: usize = 80;
/// Between two cells.
const GAP: usize = 2;
/// Columns that lose what does not fit, by their heads. All others are whole: ids, numbers, times, states.
const CUT: [&str; 14] = [
    "SENDER",
    "RECIPIENT",
    "LAST REPLY",
    "REPLY",
    "SAID",
    "DOMAIN",
    "LANE",
    "HOST",
    "FOR",
    "USER",
    "REASON",
    "WHY",
    "REFUSED BY",
    "THROTTLED",
];
/// What is left of such a column.
const CUT_TO_MIN: usize = 6;

/// Who reads it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Look {
    /// None: as wide as it comes.
    columns: Option<usize>,
    is_coloured: bool,
}

impl Look {
    /// Of standard output.
    pub(super) fn of_stdout() -> Look {
        if !std::io::stdout().is_terminal() {
            return Look::default();
        }
        let word = |name| std::env::var(name).unwrap_or_default();
        Look {
            columns: Some(terminal_columns().unwrap_or(COLUMNS)),
            is_coloured: takes_colour(&word("NO_COLOR"), &word("TERM")),
        }
    }

    /// Without colour, for a screen of so many columns.
    pub(super) fn of_width(columns: usize) -> Look {
        Look { columns: Some(columns), is_coloured: false }
    }

    /// Sets a line off from what is below it.
    pub(super) fn heading(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Draws attention to a line.
    pub(super) fn alarm(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.is_coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// <https://no-color.org>: set and not empty.
fn takes_colour(no_color: &str, term: &str) -> bool {
    no_color.is_empty() && term != "dumb"
}

/// How wide the terminal on standard output is; none where it does not know.
pub(super) fn terminal_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Columns as wide as their widest cell, or cut to fit; no blanks at the end of a line.
pub(super) fn table(look: Look, head: &[&str], rows: Vec<Vec<String>>) -> String {
    let heads = (!head.is_empty()).then(|| head.iter().map(|name| (*name).to_owned()).collect());
    let rows: Vec<Vec<String>> = heads
        .into_iter()
        .chain(rows)
        .map(|row: Vec<String>| row.iter().map(|cell| printable(cell.as_bytes()).into_owned()).collect())
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max();
    let mut widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    if let Some(columns) = look.columns {
        fit(&mut widths, head, columns);
    }
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        let is_head = at == 0 && !head.is_empty();
        let last = row.iter().rposition(|cell| !cell.is_empty()).unwrap_or(0);
        let cells = row.iter().zip(&widths).enumerate().take(last + 1).map(|(column, (cell, width))| {
            let cell = cut(cell, *width);
            let blanks = if column == last { 0 } else { width.saturating_sub(cell.width()) };
            let painted = match code(is_head, head.get(column).copied().unwrap_or_default(), &cell) {
                Some(code) => look.paint(code, &cell),
                None => cell,
            };
            painted + &" ".repeat(blanks)
        });
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join(&" ".repeat(GAP)).trim_end());
    }
    text
}

/// Lines that are wider than the terminal go on in the next one, further in; a word is whole.
pub(super) fn wrapped(look: Look, text: &str) -> String {
    let Some(columns) = look.columns else { return text.to_owned() };
    let mut wrapped = String::with_capacity(text.len());
    for line in text.lines() {
        let blanks = line.len() - line.trim_start_matches(' ').len();
        let (mut rest, mut indent) = (line, String::new());
        while rest.width() + indent.len() > columns
            && let Some(end) = last_that_fits(rest, columns.saturating_sub(indent.len()))
        {
            let _ = writeln!(wrapped, "{indent}{}", rest[..end].trim_end());
            rest = rest[end..].trim_start();
            indent = " ".repeat((blanks + 4).min(columns / 2));
        }
        let _ = writeln!(wrapped, "{indent}{rest}");
    }
    wrapped
}

/// The end of the last word that fits, or of the first where none does. None: there is one word only.
fn last_that_fits(line: &str, columns: usize) -> Option<usize> {
    let first = line.find(|c| c != ' ')?;
    let ends = line.match_indices(' ').map(|(at, _)| at).filter(|at| *at > first);
    let ends = ends.filter(|at| !line[*at..].trim_start().is_empty());
    let (mut found, mut width, mut from) = (None, 0, 0);
    for end in ends {
        (width, from) = (width + line[from..end].width(), end);
        if found.is_some() && width > columns {
            break;
        }
        found = Some(end);
    }
    found
}

/// SGR (ECMA-48 section 8.3.117): bold heads, and what became of mail.
fn code(is_head: bool, head: &str, cell: &str) -> Option<&'static str> {
    match (head, cell) {
        _ if is_head => Some("1"),
        ("STATE", "delivered" | "relayed") => Some("32"),
        ("STATE", "held") => Some("33"),
        ("STATE", "failed" | "expired") => Some("31"),
        _ => None,
    }
}

/// Takes from the widest of those that may be cut, until it fits or nothing more can be taken.
fn fit(widths: &mut [usize], head: &[&str], columns: usize) {
    let gaps = GAP * widths.len().saturating_sub(1);
    let mut surplus = (widths.iter().sum::<usize>() + gaps).saturating_sub(columns);
    while surplus > 0 {
        let may = |at: usize, width: usize| {
            width > CUT_TO_MIN && head.get(at).is_some_and(|name| CUT.contains(name))
        };
        let widest = widths
            .iter_mut()
            .enumerate()
            .filter(|(at, width)| may(*at, **width))
            .max_by_key(|(_, width)| **width);
        let Some((_, widest)) = widest else { return };
        *widest -= 1;
        surplus -= 1;
    }
}

/// At most so many columns of it, the last one `…` where something is missing.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let fits = |letter: &char| {
        let width = letter.width().unwrap_or_default();
        let is_room = width <= left;
        left = if is_room { left - width } else { 0 };
        is_room
    };
    text.chars().take_while(fits).collect::<String>() + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: [&str; 3] = ["ID", "SENDER", "LAST REPLY"];

    fn rows() -> Vec<Vec<String>> {
        let row = |words: [&str; 3]| words.map(str::to_owned).to_vec();
        vec![
            row(["01MB1Z4QK3R", "somebody@a-rather-long.example", "451 4.7.1 come back later"]),
            row([
                "01MB1Z4QK3S",
                "\u{65e5}\u{672c}\u{8a9e}\u{65e5}\u{672c}\u{8a9e}@\u{65e5}\u{672c}.example",
                "",
            ]),
        ]
    }

    #[test]
    fn a_reply_cannot_write_on_the_terminal() {
        let rows = vec![vec!["\u{1b}[2Jx\ny".to_owned(), String::new()]];
        assert_eq!(table(Look::default(), &["A", "B"], rows), "A            B\n\\x1B[2Jx\\ny\n");
    }

    #[test]
    fn a_table_is_no_wider_than_the_terminal_and_says_where_it_was_cut() {
        for columns in 26..90 {
            let text = table(Look { columns: Some(columns), is_coloured: false }, &HEAD, rows());
            assert!(text.lines().all(|line| line.width() <= columns.max(27)), "{columns}:\n{text}");
            assert!(
                text.contains("01MB1Z4QK3S") && (columns >= 70 || text.contains('…')),
                "{columns}:\n{text}"
            );
        }
        let whole = table(Look::default(), &HEAD, rows());
        assert!(whole.contains("somebody@a-rather-long.example") && whole.contains("come back later"));
    }

    #[test]
    fn what_is_wider_than_the_terminal_goes_on_in_the_next_line_and_words_are_whole() {
        let word = "0123456789".repeat(4);
        let text = format!("  one two  three\n{word}\n    a {word} b c\n\nend  \n");
        let wrapped = |columns| wrapped(Look::of_width(columns), &text);
        assert_eq!(wrapped(80), text);
        assert_eq!(
            wrapped(14),
            format!("  one two\n      three\n{word}\n    a\n       {word}\n       b c\n\nend  \n")
        );
        assert_eq!(super::wrapped(Look::default(), &text), text);
        // Columns of letters that are two wide.
        let wide = "\u{65e5}\u{672c} ".repeat(9);
        assert!(super::wrapped(Look::of_width(20), &wide).lines().all(|line| line.width() <= 20));
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let rows = vec![
            vec!["\u{65e5}\u{672c}".to_owned(), "x".to_owned()],
            vec!["abcd".to_owned(), "y".to_owned()],
        ];
        assert_eq!(table(Look::default(), &[], rows), "\u{65e5}\u{672c}  x\nabcd  y\n");
        assert_eq!(cut("\u{65e5}\u{672c}\u{8a9e}", 4), "\u{65e5}…");
        assert_eq!(cut("\u{65e5}\u{672c}\u{8a9e}", 5), "\u{65e5}\u{672c}…");
    }

    #[test]
    fn colour_is_for_terminals_that_want_it() {
        let rows = || vec![vec!["held".to_owned()]];
        let coloured = table(Look { columns: None, is_coloured: true }, &["STATE"], rows());
        assert_eq!(coloured, "\x1b[1mSTATE\x1b[0m\n\x1b[33mheld\x1b[0m\n");
        assert_eq!(table(Look::default(), &["STATE"], rows()), "STATE\nheld\n");
        for (no_color, term, wanted) in [("", "xterm", true), ("1", "xterm", false), ("", "dumb", false)] {
            assert_eq!(takes_colour(no_color, term), wanted, "{no_color} {term}");
        }
    }
}
