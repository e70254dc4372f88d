//! Config: from typed text to checked settings, one struct a room.
//!
//! `defs.rs` is the table of all keys (by topic below it), `kind.rs` what their values may be; `value.rs` reads one
//! value as the table says (`name_server.rs` a DNS server); `reading.rs` walks a file and collects problems;
//! `load.rs` maps it onto [`Settings`]; `cross.rs` checks what no single key can tell (`sources.rs` for `[[source]]`,
//! `dkim.rs` for `[[dkim]]`, `twice.rs` for what is given twice); `reference.rs` writes the table as a commented
//! config file; `guarded.rs` refuses files that somebody else may write to; `atrn.rs` is what the users file says
//! that others have to know; `secret.rs` is where a route's login gets its secret from. Every problem of a file is
//! reported at once, each with its line, its key, what is wrong and what to do.

pub mod atrn;
mod cross;
mod defs;
mod dkim;
pub mod guarded;
mod kind;
mod load;
pub mod name_server;
mod networks;
mod problem;
mod reading;
mod reference;
mod secret;
pub mod settings;
mod sources;
mod twice;
mod value;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use atrn::AtrnDomains;
pub use name_server::NameServer;
pub use networks::{ProhibitedEntry, ProhibitedNetworks, forms};
pub use problem::{Problem, Problems};
pub use reference::{page, reference};
pub use secret::{SecretSource, first_line};
pub use settings::*;
pub use value::{size_of, size_text};

/// Where [`load`] looks when it is given no path, in this order.
pub const SEARCH: [&str; 2] = ["postrider.toml", "/etc/postrider/postrider.toml"];

/// Where a relay without a config file keeps its state, under the working directory.
pub const BUILT_IN_DIRECTORY: &str = "postrider-data";

/// What holds where there is no config file. The certificate is self-signed and kept in
/// [`BUILT_IN_DIRECTORY`] too.
const BUILT_IN: &str = r#"
[queue]
path = "postrider-data/queue.db"
[[listen]]
address = "127.0.0.1:5587"
[users]
file = "postrider-data/users"
"#;

/// A config that can be used.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What it says.
    pub settings: Settings,
    /// The file it was read from; none: the built-in defaults.
    pub path: Option<PathBuf>,
    /// What is allowed, and probably not meant.
    pub warnings: Vec<Problem>,
    /// The bytes of the file; none for the built-in defaults.
    pub source: Vec<u8>,
}

/// Reads the config: `path` (`--config`), else the first of [`SEARCH`] that exists, else the
/// built-in defaults. Relative paths in a file count from the file's own directory.
///
/// # Errors
/// Every problem of the file, or that it cannot be read.
pub fn load(path: Option<&Path>) -> Result<Loaded, Problems> {
    match find(path) {
        Some(found) => from_file(&found, path.is_none()),
        None => built_in_here(),
    }
}

/// The file that [`load`] would read now; none: the built-in defaults.
pub fn find(path: Option<&Path>) -> Option<PathBuf> {
    path.or_else(|| first_of(|candidate| candidate.try_exists())).map(Path::to_owned)
}

/// The first of [`SEARCH`] that is there.
fn first_of(exists: impl Fn(&Path) -> std::io::Result<bool>) -> Option<&'static Path> {
    SEARCH.map(Path::new).into_iter().find(|candidate| match exists(candidate) {
        Ok(exists) => exists,
        // `sudo -u postrider postrider check` in a home that is its owner's alone: what is there is not for us.
        Err(error) if error.kind() == ErrorKind::PermissionDenied && candidate.is_relative() => false,
        // It may be there, and reading it will tell.
        Err(_) => true,
    })
}

/// The built-in defaults, with the state below the working directory.
fn built_in_here() -> Result<Loaded, Problems> {
    match guarded::fault_of_state(Path::new(BUILT_IN_DIRECTORY)) {
        Some(fault) => Err(Problems(vec![Problem::of_file(Path::new("built-in defaults"), fault)])),
        None => built_in(Path::new("")),
    }
}

/// Makes [`BUILT_IN_DIRECTORY`] below the working directory, for us alone.
///
/// # Errors
/// Why it cannot be made, or must not be relied on, and what to do.
pub fn make_built_in_directory() -> Result<(), String> {
    guarded::make_state(Path::new(BUILT_IN_DIRECTORY))
}

/// The built-in defaults, with the state in [`BUILT_IN_DIRECTORY`] below `parent`.
///
/// # Errors
/// None is known: the built-in config is a good one.
pub fn built_in(parent: &Path) -> Result<Loaded, Problems> {
    let directory = parent.join(BUILT_IN_DIRECTORY);
    let certificate = CertificateSettings::SelfSigned { directory };
    let (settings, warnings) = load::read(&parent.join("built-in defaults"), BUILT_IN, Some(&certificate))?;
    Ok(Loaded { settings, path: None, warnings, source: Vec::new() })
}

/// Where the queue is, whatever else may be wrong with the config that [`load`] would read.
///
/// # Errors
/// What leaves that in doubt.
pub fn queue_path(path: Option<&Path>) -> Result<PathBuf, Problems> {
    match find(path) {
        Some(found) => load::queue_path(&found, &text(&found, path.is_none())?),
        None => built_in_here().map(|loaded| loaded.settings.queue.path),
    }
}

/// `found`: nobody named it.
fn from_file(path: &Path, found: bool) -> Result<Loaded, Problems> {
    let source = text(path, found)?;
    let (settings, warnings) = load::read(path, &source, None)?;
    Ok(Loaded { settings, path: Some(path.to_owned()), warnings, source: source.into_bytes() })
}

fn text(path: &Path, found: bool) -> Result<String, Problems> {
    let in_working_directory = found && path == Path::new(SEARCH[0]);
    let foreign = in_working_directory.then(|| guarded::fault_of_found(path)).flatten();
    if let Some(fault) = foreign.or_else(|| guarded::fault(path)) {
        return Err(Problems(vec![Problem::of_file(path, fault)]));
    }
    let bytes = guarded::read(path).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::NotFound => "create it (`postrider check --reference` prints a commented one) or name another with --config",
            ErrorKind::PermissionDenied => "run as a user who may read it",
            _ => "name a readable file with --config",
        };
        Problems(vec![Problem::of_file(path, format!("cannot be read: {error}; {remedy}"))])
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|&&b| b == b'\n').count();
        let text = "is not UTF-8; save the file as UTF-8".to_owned();
        Problems(vec![Problem { file: path.to_owned(), line: Some(line), key: String::new(), text }])
    })
}

#[cfg(test)]
mod tests;
