use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use sha1::{Digest, Sha1};
use tempfile::TempDir;

use super::*;
use crate::base::{FileSpec, InfoHash, Layout};
use crate::proto::wire::Decoder;
use crate::storage::{CacheDir, PieceHashes, PieceState, TorrentFiles, drop_cached};

/// A torrent whose last piece is missing, and a peer at the other end of a socket.
struct Bench {
    uploader: Uploader,
    layout: Arc<Layout>,
    store: Arc<Store>,
    content: Vec<u8>,
    out: Outgoing,
    ours: UnixStream,
    theirs: UnixStream,
    decoder: Decoder,
    received: BytesMut,
    directory: TempDir,
}

/// Two pieces of 16 KiB in one file.
fn bench(fast: bool) -> Bench {
    bench_of(fast, 16384, &[FileSpec { length: 32768, padding: false }])
}

fn bench_of(fast: bool, piece_bytes: u32, files: &[FileSpec]) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let layout = Arc::new(Layout::new(piece_bytes, files).unwrap());
    let mut content: Vec<u8> = (0..layout.total_bytes()).map(|at| (at % 251) as u8 + 1).collect();
    for span in layout.spans(0, layout.total_bytes()).filter(|span| span.padding) {
        let start = (layout.file_start(span.file) + span.offset) as usize;
        content[start..start + span.length as usize].fill(0);
    }
    let torrent = TorrentFiles {
        info_hash: InfoHash([1; 20]),
        layout: layout.clone(),
        hashes: PieceHashes::V1(content.chunks(piece_bytes as usize).flat_map(Sha1::digest).collect::<Vec<_>>().into()),
        info: bytes::Bytes::from_static(b"de"),
    };
    let store = Store::open(&CacheDir::open(directory.path()).unwrap(), torrent, false).unwrap().store;
    for (piece, bytes) in
        layout.pieces().iter().zip(content.chunks(piece_bytes as usize)).take(layout.piece_count() - 1)
    {
        store.write(piece, 1, 0, &[bytes.to_vec().into()]).unwrap();
    }
    let pool = DiskPool::new(2);
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    Bench {
        uploader: Uploader::new(fast, store.clone(), pool.clone(), Allowance::default()),
        out: Outgoing::new(store.clone(), pool),
        decoder: Decoder::new(layout.clone()),
        received: BytesMut::new(),
        layout,
        store,
        content,
        ours,
        theirs,
        directory,
    }
}

impl Bench {
    fn request(&mut self, piece: u32, begin: u32, length: u32) {
        self.uploader.request(BlockRequest { piece, begin, length }, &mut self.out);
    }

    fn sent(&mut self, message: Message) {
        self.uploader.sent(&message, &mut self.out);
    }

    /// Puts answers into line, those of the disk threads too.
    fn fill(&mut self) {
        self.uploader.fill(&mut self.out, 1 << 20);
        while !self.uploader.cold.is_empty() {
            let block = self.uploader.cold_receiver.blocking_recv().unwrap();
            self.uploader.finish(block, &mut self.out);
        }
    }

    /// Sends once, as far as the socket takes it.
    fn send(&mut self, now: Instant) -> usize {
        if !self.out.prepare(now).unwrap() {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            assert!(runtime.block_on(self.out.read()));
        }
        let sent = match self.out.send(now, &self.ours) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            other => other.unwrap(),
        };
        self.out.advance(sent).unwrap();
        sent
    }

    /// Takes what has come, at most so much; how much that was.
    fn take(&mut self, bytes: usize) -> usize {
        let mut buffer = vec![0; bytes];
        let read = self.theirs.read(&mut buffer).unwrap_or(0);
        self.received.extend_from_slice(&buffer[..read]);
        read
    }

    /// What the peer hears until nothing more comes: `p0+100` for a block of piece 0 from byte 100, `r` for a reject.
    fn said(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            self.fill();
            while !self.out.is_empty() {
                self.send(Instant::now());
                self.take(1 << 20);
            }
            while self.take(1 << 20) > 0 {}
            let Some(message) = self.decoder.decode(&mut self.received).unwrap() else { return said };
            said.push(match message {
                Message::Piece { piece, begin, data } => {
                    let start = (self.layout.piece_start(PieceIndex(piece)) + u64::from(begin)) as usize;
                    assert!(data == self.content[start..start + data.len()], "{piece}+{begin}");
                    format!("p{piece}+{begin}")
                }
                Message::Reject(request) => format!("r{}+{}", request.piece, request.begin),
                other => panic!("{other:?}"),
            });
        }
    }

    /// Whether all that waits is sent from the page cache.
    fn is_mapped(&self) -> bool {
        self.uploader.mapping.is_some() && self.out.held_bytes() == 0
    }

    /// The first file of the slot.
    fn file(&self) -> std::fs::File {
        let slot = std::fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().path());
        let data = slot.map(|slot| slot.join("data/0")).find(|path| path.exists()).unwrap();
        std::fs::File::options().read(true).write(true).open(data).unwrap()
    }
}

#[test]
fn only_an_unchoked_peer_is_served_and_only_what_is_there() {
    let mut bench = bench(true);
    bench.request(0, 0, 100);
    assert_eq!(bench.said(), ["r0+0"], "choked");
    bench.sent(Message::Unchoke);
    bench.request(0, 5, 100);
    bench.request(1, 6, 100);
    bench.request(0, 7, 16384);
    bench.request(9, 8, 100);
    bench.request(0, 9, 0);
    assert_eq!(bench.said(), ["r0+7", "r9+8", "r0+9", "p0+5", "r1+6"]);
    assert!(matches!(bench.uploader.take_uploaded(), Some(PeerEvent::Uploaded { bytes: 100 })));
    assert!(!bench.uploader.has_uploaded());
}

#[test]
fn without_the_fast_extension_refusals_are_silent() {
    let mut bench = bench(false);
    bench.request(0, 0, 100);
    bench.sent(Message::Unchoke);
    bench.request(1, 0, 100);
    bench.request(0, 0, 100);
    bench.request(0, 1, 100);
    bench.uploader.cancel(BlockRequest { piece: 0, begin: 0, length: 100 }, &mut bench.out);
    assert_eq!(bench.said(), ["p0+1"]);
}

#[test]
fn a_choke_and_a_cancel_take_requests_back() {
    let mut bench = bench(true);
    bench.sent(Message::Unchoke);
    for begin in 0..4 {
        bench.request(0, begin, 100);
    }
    for begin in [2, 2, 77] {
        bench.uploader.cancel(BlockRequest { piece: 0, begin, length: 100 }, &mut bench.out);
    }
    bench.sent(Message::Choke);
    assert_eq!(bench.said(), ["r0+2", "r0+0", "r0+1", "r0+3"]);
}

#[test]
fn a_choked_peer_gets_its_fast_pieces_twice_and_no_more() {
    let mut bench = bench(true);
    bench.sent(Message::AllowedFast(0));
    let mut said = Vec::new();
    for _ in 0..3 {
        bench.request(0, 0, 16384);
        said.extend(bench.said());
    }
    assert_eq!(said, ["p0+0", "p0+0", "r0+0"]);
}

#[test]
fn a_queue_has_an_end() {
    let mut bench = bench(true);
    bench.sent(Message::Unchoke);
    for _ in 0..MAX_QUEUE + 10 {
        bench.request(0, 0, 1);
    }
    let said = bench.said();
    assert_eq!(said.iter().filter(|said| *said == "r0+0").count(), 10);
    assert_eq!(said.len(), MAX_QUEUE + 10);
}

/// Two pieces of four blocks, of which one is there.
fn long_pieces() -> Bench {
    let mut bench = bench_of(true, 65536, &[FileSpec { length: 131_072, padding: false }]);
    bench.sent(Message::Unchoke);
    bench
}

#[test]
fn neighbouring_blocks_go_out_as_one_run_and_others_as_they_come() {
    let mut bench = long_pieces();
    for begin in [0, 16384, 32768, 49152, 100] {
        bench.request(0, begin, 16384);
    }
    bench.request(0, 5, 100);
    bench.fill();
    assert!(bench.uploader.mapping.is_some(), "sent from the page cache");
    assert_eq!(bench.out.held_bytes(), 113, "but for the short one");
    assert_eq!(bench.said(), ["p0+0", "p0+16384", "p0+32768", "p0+49152", "p0+100", "p0+5"]);
    assert!(matches!(bench.uploader.take_uploaded(), Some(PeerEvent::Uploaded { bytes: 82020 })));
}

#[test]
fn a_run_goes_on_where_the_socket_stopped_and_nothing_comes_between() {
    let mut bench = long_pieces();
    socket2::SockRef::from(&bench.ours).set_send_buffer_size(4096).unwrap();
    for begin in [0, 16384, 32768, 49152] {
        bench.request(0, begin, 16384);
    }
    bench.fill();
    assert!(bench.is_mapped());
    let first = bench.send(Instant::now());
    assert!(first > 0 && first < 65536, "{first} bytes at once");
    // What is in line is promised: a choke does not take it back, and what it says comes behind.
    bench.request(0, 7, 16384);
    bench.sent(Message::Choke);
    bench.uploader.cancel(BlockRequest { piece: 0, begin: 32768, length: 16384 }, &mut bench.out);
    let (mut sizes, mut random) = (0, fastrand::Rng::with_seed(1));
    while !bench.out.is_empty() {
        bench.take(random.usize(1..3000));
        sizes += usize::from(bench.send(Instant::now()) > 0);
    }
    assert!(sizes > 3);
    assert_eq!(bench.said(), ["p0+0", "p0+16384", "p0+32768", "p0+49152", "r0+7"]);
}

#[test]
fn a_piece_is_pinned_until_the_socket_has_all_of_it() {
    let mut bench = long_pieces();
    let piece = bench.layout.piece(0).unwrap();
    bench.request(0, 0, 16384);
    bench.fill();
    assert!(bench.is_mapped());
    assert!(!bench.store.evict(piece).unwrap(), "I2");
    bench.send(Instant::now());
    assert!(bench.out.is_empty());
    // What the socket has is a copy: neither a hole nor other bytes reach the peer.
    assert!(bench.store.evict(piece).unwrap());
    // Whoever has not heard of it and asks is refused.
    bench.request(0, 16384, 16384);
    bench.fill();
    bench.send(Instant::now());
    assert_eq!(bench.said(), ["p0+0", "r0+16384"]);
}

#[test]
fn what_left_the_page_cache_is_read_by_a_disk_thread() {
    let mut bench = long_pieces();
    left_the_page_cache(&mut bench);
}

#[test]
fn what_left_the_page_cache_is_read_behind_a_message_that_was_sent_and_a_block_that_was_not() {
    let mut bench = long_pieces();
    bench.request(1, 0, 16384);
    assert_eq!(bench.said(), ["r1+0"]);
    left_the_page_cache(&mut bench);
    let read = bench.out.push_read(bench.layout.block_ref(0, 0, 16384).unwrap(), |_| Ok::<_, ()>(false));
    assert_eq!(read, Ok(false));
    left_the_page_cache(&mut bench);
}

fn left_the_page_cache(bench: &mut Bench) {
    for begin in [0, 16384, 32768, 49152] {
        bench.request(0, begin, 16384);
    }
    bench.fill();
    assert!(bench.is_mapped());
    let file = bench.file();
    file.sync_all().unwrap();
    drop_cached(&file);
    let later = Instant::now() + Duration::from_secs(1);
    // Where the filesystem keeps its pages there is nothing to wait for.
    if !bench.out.prepare(later).unwrap() {
        assert!(bench.out.is_reading() && !bench.out.prepare(later).unwrap(), "one thread reads it");
    }
    bench.request(0, 3, 16384);
    for _ in 0..1000 {
        bench.send(later);
        bench.take(1 << 20);
    }
    assert!(bench.out.is_empty());
    assert_eq!(bench.said(), ["p0+0", "p0+16384", "p0+32768", "p0+49152", "p0+3"]);
}

#[test]
fn a_file_that_was_cut_ends_the_connection_and_is_not_served_again() {
    for cut in [0, 20_000, 65_535] {
        let mut bench = long_pieces();
        let piece = bench.layout.piece(0).unwrap();
        bench.request(0, 0, 16384);
        for begin in [16384, 32768, 49152] {
            bench.request(0, begin, 16384);
        }
        bench.fill();
        assert!(bench.is_mapped());
        bench.file().set_len(cut).unwrap();
        // Noticed at once by whoever looks before, or else after.
        let now = Instant::now();
        let result = match bench.out.send(now, &bench.ours) {
            Ok(sent) => bench.out.advance(sent),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EFAULT), "never a signal");
                bench.out.prepare(now + Duration::from_secs(1)).map(|ready| assert!(!ready))
            }
        };
        assert!(result.is_err(), "cut at {cut}");
        assert_eq!(bench.store.table().state(piece), PieceState::Unchecked);
    }
}

#[test]
fn blocks_across_files_and_padding_are_read() {
    let lengths = [(10_000, false), (6_384, true), (20_000, false), (0, false), (29_152, false), (65_536, false)];
    let files = lengths.map(|(length, padding)| FileSpec { length, padding });
    let mut bench = bench_of(true, 65536, &files);
    bench.sent(Message::Unchoke);
    for begin in [0, 16384, 32768, 49152] {
        bench.request(0, begin, 16384);
    }
    assert_eq!(bench.said(), ["p0+0", "p0+16384", "p0+32768", "p0+49152"]);
}
