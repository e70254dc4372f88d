//! To be built.

use std::path::Path;

/// `postrider queue`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// list, show, retry, hold, release, remove, bounce or summary
    verb: String,
}

/// Looks at the queue.
///
/// # Errors
/// Always: it is not built yet.
pub fn run(_config: Option<&Path>, arguments: Arguments) -> anyhow::Result<()> {
    anyhow::bail!("queue {} is not built yet", arguments.verb)
}
