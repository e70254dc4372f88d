//! To be built.

/// Shows the main job.
///
/// # Errors
/// Always: it is not built yet.
pub fn run() -> anyhow::Result<()> {
    anyhow::bail!("demo is not built yet")
}
