//! The codec: bytes in, messages out, and the other way round.

use std::hint::black_box;
use std::sync::Arc;

use btfs::base::{BLOCK_BYTES, FileSpec, Layout};
use btfs::proto::wire::codec::encode;
use btfs::proto::wire::{BlockRequest, Decoder, Message};
use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput};

const PIECES: u32 = 1000;
const PIECE_BYTES: u32 = 1 << 20;

pub fn benches(criterion: &mut Criterion) {
    let file = FileSpec { length: u64::from(PIECES) * u64::from(PIECE_BYTES), padding: false };
    let layout = Arc::new(Layout::new(PIECE_BYTES, &[file]).unwrap());
    let mut group = criterion.benchmark_group("wire");

    let blocks = stream(&pieces());
    group.throughput(Throughput::Bytes(blocks.len() as u64));
    group.bench_function("decode 16 piece messages", |bencher| {
        bencher.iter_batched(|| blocks.clone(), |bytes| decode(&layout, bytes), BatchSize::SmallInput);
    });

    let small = small_messages();
    let mixed = stream(&small);
    group.throughput(Throughput::Elements(small.len() as u64));
    group.bench_function("decode small messages", |bencher| {
        bencher.iter_batched(|| mixed.clone(), |bytes| decode(&layout, bytes), BatchSize::SmallInput);
    });

    let requests: Vec<_> = (0..64).map(|number| Message::Request(request(7, number))).collect();
    let mut out = BytesMut::with_capacity(64 * 17);
    group.throughput(Throughput::Elements(requests.len() as u64));
    group.bench_function("encode requests", |bencher| {
        bencher.iter(|| {
            out.clear();
            requests.iter().for_each(|message| encode(black_box(message), &mut out));
            black_box(out.len())
        });
    });
    group.finish();
}

/// Decodes all of it; the messages and what is left, so that nothing is dropped while time is taken.
fn decode(layout: &Arc<Layout>, mut bytes: BytesMut) -> (Option<Message>, BytesMut) {
    let mut decoder = Decoder::new(Arc::clone(layout));
    let mut last = None;
    while let Some(message) = decoder.decode(&mut bytes).unwrap() {
        last = Some(black_box(message));
    }
    assert!(bytes.is_empty());
    (last, bytes)
}

/// 256 KiB of blocks: what one read of a busy connection brings.
fn pieces() -> Vec<Message> {
    let data = Bytes::from(vec![b'.'; BLOCK_BYTES as usize]);
    (0..16).map(|number| Message::Piece { piece: 7, begin: number * BLOCK_BYTES, data: data.clone() }).collect()
}

/// What peers say beside blocks, about as often as they do.
fn small_messages() -> Vec<Message> {
    let round = |n: u32| {
        [
            Message::Have(n),
            Message::Request(request(n, 3)),
            Message::Have(n + 1),
            Message::Cancel(request(n, 3)),
            Message::Unchoke,
            Message::Request(request(n, 4)),
            Message::Reject(request(n, 5)),
            Message::KeepAlive,
            Message::Have(n + 2),
            Message::Interested,
        ]
    };
    (0..100).flat_map(round).collect()
}

fn request(piece: u32, number: u32) -> BlockRequest {
    BlockRequest { piece, begin: number * BLOCK_BYTES, length: BLOCK_BYTES }
}

fn stream(messages: &[Message]) -> BytesMut {
    let mut bytes = BytesMut::new();
    messages.iter().for_each(|message| encode(message, &mut bytes));
    bytes
}
