//! Comparing files of somebody's with what a torrent says, piece by piece, on several threads.

use std::convert::Infallible;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::hash::{Buffers, Progress, next_group};
use super::{Hashing, ScanError, io_error};
use crate::base::{FileIndex, Layout, PieceIndex};
use crate::storage::backing::Backing;
use crate::storage::backing::disk::DiskFiles;
use crate::storage::sha1::TOGETHER;
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
    let pieces = each_group(layout, hashing, Buffers::new, |pieces, buffers| {
        let mut missing = [false; TOGETHER];
        let mut progress: Vec<_> = pieces.iter().map(|&piece| Progress::new(layout, piece)).collect();
        let Ok(()) = buffers.hash(&mut progress, |at, span, part| {
            if span.padding || missing[at] || hashing.stop.load(Ordering::Relaxed) {
                part.fill(0);
            } else {
                missing[at] = !reads(&files, span.file, span.offset, part);
            }
            Ok::<_, Infallible>(())
        });
        let judge = |(one, missing): (Progress<'_>, bool)| match missing {
            true => Finding::Missing,
            false if hashes.accept(one.piece, one.hash) => Finding::Good,
            false => Finding::Bad,
        };
        progress.into_iter().zip(missing).map(judge).collect()
    })?;
    Ok(Findings { pieces, lengths })
}

/// Lets `look` judge every piece, several at a time, mostly in their order.
///
/// # Errors
/// [`ScanError::Interrupted`] when asked to stop.
pub fn each_piece(
    layout: &Layout,
    hashing: &Hashing<'_>,
    look: impl Fn(PieceIndex) -> Finding + Sync,
) -> Result<Vec<Finding>, ScanError> {
    each_group(layout, hashing, || (), |pieces, ()| pieces.iter().map(|&piece| look(piece)).collect())
}

/// As [`each_piece`] with [`TOGETHER`] pieces for a look, which gives a finding for each; each thread has something of its own.
fn each_group<T>(
    layout: &Layout,
    hashing: &Hashing<'_>,
    own: impl Fn() -> T + Sync,
    look: impl Fn(&[PieceIndex], &mut T) -> Vec<Finding> + Sync,
) -> Result<Vec<Finding>, ScanError> {
    let next = AtomicUsize::new(0);
    let stopped = AtomicBool::new(false);
    let work = || {
        let (mut own, mut found) = (own(), Vec::new());
        loop {
            let pieces = next_group(layout, hashing, &next);
            if pieces.is_empty() {
                break;
            }
            let findings = look(&pieces, &mut own);
            if hashing.stop.load(Ordering::Relaxed) {
                stopped.store(true, Ordering::Relaxed);
                break;
            }
            (hashing.progress)(pieces.iter().map(|&piece| u64::from(layout.piece_bytes(piece))).sum());
            found.extend(pieces.into_iter().zip(findings));
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
