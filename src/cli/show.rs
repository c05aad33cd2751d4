//! `btfs show`: a torrent file as a person wants it. (to be written)

/// What can stand after `btfs show`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The torrent file
    pub file: std::path::PathBuf,
}

/// Shows it.
pub fn run(_args: Args) -> anyhow::Result<()> {
    Ok(())
}
