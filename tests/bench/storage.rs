//! The store: the table that readers and writers share, hashes, and a piece from its blocks to the disk and back.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use btfs::base::{BLOCK_BYTES, FileSpec, InfoHash, Layout, PieceRange};
use btfs::storage::{CacheDir, PieceHashes, Store, TorrentFiles, Verdict};
use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use sha1::{Digest, Sha1};

const PIECE_BYTES: u32 = 1 << 20;
const PIECES: u32 = 64;

pub fn benches(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let content = content();
    // The second half of the pieces is said to have other bytes: a check of it never ends in "present".
    let hashes: Vec<u8> =
        (0..PIECES).flat_map(|raw| Sha1::digest(if raw < PIECES / 2 { &content[..] } else { b"" })).collect();
    let store = open(directory.path(), hashes);
    table(criterion, &store, &content);
    hashing(criterion, &store, &content);
}

fn table(criterion: &mut Criterion, store: &Store, content: &[u8]) {
    let layout = Arc::clone(store.layout());
    let first = layout.pieces_at(0, u64::from(PIECE_BYTES) * u64::from(PIECES / 2));
    for piece in first.iter() {
        assert_eq!(store.write(piece, 1, 0, &blocks(content)).unwrap(), Verdict::Verified);
    }
    let table = store.table();
    let one = PieceRange::one(layout.piece(3).unwrap());
    criterion.bench_function("table, pin and unpin a piece", |bencher| {
        bencher.iter(|| black_box(table.pin(black_box(one))).is_some());
    });
    criterion.bench_function("table, pin and unpin 32 pieces", |bencher| {
        bencher.iter(|| black_box(table.pin(black_box(first))).is_some());
    });
    criterion.bench_function("table, which of 64 pieces are missing", |bencher| {
        bencher.iter(|| layout.pieces().iter().filter(|&piece| !table.all_present(PieceRange::one(piece))).count());
    });
    let pins = table.pin(one).unwrap();
    let (file, mut buffer) = (layout.file(0).unwrap(), vec![0; 128 * 1024]);
    let mut group = criterion.benchmark_group("store");
    group.throughput(Throughput::Bytes(buffer.len() as u64));
    group.bench_function("read 128 KiB from the page cache", |bencher| {
        bencher
            .iter(|| store.try_read_now(&pins, file, layout.piece_start(one.first().unwrap()), &mut buffer).unwrap());
    });
    group.finish();
}

fn hashing(criterion: &mut Criterion, store: &Store, content: &[u8]) {
    let blocks = blocks(content);
    let layout = store.layout();
    let mut group = criterion.benchmark_group("store");
    // Before each piece is written it is removed, which waits for the disk.
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Bytes(u64::from(BLOCK_BYTES)));
    let mut hasher = Sha1::new();
    group.bench_function("SHA-1 of a block", |bencher| bencher.iter(|| hasher.update(black_box(&blocks[0]))));

    group.throughput(Throughput::Bytes(u64::from(PIECE_BYTES)));
    let mut at = 0;
    let mut attempt = 1;
    group.bench_function("hash and write a piece of 64 blocks", |bencher| {
        let next = || {
            at = (at + 1) % (PIECES / 2);
            attempt += 1;
            let piece = layout.piece(at).unwrap();
            assert!(store.evict(piece).unwrap());
            (piece, attempt)
        };
        let write = |(piece, attempt)| {
            assert_eq!(store.write(piece, attempt, 0, &blocks).unwrap(), Verdict::Verified);
        };
        bencher.iter_batched(next, write, BatchSize::PerIteration);
    });
    let wrong = layout.piece(PIECES - 1).unwrap();
    store.write(wrong, 1, 0, &blocks).unwrap();
    group.bench_function("check a piece in the page cache", |bencher| {
        bencher.iter(|| assert_eq!(store.check(wrong).unwrap(), Verdict::Corrupt(Vec::new())));
    });
    group.finish();
}

fn open(directory: &std::path::Path, hashes: Vec<u8>) -> Arc<Store> {
    let file = FileSpec { length: u64::from(PIECES) * u64::from(PIECE_BYTES), padding: false };
    let files = TorrentFiles {
        info_hash: InfoHash([1; 20]),
        layout: Arc::new(Layout::new(PIECE_BYTES, &[file]).unwrap()),
        hashes: PieceHashes::V1(hashes.into()),
        info: Bytes::from_static(b"de"),
    };
    Store::open(&CacheDir::open(directory).unwrap(), files, false).unwrap().store
}

/// The bytes of every piece.
fn content() -> Vec<u8> {
    let mut content = vec![0; PIECE_BYTES as usize];
    fastrand::Rng::with_seed(1).fill(&mut content);
    content
}

fn blocks(content: &[u8]) -> Vec<Bytes> {
    content.chunks(BLOCK_BYTES as usize).map(Bytes::copy_from_slice).collect()
}
