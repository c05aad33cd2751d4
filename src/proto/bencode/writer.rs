//! Canonical bencode: values put together piece by piece and written by `serde_bencode`, which sorts the keys.

use std::collections::HashMap;

use serde_bencode::value::Value;

/// Collects values one after the other.
#[derive(Debug, Default)]
pub struct Writer {
    values: Vec<Value>,
}

impl Writer {
    /// The bytes of one dictionary.
    pub fn dict_to_vec(fill: impl FnOnce(&mut DictWriter)) -> Vec<u8> {
        let mut writer = Self::default();
        writer.dict(fill);
        writer.into_vec()
    }

    /// The bytes of all values, one after the other.
    pub fn into_vec(self) -> Vec<u8> {
        let bytes = |value| serde_bencode::to_bytes(value).expect("such values go into memory without fail");
        self.values.iter().flat_map(bytes).collect()
    }

    /// Adds an integer; what is above 2^63 - 1, as no length in a torrent is, becomes that.
    pub fn int(&mut self, value: impl TryInto<i64>) {
        self.values.push(Value::Int(value.try_into().unwrap_or(i64::MAX)));
    }

    /// Adds a string.
    pub fn bytes(&mut self, value: impl AsRef<[u8]>) {
        self.values.push(Value::Bytes(value.as_ref().to_vec()));
    }

    /// Adds a list of whatever `fill` adds.
    pub fn list(&mut self, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.values.push(Value::List(inner.values));
    }

    /// Adds a dictionary of the entries that `fill` makes.
    pub fn dict(&mut self, fill: impl FnOnce(&mut DictWriter)) {
        let mut dict = DictWriter::default();
        fill(&mut dict);
        let entries = dict.entries.into_iter().filter_map(|(key, mut value)| Some((key, value.values.pop()?)));
        self.values.push(Value::Dict(entries.collect()));
    }
}

/// Collects the entries of one dictionary, in any order.
#[derive(Debug, Default)]
pub struct DictWriter {
    entries: HashMap<Vec<u8>, Writer>,
}

impl DictWriter {
    /// The place for the value of a key: one value is to be added.
    pub fn key(&mut self, key: impl AsRef<[u8]>) -> &mut Writer {
        self.entries.entry(key.as_ref().to_vec()).or_default()
    }
}
