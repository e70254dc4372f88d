//! The config from the environment: `POSTRIDER_QUEUE_LIFETIME=3d` is `lifetime` of `[queue]`.
//!
//! Every key of the table has a variable: its whole name in capitals, with `_` for a dot. A table of which there may be
//! several has its number behind its name, from 1: `POSTRIDER_ROUTE_1_RELAY`. `[aliases]` is one variable, an inline
//! table. A variable counts instead of the key in the file. What it holds is written as in the file or without the
//! quotes, and a list also with commas. `…_FILE` names a file that holds the value: a secret of a container.
//!
//! A variable that is not known is a problem, as a key is; those that Kubernetes makes for a service called `postrider`
//! are passed over. Each variable stands in the table of keys at a place of its own behind the end of the file, so that
//! a problem with what it says is told with its name.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::defs::{self, Def, Kind};
use super::guarded;
use super::problem::Problem;

/// Where `postrider sendmail` finds the relay; no key of the config.
pub const SUBMIT: &str = "POSTRIDER_SUBMIT";
const PREFIX: &str = "POSTRIDER_";
const OF_FILE: &str = "_FILE";

/// What the environment has of the config.
#[derive(Debug, Default)]
pub(super) struct Environment {
    variables: Vec<Variable>,
    /// Variables that are no key's, or whose file cannot be read.
    problems: Vec<Problem>,
}

#[derive(Debug)]
struct Variable {
    name: String,
    text: String,
}

/// Which key of which table a variable is.
struct Target {
    /// None: `[aliases]`.
    def: Option<&'static Def>,
    /// Of a table of which there may be several, from 1.
    number: Option<usize>,
}

impl Environment {
    /// The environment that this process was started with.
    pub(super) fn of_process() -> Environment {
        Environment::of(std::env::vars_os())
    }

    /// The same of these variables.
    pub(super) fn of(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Environment {
        let mut environment = Environment::default();
        for (name, text) in variables {
            let Ok(name) = name.into_string() else { continue };
            if !name.starts_with(PREFIX) || name == SUBMIT {
                continue;
            }
            let text = text.into_string().map_err(|_| "is not UTF-8; write it as UTF-8".to_owned());
            match text.and_then(|text| variable(&name, text)) {
                Ok(variable) => environment.variables.extend(variable),
                Err(text) => environment.problems.push(of_variable(&name, text)),
            }
        }
        // In the order of the tables, so that the second [[route]] comes after the first.
        environment.variables.sort_by_cached_key(|variable| {
            let number = target(&variable.name).and_then(|target| target.number);
            (number, variable.name.clone())
        });
        for twice in environment.variables.windows(2).filter(|two| two[0].name == two[1].name) {
            let text = format!("stands beside {}{OF_FILE}; remove one", twice[0].name);
            environment.problems.push(of_variable(&twice[0].name, text));
        }
        environment.problems.sort_by(|one, other| one.file.cmp(&other.file));
        environment
    }

    /// How many variables there are, good or bad.
    pub(super) fn len(&self) -> usize {
        self.variables.len() + self.problems.len()
    }

    /// What is wrong with the variables themselves.
    pub(super) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The name of the variable at a place so far behind the end of the file.
    pub(super) fn name(&self, place: usize) -> Option<&str> {
        self.variables.get(place).map(|variable| variable.name.as_str())
    }

    /// Puts the variables into the table of a file whose text ends at `end`. Returns what cannot be put there: where,
    /// which key, why.
    pub(super) fn put_into<'t>(
        &'t self,
        table: &mut DeTable<'t>,
        end: usize,
    ) -> Vec<(usize, String, String)> {
        let mut problems = Vec::new();
        for (at, variable) in self.variables.iter().enumerate() {
            let at = end + 1 + at;
            let Some(Target { def, number }) = target(&variable.name) else { continue };
            let Some(def) = def else {
                let value = parsed(&variable.text);
                put(table, defs::ALIASES, placed(value, at), at);
                continue;
            };
            match section(table, def.section(), number, at) {
                Ok(Some(section)) => {
                    put(section, def.key(), placed(value(&def.kind, &variable.text), at), at)
                }
                // What stands there instead of a table is told when it is read.
                Ok(None) => {}
                Err(text) => problems.push((at, def.name.to_owned(), text)),
            }
        }
        problems
    }
}

/// A problem of a variable that is no key's.
fn of_variable(name: &str, text: String) -> Problem {
    Problem { file: name.into(), line: None, key: String::new(), text }
}

/// A variable that is a key's; none where it is somebody else's.
fn variable(name: &str, text: String) -> Result<Option<Variable>, String> {
    if target(name).is_some() {
        return Ok(Some(Variable { name: name.to_owned(), text }));
    }
    let stem = name.strip_suffix(OF_FILE).unwrap_or_default();
    if let Some(target) = target(stem) {
        if target.def.is_some_and(|def| matches!(def.kind, Kind::File | Kind::FileOrNone)) {
            return Err(format!("its key names a file itself; write {stem}"));
        }
        let read = guarded::read(Path::new(&text)).and_then(|bytes| {
            String::from_utf8(bytes).map_err(|error| std::io::Error::other(error.utf8_error()))
        });
        let read = read.map_err(|error| format!("{text:?} cannot be read: {error}; name a readable file"))?;
        return Ok(Some(Variable {
            name: stem.to_owned(),
            text: read.trim_end_matches(['\r', '\n']).to_owned(),
        }));
    }
    if is_service_link(name, &text) { Ok(None) } else { Err(format!("unknown variable; {}", nearest(name))) }
}

/// Kubernetes tells each container where the services of its namespace are: for one called `postrider` by
/// `POSTRIDER_SERVICE_HOST`, `POSTRIDER_PORT=tcp://…`, `POSTRIDER_PORT_587_TCP_ADDR` and so on.
fn is_service_link(name: &str, text: &str) -> bool {
    let is_port = name.contains("PORT_") && ["_TCP", "_UDP", "_SCTP"].iter().any(|word| name.contains(word));
    let is_address = name.ends_with("_PORT") && text.contains("://");
    // Of a link of Docker: `POSTRIDER_NAME=/web/postrider`.
    let is_link = name == "POSTRIDER_NAME" && text.starts_with('/');
    name.ends_with("SERVICE_HOST") || name.contains("SERVICE_PORT") || is_port || is_address || is_link
}

fn target(name: &str) -> Option<Target> {
    let name = name.strip_prefix(PREFIX)?;
    if name == capitals(defs::ALIASES) {
        return Some(Target { def: None, number: None });
    }
    defs::all().find_map(|def| {
        if !defs::REPEATED.contains(&def.section()) {
            return (capitals(def.name) == name).then_some(Target { def: Some(def), number: None });
        }
        let rest = name.strip_prefix(&capitals(def.section()))?.strip_prefix('_')?;
        let number = rest.strip_suffix(&capitals(def.key()))?.strip_suffix('_')?;
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
        let number = number.parse().ok().filter(|_| is_number)?;
        Some(Target { def: Some(def), number: Some(number) })
    })
}

fn capitals(name: &str) -> String {
    name.replace('.', "_").to_ascii_uppercase()
}

/// The variable of a key: `POSTRIDER_ROUTE_1_RELAY`.
pub(super) fn name_of(def: &Def) -> String {
    match defs::REPEATED.contains(&def.section()) {
        true => format!("{PREFIX}{}_1_{}", capitals(def.section()), capitals(def.key())),
        false => format!("{PREFIX}{}", capitals(def.name)),
    }
}

/// The remedy for an unknown variable.
fn nearest(name: &str) -> String {
    let names = defs::all().map(name_of).map(|near| (strsim::damerau_levenshtein(&near, name), near));
    let near = names.filter(|(distance, _)| *distance <= 4).min_by_key(|(distance, _)| *distance);
    near.map_or_else(
        || "each is POSTRIDER_TABLE_KEY, or POSTRIDER_TABLE_1_KEY where there may be several".to_owned(),
        |(_, near)| format!("did you mean {near}?"),
    )
}

/// What a variable says, as TOML. What is not of its kind stays a text, and whoever reads the key says so.
fn value<'t>(kind: &Kind, text: &'t str) -> DeValue<'t> {
    let is_quoted = text.starts_with(['"', '\'']);
    match kind {
        Kind::Number(..) | Kind::Flag => parsed(text),
        Kind::OrOff(kind) if text != "off" => value(kind, text),
        Kind::List(..) | Kind::Command if text.starts_with('[') => parsed(text),
        Kind::Command => DeValue::Array([text].into_iter().map(item).collect()),
        Kind::List(..) => {
            let items = text.split(',').map(str::trim).filter(|text| !text.is_empty());
            DeValue::Array(items.map(item).collect())
        }
        _ if is_quoted => parsed(text),
        _ => DeValue::String(Cow::Borrowed(text)),
    }
}

fn item(text: &str) -> Spanned<DeValue<'_>> {
    Spanned::new(0..0, DeValue::String(Cow::Borrowed(text)))
}

/// A text where it is no TOML.
fn parsed(text: &str) -> DeValue<'_> {
    DeValue::parse(text).map_or(DeValue::String(Cow::Borrowed(text)), Spanned::into_inner)
}

/// The same value, all of it at one place.
fn placed(value: DeValue<'_>, at: usize) -> DeValue<'_> {
    match value {
        DeValue::Array(items) => {
            let here = items.into_iter().map(|item| Spanned::new(at..at, placed(item.into_inner(), at)));
            DeValue::Array(here.collect())
        }
        DeValue::Table(table) => {
            let here = table.into_iter().map(|(key, value)| {
                let value = placed(value.into_inner(), at);
                (Spanned::new(at..at, key.into_inner()), Spanned::new(at..at, value))
            });
            DeValue::Table(here.collect())
        }
        other => other,
    }
}

/// Instead of what stands there: the place of a key is that of its variable then.
fn put<'t>(table: &mut DeTable<'t>, key: &'static str, value: DeValue<'t>, at: usize) {
    table.remove(key);
    table.insert(Spanned::new(at..at, Cow::Borrowed(key)), Spanned::new(at..at, value));
}

/// The table of a key, which is made where it is missing; none where something else stands in its place.
fn section<'a, 't>(
    root: &'a mut DeTable<'t>,
    name: &'static str,
    number: Option<usize>,
    at: usize,
) -> Result<Option<&'a mut DeTable<'t>>, String> {
    if name.is_empty() {
        return Ok(Some(root));
    }
    let (parent, last) = match name.rsplit_once('.') {
        Some((parent, last)) => (section(root, parent, None, at)?, last),
        None => (Some(root), name),
    };
    let Some(parent) = parent else { return Ok(None) };
    if !parent.contains_key(last) {
        let empty = match number {
            None => DeValue::Table(DeTable::default()),
            Some(_) => DeValue::Array(DeArray::default()),
        };
        put(parent, last, empty, at);
    }
    let found = parent.get_mut(last).map(Spanned::get_mut);
    match (found, number) {
        (Some(DeValue::Table(table)), None) => Ok(Some(table)),
        (Some(DeValue::Array(tables)), Some(number)) => {
            if number == tables.len() + 1 {
                tables.push(Spanned::new(at..at, DeValue::Table(DeTable::default())));
            }
            let count = tables.len();
            match tables.get_mut(number - 1).map(Spanned::get_mut) {
                Some(DeValue::Table(table)) => Ok(Some(table)),
                Some(_) => Ok(None),
                None => Err(format!("there are {count} [[{name}]] before it; number them without a gap")),
            }
        }
        _ => Ok(None),
    }
}
