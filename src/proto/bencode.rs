//! Bencode (BEP 3): a scanner that trusts nothing, views of what it has passed, and a writer of the canonical form.
//!
//! [`scan`] walks the whole input once, without recursion and without allocating by any claimed length; what it accepts
//! can then be walked through [`Value`], which borrows and copies nothing. Spans are exact: an info-hash is taken over
//! [`Value::raw`]. There is no typed deserialisation here; each format picks the keys it knows.

mod writer;

pub use writer::{DictWriter, Writer};

/// Deepest nesting that is accepted; the root counts as 1.
pub const MAX_DEPTH: usize = 100;

/// Most tokens (integers, strings, keys, lists, dictionaries) that are accepted.
pub const MAX_TOKENS: usize = 3_000_000;

/// A string that claims to be longer than this is called a lie, not a cut-off file.
const PLAUSIBLE_STRING_BYTES: u64 = 64 * 1024 * 1024;

/// What is wrong with an input, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at byte {at}")]
pub struct BencodeError {
    /// Offset of the offending byte.
    pub at: usize,
    /// What is wrong there.
    pub kind: BencodeErrorKind,
}

/// The ways in which an input is not bencode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BencodeErrorKind {
    /// The input ends inside a value.
    #[error("the data ends early")]
    Truncated,
    /// No value can begin like this.
    #[error("no bencoded value")]
    NotAValue,
    /// An integer that is not in canonical decimal form.
    #[error("an integer is not in canonical form")]
    Integer,
    /// A string length that is not in canonical decimal form.
    #[error("a string length is not in canonical form")]
    StringLength,
    /// A string claims more bytes than any input has.
    #[error("a string claims an absurd length")]
    StringClaim,
    /// A dictionary key that is no string.
    #[error("a dictionary key is not a string")]
    KeyType,
    /// A dictionary that ends after a key.
    #[error("a dictionary key has no value")]
    KeyWithoutValue,
    /// A key that occurs twice in one dictionary.
    #[error("a key occurs twice in the dictionary that ends")]
    DuplicateKey,
    /// Nesting above [`MAX_DEPTH`].
    #[error("nesting deeper than {MAX_DEPTH}")]
    TooDeep,
    /// More than [`MAX_TOKENS`] tokens.
    #[error("more than {MAX_TOKENS} values")]
    TooManyTokens,
}

/// An input that begins with one valid value.
#[derive(Debug, Clone, Copy)]
pub struct Scanned<'a> {
    /// The value.
    pub root: Value<'a>,
    /// Whether some dictionary has its keys out of order.
    pub unsorted: bool,
    /// Bytes after the value.
    pub trailing: usize,
}

/// Checks that `bytes` begin with one valid value, and measures it.
///
/// Valid means: canonical integers and lengths, string keys, no key twice in a dictionary, within [`MAX_DEPTH`] and
/// [`MAX_TOKENS`]. Keys out of order are noted, not refused. Integers may be of any size.
///
/// # Errors
/// [`BencodeError`] for anything else.
pub fn scan(bytes: &[u8]) -> Result<Scanned<'_>, BencodeError> {
    let mut scan = Scan { bytes, at: 0, tokens: 0, stack: Vec::new(), keys: Vec::new(), unsorted: false };
    while scan.step()? {}
    Ok(Scanned { root: Value(&bytes[..scan.at]), unsorted: scan.unsorted, trailing: bytes.len() - scan.at })
}

/// A value that [`scan`] has passed: its exact bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    /// The bytes of the value exactly as found.
    pub fn raw(self) -> &'a [u8] {
        self.0
    }

    /// The string, if it is one.
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        let colon = self.0.iter().position(|&byte| byte == b':').filter(|_| self.0[0].is_ascii_digit())?;
        Some(&self.0[colon + 1..])
    }

    /// The string as text, if it is one and valid UTF-8.
    pub fn as_str(self) -> Option<&'a str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// The integer, if it is one that fits.
    pub fn as_i64(self) -> Option<i64> {
        self.decimal()?.parse().ok()
    }

    /// The integer, if it is one that is not negative and fits.
    pub fn as_u64(self) -> Option<u64> {
        self.decimal()?.parse().ok()
    }

    /// Whether it is an integer, of any size.
    pub fn is_integer(self) -> bool {
        self.0[0] == b'i'
    }

    /// The dictionary, if it is one.
    pub fn as_dict(self) -> Option<Dict<'a>> {
        (self.0[0] == b'd').then_some(Dict(self.0))
    }

    /// The list, if it is one.
    pub fn as_list(self) -> Option<List<'a>> {
        (self.0[0] == b'l').then_some(List(self.cursor_inside()))
    }

    /// A cursor before the first token inside a dictionary or list; for any other value nothing but its end follows.
    pub fn cursor_inside(self) -> Cursor<'a> {
        Cursor { bytes: self.0, at: 1 }
    }

    fn decimal(self) -> Option<&'a str> {
        let digits = self.0.strip_prefix(b"i")?.strip_suffix(b"e")?;
        std::str::from_utf8(digits).ok()
    }
}

/// A dictionary that [`scan`] has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dict<'a>(&'a [u8]);

impl<'a> Dict<'a> {
    /// The value of a key. Looks through the dictionary from its start.
    pub fn get(self, key: impl AsRef<[u8]>) -> Option<Value<'a>> {
        let key = key.as_ref();
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Keys and values in the order found.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], Value<'a>)> + Clone {
        let mut cursor = Cursor { bytes: self.0, at: 1 };
        std::iter::from_fn(move || Some((cursor.value()?.as_bytes()?, cursor.value()?)))
    }

    /// The dictionary as a value.
    pub fn as_value(self) -> Value<'a> {
        Value(self.0)
    }
}

/// The values of a list that [`scan`] has passed.
#[derive(Debug, Clone)]
pub struct List<'a>(Cursor<'a>);

impl<'a> Iterator for List<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.0.value()
    }
}

/// A place inside a value that [`scan`] has passed: walks deep structures flat, without looking at anything twice.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The whole value at the cursor, which moves behind it; `None` at the end of the dictionary or list.
    pub fn value(&mut self) -> Option<Value<'a>> {
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match *self.bytes.get(self.at)? {
                b'd' | b'l' => {
                    depth += 1;
                    self.at += 1;
                }
                b'e' if depth == 0 => return None,
                b'e' => {
                    depth -= 1;
                    self.at += 1;
                }
                b'i' => self.at += self.bytes[self.at..].iter().position(|&byte| byte == b'e')? + 1,
                _ => self.at = string(self.bytes, self.at).ok()?.1,
            }
            if depth == 0 {
                return Some(Value(&self.bytes[start..self.at]));
            }
        }
    }

    /// Steps into the dictionary at the cursor; false, and nothing moves, when there is none.
    pub fn enter_dict(&mut self) -> bool {
        let enters = self.bytes.get(self.at) == Some(&b'd');
        self.at += usize::from(enters);
        enters
    }

    /// Steps out of the dictionary or list whose end is at the cursor; false, and nothing moves, when it is not there.
    pub fn leave(&mut self) -> bool {
        let leaves = self.bytes.get(self.at) == Some(&b'e');
        self.at += usize::from(leaves);
        leaves
    }
}

/// The state of a scan.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    tokens: usize,
    stack: Vec<Open>,
    /// Keys of all open dictionaries, the innermost last: to find those that occur twice.
    keys: Vec<&'a [u8]>,
    unsorted: bool,
}

/// A list or dictionary whose end has not come yet.
struct Open {
    /// For a dictionary: where its keys begin in [`Scan::keys`], and whether they are out of order.
    dict: Option<(usize, bool)>,
    /// A key was read, its value is due.
    key_waits: bool,
}

impl<'a> Scan<'a> {
    /// Reads one token; false when the root is complete.
    fn step(&mut self) -> Result<bool, BencodeError> {
        let byte = *self.bytes.get(self.at).ok_or_else(|| self.error(BencodeErrorKind::Truncated))?;
        let wants_key = self.stack.last().is_some_and(|open| open.dict.is_some() && !open.key_waits);
        match byte {
            b'e' if !self.stack.is_empty() => self.close()?,
            _ if wants_key => {
                self.key(byte)?;
                return Ok(true);
            }
            b'd' | b'l' => {
                self.open(byte == b'd')?;
                return Ok(true);
            }
            b'i' => {
                self.count()?;
                self.at = integer(self.bytes, self.at)?;
            }
            b'0'..=b'9' => {
                self.count()?;
                self.at = string(self.bytes, self.at)?.1;
            }
            b'-' | b'+' if !self.stack.is_empty() => return Err(self.error(BencodeErrorKind::StringLength)),
            _ => return Err(self.error(BencodeErrorKind::NotAValue)),
        }
        match self.stack.last_mut() {
            Some(open) => open.key_waits = false,
            None => return Ok(false),
        }
        Ok(true)
    }

    fn open(&mut self, dict: bool) -> Result<(), BencodeError> {
        self.count()?;
        if self.stack.len() == MAX_DEPTH {
            return Err(self.error(BencodeErrorKind::TooDeep));
        }
        self.stack.push(Open { dict: dict.then_some((self.keys.len(), false)), key_waits: false });
        self.at += 1;
        Ok(())
    }

    fn key(&mut self, byte: u8) -> Result<(), BencodeError> {
        self.count()?;
        if !byte.is_ascii_digit() {
            let kind = match byte {
                b'-' | b'+' => BencodeErrorKind::StringLength,
                _ => BencodeErrorKind::KeyType,
            };
            return Err(self.error(kind));
        }
        let (key, end) = string(self.bytes, self.at)?;
        let Some(Open { dict: Some((first, unsorted)), key_waits }) = self.stack.last_mut() else {
            return Err(self.error(BencodeErrorKind::NotAValue));
        };
        *unsorted |= self.keys[*first..].last().is_some_and(|last| *last > key);
        if self.keys[*first..].last() == Some(&key) {
            return Err(self.error(BencodeErrorKind::DuplicateKey));
        }
        *key_waits = true;
        self.keys.push(key);
        self.at = end;
        Ok(())
    }

    fn close(&mut self) -> Result<(), BencodeError> {
        match self.stack.last() {
            Some(open) if open.key_waits => return Err(self.error(BencodeErrorKind::KeyWithoutValue)),
            Some(&Open { dict: Some((first, unsorted)), .. }) => {
                if unsorted {
                    self.unsorted = true;
                    self.keys[first..].sort_unstable();
                    if self.keys[first..].windows(2).any(|pair| pair[0] == pair[1]) {
                        return Err(self.error(BencodeErrorKind::DuplicateKey));
                    }
                }
                self.keys.truncate(first);
            }
            _ => {}
        }
        self.stack.pop();
        self.at += 1;
        Ok(())
    }

    fn count(&mut self) -> Result<(), BencodeError> {
        self.tokens += 1;
        if self.tokens > MAX_TOKENS { Err(self.error(BencodeErrorKind::TooManyTokens)) } else { Ok(()) }
    }

    fn error(&self, kind: BencodeErrorKind) -> BencodeError {
        BencodeError { at: self.at, kind }
    }
}

/// The end of the integer that begins at `at`.
fn integer(bytes: &[u8], at: usize) -> Result<usize, BencodeError> {
    let error = |kind| BencodeError { at, kind };
    let mut end = at + 1;
    let negative = bytes.get(end) == Some(&b'-');
    end += usize::from(negative);
    let first = end;
    while bytes.get(end).is_some_and(u8::is_ascii_digit) {
        end += 1;
    }
    match (bytes.get(end), &bytes[first..end]) {
        (None, _) => Err(error(BencodeErrorKind::Truncated)),
        (Some(b'e'), [b'0']) if !negative => Ok(end + 1),
        (Some(b'e'), [b'1'..=b'9', ..]) => Ok(end + 1),
        _ => Err(error(BencodeErrorKind::Integer)),
    }
}

/// The string that begins at `at`, and its end.
fn string(bytes: &[u8], at: usize) -> Result<(&[u8], usize), BencodeError> {
    let error = |kind| BencodeError { at, kind };
    let mut colon = at;
    let mut length = 0_u64;
    while let Some(digit) = bytes.get(colon).filter(|byte| byte.is_ascii_digit()) {
        length = length.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
        colon += 1;
    }
    match bytes.get(colon) {
        None => return Err(error(BencodeErrorKind::Truncated)),
        Some(b':') if bytes[at] != b'0' || colon == at + 1 => {}
        Some(_) => return Err(error(BencodeErrorKind::StringLength)),
    }
    let start = colon + 1;
    let left = (bytes.len() - start) as u64;
    if length > left {
        let lie = length > left.max(PLAUSIBLE_STRING_BYTES);
        return Err(error(if lie { BencodeErrorKind::StringClaim } else { BencodeErrorKind::Truncated }));
    }
    let end = start + length as usize;
    Ok((&bytes[start..end], end))
}

#[cfg(test)]
mod tests;
