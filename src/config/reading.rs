//! A config file while it is read: its tables, where each key stands, and the problems so far.
//!
//! A bad value does not end the reading: it is noted, its default stands in for it, and the
//! reading goes on, so that every problem of a file is told at once.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::defs::{self, Kind, Preset};
use super::environment::Environment;
use super::problem::Problem;
use super::value::{Read, Wrong};

/// Letters of a key that are enough to tell which key was begun.
const BEGUN_MIN: usize = 3;

/// The file, and what was found wrong with it.
pub(super) struct Reading<'t> {
    file: &'t Path,
    source: &'t str,
    /// Its variables stand behind the end of `source`.
    environment: &'t Environment,
    /// Keeps the config from being used.
    pub(super) problems: Vec<Problem>,
    /// Does not.
    pub(super) warnings: Vec<Problem>,
    /// Where the keys stand whose values are bad, so that the default that stands in for one is
    /// not judged as if the operator had written it.
    bad: HashSet<usize>,
}

/// One table of the file (the top level has the name ""), or one that is not there.
#[derive(Clone, Copy)]
pub(super) struct Section<'t> {
    name: &'static str,
    table: Option<&'t DeTable<'t>>,
    /// Where it begins; none where it is not in the file.
    at: Option<usize>,
}

impl<'t> Section<'t> {
    /// A table that the file does not have: every key is at its default.
    pub(super) fn absent(name: &'static str) -> Section<'t> {
        Section { name, table: None, at: None }
    }

    /// The top level.
    pub(super) fn root(table: &'t DeTable<'t>) -> Section<'t> {
        Section { name: "", table: Some(table), at: None }
    }

    fn entry(&self, key: &str) -> Option<(Range<usize>, &'t Spanned<DeValue<'t>>)> {
        let entry = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some((entry.0.span(), entry.1))
    }

    /// Whether the file gives this key, be its value good or bad.
    pub(super) fn gives(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Every key and value, for a table whose keys the operator chooses.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'t str, usize, &'t DeValue<'t>)> {
        self.table
            .into_iter()
            .flat_map(|table| table.iter())
            .map(|(key, value)| (key.get_ref().as_ref(), key.span().start, value.get_ref()))
    }

    fn dotted(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

impl<'t> Reading<'t> {
    /// Begins to read `source`, the text of `file`, and `environment`, whose own problems are told first.
    pub(super) fn new(file: &'t Path, source: &'t str, environment: &'t Environment) -> Reading<'t> {
        let problems = environment.problems().to_vec();
        Reading { file, source, environment, problems, warnings: Vec::new(), bad: HashSet::new() }
    }

    /// The table `[name]`.
    pub(super) fn section(&mut self, root: &Section<'t>, name: &'static str) -> Section<'t> {
        let Some((span, value)) = root.entry(name) else { return Section::absent(name) };
        match value.get_ref() {
            DeValue::Table(table) => self.known_keys(name, table, span.start),
            _ => {
                let text = format!("is not a table; write [{name}] on a line of its own");
                self.problem_at(span.start, name, text);
                Section::absent(name)
            }
        }
    }

    /// The tables `[[name]]` of `parent`, in order; none where the name stands for something else.
    pub(super) fn sections(&mut self, parent: &Section<'t>, name: &'static str) -> Option<Vec<Section<'t>>> {
        let Some((span, value)) = parent.entry(name) else { return Some(Vec::new()) };
        let dotted = parent.dotted(name);
        let name = defs::REPEATED.into_iter().find(|known| *known == dotted).unwrap_or(name);
        let tables: Option<Vec<_>> = value.get_ref().as_array().and_then(|array| {
            array.iter().map(|item| Some((item.span().start, item.get_ref().as_table()?))).collect()
        });
        let Some(tables) = tables else {
            let text = format!("is not a list of tables; write [[{name}]], with two brackets");
            self.problem_at(span.start, name, text);
            return None;
        };
        Some(tables.into_iter().map(|(start, table)| self.known_keys(name, table, start)).collect())
    }

    /// Makes a section of a table after telling which of its keys do not exist.
    fn known_keys(&mut self, name: &'static str, table: &'t DeTable<'t>, at: usize) -> Section<'t> {
        let section = Section { name, table: Some(table), at: Some(at) };
        if name != defs::ALIASES {
            for (key, at, value) in section.entries() {
                let dotted = section.dotted(key);
                if defs::find(&dotted).is_some() || defs::sections().contains(&dotted.as_str()) {
                    continue;
                }
                let text = match nearest_below(name, &dotted) {
                    Some(table) if is_tables(value) => format!("unknown table; did you mean {table}?"),
                    _ => format!("unknown key; {}", nearest(name, key)),
                };
                self.problem_at(at, &dotted, text);
            }
        }
        section
    }

    /// Tells which keys and tables of the top level do not exist.
    pub(super) fn known_tables(&mut self, root: &Section<'t>) {
        for (key, at, value) in root.entries() {
            let known = (defs::sections().contains(&key) && !key.contains('.'))
                || defs::find(key).is_some_and(|def| def.section().is_empty());
            if known {
                continue;
            }
            let text = match value {
                DeValue::Table(_) | DeValue::Array(_) => format!("unknown table; {}", nearest_table(key)),
                _ => format!("unknown key; {}", nearest("", key)),
            };
            self.problem_at(at, key, text);
        }
    }

    /// The value of a key that has a default.
    pub(super) fn get<T>(
        &mut self,
        section: &Section<'t>,
        key: &str,
        read: impl Fn(&Kind, &DeValue<'_>) -> Read<T>,
    ) -> T {
        let name = section.dotted(key);
        let def = defs::find(&name).expect("load.rs asks for keys of the table only: see its test");
        self.given(section, key, &read).unwrap_or_else(|| {
            let Preset::Is(default) = def.default else { panic!("{name} has no default: use given()") };
            let value = DeValue::parse(default).expect("the defaults are TOML: see the test of load.rs");
            read(&def.kind, value.get_ref()).expect("the defaults are valid: see the test of load.rs")
        })
    }

    /// The value of a key where it is given and good.
    pub(super) fn given<T>(
        &mut self,
        section: &Section<'t>,
        key: &str,
        read: impl Fn(&Kind, &DeValue<'_>) -> Read<T>,
    ) -> Option<T> {
        let (at, value) = section.entry(key)?;
        let name = section.dotted(key);
        let kind = &defs::find(&name).expect("load.rs asks for keys of the table only: see its test").kind;
        match read(kind, value.get_ref()) {
            Ok(read) => Some(read),
            Err(wrongs) => {
                self.bad.insert(at.start);
                for Wrong { text, span } in wrongs {
                    let wanted = match kind {
                        // One by itself needs no list.
                        Kind::List(_, item) if span.is_some() || value.get_ref().is_str() => item.wanted(),
                        kind => kind.wanted(),
                    };
                    let text = format!("{text}; write {wanted}");
                    self.problem_at(span.unwrap_or(value.span()).start, &name, text);
                }
                None
            }
        }
    }

    /// Whether a key is given with a value that cannot be used: its default stands in then, and
    /// there is nothing more to say about it.
    pub(super) fn is_bad(&self, section: &Section<'t>, key: &str) -> bool {
        section.entry(key).is_some_and(|(at, _)| self.bad.contains(&at.start))
    }

    /// A file name as it counts: from the config file's directory.
    pub(super) fn beside_config(&self, path: PathBuf) -> PathBuf {
        self.file.parent().map_or_else(|| path.clone(), |directory| directory.join(&path))
    }

    /// Notes a problem of a key (its line, or its table's where it is not given).
    pub(super) fn problem(&mut self, section: &Section<'t>, key: &str, text: String) {
        let problem = self.place(section, key, text);
        self.problems.push(problem);
    }

    /// Notes a warning, as [`Reading::problem`].
    pub(super) fn warning(&mut self, section: &Section<'t>, key: &str, text: String) {
        let warning = self.place(section, key, text);
        self.warnings.push(warning);
    }

    /// Notes a problem at a place in the text.
    pub(super) fn problem_at(&mut self, at: usize, key: &str, text: String) {
        let problem = self.of_place(Some(at), key.to_owned(), text);
        self.problems.push(problem);
    }

    /// Where a key stands, or its table where it is not given: `line 5`, or the name of the variable.
    pub(super) fn place_of(&self, section: &Section<'t>, key: &str) -> String {
        let at = section.entry(key).map(|(span, _)| span.start).or(section.at);
        self.named(at.unwrap_or_default())
    }

    /// The same of a place in the text.
    pub(super) fn named(&self, at: usize) -> String {
        self.variable(at).map_or_else(|| format!("line {}", self.line(at)), str::to_owned)
    }

    fn place(&self, section: &Section<'t>, key: &str, text: String) -> Problem {
        let at = section.entry(key).map(|(span, _)| span.start).or(section.at);
        self.of_place(at, section.dotted(key), text)
    }

    fn of_place(&self, at: Option<usize>, key: String, text: String) -> Problem {
        match at.and_then(|at| self.variable(at)) {
            Some(name) => Problem { file: name.into(), line: None, key, text },
            None => Problem { file: self.file.to_owned(), line: at.map(|at| self.line(at)), key, text },
        }
    }

    /// The variable that stands there instead of a line.
    fn variable(&self, at: usize) -> Option<&'t str> {
        self.environment.name(at.checked_sub(self.source.len() + 1)?)
    }

    /// Counted from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        1 + self.source.bytes().take(at).filter(|&byte| byte == b'\n').count()
    }
}

/// The remedy for an unknown key: the nearest one of its table (misspelt, or only begun: `user` for `username`),
/// else of the whole file, else the keys that there are.
fn nearest(section: &str, key: &str) -> String {
    let here = || defs::all().filter(|def| def.section() == section);
    let begun = || here().find(|def| key.len() >= BEGUN_MIN && def.key().starts_with(key));
    let near = |candidates: &mut dyn Iterator<Item = &'static defs::Def>| {
        candidates
            .map(|def| (strsim::damerau_levenshtein(def.key(), key), def))
            .filter(|(distance, def)| *distance <= def.key().len().min(key.len()) / 3)
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, def)| def)
    };
    let meant = near(&mut here()).or_else(begun).or_else(|| near(&mut defs::all()));
    meant.map(|def| format!("did you mean {}?", def.name)).unwrap_or_else(|| {
        let keys: Vec<&str> = here().map(defs::Def::key).collect();
        format!("the keys here are {}", keys.join(", "))
    })
}

fn nearest_table(name: &str) -> String {
    let near = defs::sections()
        .into_iter()
        .map(|section| (strsim::damerau_levenshtein(section, name), section))
        .filter(|(distance, section)| *distance <= section.len().min(name.len()) / 2)
        .min_by_key(|(distance, _)| *distance);
    match near {
        Some((_, section)) => format!("did you mean {}?", header(section)),
        None => {
            let headers: Vec<String> = defs::sections().into_iter().map(header).collect();
            format!("the tables are {}", headers.join(", "))
        }
    }
}

/// Whether this is `[name]` or `[[name]]`.
fn is_tables(value: &DeValue<'_>) -> bool {
    let first = value.as_array().and_then(|array| array.first());
    value.is_table() || first.is_some_and(|first| first.get_ref().is_table())
}

/// The table inside the table `section` whose dotted name is near this one.
fn nearest_below(section: &str, dotted: &str) -> Option<String> {
    let inside = |known: &&str| known.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'));
    let near = |known: &&str| strsim::damerau_levenshtein(known, dotted) <= 2;
    defs::sections().into_iter().filter(inside).find(near).map(header)
}

/// `[queue]`, `[[listen]]`.
pub(super) fn header(section: &str) -> String {
    if defs::REPEATED.contains(&section) { format!("[[{section}]]") } else { format!("[{section}]") }
}
