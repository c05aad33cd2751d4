//! Changing what stands beside the info dictionary of a torrent file. `info` and every key that is not meant keep their
//! bytes, so that the torrent stays the same torrent: same info-hashes, same swarm.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{Metainfo, MetainfoError};
use crate::proto::announce::tracker_scheme;
use crate::proto::bencode::{self, Value, Writer};

/// One thing to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// These trackers, by tier, instead of all that are there.
    Trackers(Vec<Vec<String>>),
    /// One further tier; trackers that are there already stay where they are.
    AddTier(Vec<String>),
    /// Without this tracker.
    RemoveTracker(String),
    /// Another text in place of this one, in the URL of every tracker that has it: a passkey, for example.
    ReplaceInTrackers(String, String),
    /// These web seeds (BEP 19) instead of all that are there.
    WebSeeds(Vec<String>),
    /// One more web seed.
    AddWebSeed(String),
    /// Without this web seed.
    RemoveWebSeed(String),
    /// These DHT nodes (BEP 5) instead of all that are there.
    Nodes(Vec<(String, u16)>),
    /// Another comment, or none.
    Comment(Option<String>),
    /// Another date in seconds since the epoch, or none.
    CreationDate(Option<i64>),
}

/// Why a torrent file cannot be changed so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// It is no torrent, or would be none afterwards.
    #[error(transparent)]
    Metainfo(#[from] MetainfoError),
    /// What is to go is not there.
    #[error("there is no {what} {text}")]
    NotThere {
        /// What it would be.
        what: &'static str,
        /// As it was given; not safe for a terminal.
        text: String,
    },
    /// What would be a tracker is none.
    #[error("this would be no tracker URL: {0}")]
    Unusable(String),
    /// DHT nodes for a private torrent.
    #[error("a private torrent finds its peers by trackers alone (BEP 27), not by DHT nodes")]
    Private,
}

/// What stands beside the info dictionary, as far as it can be changed. Other than in [`Metainfo`], trackers and web seeds
/// that are of no use here are there, too; what is not UTF-8 is replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beside {
    /// Trackers by tier.
    pub trackers: Vec<Vec<String>>,
    /// Web seeds.
    pub web_seeds: Vec<String>,
    /// DHT nodes: host and port.
    pub nodes: Vec<(String, u16)>,
    /// The comment.
    pub comment: Option<String>,
    /// Seconds since the epoch.
    pub creation_date: Option<i64>,
}

/// A torrent file that was changed.
#[derive(Debug, Clone)]
pub struct Edited {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What they say.
    pub metainfo: Metainfo,
    /// What it was.
    pub before: Beside,
    /// What it is.
    pub after: Beside,
}

/// Makes the changes, one after the other.
///
/// The result is one dictionary with its keys in order; each value is byte for byte what it was, those that are changed
/// excepted. Bytes behind the dictionary are left out. A change that changes nothing leaves everything as it is.
///
/// # Errors
/// [`EditError`]; half of the changes are never made.
pub fn edit(file: &[u8], changes: &[Change]) -> Result<Edited, EditError> {
    let old = Metainfo::parse(file)?;
    let root = bencode::scan(file).map_err(MetainfoError::from)?.root;
    let dict = root.as_dict().into_iter().flat_map(|dict| dict.iter());
    let mut keys: Keys<'_> = dict.map(|(key, value)| (key, Cow::Borrowed(value.raw()))).collect();
    let before = keys.beside(&old);
    for change in changes {
        keys.make(change, &old)?;
    }
    let bytes = keys.to_bytes(root.raw());
    let metainfo = Metainfo::parse(&bytes)?;
    let after = keys.beside(&metainfo);
    Ok(Edited { bytes, metainfo, before, after })
}

/// The root dictionary: keys and the bytes of their values.
struct Keys<'f>(BTreeMap<&'f [u8], Cow<'f, [u8]>>);

impl<'f> FromIterator<(&'f [u8], Cow<'f, [u8]>)> for Keys<'f> {
    fn from_iter<I: IntoIterator<Item = (&'f [u8], Cow<'f, [u8]>)>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

impl Keys<'_> {
    fn make(&mut self, change: &Change, old: &Metainfo) -> Result<(), EditError> {
        match change {
            Change::Comment(comment) => {
                // Some programs write it twice and prefer this one.
                self.0.remove(&b"comment.utf-8"[..]);
                self.set(b"comment", comment.as_ref(), |writer, comment| writer.bytes(comment));
            }
            Change::CreationDate(date) => self.set(b"creation date", *date, Writer::int),
            Change::Nodes(nodes) if old.private && !nodes.is_empty() => return Err(EditError::Private),
            Change::Nodes(nodes) => {
                let nodes = Some(nodes).filter(|nodes| !nodes.is_empty());
                self.set(b"nodes", nodes, |writer, nodes| {
                    writer.list(|list| {
                        for (host, port) in nodes {
                            list.list(|node| {
                                node.bytes(host);
                                node.int(*port);
                            });
                        }
                    });
                });
            }
            Change::WebSeeds(_) | Change::AddWebSeed(_) | Change::RemoveWebSeed(_) => self.change_web_seeds(change)?,
            Change::Trackers(_) | Change::AddTier(_) | Change::RemoveTracker(_) | Change::ReplaceInTrackers(..) => {
                let mut trackers = self.trackers();
                trackers.make(change)?;
                self.set_trackers(&trackers);
            }
        }
        Ok(())
    }

    fn change_web_seeds(&mut self, change: &Change) -> Result<(), EditError> {
        let mut seeds = self.web_seeds();
        match change {
            Change::WebSeeds(new) => seeds = new.iter().map(|url| url.clone().into_bytes()).collect(),
            Change::AddWebSeed(url) if seeds.iter().any(|seed| seed == url.as_bytes()) => return Ok(()),
            Change::AddWebSeed(url) => seeds.push(url.clone().into_bytes()),
            Change::RemoveWebSeed(url) => {
                let count = seeds.len();
                seeds.retain(|seed| seed != url.as_bytes());
                if seeds.len() == count {
                    return Err(EditError::NotThere { what: "web seed", text: url.clone() });
                }
            }
            _ => {}
        }
        if seeds == self.web_seeds() {
            return Ok(());
        }
        let seeds = Some(seeds).filter(|seeds| !seeds.is_empty());
        self.set(b"url-list", seeds, |writer, seeds| {
            writer.list(|list| seeds.iter().for_each(|seed| list.bytes(seed)));
        });
        Ok(())
    }

    /// Gives a key a value, or takes it away.
    fn set<T>(&mut self, key: &'static [u8], value: Option<T>, write: impl FnOnce(&mut Writer, T)) {
        match value {
            Some(value) => {
                let mut writer = Writer::default();
                write(&mut writer, value);
                self.0.insert(key, Cow::Owned(writer.into_vec()));
            }
            None => drop(self.0.remove(key)),
        }
    }

    fn set_trackers(&mut self, trackers: &Trackers) {
        if *trackers == self.trackers() {
            return;
        }
        self.set(b"announce", trackers.first.as_ref(), |writer, url| writer.bytes(url));
        // A list of what `announce` says already is left out.
        let says_more = trackers.tiers.iter().flatten().any(|url| trackers.first.as_ref() != Some(url));
        self.set(b"announce-list", Some(&trackers.tiers).filter(|_| says_more), |writer, tiers| {
            writer.list(|list| {
                tiers.iter().for_each(|tier| list.list(|urls| tier.iter().for_each(|url| urls.bytes(url))));
            });
        });
    }

    fn value(&self, key: &[u8]) -> Option<Value<'_>> {
        // What was scanned as a part, and what we have written ourselves, is a value.
        Some(bencode::scan(self.0.get(key)?).ok()?.root)
    }

    fn trackers(&self) -> Trackers {
        let first = self.value(b"announce").and_then(Value::as_bytes).filter(|url| !url.is_empty()).map(<[u8]>::to_vec);
        let tiers = self.value(b"announce-list").and_then(Value::as_list).into_iter().flatten();
        let mut tiers: Vec<_> = tiers.map(strings).filter(|tier| !tier.is_empty()).collect();
        if tiers.is_empty() {
            tiers.extend(first.clone().map(|url| vec![url]));
        }
        Trackers { first, tiers }
    }

    fn web_seeds(&self) -> Vec<Vec<u8>> {
        self.value(b"url-list").map(strings).unwrap_or_default()
    }

    fn beside(&self, metainfo: &Metainfo) -> Beside {
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        Beside {
            trackers: self.trackers().tiers.iter().map(|tier| tier.iter().map(text).collect()).collect(),
            web_seeds: self.web_seeds().iter().map(text).collect(),
            nodes: metainfo.nodes.clone(),
            comment: metainfo.comment.clone(),
            creation_date: metainfo.creation_date,
        }
    }

    /// The dictionary, in order of its keys; `old` itself where nothing is different.
    fn to_bytes(&self, old: &[u8]) -> Vec<u8> {
        let same = bencode::scan(old).ok().and_then(|scanned| scanned.root.as_dict()).is_some_and(|old| {
            old.iter().count() == self.0.len()
                && old.iter().all(|(key, value)| self.0.get(key).is_some_and(|new| **new == *value.raw()))
        });
        if same {
            return old.to_vec();
        }
        let mut bytes = vec![b'd'];
        for (key, value) in &self.0 {
            bytes.extend_from_slice(format!("{}:", key.len()).as_bytes());
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value);
        }
        bytes.push(b'e');
        bytes
    }
}

/// `announce` and `announce-list`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trackers {
    first: Option<Vec<u8>>,
    tiers: Vec<Vec<Vec<u8>>>,
}

impl Trackers {
    fn make(&mut self, change: &Change) -> Result<(), EditError> {
        match change {
            Change::Trackers(tiers) => {
                self.first = None;
                self.tiers.clear();
                tiers.iter().for_each(|tier| self.add(tier));
            }
            Change::AddTier(tier) => self.add(tier),
            Change::RemoveTracker(url) => {
                let is_it = |tracker: &Vec<u8>| tracker == url.as_bytes();
                if !self.any(is_it) {
                    return Err(EditError::NotThere { what: "tracker", text: url.clone() });
                }
                self.tiers.iter_mut().for_each(|tier| tier.retain(|tracker| !is_it(tracker)));
                self.first.take_if(|first| is_it(first));
            }
            Change::ReplaceInTrackers(old, new) => {
                let has_it =
                    |tracker: &Vec<u8>| std::str::from_utf8(tracker).is_ok_and(|url| url.contains(old.as_str()));
                if !self.any(has_it) {
                    return Err(EditError::NotThere { what: "tracker with", text: old.clone() });
                }
                let all = self.first.iter_mut().chain(self.tiers.iter_mut().flatten());
                for tracker in all.filter(|tracker| has_it(tracker)) {
                    let was = String::from_utf8_lossy(tracker);
                    let url = was.replace(old.as_str(), new);
                    if tracker_scheme(&was).is_some() && tracker_scheme(&url).is_none() {
                        return Err(EditError::Unusable(url));
                    }
                    *tracker = url.into_bytes();
                }
            }
            _ => {}
        }
        self.tiers.retain(|tier| !tier.is_empty());
        if self.first.is_none() {
            self.first = self.tiers.iter().flatten().next().cloned();
        }
        Ok(())
    }

    /// One more tier, of what is not there yet.
    fn add(&mut self, tier: &[String]) {
        let mut new: Vec<Vec<u8>> = Vec::new();
        for url in tier.iter().map(|url| url.as_bytes()) {
            if !self.tiers.iter().flatten().chain(&new).any(|there| there == url) {
                new.push(url.to_vec());
            }
        }
        if !new.is_empty() {
            self.tiers.push(new);
        }
    }

    fn any(&self, is_it: impl Fn(&Vec<u8>) -> bool) -> bool {
        self.first.iter().chain(self.tiers.iter().flatten()).any(is_it)
    }
}

/// The strings of a list, or a string alone; the empty one stands for none.
fn strings(value: Value<'_>) -> Vec<Vec<u8>> {
    let strings: Vec<_> = match value.as_list() {
        Some(list) => list.filter_map(Value::as_bytes).collect(),
        None => value.as_bytes().into_iter().collect(),
    };
    strings.into_iter().filter(|text| !text.is_empty()).map(<[u8]>::to_vec).collect()
}
