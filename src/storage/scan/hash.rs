//! SHA-1 of every piece of a tree.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sha1::{Digest, Sha1};

use super::{ScanError, TreeEntry, TreeEntryKind, io_error};
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

/// SHA-1 of each piece, one after the other. Entry n of the tree is file n of `layout`.
///
/// # Errors
/// [`ScanError::Changed`] when a file is no longer what it was when the tree was walked, [`ScanError::Interrupted`] when
/// asked to stop, else what the system says.
pub fn hash_pieces(entries: &[TreeEntry], layout: &Layout, hashing: &Hashing<'_>) -> Result<Vec<u8>, ScanError> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let work = || {
        let mut reader = Reader { entries, open: None, buffer: vec![0; BUFFER_BYTES] };
        let mut digests: Vec<(PieceIndex, [u8; 20])> = Vec::new();
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
        let threads: Vec<_> = (0..hashing.threads.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("hashing does not panic")).collect::<Vec<_>>()
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
    entries: &'e [TreeEntry],
    open: Option<(FileIndex, File)>,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    fn hash(&mut self, layout: &Layout, piece: PieceIndex, hashing: &Hashing<'_>) -> Result<[u8; 20], ScanError> {
        let mut hasher = Sha1::new();
        for span in layout.spans(layout.piece_start(piece), u64::from(layout.piece_bytes(piece))) {
            let TreeEntryKind::File { location, .. } = &self.entries[span.file.at()].kind else { continue };
            if self.open.as_ref().is_none_or(|(file, _)| *file != span.file) {
                let file = File::open(location).map_err(io_error("open", location))?;
                self.open = Some((span.file, file));
            }
            let Some((_, file)) = &self.open else { continue };
            let mut done = 0;
            while done < span.length {
                if hashing.stop.load(Ordering::Relaxed) {
                    return Err(ScanError::Interrupted);
                }
                let length = (span.length - done).min(self.buffer.len() as u64) as usize;
                let part = &mut self.buffer[..length];
                match file.read_exact_at(part, span.offset + done) {
                    Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                        return Err(ScanError::Changed(location.clone()));
                    }
                    read => read.map_err(io_error("read", location))?,
                }
                hasher.update(part);
                (hashing.progress)(length as u64);
                done += length as u64;
            }
        }
        Ok(hasher.finalize().into())
    }
}

/// Whether a file still is what it was when the tree was walked.
fn unchanged(entry: &TreeEntry) -> Result<(), ScanError> {
    let TreeEntryKind::File { location, length, modified, .. } = &entry.kind else { return Ok(()) };
    let now = std::fs::symlink_metadata(location).map_err(io_error("look at", location))?;
    match now.len() == *length && now.modified().ok() == *modified {
        true => Ok(()),
        false => Err(ScanError::Changed(location.clone())),
    }
}

const DIGEST_BYTES: usize = 20;

/// Large enough that calls do not count, small enough for the cache.
const BUFFER_BYTES: usize = 256 * 1024;
