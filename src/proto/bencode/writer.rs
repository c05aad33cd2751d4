//! Canonical bencode, written into a buffer.

/// Writes values one after the other.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// A writer with nothing written.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes one dictionary and returns its bytes.
    pub fn dict_to_vec(fill: impl FnOnce(&mut DictWriter<'_>)) -> Vec<u8> {
        let mut writer = Self::new();
        writer.dict(fill);
        writer.out
    }

    /// Writes an integer.
    pub fn int(&mut self, value: impl Into<i128>) {
        let value: i128 = value.into();
        self.out.extend_from_slice(format!("i{value}e").as_bytes());
    }

    /// Writes a string.
    pub fn bytes(&mut self, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.out.extend_from_slice(format!("{}:", value.len()).as_bytes());
        self.out.extend_from_slice(value);
    }

    /// Writes a list of whatever `fill` writes.
    pub fn list(&mut self, fill: impl FnOnce(&mut Self)) {
        self.out.push(b'l');
        fill(self);
        self.out.push(b'e');
    }

    /// Writes a dictionary of the entries that `fill` makes.
    pub fn dict(&mut self, fill: impl FnOnce(&mut DictWriter<'_>)) {
        self.out.push(b'd');
        fill(&mut DictWriter { writer: self, last: None });
        self.out.push(b'e');
    }

    /// Copies a value that is bencoded already.
    pub fn raw(&mut self, value: &[u8]) {
        self.out.extend_from_slice(value);
    }

    /// What was written.
    pub fn into_vec(self) -> Vec<u8> {
        self.out
    }
}

/// Writes the entries of one dictionary; keys must come in ascending order, none twice.
#[derive(Debug)]
pub struct DictWriter<'w> {
    writer: &'w mut Writer,
    last: Option<Vec<u8>>,
}

impl DictWriter<'_> {
    /// Writes a key; the value must be written next.
    ///
    /// # Panics
    /// When the key is not above the last one: the order is the program's own, not the input's.
    pub fn key(&mut self, key: impl AsRef<[u8]>) -> &mut Writer {
        let key = key.as_ref();
        assert!(self.last.as_deref().is_none_or(|last| last < key), "dictionary keys ascend");
        self.last = Some(key.to_vec());
        self.writer.bytes(key);
        self.writer
    }
}
