//! SHA-1 of every piece of a tree.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sha1::{Digest, Sha1};

use super::ahead::read_ahead;
use super::{ScanError, Stamp, TreeEntry, TreeEntryKind, io_error};
use crate::base::{FileIndex, Layout, PieceIndex};

/// How hashing is watched and stopped.
pub struct Hashing<'h> {
    /// Threads that read and hash.
    pub threads: usize,
    /// Called with the bytes that were hashed since its last call, from any thread.
    pub progress: &'h (dyn Fn(u64) + Sync),
    /// Set from outside: stop soon.
    pub stop: &'h AtomicBool,
}

/// SHA-1 of each piece, one after the other. The entries are the files of `layout` in its order, without its padding.
///
/// Holds a buffer a thread and the hashes, whatever the files are like; each byte is read once.
///
/// # Errors
/// [`ScanError::Changed`] and [`ScanError::Vanished`] when a file is no longer what it was when the tree was walked,
/// [`ScanError::Interrupted`] when asked to stop, else what the system says.
pub fn hash_pieces(entries: &[TreeEntry], layout: &Layout, hashing: &Hashing<'_>) -> Result<Vec<u8>, ScanError> {
    let mut rest = entries.iter();
    let files = layout.files().map(|file| if layout.is_padding(file) { None } else { rest.next() });
    let files: Vec<_> = files.collect();
    let next = AtomicUsize::new(0);
    let (failed, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let work = || {
        let mut reader = Reader { files: &files, open: None, buffer: vec![0; BUFFER_BYTES] };
        let mut digests: Vec<(PieceIndex, [u8; DIGEST_BYTES])> = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let Some(piece) =
                u32::try_from(next.fetch_add(1, Ordering::Relaxed)).ok().and_then(|raw| layout.piece(raw))
            else {
                break;
            };
            match reader.hash(layout, piece, hashing) {
                Ok(digest) => digests.push((piece, digest)),
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(digests)
    };
    let parts = std::thread::scope(|scope| {
        let ahead = scope.spawn(|| read_ahead(&files, layout, &next, &over));
        let threads: Vec<_> = (0..hashing.threads.max(1)).map(|_| scope.spawn(work)).collect();
        let parts =
            threads.into_iter().map(|thread| thread.join().expect("hashing does not panic")).collect::<Vec<_>>();
        over.store(true, Ordering::Relaxed);
        ahead.thread().unpark();
        parts
    });
    let mut pieces = vec![0; layout.piece_count() * DIGEST_BYTES];
    for part in parts {
        for (piece, digest) in part? {
            pieces[piece.at() * DIGEST_BYTES..][..DIGEST_BYTES].copy_from_slice(&digest);
        }
    }
    entries.iter().try_for_each(unchanged)?;
    Ok(pieces)
}

/// One thread's way of reading: pieces come mostly in order, so one open file is enough.
struct Reader<'e> {
    files: &'e [Option<&'e TreeEntry>],
    open: Option<(FileIndex, File)>,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    fn hash(
        &mut self,
        layout: &Layout,
        piece: PieceIndex,
        hashing: &Hashing<'_>,
    ) -> Result<[u8; DIGEST_BYTES], ScanError> {
        let mut hasher = Sha1::new();
        for span in layout.spans(layout.piece_start(piece), u64::from(layout.piece_bytes(piece))) {
            let mut done = 0;
            while done < span.length {
                if hashing.stop.load(Ordering::Relaxed) {
                    return Err(ScanError::Interrupted);
                }
                let length = (span.length - done).min(self.buffer.len() as u64) as usize;
                match self.files.get(span.file.at()).copied().flatten() {
                    Some(TreeEntry { kind: TreeEntryKind::File { location, stamp, .. }, .. }) => {
                        self.read(span.file, location, stamp, span.offset + done, length)?;
                        (hashing.progress)(length as u64);
                    }
                    _ => self.buffer[..length].fill(0),
                }
                hasher.update(&self.buffer[..length]);
                done += length as u64;
            }
        }
        Ok(hasher.finalize().into())
    }

    /// Reads so many bytes of a file into the buffer.
    fn read(
        &mut self,
        file: FileIndex,
        location: &Path,
        stamp: &Stamp,
        offset: u64,
        length: usize,
    ) -> Result<(), ScanError> {
        let opened = match &mut self.open {
            Some((open, opened)) if *open == file => opened,
            other => &mut other.insert((file, open(location, stamp)?)).1,
        };
        opened.read_exact_at(&mut self.buffer[..length], offset).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => ScanError::Changed(location.to_owned()),
            _ => io_error("read", location)(error),
        })
    }
}

/// Opens a file, if it is what it was when the tree was walked.
pub(super) fn open(location: &Path, stamp: &Stamp) -> Result<File, ScanError> {
    // Nobody is waited for at the other end if it has become a pipe.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(location);
    let file = file.map_err(gone_or("open", location))?;
    let now = file.metadata().map_err(io_error("look at", location))?;
    if Stamp::of(&now) == *stamp { Ok(file) } else { Err(ScanError::Changed(location.to_owned())) }
}

/// Whether a file still is what it was when the tree was walked.
fn unchanged(entry: &TreeEntry) -> Result<(), ScanError> {
    let TreeEntryKind::File { location, stamp, .. } = &entry.kind else { return Ok(()) };
    let now = std::fs::metadata(location).map_err(gone_or("look at", location))?;
    if Stamp::of(&now) == *stamp { Ok(()) } else { Err(ScanError::Changed(location.clone())) }
}

/// An error on a file that was there before.
fn gone_or(op: &'static str, location: &Path) -> impl FnOnce(std::io::Error) -> ScanError {
    let location = location.to_owned();
    move |error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => ScanError::Vanished(location),
        _ => io_error(op, &location)(error),
    }
}

const DIGEST_BYTES: usize = 20;

/// Large enough that calls do not count, small enough for the cache.
const BUFFER_BYTES: usize = 256 * 1024;
