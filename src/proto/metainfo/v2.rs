//! The v2 part of a torrent: `file tree`, `piece layers` (BEP 52), and its agreement with a v1 part.

use std::collections::HashMap;
use std::mem::discriminant;

use super::info::{Content, Keys, Shown, add_component, has_attr, length, quoted};
use super::notes::Notes;
use super::v1::{FileKeys, read_target};
use super::{Entry, EntryKind, MAX_PATH_COMPONENTS, Metainfo, MetainfoError, refuse};
use crate::base::BLOCK_BYTES;
use crate::proto::bencode::Value;
use crate::proto::merkle::{Hash, root_of_layer};
use crate::proto::path::check_name;

/// One file of a file tree.
#[derive(Debug)]
pub(super) struct TreeFile {
    /// Raw components joined by `/`, all of them safe.
    pub(super) path: Box<[u8]>,
    length: u64,
    kind: EntryKind,
    root: Option<Box<Hash>>,
}

/// Reads a file tree, in its own order. Walks flat: depth costs no stack.
pub(super) fn read_tree(tree: Option<Value<'_>>, piece_length: u32) -> Result<Vec<TreeFile>, MetainfoError> {
    let tree = tree.ok_or_else(|| refuse("P18", "a v2 torrent has no file tree"))?;
    tree.as_dict().ok_or_else(|| refuse("P18", "the file tree is not a dictionary"))?;
    let mut cursor = tree.cursor_inside();
    let mut path = Vec::new();
    let mut lengths = Vec::new();
    let mut files = Vec::new();
    loop {
        let Some(key) = cursor.value() else {
            let Some(length) = lengths.pop() else { break };
            cursor.leave();
            path.truncate(length);
            continue;
        };
        let name = key.as_bytes().ok_or_else(|| refuse("P4", "a dictionary key is not a string"))?;
        if name.is_empty() {
            if path.is_empty() {
                return Err(refuse("P18", "the root of the file tree is a file"));
            }
            let properties = cursor.value().ok_or_else(|| refuse("P18", "a file has no properties"))?;
            files.push(read_file(&path, properties, piece_length)?);
            if cursor.clone().value().is_some() {
                return Err(refuse("P18", format!("a file is also a directory: {}", quoted(&path))));
            }
            continue;
        }
        check_name(name).map_err(|error| refuse("P12", format!("{error}: {}", quoted(name))))?;
        if lengths.len() == MAX_PATH_COMPONENTS {
            return Err(refuse("P5", format!("a path has more than {MAX_PATH_COMPONENTS} components")));
        }
        if !cursor.enter_dict() {
            return Err(refuse("P18", format!("no dictionary in the file tree: {}", quoted(name))));
        }
        lengths.push(path.len());
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
    }
    if files.is_empty() {
        return Err(refuse("P18", "the file tree has no files"));
    }
    Ok(files)
}

fn read_file(path: &[u8], properties: Value<'_>, piece_length: u32) -> Result<TreeFile, MetainfoError> {
    let dict = properties.as_dict().ok_or_else(|| refuse("P18", "a file's properties are not a dictionary"))?;
    let attr = dict.get("attr");
    if has_attr(attr, b'p') {
        return Err(refuse("P18", "a file tree lists padding"));
    }
    let symlink = has_attr(attr, b'l');
    let kind = match symlink {
        true => EntryKind::Symlink { target: read_target(dict.get("symlink path"))? },
        false => EntryKind::File { executable: has_attr(attr, b'x') },
    };
    let length = if symlink { 0 } else { length(dict.get("length"), "P18")? };
    if length.checked_add(u64::from(piece_length)).is_none_or(|end| end > i64::MAX as u64) {
        return Err(refuse("P8", "a length is above 2^63 - 1"));
    }
    let root = match dict.get("pieces root") {
        Some(root) if length > 0 => {
            let root = root.as_bytes().and_then(|root| Hash::try_from(root).ok());
            Some(
                root.map(Box::new)
                    .ok_or_else(|| refuse("P18", format!("a pieces root is not 32 bytes: {}", quoted(path))))?,
            )
        }
        None if length > 0 => return Err(refuse("P18", format!("a pieces root is missing: {}", quoted(path)))),
        _ => None,
    };
    Ok(TreeFile { path: path.into(), length, kind, root })
}

/// Makes the files of a v2-only torrent the content; padding puts each on a piece border.
pub(super) fn fill(files: Vec<TreeFile>, piece_length: u32, content: &mut Content, notes: &mut Notes) {
    let piece_length = u64::from(piece_length);
    let mut gap = 0;
    for file in files {
        if file.length > 0 && gap > 0 {
            let padding = Entry { path: Box::default(), kind: EntryKind::Padding, pieces_root: None };
            content.push(padding, std::mem::take(&mut gap));
        }
        gap = if file.length > 0 { file.length.next_multiple_of(piece_length) - file.length } else { gap };
        let mut path = Vec::with_capacity(file.path.len());
        let mut shown = Shown::default();
        for name in file.path.split(|&byte| byte == b'/') {
            add_component(&mut path, name, &mut shown, "P12").expect("read_tree has checked every name");
        }
        shown.note(&path, notes);
        content.push(Entry { path: path.into(), kind: file.kind, pieces_root: file.root }, file.length);
    }
}

/// Checks that the v1 files of a hybrid are those of its tree, and gives them their roots.
pub(super) fn match_v1(
    files: &[TreeFile],
    keys: &Keys<'_>,
    name: &[u8],
    piece_length: u32,
    content: &mut Content,
) -> Result<(), MetainfoError> {
    let differ = |what: &str| refuse("P20", format!("the v1 and v2 parts of the hybrid differ: {what}"));
    let v1_paths: Vec<Vec<u8>> = match keys.files.and_then(Value::as_list) {
        None => vec![name.to_vec()],
        Some(list) => list.map(|file| raw_path(file).unwrap_or_default()).collect(),
    };
    let mut tree = files.iter();
    let mut start = 0_u64;
    for (index, (entry, spec)) in content.entries.iter_mut().zip(&content.specs).enumerate() {
        let begins = start;
        start += spec.length;
        if entry.kind == EntryKind::Padding {
            continue;
        }
        let file = tree.next().ok_or_else(|| differ("v1 has a file that v2 lacks"))?;
        if v1_paths.get(index).is_none_or(|path| **path != *file.path) {
            return Err(differ(&format!("a file is called {} in v2 only", quoted(&file.path))));
        }
        if spec.length != file.length || discriminant(&entry.kind) != discriminant(&file.kind) {
            return Err(differ(&format!("length or kind of {}", quoted(&file.path))));
        }
        if spec.length > 0 && !begins.is_multiple_of(u64::from(piece_length)) {
            return Err(differ(&format!("{} does not begin with a piece in v1", quoted(&file.path))));
        }
        entry.pieces_root = file.root.clone();
    }
    match tree.next() {
        Some(_) => Err(differ("v2 has a file that v1 lacks")),
        None => Ok(()),
    }
}

/// Checks the `piece layers` of a torrent against the roots of its files.
pub(super) fn check_layers(metainfo: &Metainfo, layers: Option<Value<'_>>) -> Result<(), MetainfoError> {
    let layers = layers.and_then(Value::as_dict).ok_or_else(|| refuse("P18", "there are no piece layers"))?;
    let mut wanted: HashMap<Hash, u64> = HashMap::new();
    let piece_length = u64::from(metainfo.layout.piece_length());
    for (entry, file) in metainfo.entries.iter().zip(metainfo.layout.files()) {
        let length = metainfo.layout.file_bytes(file);
        if let Some(root) = entry.pieces_root.as_deref().filter(|_| length > piece_length) {
            let pieces = length.div_ceil(piece_length);
            if *wanted.entry(*root).or_insert(pieces) != pieces {
                return Err(refuse("P18", "files of different length share a pieces root"));
            }
        }
    }
    for (root, layer) in layers.iter() {
        let pieces = Hash::try_from(root).ok().and_then(|root| wanted.remove(&root));
        let pieces = pieces.ok_or_else(|| refuse("P18", "a piece layer belongs to no file larger than a piece"))?;
        let layer = layer.as_bytes().ok_or_else(|| refuse("P18", "a piece layer is not a string"))?;
        let (hashes, rest) = layer.as_chunks::<32>();
        if !rest.is_empty() || hashes.len() as u64 != pieces {
            return Err(refuse("P18", format!("a piece layer has {} bytes, not {pieces} times 32", layer.len())));
        }
        let levels = (metainfo.layout.piece_length() / BLOCK_BYTES).trailing_zeros();
        if root_of_layer(hashes, levels) != root {
            return Err(refuse("P18", "a piece layer does not match its pieces root"));
        }
    }
    if wanted.is_empty() { Ok(()) } else { Err(refuse("P18", "the piece layer of a file is missing")) }
}

/// The components of a v1 path as found, joined by `/`.
fn raw_path(file: Value<'_>) -> Option<Vec<u8>> {
    let components: Vec<_> = FileKeys::read(file.as_dict()?).path?.as_list()?.filter_map(Value::as_bytes).collect();
    Some(components.join(&b'/'))
}
