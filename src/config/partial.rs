//! Parts of a config that are asked for whatever else may be wrong with it: where the queue is, where the relay
//! listens, where it can be watched.

use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::load;
use super::problem::Problems;
use super::reading::{Reading, Section};
use super::settings::{ListenSettings, MetricsSettings};
use super::value;

/// `[queue] path` alone: who looks after the queue is not kept from it by what is wrong elsewhere in the config,
/// by a missing certificate or by a secret that only the relay may read.
///
/// # Errors
/// What leaves that in doubt: bad TOML, an unknown table, a problem of `[queue]`.
pub(super) fn queue_path(file: &Path, source: &str, environment: &Environment) -> Result<PathBuf, Problems> {
    let mut reading = Reading::new(file, source, environment);
    let table = load::table(&mut reading, source, environment);
    let path = table.as_ref().map(|table| {
        let root = Section::root(table.get_ref());
        reading.known_tables(&root);
        let queue = reading.section(&root, "queue");
        let path = reading.get(&queue, "path", value::file);
        reading.beside_config(path)
    });
    match path {
        Some(path) if reading.problems.is_empty() => Ok(path),
        _ => Err(Problems(reading.problems)),
    }
}

/// `[metrics]` alone.
///
/// # Errors
/// What leaves that in doubt: bad TOML, an unknown table, a problem of `[metrics]`.
pub(super) fn metrics(
    file: &Path,
    source: &str,
    environment: &Environment,
) -> Result<MetricsSettings, Problems> {
    let mut reading = Reading::new(file, source, environment);
    let table = load::table(&mut reading, source, environment);
    let settings = table.as_ref().map(|table| {
        let root = Section::root(table.get_ref());
        reading.known_tables(&root);
        super::metrics::read(&mut reading, &root, &[])
    });
    match settings {
        Some(settings) if reading.problems.is_empty() => Ok(settings),
        _ => Err(Problems(reading.problems)),
    }
}

/// The `[[listen]]`s alone.
///
/// # Errors
/// What leaves those in doubt: bad TOML, an unknown table, a problem of one of them.
pub(super) fn listeners(
    file: &Path,
    source: &str,
    environment: &Environment,
) -> Result<Vec<ListenSettings>, Problems> {
    let mut reading = Reading::new(file, source, environment);
    let table = load::table(&mut reading, source, environment);
    let listeners = table.as_ref().map(|table| {
        let root = Section::root(table.get_ref());
        reading.known_tables(&root);
        load::listeners(&mut reading, &root)
    });
    match listeners {
        Some(listeners) if reading.problems.is_empty() => {
            Ok(listeners.into_iter().map(|(_, listen)| listen).collect())
        }
        _ => Err(Problems(reading.problems)),
    }
}
