//! Torrents that the operator names: those that alone are let in, and those that are not.

use std::collections::HashSet;

use super::access::Refusal;
use super::index::TorrentName;
use crate::base::InfoHash;

/// Which torrents are let in, by their info-hashes as peers announce them. At first all.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Lists {
    /// If there is such a list: no others.
    pub allow: Option<HashSet<InfoHash>>,
    /// Not these, whatever else is said.
    pub deny: HashSet<InfoHash>,
}

/// A line that is no info-hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {text:?} is no info-hash of 40 or 64 hexadecimal digits")]
pub struct BadLine {
    /// From 1.
    pub line: usize,
    /// How it begins.
    pub text: String,
}

impl Lists {
    /// Whether the torrent that peers announce so is let in.
    ///
    /// # Errors
    /// [`Refusal::Denied`], [`Refusal::NotAllowed`].
    pub fn judge(&self, info_hash: &InfoHash) -> Result<(), Refusal> {
        self.judge_all(std::iter::once(*info_hash))
    }

    /// The same of a torrent with all hashes that it has: denied by any, allowed by any.
    ///
    /// # Errors
    /// As [`judge`](Self::judge).
    pub fn judge_all(&self, hashes: impl Iterator<Item = InfoHash>) -> Result<(), Refusal> {
        let mut allowed = self.allow.is_none();
        for hash in hashes {
            if self.deny.contains(&hash) {
                return Err(Refusal::Denied);
            }
            allowed = allowed || self.allow.as_ref().is_some_and(|allow| allow.contains(&hash));
        }
        if allowed { Ok(()) } else { Err(Refusal::NotAllowed) }
    }

    /// Whether they say nothing.
    pub fn is_empty(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }

    /// Reads a file of info-hashes: one a line, 40 hexadecimal digits (v1) or 64 (v2); what stands behind `#` is a
    /// comment, empty lines are none.
    ///
    /// # Errors
    /// The first line that is something else.
    pub fn parse(text: &str) -> Result<HashSet<InfoHash>, BadLine> {
        let mut hashes = HashSet::new();
        for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let word = line.split('#').next().unwrap_or_default().trim();
            if word.is_empty() {
                continue;
            }
            let name: TorrentName = word
                .to_ascii_lowercase()
                .parse()
                .map_err(|_| BadLine { line: at + 1, text: word.chars().take(MAX_SHOWN).collect() })?;
            hashes.insert(name.announced());
        }
        Ok(hashes)
    }
}

/// Of a bad line.
const MAX_SHOWN: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_hashes_have_comments_and_bad_lines_numbers() {
        let (short, long) = ("AB".repeat(20), "cd".repeat(32));
        let text = format!("\u{feff}# denied\r\n\r\n  {short} # why\r\n{long}\n{short}");
        let hashes = Lists::parse(&text).unwrap();
        assert_eq!(hashes, HashSet::from([InfoHash([0xab; 20]), InfoHash([0xcd; 20])]));
        assert_eq!(Lists::parse("").unwrap(), HashSet::new());
        for (text, line) in [("x", 1), ("#\n\nabcd", 3), ("# a\n0123 4567", 2), (&format!("{short}\n{short}0"), 2)] {
            let bad = Lists::parse(text).unwrap_err();
            assert_eq!(bad.line, line, "{bad}");
        }
        assert!(Lists::parse(&"x".repeat(1000)).unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn who_is_denied_is_denied_whatever_is_allowed() {
        let hash = |byte| InfoHash([byte; 20]);
        let mut lists = Lists::default();
        assert_eq!((lists.judge(&hash(1)), lists.is_empty()), (Ok(()), true));
        lists.deny.insert(hash(1));
        assert_eq!((lists.judge(&hash(1)), lists.judge(&hash(2))), (Err(Refusal::Denied), Ok(())));
        lists.allow = Some(HashSet::from([hash(1), hash(2)]));
        assert_eq!(lists.judge(&hash(1)), Err(Refusal::Denied));
        assert_eq!((lists.judge(&hash(2)), lists.judge(&hash(3))), (Ok(()), Err(Refusal::NotAllowed)));
        assert_eq!(lists.judge_all([hash(3), hash(2)].into_iter()), Ok(()), "a hybrid torrent has two");
        assert_eq!(lists.judge_all([hash(2), hash(1)].into_iter()), Err(Refusal::Denied));
    }
}
