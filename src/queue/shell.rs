//! The queue for statements that a person writes: what `postrider sql` asks a store for.

use std::path::Path;

use super::error::QueueError;
use super::sqlite::shell::Shell as Sqlite;

pub use super::shell_rows::{Cell, Ran, ShellError};

/// A connection for statements.
#[derive(Debug)]
pub struct Shell(Sqlite);

impl Shell {
    /// To look, and to `write`.
    ///
    /// # Errors
    /// There is no queue here, or this user may not use it so.
    pub fn open(path: &Path, write: bool) -> Result<Shell, QueueError> {
        Sqlite::open(path, write).map(Shell)
    }

    /// What stops the statement that runs, from another thread.
    pub fn interrupter(&self) -> impl Fn() + Send + use<> {
        self.0.interrupter()
    }

    /// Runs the statements one after the other, and tells `out` of each.
    ///
    /// # Errors
    /// What the store says of the first that fails, or that `out` failed.
    pub fn run(
        &self,
        statements: &str,
        out: &mut dyn FnMut(Ran<'_>) -> std::io::Result<()>,
    ) -> Result<(), ShellError> {
        self.0.run(statements, out)
    }
}
