//! Torrents for the index: made of names, without content.

use btfs::base::InfoHash;
use btfs::proto::metainfo::{NewEntry, NewTorrent};

/// What a torrent is to say.
#[derive(Clone, Copy)]
pub struct Torrent<'a> {
    pub name: &'a str,
    /// Paths; none: it is one file.
    pub files: &'a [&'a str],
    /// Bytes of each file.
    pub length: u64,
    pub comment: Option<&'a str>,
    pub trackers: &'a [&'a str],
    pub private: bool,
}

/// A torrent that is one file of this name.
pub fn named(name: &str) -> Torrent<'_> {
    Torrent { name, files: &[], length: 100, comment: None, trackers: &[], private: false }
}

impl Torrent<'_> {
    pub fn bytes(&self) -> Vec<u8> {
        self.write().0
    }

    pub fn info_hash(&self) -> InfoHash {
        self.write().1
    }

    fn write(&self) -> (Vec<u8>, InfoHash) {
        let single_file = self.files.is_empty();
        let paths = if single_file { &[self.name] } else { self.files };
        let entry = |path: &&str| NewEntry {
            path: path.split('/').map(|part| part.as_bytes().to_vec()).collect(),
            length: self.length,
            executable: false,
            target: None,
        };
        let pieces = (self.length * paths.len() as u64).div_ceil(u64::from(PIECE_LENGTH));
        let torrent = NewTorrent {
            name: self.name.as_bytes().to_vec(),
            single_file,
            entries: paths.iter().map(entry).collect(),
            piece_length: PIECE_LENGTH,
            pieces: vec![7; pieces as usize * 20],
            private: self.private,
            trackers: vec![self.trackers.iter().map(|&url| url.to_owned()).collect()],
            comment: self.comment.map(str::to_owned),
            ..NewTorrent::default()
        };
        let (bytes, metainfo) = torrent.write().unwrap();
        (bytes, metainfo.info_hash.unwrap())
    }
}

const PIECE_LENGTH: u32 = 1 << 16;
