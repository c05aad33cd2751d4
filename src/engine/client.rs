//! Names of peers' programs, for people.

use crate::base::PeerId;

/// What to call a peer: its own words if it has any, else what its id says (BEP 20). Safe for a terminal, 64 characters.
pub(crate) fn client_name(own: Option<&str>, id: &PeerId) -> String {
    let name = match own.map(str::trim).filter(|own| !own.is_empty()) {
        Some(own) => own.to_owned(),
        None => from_id(id.as_bytes()),
    };
    name.chars().take(64).map(|c| if is_plain(c) { c } else { '?' }).collect()
}

/// Neither a control character nor one that turns the direction of the text around it.
fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Azureus style: `-XXabcd-`. Others are shown by their printable beginning.
fn from_id(id: &[u8; 20]) -> String {
    if let [b'-', a, b, version @ .., b'-'] = &id[..8]
        && a.is_ascii_alphanumeric()
        && b.is_ascii_alphanumeric()
        && version.iter().all(u8::is_ascii_alphanumeric)
    {
        let code = [*a, *b];
        let name = NAMES.iter().find(|(known, _)| **known == code).map(|(_, name)| (*name).to_owned());
        let name = name.unwrap_or_else(|| String::from_utf8_lossy(&code).into_owned());
        let mut digits: Vec<String> = version.iter().map(|&digit| number(digit)).collect();
        while digits.len() > 2 && digits.last().is_some_and(|digit| digit == "0") {
            digits.pop();
        }
        return format!("{name} {}", digits.join("."));
    }
    let text: String = id.iter().take_while(|byte| byte.is_ascii_graphic()).take(8).map(|&byte| byte as char).collect();
    if text.len() < 3 { "unknown".to_owned() } else { text }
}

/// Version digits go on after 9 with letters.
fn number(digit: u8) -> String {
    (digit as char).to_digit(36).map_or_else(|| "?".to_owned(), |value| value.to_string())
}

const NAMES: [(&[u8; 2], &str); 22] = [
    (b"7T", "aTorrent"),
    (b"A2", "aria2"),
    (b"AZ", "Vuze"),
    (b"BI", "BiglyBT"),
    (b"BF", "btfs"),
    (b"BT", "BitTorrent"),
    (b"DE", "Deluge"),
    (b"FD", "Free Download Manager"),
    (b"KT", "KTorrent"),
    (b"LT", "libtorrent"),
    (b"PI", "PicoTorrent"),
    (b"RT", "Retriever"),
    (b"TL", "Tribler"),
    (b"TR", "Transmission"),
    (b"TX", "Tixati"),
    (b"UM", "uTorrent Mac"),
    (b"UT", "uTorrent"),
    (b"UW", "uTorrent Web"),
    (b"WW", "WebTorrent"),
    (b"lt", "rTorrent"),
    (b"qB", "qBittorrent"),
    (b"rQ", "rqbit"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_own_words_become_names() {
        let name = |own, id: &[u8; 20]| client_name(own, &PeerId(*id));
        assert_eq!(name(None, b"-qB4630-abcdefghijkl"), "qBittorrent 4.6.3");
        assert_eq!(name(None, b"-LT20B0-abcdefghijkl"), "libtorrent 2.0.11");
        assert_eq!(name(None, b"-ZZ1000-abcdefghijkl"), "ZZ 1.0");
        assert_eq!(name(None, b"M7-9-2--abcdefghijkl"), "M7-9-2--");
        assert_eq!(name(None, &[0; 20]), "unknown");
        assert_eq!(name(Some("libtorrent/2.1"), b"-qB4630-abcdefghijkl"), "libtorrent/2.1");
        assert_eq!(name(Some("a\x1b[2Jb\u{202e}"), &[0; 20]), "a?[2Jb?");
    }
}
