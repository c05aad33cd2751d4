//! The store as the rest of the program uses it: write, verify, read back, come again.

use std::path::Path;
use std::sync::Arc;

use btfs::base::{BLOCK_BYTES, FileIndex, FileSpec, InfoHash, Layout, PieceIndex, PieceRange};
use btfs::storage::{CacheDir, OpenedStore, PieceHashes, PieceState, Store, TorrentFiles, Verdict};
use bytes::Bytes;
use sha1::{Digest, Sha1};

/// A torrent with content that is its own at every place.
struct Torrent {
    files: TorrentFiles,
    content: Bytes,
}

/// Lengths of files in order; negative: padding.
fn torrent(piece_length: u32, lengths: &[i64]) -> Torrent {
    let specs: Vec<_> =
        lengths.iter().map(|&length| FileSpec { length: length.unsigned_abs(), padding: length < 0 }).collect();
    let layout = Layout::new(piece_length, &specs).unwrap();
    let mut content: Vec<u8> =
        (0..layout.total_bytes()).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a) >> 32) as u8 | 1).collect();
    for file in layout.files().filter(|&file| layout.is_padding(file)) {
        let start = layout.file_start(file) as usize;
        content[start..start + layout.file_bytes(file) as usize].fill(0);
    }
    let hashes: Vec<u8> = content.chunks(piece_length as usize).flat_map(Sha1::digest).collect();
    let info_hash = InfoHash(Sha1::digest(&hashes).into());
    let files = TorrentFiles {
        info_hash,
        layout: Arc::new(layout),
        hashes: PieceHashes::V1(hashes.into()),
        info: Bytes::from_static(b"d4:name1:xe"),
    };
    Torrent { files, content: content.into() }
}

impl Torrent {
    fn open(&self, dir: &Path) -> OpenedStore {
        Store::open(&CacheDir::open(dir).unwrap(), self.files.clone(), false).unwrap()
    }

    fn piece(&self, raw: u32) -> PieceIndex {
        self.files.layout.piece(raw).unwrap()
    }

    fn bytes_of(&self, piece: PieceIndex) -> Bytes {
        let start = self.files.layout.piece_start(piece) as usize;
        self.content.slice(start..start + self.files.layout.piece_bytes(piece) as usize)
    }

    fn blocks_of(&self, piece: PieceIndex) -> Vec<Bytes> {
        let bytes = self.bytes_of(piece);
        (0..bytes.len())
            .step_by(BLOCK_BYTES as usize)
            .map(|at| bytes.slice(at..bytes.len().min(at + BLOCK_BYTES as usize)))
            .collect()
    }

    fn write(&self, store: &Store, raw: u32) -> Verdict {
        let piece = self.piece(raw);
        store.write(piece, 1, 0, &self.blocks_of(piece)).unwrap()
    }

    fn write_all(&self, store: &Store) {
        for piece in self.files.layout.pieces().iter() {
            assert_eq!(self.write(store, piece.raw()), Verdict::Verified);
        }
    }

    /// Reads every file whole and compares.
    fn assert_readable(&self, store: &Store) {
        for file in self.files.layout.files().filter(|&file| !self.files.layout.is_padding(file)) {
            assert_eq!(self.read(store, file), self.expected(file), "file {file}");
        }
    }

    fn expected(&self, file: FileIndex) -> Bytes {
        let start = self.files.layout.file_start(file) as usize;
        self.content.slice(start..start + self.files.layout.file_bytes(file) as usize)
    }

    fn read(&self, store: &Store, file: FileIndex) -> Vec<u8> {
        let layout = &self.files.layout;
        let pins = store.table().pin(layout.pieces_of(file, 0, u64::MAX)).unwrap();
        let mut buffer = vec![0; layout.file_bytes(file) as usize];
        store.read(&pins, file, 0, &mut buffer).unwrap();
        buffer
    }
}

#[test]
fn what_is_written_is_read_back_across_files_and_padding() {
    let torrent = torrent(64 << 10, &[100_000, 0, -31_072, 5, 70_000, 1]);
    let temp = tempfile::tempdir().unwrap();
    let opened = torrent.open(temp.path());
    assert_eq!((opened.have.count(), opened.unchecked.count()), (0, 0));
    let store = opened.store;
    torrent.write_all(&store);
    torrent.assert_readable(&store);
    for piece in torrent.files.layout.pieces().iter() {
        let mut buffer = vec![1; torrent.bytes_of(piece).len()];
        let block = torrent.files.layout.block_ref(piece.raw(), 0, buffer.len() as u32).unwrap();
        let pins = store.table().pin(PieceRange::one(piece)).unwrap();
        store.read_block(&pins, block, &mut buffer).unwrap();
        assert_eq!(buffer, torrent.bytes_of(piece));
        let digests: Vec<[u8; 20]> = torrent.blocks_of(piece).iter().map(|block| Sha1::digest(block).into()).collect();
        assert_eq!(store.block_digests(piece).unwrap(), digests);
    }
    assert!(!temp.path().join(torrent.files.info_hash.to_string()).join("data/2").exists(), "padding is not stored");
}

#[test]
fn runs_in_any_order_and_from_many_threads_end_in_one_verdict() {
    let torrent = torrent(1 << 20, &[3 << 20]);
    let temp = tempfile::tempdir().unwrap();
    let store = torrent.open(temp.path()).store;
    for piece in torrent.files.layout.pieces().iter() {
        let blocks = torrent.blocks_of(piece);
        let verdicts: Vec<Verdict> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|worker| {
                    let (blocks, store) = (&blocks, &store);
                    scope.spawn(move || {
                        let mine = (0..blocks.len()).rev().filter(|at| at % 4 == worker);
                        let write = |at| store.write(piece, 1, at as u32 * BLOCK_BYTES, &blocks[at..=at]).unwrap();
                        mine.map(write).collect::<Vec<_>>()
                    })
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Verified).count(), 1);
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Incomplete).count(), 63);
    }
    torrent.assert_readable(&store);
    store.table().check_invariants();
}

#[test]
fn a_wrong_block_is_corrupt_with_digests_and_a_new_attempt_mends_it() {
    let torrent = torrent(64 << 10, &[128 << 10]);
    let temp = tempfile::tempdir().unwrap();
    let store = torrent.open(temp.path()).store;
    let piece = torrent.piece(1);
    let mut blocks = torrent.blocks_of(piece);
    blocks[2] = Bytes::from(vec![0xaa; BLOCK_BYTES as usize]);
    let digests: Vec<[u8; 20]> = blocks.iter().map(|block| Sha1::digest(block).into()).collect();
    assert_eq!(store.write(piece, 1, 0, &blocks).unwrap(), Verdict::Corrupt(digests));
    assert_eq!(store.table().state(piece), PieceState::Absent);
    assert!(store.table().pin(PieceRange::one(piece)).is_none());
    assert_eq!(store.write(piece, 2, 0, &torrent.blocks_of(piece)).unwrap(), Verdict::Verified);
    assert_eq!(store.write(piece, 2, 0, &blocks).unwrap(), Verdict::Verified, "a late duplicate is dropped");
    let mut buffer = vec![0; 1 << 16];
    let pins = store.table().pin(PieceRange::one(piece)).unwrap();
    store.read(&pins, torrent.files.layout.file(0).unwrap(), 1 << 16, &mut buffer).unwrap();
    assert_eq!(buffer, torrent.bytes_of(piece));
}
