//! The config in use: which it is since the start, since when, and whether the file on disk is still the same.

use std::io;
use std::path::PathBuf;

use super::Loaded;
use crate::kit::text::utc;

/// The config in use.
#[derive(Debug, Clone)]
pub struct Generation {
    /// 1 at the start, one more with each reload.
    number: u32,
    /// Unix seconds.
    loaded_at: i64,
    /// `--config`; none: it is searched for.
    asked_for: Option<PathBuf>,
    /// The file it was read from; none: the built-in defaults.
    path: Option<PathBuf>,
    /// The same for people, with what else the config is from.
    origin: String,
    /// What the file said.
    source: Vec<u8>,
}

impl Generation {
    /// The first, of settings that are nobody's file.
    pub fn first(now: i64) -> Generation {
        let origin = "built-in defaults".to_owned();
        Generation { number: 1, loaded_at: now, asked_for: None, path: None, origin, source: Vec::new() }
    }

    /// This file's.
    pub fn read_from(&mut self, loaded: &Loaded, asked_for: Option<PathBuf>) {
        self.path = loaded.path.clone();
        self.origin = loaded.origin();
        self.source = loaded.source.clone();
        self.asked_for = asked_for;
    }

    /// The next, loaded at `now`.
    pub fn advance(&mut self, now: i64) {
        self.number += 1;
        self.loaded_at = now;
    }

    /// 1 at the start, one more with each reload.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Unix seconds.
    pub fn loaded_at(&self) -> i64 {
        self.loaded_at
    }

    /// Where it is from, for people.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// All of it for people, and whether the file is what it was.
    pub fn lines(&self) -> Vec<String> {
        let config = &self.origin;
        let on_disk = super::find(self.asked_for.as_deref());
        let file = match (&on_disk, &self.path) {
            (Some(found), _) => match std::fs::read(found) {
                Ok(bytes) if Some(found) == self.path.as_ref() && bytes == self.source => {
                    "as it was loaded".to_owned()
                }
                Ok(_) => format!("{} differs from what is loaded: SIGHUP loads it", found.display()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    format!("{} is gone: what was loaded goes on", found.display())
                }
                Err(error) => format!("{} cannot be read: {error}", found.display()),
            },
            (None, Some(path)) => format!("{} is gone: what was loaded goes on", path.display()),
            (None, None) => "none, as when it was loaded".to_owned(),
        };
        vec![
            format!("postrider {}", env!("CARGO_PKG_VERSION")),
            format!("config: {config}, generation {}, loaded {} UTC", self.number, utc(self.loaded_at)),
            format!("file on disk: {file}"),
            "character set: UTF-8 (SMTPUTF8)".to_owned(),
        ]
    }
}
