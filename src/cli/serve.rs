//! To be built.

use std::path::Path;

/// Runs the relay.
///
/// # Errors
/// Always: it is not built yet.
pub fn run(_config: Option<&Path>) -> anyhow::Result<()> {
    anyhow::bail!("serve is not built yet")
}
