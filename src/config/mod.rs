//! Config: from typed text to checked settings, one struct a room.
//!
//! `defs.rs` is the table of all keys (by topic below it), `kind.rs` what their values may be; `value.rs` reads one
//! value as the table says (`name_server.rs` a DNS server, `listen.rs` where to listen); `environment.rs` puts
//! variables into the table of a file; `reading.rs` walks it and collects problems; `load.rs` maps it onto
//! [`Settings`], and `partial.rs` a part of it, whatever is wrong with the rest; `cross.rs` checks what no single key
//! can tell (`sources.rs` for `[[source]]`, `dkim.rs` for `[[dkim]]`, `metrics.rs` for `[metrics]`, `twice.rs` for
//! what is given twice); `reference.rs` writes the table as a commented config file; `guarded.rs` refuses files that
//! somebody else may write to; `atrn.rs` is what the users file says that others have to know; `secret.rs` is where a
//! route's login gets its secret from. Every problem of a file is reported at once, each with its line, its key, what
//! is wrong and what to do.

pub mod atrn;
mod cross;
mod defs;
mod dkim;
mod environment;
pub mod guarded;
mod kind;
pub mod listen;
mod load;
mod metrics;
pub mod name_server;
mod networks;
mod partial;
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
use environment::Environment;
pub use environment::SUBMIT;
pub use listen::{ListenAddress, SocketAccess};
pub use metrics::TOKEN_BYTES_MIN;
pub use name_server::NameServer;
pub use networks::{ProhibitedEntry, ProhibitedNetworks, forms};
pub use problem::{Problem, Problems};
pub use reference::{page, reference};
pub use secret::{SecretSource, first_line};
pub use settings::*;
pub use value::{duration_of, size_of, size_text};

/// Where [`load`] looks when it is given no path, in this order.
pub const SEARCH: [&str; 2] = ["postrider.toml", "/etc/postrider/postrider.toml"];

/// Stands for the file where there is none, in a problem of a key that no variable gives.
const NO_FILE: &str = "environment";

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
    /// The file it was read from; none: the environment alone, or the built-in defaults.
    pub path: Option<PathBuf>,
    /// How many variables of the environment are in it.
    pub variables: usize,
    /// What is allowed, and probably not meant.
    pub warnings: Vec<Problem>,
    /// The bytes of the file; none for the built-in defaults.
    pub source: Vec<u8>,
}

impl Loaded {
    /// Whether there is no config at all.
    pub fn is_built_in(&self) -> bool {
        self.path.is_none() && self.variables == 0
    }

    /// Where it is from, for people.
    pub fn origin(&self) -> String {
        let variables = format!("{} variables of the environment", self.variables);
        match (&self.path, self.variables) {
            (Some(path), 0) => path.display().to_string(),
            (Some(path), _) => format!("{} and {variables}", path.display()),
            (None, 0) => "built-in defaults".to_owned(),
            (None, _) => variables,
        }
    }
}

/// Reads the config: `path` (`--config`), else the first of [`SEARCH`] that exists, and the variables of the
/// environment, which go before it; without any of them the built-in defaults. Relative paths in a file count from the
/// file's own directory.
///
/// # Errors
/// Every problem of the file, or that it cannot be read.
pub fn load(path: Option<&Path>) -> Result<Loaded, Problems> {
    let environment = Environment::of_process();
    match find(path) {
        Some(found) => from_file(&found, path.is_none(), &environment),
        None if environment.len() > 0 => {
            let (settings, warnings) = load::read(Path::new(NO_FILE), "", &environment, None)?;
            Ok(Loaded { settings, path: None, variables: environment.len(), warnings, source: Vec::new() })
        }
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
    let (settings, warnings) =
        load::read(&parent.join("built-in defaults"), BUILT_IN, &Environment::default(), Some(&certificate))?;
    Ok(Loaded { settings, path: None, variables: 0, warnings, source: Vec::new() })
}

/// Where the queue is, whatever else may be wrong with the config that [`load`] would read.
///
/// # Errors
/// What leaves that in doubt.
pub fn queue_path(path: Option<&Path>) -> Result<PathBuf, Problems> {
    part(path, partial::queue_path, |settings| settings.queue.path)
}

/// Where the relay listens, likewise.
///
/// # Errors
/// What leaves that in doubt.
pub fn listeners(path: Option<&Path>) -> Result<Vec<ListenSettings>, Problems> {
    part(path, partial::listeners, |settings| settings.submission.listen)
}

/// Where the relay can be watched, likewise.
///
/// # Errors
/// What leaves that in doubt.
pub fn metrics(path: Option<&Path>) -> Result<MetricsSettings, Problems> {
    part(path, partial::metrics, |settings| settings.metrics)
}

/// What `read` reads of the file that [`load`] would read, or `built_in` takes of the built-in defaults.
fn part<T>(
    path: Option<&Path>,
    read: impl Fn(&Path, &str, &Environment) -> Result<T, Problems>,
    built_in: impl Fn(Settings) -> T,
) -> Result<T, Problems> {
    let environment = Environment::of_process();
    match find(path) {
        Some(found) => read(&found, &text(&found, path.is_none())?, &environment),
        None if environment.len() > 0 => read(Path::new(NO_FILE), "", &environment),
        None => built_in_here().map(|loaded| built_in(loaded.settings)),
    }
}

/// `found`: nobody named it.
fn from_file(path: &Path, found: bool, environment: &Environment) -> Result<Loaded, Problems> {
    let source = text(path, found)?;
    let (settings, warnings) = load::read(path, &source, environment, None)?;
    let variables = environment.len();
    Ok(Loaded { settings, path: Some(path.to_owned()), variables, warnings, source: source.into_bytes() })
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
