//! How `postrider sql` shows rows: as a table, a value a line, for scripts, or for programs.
//!
//! What is meant for people shows every character: those that a terminal obeys are escaped.

use std::borrow::Cow;
use std::io::{self, Write};

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::cli::output::seen_json;
use crate::kit::text::printable;
use crate::queue::shell::{Cell, Ran};

/// Rows of a table that are looked at for the width of its columns.
const ROWS_BEFORE_WIDTHS: usize = 1000;
/// Columns of a value in a table.
const CELL_COLUMNS_MAX: usize = 60;
/// Columns between two values.
const GAP: usize = 2;

/// How rows are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Mode {
    /// Aligned, with the names of the columns
    Table,
    /// A value a line, whole, with the name of its column
    Line,
    /// Values with | between them and no names, for scripts
    List,
    /// RFC 4180, with the names of the columns
    Csv,
    /// An object a line
    Json,
    /// The value alone, its line ends kept
    #[value(skip)]
    Text,
}

/// The rows of one statement after the other.
pub(super) struct Layout {
    mode: Mode,
    /// Of the terminal. A table that is wider is shown a value a line.
    columns: Option<usize>,
    too_wide: bool,
    names: Vec<String>,
    /// Rows of a table whose widths are not known yet.
    waiting: Vec<Vec<String>>,
    widths: Option<Vec<usize>>,
}

impl Layout {
    pub(super) fn new(mode: Mode, columns: Option<usize>) -> Layout {
        Layout { mode, columns, too_wide: false, names: Vec::new(), waiting: Vec::new(), widths: None }
    }

    /// Writes what a statement tells.
    ///
    /// # Errors
    /// Of writing.
    pub(super) fn tell(&mut self, ran: &Ran<'_>, out: &mut impl Write) -> io::Result<()> {
        match ran {
            Ran::Columns(names) => {
                self.names = names.to_vec();
                if self.mode == Mode::Json {
                    number_equal(&mut self.names);
                }
                if self.mode == Mode::Csv {
                    csv_line(self.names.iter().map(|name| Cow::Borrowed(name.as_str())), out)?;
                }
                Ok(())
            }
            Ran::Row(cells) => self.row(cells, out),
            Ran::Done { .. } => {
                self.write_table(out)?;
                (self.names, self.widths, self.too_wide) = (Vec::new(), None, false);
                Ok(())
            }
        }
    }

    fn row(&mut self, cells: &[Cell<'_>], out: &mut impl Write) -> io::Result<()> {
        match self.mode {
            Mode::Table => {
                self.waiting.push(cells.iter().map(|cell| cut(&seen(*cell))).collect());
                if self.widths.is_some() || self.waiting.len() >= ROWS_BEFORE_WIDTHS {
                    self.write_table(out)?;
                }
                Ok(())
            }
            Mode::Line => self.lines(cells.iter().map(|cell| seen(*cell)), out),
            Mode::List => {
                let values: Vec<String> = cells.iter().map(|cell| seen(*cell)).collect();
                writeln!(out, "{}", values.join("|"))
            }
            Mode::Csv if self.columns.is_some() => csv_line(cells.iter().map(|cell| seen(*cell).into()), out),
            Mode::Csv => csv_line(cells.iter().map(|cell| raw(*cell)), out),
            Mode::Json => {
                let object = self.names.iter().cloned().zip(cells.iter().map(|cell| value(*cell)));
                let object = serde_json::Value::Object(object.collect());
                writeln!(out, "{}", seen_json(&object.to_string()))
            }
            Mode::Text => cells.iter().try_for_each(|cell| {
                raw(*cell).lines().try_for_each(|line| writeln!(out, "{}", printable(line.as_bytes())))
            }),
        }
    }

    /// The rows that wait, with the names above the first.
    fn write_table(&mut self, out: &mut impl Write) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let is_first = self.widths.is_none();
        let widths = self.widths.get_or_insert_with(|| {
            let longest = |at: usize, name: &String| {
                let values = waiting.iter().filter_map(|row| row.get(at)).map(|value| value.width());
                values.max().unwrap_or_default().max(name.width())
            };
            self.names.iter().enumerate().map(|(at, name)| longest(at, name)).collect::<Vec<_>>()
        });
        if is_first {
            let width = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
            self.too_wide = self.columns.is_some_and(|columns| width > columns);
        }
        if self.too_wide {
            return waiting.into_iter().try_for_each(|row| self.lines(row.into_iter(), out));
        }
        if is_first && !waiting.is_empty() {
            table_line(&self.names, widths, out)?;
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            table_line(&rules, widths, out)?;
        }
        waiting.iter().try_for_each(|row| table_line(row, widths, out))
    }

    /// A row, a value a line.
    fn lines(&self, values: impl Iterator<Item = String>, out: &mut impl Write) -> io::Result<()> {
        let width = self.names.iter().map(|name| name.width()).max().unwrap_or_default();
        for (name, value) in self.names.iter().zip(values) {
            writeln!(out, "{}{name} = {value}", " ".repeat(width - name.width()))?;
        }
        writeln!(out)
    }
}

fn table_line(values: &[String], widths: &[usize], out: &mut impl Write) -> io::Result<()> {
    let pad = |value: &String, width: usize| value.clone() + &" ".repeat(width.saturating_sub(value.width()));
    let cells = values.iter().zip(widths).map(|(value, width)| pad(value, *width));
    writeln!(out, "{}", cells.collect::<Vec<_>>().join(&" ".repeat(GAP)).trim_end())
}

fn csv_line<'v>(values: impl Iterator<Item = Cow<'v, str>>, out: &mut impl Write) -> io::Result<()> {
    let quoted = values.map(|value| match value.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", value.replace('"', "\"\"")),
        false => value.into_owned(),
    });
    write!(out, "{}\r\n", quoted.collect::<Vec<_>>().join(","))
}

/// An object has each name once: the second `a` becomes `a_2`.
fn number_equal(names: &mut [String]) {
    for at in 1..names.len() {
        let (before, rest) = names.split_at_mut(at);
        let name = &mut rest[0];
        let mut number = 2;
        let own = name.clone();
        while before.contains(name) {
            *name = format!("{own}_{number}");
            number += 1;
        }
    }
}

/// As it is.
fn raw(cell: Cell<'_>) -> Cow<'_, str> {
    match cell {
        Cell::Null => Cow::Borrowed(""),
        Cell::Integer(number) => Cow::Owned(number.to_string()),
        Cell::Real(number) => Cow::Owned(number.to_string()),
        Cell::Bytes(bytes) => String::from_utf8_lossy(bytes),
    }
}

/// One line in which every character can be seen.
fn seen(cell: Cell<'_>) -> String {
    match cell {
        Cell::Bytes(bytes) => printable(bytes).into_owned(),
        cell => raw(cell).into_owned(),
    }
}

fn cut(value: &str) -> String {
    if value.width() <= CELL_COLUMNS_MAX {
        return value.to_owned();
    }
    let mut columns = 1;
    let fits = |letter: &char| {
        columns += letter.width().unwrap_or_default();
        columns <= CELL_COLUMNS_MAX
    };
    value.chars().take_while(fits).chain(['…']).collect()
}

fn value(cell: Cell<'_>) -> serde_json::Value {
    match cell {
        Cell::Null => serde_json::Value::Null,
        Cell::Integer(number) => number.into(),
        Cell::Real(number) => number.into(),
        Cell::Bytes(_) => raw(cell).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(mode: Mode) -> String {
        let names = ["id".to_owned(), "reply".to_owned()];
        let long = "y".repeat(70);
        let rows: [[Cell<'_>; 2]; 4] = [
            [Cell::Integer(1), Cell::Bytes(b"a,\"b\"\x1b[2J")],
            [Cell::Integer(-20), Cell::Null],
            [Cell::Real(1.5), Cell::Bytes(b"\xff")],
            [Cell::Integer(4), Cell::Bytes(long.as_bytes())],
        ];
        let (mut layout, mut out) = (Layout::new(mode, None), Vec::new());
        layout.tell(&Ran::Columns(&names), &mut out).unwrap();
        rows.iter().for_each(|row| layout.tell(&Ran::Row(row), &mut out).unwrap());
        layout.tell(&Ran::Done { changed: 0 }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_table_is_aligned_cut_and_shows_every_character() {
        let dots = format!("{}…", "y".repeat(59));
        let rule = "-".repeat(60);
        assert_eq!(
            shown(Mode::Table),
            format!("id   reply\n---  {rule}\n1    a,\"b\"\\x1B[2J\n-20\n1.5  \\xFF\n4    {dots}\n")
        );
    }

    fn table(columns: usize, rows: &[[&str; 2]]) -> String {
        let (mut layout, mut out) = (Layout::new(Mode::Table, Some(columns)), Vec::new());
        layout.tell(&Ran::Columns(&["name".to_owned(), "n".to_owned()]), &mut out).unwrap();
        for row in rows {
            let cells = row.map(|value| Cell::Bytes(value.as_bytes()));
            layout.tell(&Ran::Row(&cells), &mut out).unwrap();
        }
        layout.tell(&Ran::Done { changed: 0 }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// What a terminal takes two columns for, and one, and none.
    #[test]
    fn columns_are_those_of_a_terminal() {
        let rows = [["日本語", "1"], ["gru\u{308}n", "2"], ["grün", "3"]];
        let aligned = "name    n\n------  -\n日本語  1\ngru\u{308}n    2\ngrün    3\n";
        assert_eq!(table(9, &rows), aligned);
        let wide = "日".repeat(31);
        assert!(table(80, &[[&wide, "1"]]).contains(&format!("\n{}…  1\n", "日".repeat(29))));
    }

    #[test]
    fn a_table_that_is_wider_than_the_terminal_is_shown_a_value_a_line() {
        assert_eq!(
            table(8, &[["日本語", "1"], ["x", "2"]]),
            "name = 日本語\n   n = 1\n\nname = x\n   n = 2\n\n"
        );
    }

    #[test]
    fn programs_get_everything() {
        let json = shown(Mode::Json);
        let lines: Vec<serde_json::Value> =
            json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["reply"], "a,\"b\"\u{1b}[2J");
        assert_eq!((&lines[1]["id"], &lines[1]["reply"]), (&(-20).into(), &serde_json::Value::Null));
        assert_eq!(lines[3]["reply"].as_str().unwrap().len(), 70);
        assert!(shown(Mode::Csv).starts_with("id,reply\r\n1,\"a,\"\"b\"\"\x1b[2J\"\r\n-20,\r\n"));
        assert!(shown(Mode::List).starts_with("1|a,\"b\"\\x1B[2J\n-20|\n"));
        assert!(shown(Mode::Line).starts_with("   id = 1\nreply = a,\"b\"\\x1B[2J\n\n"));
    }

    #[test]
    fn a_terminal_gets_no_control_characters_in_csv_either() {
        let (mut layout, mut out) = (Layout::new(Mode::Csv, Some(80)), Vec::new());
        layout.tell(&Ran::Columns(&["a".to_owned()]), &mut out).unwrap();
        layout.tell(&Ran::Row(&[Cell::Bytes(b"\x1b]0;b\x07")]), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a\r\n\\x1B]0;b\\x07\r\n");
    }

    #[test]
    fn columns_of_one_name_are_all_in_the_object() {
        let (mut layout, mut out) = (Layout::new(Mode::Json, None), Vec::new());
        layout.tell(&Ran::Columns(&["a", "a_2", "a", "a"].map(str::to_owned)), &mut out).unwrap();
        layout.tell(&Ran::Row(&[1, 2, 3, 4].map(Cell::Integer)), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "{\"a\":1,\"a_2\":2,\"a_3\":3,\"a_4\":4}\n");
    }
}
