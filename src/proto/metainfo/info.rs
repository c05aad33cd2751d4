//! The info dictionary: what v1, v2 and hybrid torrents have in common, and how the two parts of a hybrid agree.

use std::sync::Arc;

use bytes::Bytes;
use sha1::Digest;

use super::notes::Notes;
use super::{Entry, EntryKind, MAX_PATH_COMPONENTS, Metainfo, MetainfoError, refuse, v1, v2};
use crate::base::{FileSpec, InfoHash, InfoHashV2, Layout, LayoutError, MAX_PIECE_BYTES};
use crate::proto::bencode::{self, Dict, Value};
use crate::proto::path::{PathIndex, check_name, escape_short, shown_name};

/// Reads an info dictionary that has been scanned; `unsorted`: some keys in it are out of order.
pub(super) fn read(info: Bytes, unsorted: bool, notes: &mut Notes) -> Result<Metainfo, MetainfoError> {
    let root = bencode::scan(&info)?.root;
    let dict = root.as_dict().ok_or_else(|| refuse("BEP 3", "info is not a dictionary"))?;
    let keys = Keys::read(dict);
    let has_v2 = match keys.meta_version {
        Some(version) if version.as_i64() == Some(2) => true,
        Some(_) => return Err(refuse("P18", "meta version is not 2")),
        None if keys.file_tree.is_some() => return Err(refuse("P18", "there is a file tree, but no meta version")),
        None => false,
    };
    let has_v1 = !has_v2 || keys.pieces.is_some() || keys.length.is_some() || keys.files.is_some();
    if has_v2 && unsorted {
        return Err(refuse("P4", "keys of a v2 info dictionary are out of order"));
    }
    let (raw_name, name) = read_name(&keys, notes)?;
    let piece_length = read_piece_length(&keys, has_v2)?;

    let mut content = Content::default();
    let mut piece_hashes = Bytes::new();
    let mut single_file = false;
    if has_v1 {
        let pieces = v1::read(&keys, piece_length, &name, &mut content, notes)?;
        piece_hashes = info.slice_ref(pieces);
        single_file = keys.length.is_some();
    }
    if has_v2 {
        let files = v2::read_tree(keys.file_tree, piece_length)?;
        if has_v1 {
            v2::match_v1(&files, &keys, raw_name, piece_length, &mut content)?;
        } else {
            single_file = matches!(&files[..], [file] if &*file.path == raw_name);
            v2::fill(files, piece_length, &mut content, notes);
        }
    }
    let layout = Layout::new(piece_length, &content.specs).map_err(layout_error)?;
    drop(content.specs);
    if single_file {
        content.entries.iter_mut().for_each(|entry| entry.path = name.clone());
    } else {
        settle_names(&mut content.entries, notes);
    }
    let private = read_private(&keys, notes);
    Ok(Metainfo {
        info_hash: has_v1.then(|| InfoHash(sha1::Sha1::digest(&info).into())),
        info_hash_v2: has_v2.then(|| InfoHashV2(sha2::Sha256::digest(&info).into())),
        name,
        single_file,
        entries: content.entries,
        layout: Arc::new(layout),
        piece_hashes,
        private,
        trackers: Vec::new(),
        web_seeds: Vec::new(),
        http_seeds: Vec::new(),
        nodes: Vec::new(),
        creation_date: None,
        comment: None,
        created_by: None,
        source: keys.source.and_then(text),
        warnings: Vec::new(),
        info,
    })
}

/// The keys of an info dictionary that mean something here.
#[derive(Debug, Default)]
pub(super) struct Keys<'a> {
    pub(super) name: Option<Value<'a>>,
    pub(super) name_utf8: Option<Value<'a>>,
    pub(super) piece_length: Option<Value<'a>>,
    pub(super) pieces: Option<Value<'a>>,
    pub(super) length: Option<Value<'a>>,
    pub(super) files: Option<Value<'a>>,
    pub(super) attr: Option<Value<'a>>,
    pub(super) private: Option<Value<'a>>,
    pub(super) source: Option<Value<'a>>,
    pub(super) meta_version: Option<Value<'a>>,
    pub(super) file_tree: Option<Value<'a>>,
}

impl<'a> Keys<'a> {
    fn read(dict: Dict<'a>) -> Self {
        let mut keys = Self::default();
        for (key, value) in dict.iter() {
            let place = match key {
                b"name" => &mut keys.name,
                b"name.utf-8" => &mut keys.name_utf8,
                b"piece length" => &mut keys.piece_length,
                b"pieces" => &mut keys.pieces,
                b"length" => &mut keys.length,
                b"files" => &mut keys.files,
                b"attr" => &mut keys.attr,
                b"private" => &mut keys.private,
                b"source" => &mut keys.source,
                b"meta version" => &mut keys.meta_version,
                b"file tree" => &mut keys.file_tree,
                _ => continue,
            };
            *place = Some(value);
        }
        keys
    }
}

/// The files of a torrent while they are read: entry n has the length of spec n.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) entries: Vec<Entry>,
    pub(super) specs: Vec<FileSpec>,
}

impl Content {
    pub(super) fn push(&mut self, entry: Entry, length: u64) {
        let padding = entry.kind == EntryKind::Padding;
        self.entries.push(entry);
        self.specs.push(FileSpec { length, padding });
    }

    /// Bytes so far; the caller has checked the sum.
    pub(super) fn total(&self) -> Option<u64> {
        self.specs.iter().try_fold(0_u64, |sum, spec| sum.checked_add(spec.length))
    }
}

/// A length in bytes: 0 to 2^63 - 1.
pub(super) fn length(value: Option<Value<'_>>, rule: &'static str) -> Result<u64, MetainfoError> {
    let value = value.ok_or_else(|| refuse(rule, "a length is missing"))?;
    let length = value.as_i64().and_then(|length| u64::try_from(length).ok());
    length.ok_or_else(|| refuse(rule, "a length is not an integer from 0 to 2^63 - 1"))
}

/// Whether an `attr` value (BEP 47) has a letter; unknown letters and other types change nothing.
pub(super) fn has_attr(attr: Option<Value<'_>>, letter: u8) -> bool {
    attr.and_then(Value::as_bytes).is_some_and(|letters| letters.contains(&letter))
}

/// A list of names as one path, shown form: components joined by `/`.
///
/// # Errors
/// `shape` when it is not a non-empty list of strings, P5 when it is too long, `names` when a component is unsafe.
pub(super) fn shown_path(
    value: Value<'_>,
    shape: &'static str,
    names: &'static str,
) -> Result<(Box<[u8]>, Shown), MetainfoError> {
    let mut path = Vec::new();
    let mut shown = Shown::default();
    let components = value.as_list().ok_or_else(|| refuse(shape, "a path is not a list"))?;
    let mut count = 0;
    for component in components {
        let name = component.as_bytes().ok_or_else(|| refuse(shape, "a path component is not a string"))?;
        count += 1;
        if count > MAX_PATH_COMPONENTS {
            return Err(refuse("P5", format!("a path has more than {MAX_PATH_COMPONENTS} components")));
        }
        add_component(&mut path, name, &mut shown, names)?;
    }
    if count == 0 {
        return Err(refuse(shape, "a path is empty"));
    }
    Ok((path.into_boxed_slice(), shown))
}

/// What showing a path took.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Shown {
    /// A component was not UTF-8.
    pub(super) not_utf8: bool,
    /// A component was too long.
    pub(super) too_long: bool,
}

impl Shown {
    /// Notes what is odd about a name that is shown as `path`.
    pub(super) fn note(self, path: &[u8], notes: &mut Notes) {
        if self.not_utf8 {
            notes.add("a name is not UTF-8, shown with its odd bytes as %XX", || escape_short(path, 80));
        }
        if self.too_long {
            notes.add("a name is longer than 255 bytes, shown shortened", || escape_short(path, 80));
        }
    }
}

/// Appends one component to a shown path, after checking it.
pub(super) fn add_component(
    path: &mut Vec<u8>,
    name: &[u8],
    shown: &mut Shown,
    rule: &'static str,
) -> Result<(), MetainfoError> {
    check_name(name).map_err(|error| refuse(rule, format!("{error}: {}", quoted(name))))?;
    shown.not_utf8 |= std::str::from_utf8(name).is_err();
    shown.too_long |= name.len() > crate::proto::path::MAX_NAME_BYTES;
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(&shown_name(name));
    Ok(())
}

/// A string value as text; whatever is not UTF-8 is replaced.
pub(super) fn text(value: Value<'_>) -> Option<String> {
    Some(String::from_utf8_lossy(value.as_bytes()?).into_owned())
}

/// A name of the torrent's for an error message.
pub(super) fn quoted(name: &[u8]) -> String {
    format!("\"{}\"", escape_short(name, 60))
}

/// The torrent's name, raw and shown.
fn read_name<'a>(keys: &Keys<'a>, notes: &mut Notes) -> Result<(&'a [u8], Box<[u8]>), MetainfoError> {
    let name = keys.name.ok_or_else(|| refuse("P7", "the name is missing"))?;
    let name = name.as_bytes().ok_or_else(|| refuse("P7", "the name is not a string"))?;
    if name.is_empty() {
        return Err(refuse("P7", "the name is empty"));
    }
    let mut best = (Vec::new(), Shown::default());
    add_component(&mut best.0, name, &mut best.1, "P12")?;
    if let Some(utf8) = keys.name_utf8 {
        let mut other = (Vec::new(), Shown::default());
        match utf8.as_bytes() {
            Some(utf8) => add_component(&mut other.0, utf8, &mut other.1, "P12")?,
            None => other.1.not_utf8 = true,
        }
        if other.1.not_utf8 {
            notes.add("name.utf-8 is not UTF-8 text and is ignored", String::new);
        } else {
            best = other;
        }
    }
    best.1.note(&best.0, notes);
    Ok((name, best.0.into_boxed_slice()))
}

fn read_piece_length(keys: &Keys<'_>, has_v2: bool) -> Result<u32, MetainfoError> {
    let value = keys.piece_length.ok_or_else(|| refuse("P9", "the piece length is missing"))?;
    let length = value.as_i64().and_then(|length| u32::try_from(length).ok());
    let length = length
        .filter(|length| (1..=MAX_PIECE_BYTES).contains(length))
        .ok_or_else(|| refuse("P9", "the piece length is not an integer from 1 to 512 MiB"))?;
    if has_v2 && !(length.is_power_of_two() && length >= crate::base::BLOCK_BYTES) {
        return Err(refuse("P18", "the piece length of a v2 torrent is not a power of two from 16 KiB"));
    }
    Ok(length)
}

fn read_private(keys: &Keys<'_>, notes: &mut Notes) -> bool {
    let Some(value) = keys.private else { return false };
    if !matches!(value.as_i64(), Some(0 | 1)) {
        notes.add("private is neither 0 nor 1, taken as 1", String::new);
    }
    value.as_i64() != Some(0)
}

fn layout_error(error: LayoutError) -> MetainfoError {
    let rule = match error {
        LayoutError::PieceLength => "P9",
        LayoutError::TooLong | LayoutError::Empty | LayoutError::TooMany => "P8",
    };
    refuse(rule, error.to_string())
}

/// Gives each entry a path of its own and points symlinks at what they mean.
fn settle_names(entries: &mut [Entry], notes: &mut Notes) {
    let paths: Vec<&[u8]> = entries.iter().map(|entry| &*entry.path).collect();
    let index = PathIndex::new(&paths);
    let mut targets = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        if let EntryKind::Symlink { target } = &entry.kind {
            let found = index.find(target);
            if !leads_somewhere(entries, &index, target) {
                notes.add("a symlink leads nowhere", || escape_short(&entry.path, 80));
            }
            if let Some(file) = found.entry.filter(|_| !found.directory) {
                targets.push((at, file));
            }
        }
    }
    let renames = index.renames();
    for (at, path) in renames {
        notes.add("a path is taken already, shown under another name", || escape_short(&path, 80));
        entries[at].path = path;
    }
    for (at, file) in targets {
        let path = entries[file].path.clone();
        entries[at].kind = EntryKind::Symlink { target: path };
    }
}

/// Whether a path, links on its way followed, ends at an entry that is no link or at a directory.
fn leads_somewhere(entries: &[Entry], index: &PathIndex<'_, &[u8]>, path: &[u8]) -> bool {
    let mut path = path.to_vec();
    for _ in 0..MAX_LINKS {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
        let link = ends.into_iter().find_map(|end| {
            let entry = index.find(&path[..end]).entry?;
            match &entries[entry].kind {
                EntryKind::Symlink { target } => Some([target, &path[end..]].concat()),
                _ => None,
            }
        });
        match link {
            Some(next) => path = next,
            None => {
                let found = index.find(&path);
                return found.entry.is_some() || found.directory;
            }
        }
    }
    false
}

/// As many links in one path as Linux follows.
const MAX_LINKS: usize = 40;
