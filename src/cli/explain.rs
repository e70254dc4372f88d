//! To be built.

use std::path::Path;

/// `postrider explain`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The recipient, such as somebody@example.com
    address: String,
}

/// Shows the route of an address.
///
/// # Errors
/// Always: it is not built yet.
pub fn run(_config: Option<&Path>, arguments: &Arguments) -> anyhow::Result<()> {
    anyhow::bail!("explain {} is not built yet", arguments.address)
}
