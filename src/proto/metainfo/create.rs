//! Putting a v1 torrent together from names, sizes and hashes: same input, same bytes.

use super::{Metainfo, MetainfoError};
use crate::base::{FileSpec, Layout, LayoutError};
use crate::proto::bencode::{DictWriter, Writer};

/// What a new torrent is to say.
#[derive(Debug, Clone, Default)]
pub struct NewTorrent {
    /// The name: a file's or the directory's.
    pub name: Vec<u8>,
    /// The content is one file called `name`, entry 0.
    pub single_file: bool,
    /// Files and symlinks in the order of their bytes.
    pub entries: Vec<NewEntry>,
    /// Bytes of a piece.
    pub piece_length: u32,
    /// SHA-1 of each piece, one after the other.
    pub pieces: Vec<u8>,
    /// BEP 27.
    pub private: bool,
    /// Trackers by tier.
    pub trackers: Vec<Vec<String>>,
    /// Web seeds (BEP 19).
    pub web_seeds: Vec<String>,
    /// DHT nodes to start from (BEP 5): host and port.
    pub nodes: Vec<(String, u16)>,
    /// Padding (BEP 47) puts each file that has content on the border of a piece.
    pub pad: bool,
    /// Free text.
    pub comment: Option<String>,
    /// The program's name.
    pub created_by: Option<String>,
    /// Seconds since the epoch.
    pub creation_date: Option<i64>,
    /// The `source` key of private trackers: part of what the info-hash covers.
    pub source: Option<String>,
}

/// One entry of a new torrent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewEntry {
    /// Components below the torrent's root.
    pub path: Vec<Vec<u8>>,
    /// Bytes; 0 for symlinks.
    pub length: u64,
    /// Attribute `x` (BEP 47).
    pub executable: bool,
    /// A symlink to this path below the torrent's root (BEP 47).
    pub target: Option<Vec<Vec<u8>>>,
}

impl NewTorrent {
    /// The bytes of the `.torrent` file, and what they say.
    ///
    /// # Errors
    /// [`MetainfoError`] when the result would not be a usable torrent: it is parsed like any other.
    pub fn write(&self) -> Result<(Vec<u8>, Metainfo), MetainfoError> {
        let file = Writer::dict_to_vec(|root| {
            if let Some(first) = self.trackers.iter().flatten().next() {
                root.key("announce").bytes(first);
            }
            if self.trackers.iter().map(Vec::len).sum::<usize>() > 1 {
                root.key("announce-list").list(|tiers| {
                    for tier in self.trackers.iter().filter(|tier| !tier.is_empty()) {
                        tiers.list(|urls| tier.iter().for_each(|url| urls.bytes(url)));
                    }
                });
            }
            if let Some(comment) = &self.comment {
                root.key("comment").bytes(comment);
            }
            if let Some(program) = &self.created_by {
                root.key("created by").bytes(program);
            }
            if let Some(date) = self.creation_date {
                root.key("creation date").int(date);
            }
            root.key("info").dict(|info| self.write_info(info));
            if !self.nodes.is_empty() {
                root.key("nodes").list(|nodes| {
                    for (host, port) in &self.nodes {
                        nodes.list(|node| {
                            node.bytes(host);
                            node.int(*port);
                        });
                    }
                });
            }
            if !self.web_seeds.is_empty() {
                root.key("url-list").list(|urls| self.web_seeds.iter().for_each(|url| urls.bytes(url)));
            }
        });
        let metainfo = Metainfo::parse(&file)?;
        Ok((file, metainfo))
    }

    fn write_info(&self, info: &mut DictWriter) {
        if self.single_file {
            if self.entries.iter().any(|entry| entry.executable) {
                info.key("attr").bytes("x");
            }
            info.key("length").int(self.entries.iter().map(|entry| entry.length).sum::<u64>());
        } else {
            info.key("files").list(|files| {
                for (entry, length) in self.files() {
                    files.dict(|file| match entry {
                        Some(entry) => entry.write(file),
                        None => write_padding(file, length),
                    });
                }
            });
        }
        info.key("name").bytes(&self.name);
        info.key("piece length").int(self.piece_length);
        info.key("pieces").bytes(&self.pieces);
        if self.private {
            info.key("private").int(1);
        }
        if let Some(source) = &self.source {
            info.key("source").bytes(source);
        }
    }

    /// Where the bytes are to lie, padding included.
    ///
    /// # Errors
    /// [`LayoutError`] when the numbers describe no torrent.
    pub fn layout(&self) -> Result<Layout, LayoutError> {
        let spec = |(entry, length): (Option<&NewEntry>, u64)| FileSpec { length, padding: entry.is_none() };
        Layout::new(self.piece_length, &self.files().map(spec).collect::<Vec<_>>())
    }

    /// Entries, and `None` for padding, with their lengths.
    fn files(&self) -> impl Iterator<Item = (Option<&NewEntry>, u64)> {
        let piece_length = u64::from(self.piece_length.max(1));
        let mut end = 0_u64;
        self.entries.iter().flat_map(move |entry| {
            // Only before what needs it: none stands at the end, nor beside files without content.
            let border = if self.pad && entry.length > 0 { end.checked_next_multiple_of(piece_length) } else { None };
            let gap = border.map_or(0, |border| border - end);
            end = end.saturating_add(gap).saturating_add(entry.length);
            [(None, gap), (Some(entry), entry.length)].into_iter().skip(usize::from(gap == 0))
        })
    }
}

/// Padding as others write it: its name is its length, in a directory that those who do not know it may remove.
fn write_padding(file: &mut DictWriter, length: u64) {
    file.key("attr").bytes("p");
    file.key("length").int(length);
    file.key("path").list(|path| {
        path.bytes(".pad");
        path.bytes(length.to_string());
    });
}

impl NewEntry {
    fn write(&self, file: &mut DictWriter) {
        if self.target.is_some() || self.executable {
            file.key("attr").bytes(if self.target.is_some() { "l" } else { "x" });
        }
        file.key("length").int(self.length);
        file.key("path").list(|path| self.path.iter().for_each(|name| path.bytes(name)));
        if let Some(target) = &self.target {
            file.key("symlink path").list(|path| target.iter().for_each(|name| path.bytes(name)));
        }
    }
}

/// A piece length for content of `total` bytes: a power of two from 16 KiB to 16 MiB that makes 1000 to 2000 pieces
/// where that is possible.
pub fn piece_length_for(total: u64) -> u32 {
    let ideal = total.div_ceil(MOST_PIECES).max(1).next_power_of_two();
    ideal.clamp(u64::from(SHORTEST_PIECE), u64::from(LONGEST_PIECE)) as u32
}

const MOST_PIECES: u64 = 2000;
const SHORTEST_PIECE: u32 = 16 * 1024;
const LONGEST_PIECE: u32 = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piece_lengths_suit_the_content() {
        for (total, expected) in [
            (1, 16 << 10),
            (32_000_000, 16 << 10),
            (700 << 20, 512 << 10),
            (4 << 30, 4 << 20),
            (1 << 40, 16 << 20),
            (u64::MAX, 16 << 20),
        ] {
            assert_eq!(piece_length_for(total), expected, "{total}");
        }
        for total in (40_000_000_u64..30_000_000_000).step_by(123_456_789) {
            let pieces = total.div_ceil(u64::from(piece_length_for(total)));
            assert!((1000..=2000).contains(&pieces), "{total}: {pieces}");
        }
    }
}
