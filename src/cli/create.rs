//! `btfs create`: makes a torrent. (to be written)

/// What can stand after `btfs create`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to share
    pub file: std::path::PathBuf,
}

/// Makes it.
pub fn run(_args: Args) -> anyhow::Result<()> {
    Ok(())
}
