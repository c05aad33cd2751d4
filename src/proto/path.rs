//! Names from torrents: what is refused, what is shown instead of the unshowable, and how text gets onto a terminal.
//!
//! Shown names are valid UTF-8 of 1 to 255 bytes and unique in their directory; they depend on the torrent alone, so
//! every mount shows the same. Paths here are components joined by `/`. Nothing here touches a file system.

mod unique;

use std::borrow::Cow;

use sha1::{Digest, Sha1};

pub use unique::{Found, PathIndex};

/// Longest name that a directory can hold, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// A name that must not be used, whatever it is shown as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnsafeName {
    /// Nothing at all.
    #[error("an empty name")]
    Empty,
    /// `.` or `..`.
    #[error("a name that is . or ..")]
    Dots,
    /// A separator inside.
    #[error("a name with a slash in it")]
    Slash,
    /// A NUL byte inside.
    #[error("a name with a NUL byte in it")]
    Nul,
}

/// Checks that a name can stand for one entry of one directory.
///
/// # Errors
/// [`UnsafeName`] for the empty name, `.`, `..`, and anything with `/` or NUL. Every other byte is legal.
pub fn check_name(name: &[u8]) -> Result<(), UnsafeName> {
    match name {
        b"" => Err(UnsafeName::Empty),
        b"." | b".." => Err(UnsafeName::Dots),
        _ if name.contains(&b'/') => Err(UnsafeName::Slash),
        _ if name.contains(&0) => Err(UnsafeName::Nul),
        _ => Ok(()),
    }
}

/// The name under which a checked name is shown: itself when it is UTF-8 and not too long.
///
/// Bytes that are not UTF-8 become `%XX`. A name that is too long loses the end of its stem, keeps its extension, and
/// gets a `~` and eight digits of its hash between them.
pub fn shown_name(name: &[u8]) -> Cow<'_, [u8]> {
    let text = match std::str::from_utf8(name) {
        Ok(text) if text.len() <= MAX_NAME_BYTES => return Cow::Borrowed(name),
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(percent_form(name)),
    };
    if text.len() <= MAX_NAME_BYTES {
        return Cow::Owned(text.into_owned().into_bytes());
    }
    let digest = Sha1::digest(name);
    let mark = format!("~{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
    Cow::Owned(with_mark(&text, &mark).into_bytes())
}

/// The name number `number` of several that want to be called `name`: ` (2)` before the extension.
pub fn numbered_name(name: &[u8], number: usize) -> Vec<u8> {
    with_mark(&String::from_utf8_lossy(name), &format!(" ({number})")).into_bytes()
}

/// Text of unknown origin made safe for a terminal or a log: one line, no control sequences, no reordering.
///
/// Control characters, line ends, marks that change direction or cannot be seen, and bytes that are not UTF-8 are
/// shown as escapes; so is the backslash, so that nothing can pass for an escape.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        for c in part.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if is_unsafe_on_a_terminal(c) => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
                c => out.push(c),
            }
        }
        part.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
    out
}

/// [`escape`], cut to about `limit` characters: for what a stranger may make as long as it likes.
pub fn escape_short(bytes: &[u8], limit: usize) -> String {
    let escaped = escape(&bytes[..bytes.len().min(limit.saturating_mul(4))]);
    match escaped.char_indices().nth(limit) {
        Some((end, _)) => format!("{}...", &escaped[..end]),
        None => escaped,
    }
}

/// Control characters, and those that reorder, hide or split text without being control characters.
pub fn is_unsafe_on_a_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Valid parts as they are, every other byte as `%XX`.
fn percent_form(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for part in name.utf8_chunks() {
        out.push_str(part.valid());
        part.invalid().iter().for_each(|byte| out.push_str(&format!("%{byte:02X}")));
    }
    out
}

/// What the symlink at `link` has to say to lead to `target`, both paths below the torrent's root.
pub fn link_text(link: &[u8], target: &[u8]) -> Box<[u8]> {
    let directories: Vec<&[u8]> = {
        let mut all: Vec<&[u8]> = link.split(|&byte| byte == b'/').collect();
        all.pop();
        all
    };
    let goal: Vec<&[u8]> = target.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect();
    let shared = directories.iter().zip(&goal).take_while(|(a, b)| a == b).count();
    let mut steps: Vec<&[u8]> = vec![b".."; directories.len() - shared];
    steps.extend(&goal[shared..]);
    if steps.is_empty() {
        steps.push(b".");
    }
    steps.join(&b'/').into_boxed_slice()
}

/// `name` with `mark` between stem and extension, the stem cut so that the whole is short enough.
fn with_mark(name: &str, mark: &str) -> String {
    let dot = name.rfind('.').filter(|&dot| dot > 0 && (2..=MAX_EXTENSION_BYTES).contains(&(name.len() - dot)));
    let (stem, extension) = name.split_at(dot.unwrap_or(name.len()));
    let room = MAX_NAME_BYTES - mark.len() - extension.len();
    let cut = (0..=stem.len().min(room)).rev().find(|&end| stem.is_char_boundary(end)).unwrap_or(0);
    format!("{}{mark}{extension}", &stem[..cut])
}

/// Longer "extensions", dot included, are taken for a part of the stem.
const MAX_EXTENSION_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused_and_odd_ones_are_not() {
        for name in ["", ".", "..", "a/b", "/", "/etc/passwd", "a\0", "\0"] {
            assert!(check_name(name.as_bytes()).is_err(), "{name:?}");
        }
        for name in ["...", " ", "-rf", "~", "a\\b", "c:d", "new\nline", ".hidden", "\u{202e}gpj.exe"] {
            assert_eq!(check_name(name.as_bytes()), Ok(()), "{name:?}");
            assert_eq!(&*shown_name(name.as_bytes()), name.as_bytes());
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_shown_as_percent_codes() {
        assert_eq!(&*shown_name(b"caf\xe9.txt"), b"caf%E9.txt");
        assert_eq!(&*shown_name(b"\xff\xfe"), b"%FF%FE");
        assert_eq!(&*shown_name(b"over\xc0\xaelong"), b"over%C0%AElong");
    }

    #[test]
    fn long_names_keep_their_extension_and_stay_apart() {
        let name = |last: char| format!("{}{last}.tar.bin", "é".repeat(200));
        let (one, two) = (name('1'), name('2'));
        let (one, two) = (shown_name(one.as_bytes()), shown_name(two.as_bytes()));
        assert!(one.len() <= MAX_NAME_BYTES && one.ends_with(b".bin") && one != two);
        let no_extension = "x".repeat(250) + "." + &"y".repeat(250);
        assert_eq!(shown_name(no_extension.as_bytes()).len(), MAX_NAME_BYTES);
    }

    #[test]
    fn numbers_go_before_the_extension() {
        assert_eq!(numbered_name(b"same.txt", 2), b"same (2).txt");
        assert_eq!(numbered_name(b".profile", 3), b".profile (3)");
        assert_eq!(numbered_name(&[b'x'; 255], 10).len(), 255);
    }

    #[test]
    fn terminals_see_escapes_only() {
        assert_eq!(escape(b"bell\x07esc\x1b[31m"), "bell\\u{7}esc\\u{1b}[31m");
        assert_eq!(escape("Icon\r\n\u{202e}gpj\u{9b}".as_bytes()), "Icon\\r\\n\\u{202e}gpj\\u{9b}");
        assert_eq!(escape(b"a\\b\xff"), "a\\\\b\\xff");
        assert_eq!(escape("caf\u{e9} \u{65e5}\u{672c}".as_bytes()), "caf\u{e9} \u{65e5}\u{672c}");
        assert_eq!(escape_short(b"abcdef", 3), "abc...");
        assert_eq!(escape_short(b"abc", 3), "abc");
    }

    #[test]
    fn a_symlink_says_its_target_from_its_own_directory() {
        for (link, target, expected) in [
            ("l", "a/b", "a/b"),
            ("d/l", "a", "../a"),
            ("d/l", "d/x", "x"),
            ("d/e/l", "d/f/x", "../f/x"),
            ("d/e/l", "q", "../../q"),
            ("d/l", "d", "."),
            ("l", "", "."),
            ("d/l", "", ".."),
        ] {
            assert_eq!(link_text(link.as_bytes(), target.as_bytes()).as_ref(), expected.as_bytes(), "{link} {target}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_shown_is_one_safe_component(name in proptest::collection::vec(1_u8..=255, 1..400)) {
            if check_name(&name).is_ok() {
                let shown = shown_name(&name).into_owned();
                prop_assert!(check_name(&shown).is_ok() && shown.len() <= MAX_NAME_BYTES);
                prop_assert!(std::str::from_utf8(&shown).is_ok());
                prop_assert!(check_name(&numbered_name(&shown, 12)).is_ok());
            }
            prop_assert!(!escape(&name).chars().any(char::is_control));
        }
    }
}
