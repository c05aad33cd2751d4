//! The torrents on a command line: files, read and judged before anything else happens, and URLs of files.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;

use super::exit::UsageError;
use super::text::{complain, safe};
use crate::net::http::fetch_torrent;
use crate::proto::metainfo::{MAX_TORRENT_BYTES, Metainfo};

/// A torrent as it was named.
#[derive(Debug, Clone)]
pub(crate) enum Named<T = Arc<Metainfo>> {
    /// A file, parsed.
    Parsed(T),
    /// A URL, to be fetched when there is a runtime.
    Url(String),
}

/// Reads and judges a torrent file; only notes a URL.
pub(crate) fn load(name: &OsStr) -> anyhow::Result<Named> {
    Ok(match load_file(name)?.1 {
        Named::Parsed((_, metainfo)) => Named::Parsed(metainfo),
        Named::Url(url) => Named::Url(url),
    })
}

/// A torrent as it was named, with the bytes of its file.
pub(crate) type NamedFile = Named<(Vec<u8>, Arc<Metainfo>)>;

/// As [`load`], with the bytes of the file, and what it is called on a terminal.
pub(crate) fn load_file(name: &OsStr) -> anyhow::Result<(String, NamedFile)> {
    let called = safe(name.as_bytes());
    match name.to_str() {
        Some("") => return Err(UsageError("TORRENT must not be empty".to_owned()).into()),
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
            return Ok((called, Named::Url(url.to_owned())));
        }
        Some(url) if url.starts_with("magnet:") => {
            bail!("{called}: magnet links are not supported yet: name a .torrent file or an http(s) URL of one");
        }
        _ => {}
    }
    let bytes = read(Path::new(name))?;
    let metainfo = parse(&called, &bytes)?;
    Ok((called, Named::Parsed((bytes, metainfo))))
}

/// Reads a torrent file, not more of it than a torrent can have.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let name = || safe(path.as_os_str().as_bytes());
    let file = File::open(path).with_context(name)?;
    if file.metadata().is_ok_and(|meta| meta.is_dir()) {
        bail!("{}: not a usable torrent: it is a directory", name());
    }
    let mut bytes = Vec::new();
    // One byte more than allowed is enough to see that it is too long.
    file.take(MAX_TORRENT_BYTES as u64 + 1).read_to_end(&mut bytes).with_context(name)?;
    Ok(bytes)
}

/// Judges the bytes of a torrent file; `name` is safe for a terminal.
pub(crate) fn judge(name: &str, bytes: &[u8]) -> anyhow::Result<Metainfo> {
    Metainfo::parse(bytes).map_err(|error| anyhow!("{name}: not a usable torrent: {error}"))
}

/// Says what is odd about a torrent, a line each.
pub(crate) fn warn(name: &str, metainfo: &Metainfo) {
    metainfo.warnings.iter().for_each(|warning| complain(format_args!("{name}: {warning}")));
}

/// Judges the bytes of a torrent file that is to be mounted or seeded.
pub(crate) fn parse(name: &str, bytes: &[u8]) -> anyhow::Result<Arc<Metainfo>> {
    let metainfo = judge(name, bytes)?;
    if metainfo.is_v2_only() {
        bail!("{name}: this is a v2-only torrent, which btfs can show but not mount or seed yet");
    }
    warn(name, &metainfo);
    Ok(Arc::new(metainfo))
}

/// Fetches a torrent file by http or https.
pub(crate) async fn fetch(url: &str, bind: Option<IpAddr>) -> anyhow::Result<Bytes> {
    fetch_torrent(url, bind).await.with_context(|| safe(url))
}

/// Refuses a torrent that is named twice.
pub(crate) fn refuse_twins(torrents: &[Arc<Metainfo>]) -> anyhow::Result<()> {
    for (at, torrent) in torrents.iter().enumerate() {
        if torrents[..at].iter().any(|other| other.info_hash == torrent.info_hash) {
            bail!("{}: the torrent is given twice", safe(&torrent.name));
        }
    }
    Ok(())
}
