//! Which files of a torrent are meant: by the numbers that `btfs show` prints, or by patterns.

use crate::base::FileIndex;
use crate::cli::exit::UsageError;
use crate::cli::text::safe;
use crate::proto::metainfo::{Entry, EntryKind, Metainfo};

/// The entries of a torrent that a mount would show, with their numbers, from 1.
pub(crate) fn shown(metainfo: &Metainfo) -> impl Iterator<Item = (usize, FileIndex, &Entry)> {
    let entries = metainfo.layout.files().zip(&metainfo.entries);
    let shown = entries.filter(|(_, entry)| entry.kind != EntryKind::Padding);
    shown.enumerate().map(|(at, (file, entry))| (at + 1, file, entry))
}

/// The entries that `words` name, in the order of the torrent; all of them without a word.
///
/// # Errors
/// [`UsageError`] for a word that names nothing.
pub(crate) fn choose<'m>(metainfo: &'m Metainfo, words: &[String]) -> Result<Vec<(FileIndex, &'m Entry)>, UsageError> {
    let all: Vec<_> = shown(metainfo).collect();
    let mut chosen = vec![words.is_empty(); all.len()];
    for word in words {
        let mut any = false;
        for (chosen, (number, _, entry)) in chosen.iter_mut().zip(&all) {
            if names(word, *number, &entry.path) {
                *chosen = true;
                any = true;
            }
        }
        if !any {
            let reason = "no file of the torrent is meant by it; `btfs show` lists them with their numbers";
            return Err(UsageError(format!("--files {}: {reason}", safe(word))));
        }
    }
    Ok(all.into_iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|((_, file, entry), _)| (file, entry)).collect())
}

/// Whether a word means an entry: a number, two with `-` between them, or a pattern of its path.
fn names(word: &str, number: usize, path: &[u8]) -> bool {
    match range(word) {
        Some((first, last)) => (first..=last).contains(&number),
        None => means(word, path),
    }
}

/// Whether a pattern means a path, or a directory that it lies in. A pattern without a slash is one of names; one with a
/// slash begins at the top, where `**/` stands for no directory, too.
pub(crate) fn means(pattern: &str, path: &[u8]) -> bool {
    let (pattern, whole) = (pattern.trim_end_matches('/').as_bytes(), pattern.trim_end_matches('/').contains('/'));
    let pattern = pattern.strip_prefix(b"./").or(pattern.strip_prefix(b"/")).unwrap_or(pattern);
    let anywhere = pattern.strip_prefix(b"**/");
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
    let mut start = 0;
    for end in ends {
        let part = if whole { &path[..end] } else { &path[start..end] };
        if matches(pattern, part) || anywhere.is_some_and(|pattern| matches(pattern, part)) {
            return true;
        }
        start = end + 1;
    }
    false
}

/// `7` or `3-9`.
fn range(word: &str) -> Option<(usize, usize)> {
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    match word.split_once('-') {
        Some((first, last)) => Some((number(first)?, number(last)?)),
        None => number(word).map(|number| (number, number)),
    }
}

/// Patterns as shells have them: `*` and `?` do not go over a slash, `**` does, `[a-z]` and `[!a-z]` stand for one byte.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // The last star: where the pattern goes on behind it, up to where it has swallowed the text, whether over slashes.
    let mut star: Option<(usize, usize, bool)> = None;
    // Beneath a single star a double one may lie, which has more freedom.
    let mut double: Option<(usize, usize, bool)> = None;
    let (mut at, mut from) = (0, 0);
    loop {
        if pattern.get(at) == Some(&b'*') {
            let run = pattern[at..].iter().take_while(|&&byte| byte == b'*').count();
            at += run;
            star = Some((at, from, run > 1));
            if run > 1 {
                double = star;
            }
            continue;
        }
        match text.get(from) {
            None if at == pattern.len() => return true,
            Some(&byte) if at < pattern.len() => {
                if let Some(length) = one(&pattern[at..], byte) {
                    (at, from) = (at + length, from + 1);
                    continue;
                }
            }
            _ => {}
        }
        // A single star that would have to swallow a slash gives way to a double one.
        let next = star.filter(|&(_, swallowed, over)| swallowed < text.len() && (over || text[swallowed] != b'/'));
        let next = next.or(double.filter(|&(_, swallowed, _)| swallowed < text.len()));
        let Some((behind, swallowed, over)) = next else { return false };
        star = Some((behind, swallowed + 1, over));
        if over {
            double = star;
        }
        (at, from) = (behind, swallowed + 1);
    }
}

/// The length of what stands for one byte at the beginning of a pattern, if it stands for this one.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern[0] {
        b'?' => (byte != b'/').then_some(1),
        b'\\' if pattern.len() > 1 => (pattern[1] == byte).then_some(2),
        b'[' => {
            let not = matches!(pattern.get(1), Some(b'!' | b'^'));
            let first = 1 + usize::from(not);
            // A bracket at the very beginning is one of the set.
            let Some(close) = pattern.iter().skip(first + 1).position(|&byte| byte == b']') else {
                return (byte == b'[').then_some(1);
            };
            let close = first + 1 + close;
            let mut set = &pattern[first..close];
            let mut found = false;
            while let Some((&low, rest)) = set.split_first() {
                let (high, rest) = match rest {
                    [b'-', high, rest @ ..] => (*high, rest),
                    _ => (low, rest),
                };
                found |= (low..=high).contains(&byte);
                set = rest;
            }
            (found != not && byte != b'/').then_some(close + 1)
        }
        other => (other == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_are_those_of_shells() {
        for (pattern, text, expected) in [
            ("*.mkv", "film.mkv", true),
            ("*.mkv", "a/film.mkv", false),
            ("**.mkv", "a/b/film.mkv", true),
            ("**/film*", "a/b/film.mkv", true),
            ("a/*/c", "a/b/c", true),
            ("a/*/c", "a/b/b/c", false),
            ("a/**/c", "a/b/b/c", true),
            ("**/x*y", "a/xb/xqy", true),
            ("?.a", "x.a", true),
            ("?.a", "/.a", false),
            ("[a-c]x[!0-9]", "bxz", true),
            ("[a-c]x[!0-9]", "bx5", false),
            ("[]]", "]", true),
            ("[open", "[open", true),
            (r"\*", "*", true),
            (r"\*", "x", false),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn words_are_numbers_names_or_paths() {
        for (word, number, path, expected) in [
            ("3", 3, "x", true),
            ("3", 4, "3", false),
            ("./3", 4, "3", true),
            ("2-4", 4, "x", true),
            ("2-4", 5, "2-4", false),
            ("*.srt", 1, "subs/en/film.srt", true),
            ("subs", 1, "subs/en/film.srt", true),
            ("en/", 1, "subs/en/film.srt", true),
            ("subs/en", 1, "subs/en/film.srt", true),
            ("en/film.srt", 1, "subs/en/film.srt", false),
            ("**/film.srt", 1, "subs/en/film.srt", true),
            ("sub", 1, "subs/en/film.srt", false),
            ("/subs", 1, "subs/en/film.srt", true),
            ("/en", 1, "subs/en/film.srt", false),
            ("**/subs/*", 1, "subs/en/film.srt", true),
            ("**/subs/*", 1, "a/subs/en", true),
            ("**/subs/*", 1, "a/xsubs/en", false),
        ] {
            assert_eq!(names(word, number, path.as_bytes()), expected, "{word} {number} {path}");
        }
    }

    /// Every way to cut the text, tried.
    fn slowly(pattern: &[u8], text: &[u8]) -> bool {
        let Some(&first) = pattern.first() else { return text.is_empty() };
        if first == b'*' {
            let run = pattern.iter().take_while(|&&byte| byte == b'*').count();
            let reach = if run > 1 { text.len() } else { text.iter().position(|&b| b == b'/').unwrap_or(text.len()) };
            return (0..=reach).any(|cut| slowly(&pattern[run..], &text[cut..]));
        }
        match text.first() {
            Some(&byte) => one(pattern, byte).is_some_and(|length| slowly(&pattern[length..], &text[1..])),
            None => false,
        }
    }

    proptest! {
        #[test]
        fn the_quick_way_decides_what_the_slow_one_would(pattern in "[ab/*?]{0,9}", text in "[ab/]{0,9}") {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(matches(pattern, text), slowly(pattern, text));
        }
    }
}
