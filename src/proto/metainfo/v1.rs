//! The v1 part of an info dictionary: `length` or `files`, `pieces` (BEP 3), attributes and padding (BEP 47).

use super::info::{Content, Keys, has_attr, length, shown_path};
use super::notes::Notes;
use super::{Entry, EntryKind, MetainfoError, refuse};
use crate::proto::bencode::{Dict, Value};

/// Reads the files into `content` and returns the piece hashes.
pub(super) fn read<'a>(
    keys: &Keys<'a>,
    piece_length: u32,
    name: &[u8],
    content: &mut Content,
    notes: &mut Notes,
) -> Result<&'a [u8], MetainfoError> {
    match (keys.length, keys.files) {
        (Some(_), Some(_)) => return Err(refuse("P11", "there are both length and files")),
        (None, None) => return Err(refuse("P11", "there is neither length nor files")),
        (Some(value), None) => {
            let kind = EntryKind::File { executable: has_attr(keys.attr, b'x') };
            content.push(Entry { path: name.into(), kind, pieces_root: None }, length(Some(value), "P8")?);
        }
        (None, Some(files)) => read_files(files, content, notes)?,
    }
    let pieces = keys.pieces.ok_or_else(|| refuse("P10", "the piece hashes are missing"))?;
    let pieces = pieces.as_bytes().ok_or_else(|| refuse("P10", "the piece hashes are not a string"))?;
    let total = content.total().filter(|&total| total <= i64::MAX as u64);
    let total = total.ok_or_else(|| refuse("P8", "the lengths add up to more than 2^63 - 1 bytes"))?;
    if total == 0 {
        return Err(refuse("P8", "there is no content: the total length is 0"));
    }
    let expected = u128::from(total.div_ceil(u64::from(piece_length))) * 20;
    if pieces.len() as u128 != expected {
        let got = pieces.len();
        return Err(refuse("P10", format!("the piece hashes have {got} bytes where the lengths ask for {expected}")));
    }
    Ok(pieces)
}

/// One dictionary of the `files` list.
#[derive(Debug, Default)]
pub(super) struct FileKeys<'a> {
    pub(super) length: Option<Value<'a>>,
    pub(super) path: Option<Value<'a>>,
    path_utf8: Option<Value<'a>>,
    attr: Option<Value<'a>>,
    target: Option<Value<'a>>,
}

impl<'a> FileKeys<'a> {
    pub(super) fn read(dict: Dict<'a>) -> Self {
        let mut keys = Self::default();
        for (key, value) in dict.iter() {
            let place = match key {
                b"length" => &mut keys.length,
                b"path" => &mut keys.path,
                b"path.utf-8" => &mut keys.path_utf8,
                b"attr" => &mut keys.attr,
                b"symlink path" => &mut keys.target,
                _ => continue,
            };
            *place = Some(value);
        }
        keys
    }
}

fn read_files(files: Value<'_>, content: &mut Content, notes: &mut Notes) -> Result<(), MetainfoError> {
    let files = files.as_list().ok_or_else(|| refuse("P11", "files is not a list"))?;
    let count = files.clone().count();
    if count == 0 {
        return Err(refuse("P11", "files is empty"));
    }
    content.entries.reserve_exact(count);
    content.specs.reserve_exact(count);
    for file in files {
        let dict = file.as_dict().ok_or_else(|| refuse("P11", "an entry of files is not a dictionary"))?;
        read_file(&FileKeys::read(dict), content, notes)?;
    }
    Ok(())
}

fn read_file(keys: &FileKeys<'_>, content: &mut Content, notes: &mut Notes) -> Result<(), MetainfoError> {
    let path = read_path(keys, notes);
    if has_attr(keys.attr, b'p') {
        if keys.path.is_some() || keys.path_utf8.is_some() {
            path?;
        }
        let entry = Entry { path: Box::default(), kind: EntryKind::Padding, pieces_root: None };
        content.push(entry, length(keys.length, "P8")?);
        return Ok(());
    }
    let path = path?;
    if has_attr(keys.attr, b'l') {
        if keys.length.is_some() && length(keys.length, "P8")? > 0 {
            notes.add("a symlink has a length, taken as 0", || crate::proto::path::escape_short(&path, 80));
        }
        let kind = EntryKind::Symlink { target: read_target(keys.target)? };
        content.push(Entry { path, kind, pieces_root: None }, 0);
        return Ok(());
    }
    let kind = EntryKind::File { executable: has_attr(keys.attr, b'x') };
    content.push(Entry { path, kind, pieces_root: None }, length(keys.length, "P8")?);
    Ok(())
}

/// The target of a symlink: a path below the torrent's root, in shown form.
pub(super) fn read_target(target: Option<Value<'_>>) -> Result<Box<[u8]>, MetainfoError> {
    let target = target.ok_or_else(|| refuse("P17", "a symlink has no symlink path"))?;
    let (path, _) = shown_path(target, "P17", "P17")?;
    Ok(path)
}

/// The path in shown form: `path.utf-8` where it is usable, else `path`; both are checked.
fn read_path(keys: &FileKeys<'_>, notes: &mut Notes) -> Result<Box<[u8]>, MetainfoError> {
    let plain = keys.path.map(|path| shown_path(path, "P11", "P12")).transpose()?;
    let mut best = plain.ok_or_else(|| refuse("P11", "a file has no path"))?;
    if let Some(utf8) = keys.path_utf8 {
        match shown_path(utf8, "P16", "P12") {
            Ok(other) if !other.1.not_utf8 => best = other,
            Err(error) if error.rule != "P16" => return Err(error),
            _ => notes.add("a path.utf-8 is not UTF-8 text and is ignored", String::new),
        }
    }
    best.1.note(&best.0, notes);
    Ok(best.0)
}
