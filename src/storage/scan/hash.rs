//! SHA-1 of every piece of a tree.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::ahead::read_ahead;
use super::{ScanError, Stamp, TreeEntry, TreeEntryKind, io_error};
use crate::base::{FileIndex, Layout, PieceIndex, Span};
use crate::storage::sha1::{Sha1, TOGETHER, update_together};

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
        let reader = || Reader { files: &files, open: None };
        let mut readers: [Reader<'_>; TOGETHER] = std::array::from_fn(|_| reader());
        let mut buffers = Buffers::new();
        let mut digests: Vec<(PieceIndex, [u8; DIGEST_BYTES])> = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let pieces = next_group(layout, hashing, &next).into_iter();
            let mut pieces: Vec<_> = pieces.map(|piece| Progress::new(layout, piece)).collect();
            if pieces.is_empty() {
                break;
            }
            let done = buffers.hash(&mut pieces, |at, span, part| readers[at].read(span, part, hashing));
            if let Err(error) = done {
                failed.store(true, Ordering::Relaxed);
                return Err(error);
            }
            digests.extend(pieces.into_iter().map(|one| (one.piece, one.hash.finish())));
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

/// The next pieces for one thread, in order; none at the end. Few of them where few are for each thread.
pub(super) fn next_group(layout: &Layout, hashing: &Hashing<'_>, next: &AtomicUsize) -> Vec<PieceIndex> {
    let count = layout.piece_count().div_ceil(hashing.threads.max(1)).clamp(1, TOGETHER);
    let first = next.fetch_add(count, Ordering::Relaxed);
    (first..first + count).map_while(|raw| layout.piece(u32::try_from(raw).ok()?)).collect()
}

/// A piece that is being hashed, as far as it has come.
pub(super) struct Progress<'l> {
    pub(super) piece: PieceIndex,
    layout: &'l Layout,
    pub(super) hash: Sha1,
    /// Bytes of it that were read.
    read: u32,
}

impl<'l> Progress<'l> {
    pub(super) fn new(layout: &'l Layout, piece: PieceIndex) -> Self {
        Self { piece, layout, hash: Sha1::new(), read: 0 }
    }

    /// Fills a buffer with what comes next, by `read`; how much there was.
    fn fill<E>(
        &mut self,
        buffer: &mut [u8],
        mut read: impl FnMut(Span, &mut [u8]) -> Result<(), E>,
    ) -> Result<usize, E> {
        let length = self.layout.piece_bytes(self.piece) - self.read;
        let length = u64::from(length).min(buffer.len() as u64);
        let mut at = 0;
        for span in self.layout.spans(self.layout.piece_start(self.piece) + u64::from(self.read), length) {
            let end = at + span.length as usize;
            read(span, &mut buffer[at..end])?;
            at = end;
        }
        self.read += length as u32;
        Ok(at)
    }
}

/// Where pieces are read to that are hashed together.
pub(super) struct Buffers([Vec<u8>; TOGETHER]);

impl Buffers {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| vec![0; BUFFER_BYTES]))
    }

    /// Hashes these pieces, [`TOGETHER`] of them at most, a part of each in turn; `read` fills a buffer with a span of the
    /// piece at this place of the list.
    pub(super) fn hash<E>(
        &mut self,
        pieces: &mut [Progress<'_>],
        mut read: impl FnMut(usize, Span, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let mut lengths = [0; TOGETHER];
            for (at, (one, buffer)) in pieces.iter_mut().zip(&mut self.0).enumerate() {
                lengths[at] = one.fill(buffer, |span, part| read(at, span, part))?;
            }
            if lengths.iter().all(|&length| length == 0) {
                return Ok(());
            }
            let parts = self.0.iter().zip(lengths).map(|(buffer, length)| &buffer[..length]);
            update_together(pieces.iter_mut().map(|one| &mut one.hash).zip(parts));
        }
    }
}

/// One way of reading: pieces come mostly in order, so one open file is enough.
struct Reader<'e> {
    files: &'e [Option<&'e TreeEntry>],
    open: Option<(FileIndex, File)>,
}

impl Reader<'_> {
    /// Reads a part of a piece.
    fn read(&mut self, span: Span, part: &mut [u8], hashing: &Hashing<'_>) -> Result<(), ScanError> {
        if hashing.stop.load(Ordering::Relaxed) {
            return Err(ScanError::Interrupted);
        }
        match self.files.get(span.file.at()).copied().flatten() {
            Some(TreeEntry { kind: TreeEntryKind::File { location, stamp, .. }, .. }) => {
                self.read_file(span.file, location, stamp, span.offset, part)?;
                (hashing.progress)(span.length);
            }
            _ => part.fill(0),
        }
        Ok(())
    }

    fn read_file(
        &mut self,
        file: FileIndex,
        location: &Path,
        stamp: &Stamp,
        offset: u64,
        part: &mut [u8],
    ) -> Result<(), ScanError> {
        let opened = match &mut self.open {
            Some((open, opened)) if *open == file => opened,
            other => &mut other.insert((file, open(location, stamp)?)).1,
        };
        opened.read_exact_at(part, offset).map_err(|error| match error.kind() {
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

/// Large enough that calls do not count, so small that those of one thread fit into the cache of its core.
const BUFFER_BYTES: usize = 128 * 1024;
