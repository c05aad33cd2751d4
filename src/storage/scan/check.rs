//! Comparing files of somebody's with what a torrent says, piece by piece, on several threads.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sha1::{Digest, Sha1};

use super::{Hashing, ScanError, io_error};
use crate::base::{FileIndex, Layout, PieceIndex};
use crate::storage::backing::Backing;
use crate::storage::backing::disk::DiskFiles;
use crate::storage::{Adopt, PieceHashes};

/// What a piece turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Its hash is right.
    Good,
    /// It is not.
    Bad,
    /// Not all of it is there, or can be read.
    Missing,
}

/// What there is of a torrent's content.
#[derive(Debug)]
pub struct Findings {
    /// One for each piece.
    pub pieces: Vec<Finding>,
    /// The length of each file; `None` when there is no regular file reached through real directories, and for padding.
    pub lengths: Vec<Option<u64>>,
}

/// Looks at every piece. Nothing is written.
///
/// # Errors
/// [`ScanError::Interrupted`] when asked to stop; the directory that the files have in common cannot be opened.
pub fn check_files(
    layout: &Arc<Layout>,
    hashes: &PieceHashes,
    files: Adopt,
    hashing: &Hashing<'_>,
) -> Result<Findings, ScanError> {
    let (root, paths) = files.split_root(layout)?;
    let dir = File::open(&root).map_err(io_error("open", &root))?;
    let files = DiskFiles::adopted(Arc::clone(layout), dir, root.clone(), paths, Arc::default())
        .map_err(io_error("stat", &root))?;
    let length = |file| if layout.is_padding(file) { None } else { files.seen(file).ok().flatten() };
    let lengths = layout.files().map(|file| length(file).map(|seen| seen.identity.size)).collect();
    let pieces = each_piece(layout, hashing, |piece, buffer| {
        let mut hasher = Sha1::new();
        for span in layout.spans(layout.piece_start(piece), layout.piece_bytes(piece).into()) {
            let mut done = 0;
            while done < span.length {
                let part = &mut buffer[..(span.length - done).min(BUFFER_BYTES as u64) as usize];
                if span.padding {
                    part.fill(0);
                } else if !reads(&files, span.file, span.offset + done, part) {
                    return Finding::Missing;
                }
                hasher.update(&*part);
                done += part.len() as u64;
            }
        }
        if hashes.accept(piece, hasher) { Finding::Good } else { Finding::Bad }
    })?;
    Ok(Findings { pieces, lengths })
}

/// Lets `look` judge every piece, several at a time, mostly in their order; each thread has a buffer for it.
///
/// # Errors
/// [`ScanError::Interrupted`] when asked to stop.
pub fn each_piece(
    layout: &Layout,
    hashing: &Hashing<'_>,
    look: impl Fn(PieceIndex, &mut [u8]) -> Finding + Sync,
) -> Result<Vec<Finding>, ScanError> {
    let next = AtomicUsize::new(0);
    let stopped = AtomicBool::new(false);
    let work = || {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut found = Vec::new();
        while let Some(piece) =
            u32::try_from(next.fetch_add(1, Ordering::Relaxed)).ok().and_then(|raw| layout.piece(raw))
        {
            if hashing.stop.load(Ordering::Relaxed) {
                stopped.store(true, Ordering::Relaxed);
                break;
            }
            found.push((piece, look(piece, &mut buffer)));
            (hashing.progress)(layout.piece_bytes(piece).into());
        }
        found
    };
    let parts = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..hashing.threads.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("looking does not panic")).collect::<Vec<_>>()
    });
    if stopped.load(Ordering::Relaxed) {
        return Err(ScanError::Interrupted);
    }
    let mut pieces = vec![Finding::Missing; layout.piece_count()];
    parts.into_iter().flatten().for_each(|(piece, finding)| pieces[piece.at()] = finding);
    Ok(pieces)
}

/// Whether the file has these bytes, and gives them.
fn reads(files: &DiskFiles, file: FileIndex, offset: u64, part: &mut [u8]) -> bool {
    match files.read_at(file, offset, part) {
        Ok(read) => read == part.len(),
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::debug!(%error, path = %files.path(file).display(), "cannot be read");
            }
            false
        }
    }
}

/// Large enough that calls do not count, small enough for the cache.
const BUFFER_BYTES: usize = 256 * 1024;
