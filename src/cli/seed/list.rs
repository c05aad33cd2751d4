//! A list of what is to be seeded: a torrent file a line, and after a tab where its content lies.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use crate::cli::text::{complain, safe};
use crate::cli::torrents::{self, Named};
use crate::proto::metainfo::Metainfo;

/// One usable line of a list.
#[derive(Debug)]
pub(super) struct Listed {
    /// The torrent.
    pub(super) metainfo: Arc<Metainfo>,
    /// Where its content is to lie.
    pub(super) data: PathBuf,
    /// `LIST:LINE`, safe for a terminal.
    pub(super) origin: String,
}

/// Reads a list, `-` being standard input. A line that is of no use is complained of, and left out; so is a torrent that
/// was named before. Returns the others, and how many those are.
///
/// # Errors
/// The list cannot be read.
pub(super) fn read(list: &Path) -> anyhow::Result<(Vec<Listed>, usize)> {
    let name = safe(list.as_os_str().as_bytes());
    let (text, base) = match list.as_os_str() == "-" {
        true => {
            let mut text = Vec::new();
            std::io::stdin().lock().take(MAX_LIST_BYTES).read_to_end(&mut text).context("standard input")?;
            (text, std::env::current_dir()?)
        }
        false => {
            let list = std::path::absolute(list)?;
            let file = std::fs::File::open(&list).with_context(|| name.clone())?;
            let mut text = Vec::new();
            file.take(MAX_LIST_BYTES).read_to_end(&mut text).with_context(|| name.clone())?;
            (text, list.parent().map(Path::to_path_buf).unwrap_or_default())
        }
    };
    let mut known = HashSet::new();
    let (mut listed, mut unusable) = (Vec::new(), 0);
    for (number, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let Some((torrent, data)) = fields(line) else { continue };
        let origin = format!("{name}:{}", number + 1);
        let torrent = base.join(torrent);
        let judged = match torrents::load(torrent.as_os_str()) {
            Ok(Named::Parsed(metainfo)) if known.insert(metainfo.info_hash) => Ok(metainfo),
            Ok(Named::Parsed(metainfo)) => Err(format!("{}: the torrent was named before", safe(&metainfo.name))),
            Ok(Named::Url(url)) => Err(format!("{}: a list names files, not URLs", safe(url))),
            Err(error) => Err(format!("{error:#}")),
        };
        let metainfo = match judged {
            Ok(metainfo) => metainfo,
            Err(reason) => {
                complain(format_args!("{origin}: {reason}"));
                unusable += 1;
                continue;
            }
        };
        let data = match data {
            Some(data) => base.join(data),
            None => torrent.parent().map(Path::to_path_buf).unwrap_or_default(),
        };
        listed.push(Listed { metainfo, data, origin });
    }
    Ok((listed, unusable))
}

/// The torrent and the data of a line; `None` for an empty one and for a remark.
fn fields(line: &[u8]) -> Option<(&Path, Option<&Path>)> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.iter().all(u8::is_ascii_whitespace) || line.starts_with(b"#") {
        return None;
    }
    let path = |bytes| Path::new(OsStr::from_bytes(bytes));
    let (torrent, data) = match line.iter().position(|&byte| byte == b'\t') {
        Some(tab) => (&line[..tab], Some(&line[tab + 1..])),
        None => (line, None),
    };
    Some((path(torrent), data.filter(|data| !data.is_empty()).map(path)))
}

/// Ten thousand lines with two of the longest paths each are less.
const MAX_LIST_BYTES: u64 = 128 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_torrent_and_after_a_tab_its_data() {
        let path = Path::new;
        for (line, expected) in [
            ("", None),
            ("  \t ", None),
            ("# a remark", None),
            ("a b.torrent", Some((path("a b.torrent"), None))),
            ("a.torrent\r", Some((path("a.torrent"), None))),
            ("a.torrent\t", Some((path("a.torrent"), None))),
            ("a.torrent\t/data/a b", Some((path("a.torrent"), Some(path("/data/a b"))))),
        ] {
            assert_eq!(fields(line.as_bytes()), expected, "{line:?}");
        }
    }
}
