//! The torrents on a command line: files, read and judged before anything else happens, and URLs of files.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};

use crate::proto::metainfo::Metainfo;

/// A torrent as it was named.
#[derive(Debug, Clone)]
pub(crate) enum Named {
    /// A file, parsed.
    Parsed(Arc<Metainfo>),
    /// A URL, to be fetched when there is a runtime.
    Url(String),
}

/// Reads and judges a torrent file; only notes a URL.
pub(crate) fn load(name: &str) -> anyhow::Result<Named> {
    if name.starts_with("http://") || name.starts_with("https://") {
        return Ok(Named::Url(name.to_owned()));
    }
    if name.starts_with("magnet:") {
        bail!("{name}: magnet links are not supported yet: name a .torrent file or an http(s) URL of one");
    }
    let path = PathBuf::from(name);
    let file = File::open(&path).with_context(|| path.display().to_string())?;
    if file.metadata().is_ok_and(|meta| meta.is_dir()) {
        bail!("{name}: not a usable torrent: it is a directory");
    }
    let mut bytes = Vec::new();
    // One byte more than allowed is enough to see that it is too long.
    file.take(MAX_TORRENT_BYTES + 1).read_to_end(&mut bytes).with_context(|| path.display().to_string())?;
    parse(name, &bytes).map(Named::Parsed)
}

/// Judges the bytes of a torrent file.
pub(crate) fn parse(name: &str, bytes: &[u8]) -> anyhow::Result<Arc<Metainfo>> {
    if bytes.len() as u64 > MAX_TORRENT_BYTES {
        bail!("{name}: not a usable torrent: it is longer than 64 MiB (P5)");
    }
    let metainfo = Metainfo::parse(bytes).map_err(|error| anyhow!("{name}: not a usable torrent: {error}"))?;
    if metainfo.info_hash.is_none() {
        bail!("{name}: this is a v2-only torrent, which btfs can show but not mount or seed yet");
    }
    for warning in &metainfo.warnings {
        eprintln!("btfs: {name}: {warning}");
    }
    Ok(Arc::new(metainfo))
}

/// Fetches a torrent file by http or https.
pub(crate) async fn fetch(url: &str) -> anyhow::Result<Vec<u8>> {
    bail!("{url}: cannot be fetched")
}

/// Refuses a torrent that is named twice.
pub(crate) fn refuse_twins(torrents: &[Arc<Metainfo>]) -> anyhow::Result<()> {
    for (at, torrent) in torrents.iter().enumerate() {
        if torrents[..at].iter().any(|other| other.info_hash == torrent.info_hash) {
            bail!("{}: the torrent is given twice", super::text::safe(&torrent.name));
        }
    }
    Ok(())
}

/// The largest torrent file that is looked at (rule P5 of the corpus).
const MAX_TORRENT_BYTES: u64 = 64 << 20;
