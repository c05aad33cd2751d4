//! Texts for a terminal: what a torrent or a peer says must not steer it.

use crate::proto::path::escape;

/// The bytes as one line for a terminal.
pub(crate) fn safe(bytes: impl AsRef<[u8]>) -> String {
    escape(bytes.as_ref())
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
    fn long_texts_lose_their_middle() {
        assert_eq!((shorten("abcdefghij", 5), shorten("abc", 3)), ("ab…ij".to_owned(), "abc".to_owned()));
    }
}
