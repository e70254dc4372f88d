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
/// Those of them that say why: they get the room that the others leave.
const REPLIES: [&str; 5] = ["LAST REPLY", "REPLY", "SAID", "REASON", "WHY"];
/// What a reply keeps until addresses and hosts are cut, too.
const REPLY_WELL: usize = 40;
/// What a reply and another text keep as long as one of [`LEFT_OUT`] is there.
const ENOUGH: (usize, usize) = (25, 16);
/// Columns that are left out where the room is too small for all, in this order.
const LEFT_OUT: [&str; 6] = ["SIZE", "SENDER", "SENDERS", "TRIES", "TOOK", "HOSTS"];
/// Of a head above numbers so many letters are left.
const HEAD_MIN: usize = 4;

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
    let mut shown: Vec<Column<'_>> = (0..columns).map(|at| column(at, head, &rows)).collect();
    if let Some(columns) = look.columns {
        fit(&mut shown, columns);
    }
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        let is_head = at == 0 && !head.is_empty();
        let cells = shown.iter().map(|column| {
            let cell = row.get(column.at).map_or("", String::as_str);
            let cell = match column.head {
                head if is_head && column.is_number => head.chars().take(column.width).collect(),
                "SENDER" | "RECIPIENT" => cut_address(cell, column.width),
                _ => cut(cell, column.width),
            };
            let blanks = " ".repeat(column.width.saturating_sub(cell.width()));
            match code(is_head, column.head, &cell) {
                Some(code) if !cell.is_empty() => look.paint(code, cell.trim_end()) + &blanks,
                _ => cell + &blanks,
            }
        });
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join(&" ".repeat(GAP)).trim_end());
    }
    text
}

/// As wide as its widest cell.
fn column<'a>(at: usize, head: &[&'a str], rows: &[Vec<String>]) -> Column<'a> {
    let head = head.get(at).copied().unwrap_or_default();
    let cells = || rows.iter().skip(usize::from(!head.is_empty())).filter_map(|row| row.get(at));
    let is_number =
        |cell: &String| cell.len() <= 7 && cell.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    let is_number = !CUT.contains(&head) && cells().all(is_number);
    let width = cells().map(|cell| cell.width()).max().unwrap_or(0);
    Column { at, head, width: width.max(head.width()), cells: width, is_number }
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

/// A column that is shown.
struct Column<'a> {
    /// Its place in a row.
    at: usize,
    head: &'a str,
    width: usize,
    /// Without its head.
    cells: usize,
    /// Numbers and short spans: its head may be cut.
    is_number: bool,
}

impl Column<'_> {
    /// What it keeps where a reply and another text keep so much.
    fn kept(&self, (reply, text): (usize, usize)) -> usize {
        match CUT.contains(&self.head) {
            true if REPLIES.contains(&self.head) => self.width.min(reply),
            true => self.width.min(text),
            false => self.width,
        }
    }
}

/// How wide all of them are, each as `width` has it.
fn sum(all: &[Column<'_>], width: impl Fn(&Column<'_>) -> usize) -> usize {
    all.iter().map(width).sum::<usize>() + GAP * all.len().saturating_sub(1)
}

/// Cuts the heads of numbers, leaves columns out, then takes from the widest of the texts, until it fits or nothing
/// more can be taken.
fn fit(all: &mut Vec<Column<'_>>, columns: usize) {
    if sum(all, |column| column.width) <= columns {
        return;
    }
    for column in all.iter_mut().filter(|column| column.is_number) {
        column.width = column.cells.max(HEAD_MIN).min(column.width);
    }
    for name in LEFT_OUT {
        if sum(all, |column| column.kept(ENOUGH)) > columns {
            all.retain(|column| column.head != name);
        }
    }
    for kept in [(REPLY_WELL, usize::MAX), (REPLY_WELL, ENOUGH.1), ENOUGH, (CUT_TO_MIN, CUT_TO_MIN)] {
        for _ in columns..sum(all, |column| column.width) {
            let may = all.iter_mut().filter(|column| column.width > column.kept(kept));
            let Some(widest) = may.max_by_key(|column| column.width) else { break };
            widest.width -= 1;
        }
    }
}

/// As many columns of an address: of its domain as much as there is room for, then of its local part.
fn cut_address(address: &str, columns: usize) -> String {
    let at = address.rfind('@').unwrap_or(0);
    let (local, domain) = address.split_at(at);
    if address.width() <= columns || local.is_empty() {
        return cut(address, columns);
    }
    match columns.checked_sub(domain.width()) {
        Some(room) if room >= 2 => cut(local, room) + domain,
        _ => {
            let mut rest = domain;
            while rest.width() + 1 > columns {
                let mut letters = rest.chars();
                if letters.next().is_none() {
                    break;
                }
                rest = letters.as_str();
            }
            format!("…{rest}")
        }
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
                text.contains("01MB1Z4QK3S")
                    && (columns >= 70 || text.contains('…') || !text.contains("SENDER")),
                "{columns}:\n{text}"
            );
        }
        let whole = table(Look::default(), &HEAD, rows());
        assert!(whole.contains("somebody@a-rather-long.example") && whole.contains("come back later"));
    }

    fn cells(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// What operators could not read at 80 columns.
    #[test]
    fn at_80_columns_there_is_room_for_domains_and_for_what_was_said() {
        let look = Look { columns: Some(80), is_coloured: false };
        let blocked = "550 5.7.1 <u0.app.0@d29.test>: Recipient address rejected: blocked using zen.example";
        let policy = "(local) 421 4.4.1 connection lost while connecting: Connection refused";
        let list = |next: &str, reply: &str| {
            let row = [
                "1K1FDVBQR5G",
                "34s",
                "260",
                "queued",
                "1",
                next,
                "<app@sender.test>",
                "u0.app.0@d29.test",
                reply,
            ];
            let head = ["ID", "AGE", "SIZE", "STATE", "TRIES", "NEXT", "SENDER", "RECIPIENT", "LAST REPLY"];
            table(look, &head, vec![cells(&row)])
        };
        for (next, reply) in
            [("in 59m", blocked), ("in 59m", policy), ("suspended", blocked), ("bounce", policy)]
        {
            let text = list(next, reply);
            assert!(text.contains("@d29.test") && text.contains(&reply[..24]), "{text}");
            assert!(text.lines().all(|line| line.width() <= 80), "{text}");
        }
        let failures = ["RECIPIENTS", "WAITING", "FAILED", "HOSTS", "SENDERS", "EXAMPLE", "REASON"];
        let reason = |reason| {
            let row = cells(&["40", "40", "0", "1", "3", "1K1FDVBQR5G", reason]);
            table(look, &failures, vec![row])
        };
        let blocked = reason("550 5.7.1 <…>: Recipient address rejected: blocked using zen.example");
        assert!(blocked.contains("550 5.7.1 <…>: Recipient address"), "{blocked}");
        let report = [
            "DOMAIN",
            "ACCEPTED",
            "DELIVERED",
            "HALF IN",
            "95% IN",
            "DEFERRED",
            "BOUNCED",
            "EXPIRED",
            "REMOVED",
            "WAITING",
        ];
        let row = cells(&["a-long-domain.d07.test", "382", "87", "1s", "12m", "217", "36", "0", "-", "66"]);
        let text = table(look, &report, vec![row]);
        assert!(text.contains("a-long-domain.d07.test") && text.contains("ACCE  DELI  HALF  95%"), "{text}");
    }

    #[test]
    fn of_an_address_the_domain_stays() {
        for (address, columns, wanted) in [
            ("u0.app.0@d15.test", 17, "u0.app.0@d15.test"),
            ("u0.app.0@d15.test", 14, "u0.a…@d15.test"),
            ("<app@sender.test>", 16, "<a…@sender.test>"),
            ("u@a-long-one.example.org", 12, "…example.org"),
            ("<>", 1, "…"),
            ("u@\u{65e5}\u{672c}.test", 7, "….test"),
            ("u@d.test", 0, "…"),
        ] {
            let cut = cut_address(address, columns);
            assert!(cut.width() <= columns.max(1), "{cut}");
            assert_eq!(cut, wanted, "{address} {columns}");
        }
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
