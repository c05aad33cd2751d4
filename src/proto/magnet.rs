//! Magnet links (BEP 9), written: what of a torrent fits into one line. Reading them is not here: nothing can use it yet.

use std::fmt::Write as _;

use super::metainfo::Metainfo;

/// The link of a torrent: its info-hashes, name, length, trackers and web seeds.
pub fn link(metainfo: &Metainfo) -> String {
    let mut link = String::from("magnet:?");
    let mut add = |key: &str, value: &[u8]| {
        if !link.ends_with('?') {
            link.push('&');
        }
        link.push_str(key);
        link.push('=');
        escape(value, &mut link);
    };
    if let Some(hash) = metainfo.info_hash {
        add("xt", format!("urn:btih:{hash}").as_bytes());
    }
    if let Some(hash) = metainfo.info_hash_v2 {
        // A multihash: SHA-256 (0x12) of 32 bytes (0x20).
        add("xt", format!("urn:btmh:1220{hash}").as_bytes());
    }
    add("dn", &metainfo.name);
    let files = metainfo.layout.files().filter(|&file| !metainfo.layout.is_padding(file));
    let length: u64 = files.map(|file| metainfo.layout.file_bytes(file)).sum();
    add("xl", length.to_string().as_bytes());
    metainfo.trackers.iter().flatten().for_each(|url| add("tr", url.as_bytes()));
    metainfo.web_seeds.iter().for_each(|url| add("ws", url.as_bytes()));
    link
}

/// Appends bytes with all but unreserved ones percent-encoded (RFC 3986), the colons of `urn:btih:` excepted, which
/// programs look for as they are.
fn escape(bytes: &[u8], out: &mut String) {
    for &byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => out.push(byte.into()),
            _ => write!(out, "%{byte:02X}").expect("a string takes everything"),
        }
    }
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
                 &tr=http:%2F%2Fa.example%2Fannounce%3Fx%3D1%26y&tr=udp:%2F%2F%5B::1%5D:6969\
                 &ws=http:%2F%2Fw.example%2Ff%2520x"
            )
        );
    }
}
