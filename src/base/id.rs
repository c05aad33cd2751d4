//! Identities: what names a torrent and what names a peer.

use std::fmt;
use std::str::FromStr;

/// A text that is not the hexadecimal form of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseIdError {
    /// Hexadecimal digits that the identity has.
    pub expected_digits: usize,
}

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {} hexadecimal digits", self.expected_digits)
    }
}

impl std::error::Error for ParseIdError {}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// The identity in `bytes`, if there are exactly as many as it has.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The raw bytes, as on the wire.
            pub fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let wrong = ParseIdError { expected_digits: $bytes * 2 };
                if text.len() != $bytes * 2 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(wrong);
                }
                let mut bytes = [0; $bytes];
                for (index, byte) in bytes.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).map_err(|_| wrong)?;
                }
                Ok(Self(bytes))
            }
        }
    };
}

identity! {
    /// SHA-1 over the raw bytes of the info dictionary (BEP 3); 20 bytes, shown as 40 hexadecimal digits.
    InfoHash, 20
}

identity! {
    /// SHA-256 over the raw bytes of the info dictionary (BEP 52); 32 bytes, shown as 64 hexadecimal digits.
    InfoHashV2, 32
}

identity! {
    /// What a peer calls itself in the handshake (BEP 3, BEP 20); 20 bytes, not necessarily text.
    PeerId, 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let text = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(text.parse::<InfoHash>().unwrap().to_string(), text);
    }

    #[test]
    fn text_of_the_wrong_length_or_alphabet_is_refused() {
        for text in ["", "01", "0123456789abcdef0123456789abcdef0123456g", "+123456789abcdef0123456789abcdef01234567"] {
            assert!(text.parse::<InfoHash>().is_err(), "{text}");
        }
        assert!("é".repeat(20).parse::<InfoHash>().is_err());
    }
}
