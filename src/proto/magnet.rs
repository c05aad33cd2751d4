//! Magnet links (BEP 9), written: what of a torrent fits into one line. Reading them is not here: nothing can use it yet.

use std::fmt::{self, Write as _};

use super::metainfo::Metainfo;
use crate::base::{InfoHash, InfoHashV2};

/// What a link says of a torrent.
#[derive(Debug)]
pub struct Magnet<'a> {
    /// Of a v1 or hybrid torrent.
    pub info_hash: Option<InfoHash>,
    /// Of a v2 or hybrid torrent.
    pub info_hash_v2: Option<InfoHashV2>,
    /// As in the torrent.
    pub name: &'a [u8],
    /// Of all files, without padding.
    pub bytes: u64,
    /// URLs.
    pub trackers: &'a [&'a str],
    /// URLs.
    pub web_seeds: &'a [&'a str],
}

impl fmt::Display for Magnet<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("magnet:?")?;
        if let Some(hash) = self.info_hash {
            write!(out, "xt=urn:btih:{hash}&")?;
        }
        if let Some(hash) = self.info_hash_v2 {
            // A multihash: SHA-256 (0x12) of 32 bytes (0x20).
            write!(out, "xt=urn:btmh:1220{hash}&")?;
        }
        write!(out, "dn={}&xl={}", percent(self.name), self.bytes)?;
        let trackers = self.trackers.iter().map(|url| ("tr", url));
        for (key, url) in trackers.chain(self.web_seeds.iter().map(|url| ("ws", url))) {
            write!(out, "&{key}={}", percent(url.as_bytes()))?;
        }
        Ok(())
    }
}

/// The link of a torrent: its info-hashes, name, length, trackers and web seeds.
pub fn link(metainfo: &Metainfo) -> String {
    let files = metainfo.layout.files().filter(|&file| !metainfo.layout.is_padding(file));
    let magnet = Magnet {
        info_hash: metainfo.info_hash,
        info_hash_v2: metainfo.info_hash_v2,
        name: &metainfo.name,
        bytes: files.map(|file| metainfo.layout.file_bytes(file)).sum(),
        trackers: &metainfo.trackers.iter().flatten().map(|url| &**url).collect::<Vec<_>>(),
        web_seeds: &metainfo.web_seeds.iter().map(|url| &**url).collect::<Vec<_>>(),
    };
    magnet.to_string()
}

/// Everything but letters, digits and `-._~` as `%XX` (RFC 3986, unreserved).
fn percent(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ => write!(out, "%{byte:02X}").expect("a string takes everything"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::metainfo::{NewEntry, NewTorrent};

    #[test]
    fn a_link_says_what_the_torrent_is_and_who_has_it() {
        let entry = |path: &str, length| NewEntry { path: vec![path.into()], length, ..NewEntry::default() };
        let torrent = NewTorrent {
            name: "für & alle".into(),
            entries: vec![entry("a", 20_000), entry("b", 5)],
            piece_length: 16_384,
            pieces: vec![7; 60],
            trackers: vec![vec!["http://a.example/announce?x=1&y".into()], vec!["udp://[::1]:6969".into()]],
            web_seeds: vec!["http://w.example/f%20x".into()],
            pad: true,
            ..NewTorrent::default()
        };
        let (_, metainfo) = torrent.write().unwrap();
        let hash = metainfo.info_hash.unwrap();
        assert_eq!(
            link(&metainfo),
            format!(
                "magnet:?xt=urn:btih:{hash}&dn=f%C3%BCr%20%26%20alle&xl=20005\
                 &tr=http%3A%2F%2Fa.example%2Fannounce%3Fx%3D1%26y&tr=udp%3A%2F%2F%5B%3A%3A1%5D%3A6969\
                 &ws=http%3A%2F%2Fw.example%2Ff%2520x"
            )
        );
    }
}
