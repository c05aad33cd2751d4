//! Texts for a terminal: what a torrent or a peer says must not steer it, and a terminal that is gone must not hurt.

use std::fmt::Display;
use std::io::Write;

use crate::proto::path::{escape, is_unsafe_on_a_terminal};

/// A line on standard output, for whoever still reads it: what is up does not end because that is closed, or full.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A result on standard output. Whoever has read enough of it is no error.
pub(crate) fn print(bytes: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// A line on standard error, in the same way.
pub(crate) fn complain(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "btfs: {line}");
}

/// The bytes as one line for a terminal.
pub(crate) fn safe(bytes: impl AsRef<[u8]>) -> String {
    escape(bytes.as_ref())
}

/// JSON with all characters escaped that could steer a terminal.
pub(crate) fn safe_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        // A line end here is one between values: those inside of strings are escaped already.
        if c != '\n' && is_unsafe_on_a_terminal(c) {
            c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    out
}

/// The bytes as one word for a shell, safe for a terminal: plain where that is enough, else in quotes; what cannot be shown
/// as an escape that bash, zsh and every shell of POSIX 2024 understands. Never taken for an option.
pub(crate) fn shell_word(bytes: &[u8]) -> String {
    let dash = if bytes.starts_with(b"-") { "./" } else { "" };
    let text = std::str::from_utf8(bytes).ok().filter(|text| !text.chars().any(is_unsafe_on_a_terminal));
    match text {
        Some(text) if !text.is_empty() && text.chars().all(is_plain) => format!("{dash}{text}"),
        Some(text) => format!("'{dash}{}'", text.replace('\'', r"'\''")),
        None => {
            let escape = |&byte: &u8| match byte {
                b' '..=b'~' if byte != b'\'' && byte != b'\\' => char::from(byte).to_string(),
                _ => format!("\\{byte:03o}"),
            };
            format!("$'{dash}{}'", bytes.iter().map(escape).collect::<String>())
        }
    }
}

/// Whether a shell takes a character for itself, wherever it stands in a word.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_./:@%+,=".contains(c)
}

/// Shortens in the middle to at most `width` characters: beginnings and ends tell most.
pub(crate) fn shorten(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let (head, tail) = (width.saturating_sub(1) / 2, width.saturating_sub(1).div_ceil(2));
    let begin: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(length - tail).collect();
    format!("{begin}…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_words_as_they_were() {
        for (word, quoted) in [
            (&b"a-b_c./d:e@f%g+h,i=j"[..], "a-b_c./d:e@f%g+h,i=j"),
            (b"", "''"),
            (b"-rf", "./-rf"),
            (b"- x", "'./- x'"),
            (b"it's $HOME `x` \\", r"'it'\''s $HOME `x` \'"),
            ("für".as_bytes(), "'für'"),
            (b"a\n\x1b'\\\xff", r"$'a\012\033\047\134\377'"),
        ] {
            assert_eq!(shell_word(word), quoted);
            let back = std::process::Command::new("bash").args(["-c", &format!("printf %s {quoted}")]).output();
            if let Ok(back) = back {
                assert_eq!(back.stdout.strip_prefix(b"./").unwrap_or(&back.stdout), word, "{quoted}");
            }
        }
    }

    #[test]
    fn long_texts_lose_their_middle() {
        assert_eq!((shorten("abcdefghij", 5), shorten("abc", 3)), ("ab…ij".to_owned(), "abc".to_owned()));
    }
}
