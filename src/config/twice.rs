//! What a config file gives twice, which TOML does not allow: a key or a table, and where it stands first.
//!
//! TOML's parser tells the place of the second one only. The first is looked for here: among the keys that the parser
//! kept, or, of a table (which it dropped), among the lines that are headers.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::defs;
use super::reading::header;

/// A key, or the header of a table, that stands in the file for a second time.
pub(super) struct Twice<'t> {
    /// Dotted; empty for a table, whose name is in the text.
    pub(super) key: String,
    /// The name of the table, where it is one.
    pub(super) header: Option<&'t str>,
    /// Where it stands first.
    first: Option<usize>,
}

impl<'t> Twice<'t> {
    /// What stands at `span` of `source`, of which the parser made `table`.
    pub(super) fn of(source: &'t str, table: &DeTable<'_>, span: Range<usize>) -> Twice<'t> {
        let begin = source.get(..span.start).and_then(|before| before.rfind('\n')).map_or(0, |end| end + 1);
        if let Some(name) = source[begin..].lines().next().and_then(header_of) {
            let first = headers(&source[..begin]).find(|(_, earlier)| *earlier == name).map(|(at, _)| at);
            return Twice { key: String::new(), header: Some(name), first };
        }
        let name = source.get(span.clone()).unwrap_or_default().trim_matches(['"', '\'']);
        // The nearest before it is the one of the same table: tables stand in one piece.
        let mut found = Vec::new();
        keys(table, "", name, &mut found);
        let first = found.into_iter().filter(|(at, _)| *at < span.start).max();
        let key = first.as_ref().map_or_else(|| name.to_owned(), |(_, key)| key.clone());
        Twice { key, header: None, first: first.map(|(at, _)| at) }
    }

    /// Whether it is a table of which there may be several.
    pub(super) fn is_list(&self) -> bool {
        self.header.is_some_and(|name| defs::REPEATED.contains(&name))
    }

    /// What is wrong and what to do about it; `line` counts.
    pub(super) fn text(&self, line: impl Fn(usize) -> usize) -> String {
        let first = self.first.map_or_else(String::new, |at| format!(", first on line {}", line(at)));
        match self.header {
            Some(name) if self.is_list() => format!(
                "[{name}] is there twice{first}; a table of which there may be several is written {}, with two \
                 brackets, each time",
                header(name)
            ),
            Some(name) => format!("[{name}] is there twice{first}; put the keys of both under one of them"),
            None => format!("is there twice{first}; remove one"),
        }
    }
}

/// The name in a line that is a header: `[name]`, `[[name]]`.
fn header_of(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix('[')?.trim_start_matches('[').split(']').next()?;
    Some(name.trim())
}

/// The headers of a text, and where each begins.
fn headers(source: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut end = 0;
    let begins = source.split_inclusive('\n').map(move |line| {
        end += line.len();
        (end - line.len(), line)
    });
    begins.filter_map(|(begin, line)| Some((begin, header_of(line)?)))
}

/// Collects where a key of this name stands, in `table` (called `path`) and the tables in it, and what it is called.
fn keys(table: &DeTable<'_>, path: &str, name: &str, found: &mut Vec<(usize, String)>) {
    for (key, value) in table {
        let dotted = match path {
            "" => key.get_ref().to_string(),
            path => format!("{path}.{}", key.get_ref()),
        };
        match value.get_ref() {
            DeValue::Table(inner) => keys(inner, &dotted, name, found),
            DeValue::Array(items) => {
                let tables = items.iter().filter_map(|item| item.get_ref().as_table());
                tables.for_each(|inner| keys(inner, &dotted, name, found));
            }
            _ => {}
        }
        if key.get_ref() == name {
            found.push((key.span().start, dotted));
        }
    }
}
