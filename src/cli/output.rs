//! What every command shares: how it prints, and how it says that it was used wrongly.

use std::io::Write as _;

/// The command was used in a way that its arguments' types cannot tell. Exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongUsage(pub(crate) String);

/// Prints to stdout. A reader that has gone away is an error, not a panic.
///
/// # Errors
/// As the system says.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
