use sha1::{Digest, Sha1};
use tempfile::TempDir;

use super::*;
use crate::base::{FileSpec, InfoHash, Layout};
use crate::proto::wire::Decoder;
use crate::storage::{CacheDir, PieceHashes, TorrentFiles};

/// Two pieces of 16 KiB, of which the first is there.
struct Bench {
    uploader: Uploader,
    layout: Arc<Layout>,
    out: BytesMut,
    _directory: TempDir,
}

fn bench(fast: bool) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let layout = Arc::new(Layout::new(16384, &[FileSpec { length: 32768, padding: false }]).unwrap());
    let torrent = TorrentFiles {
        info_hash: InfoHash([1; 20]),
        layout: layout.clone(),
        hashes: PieceHashes::V1([Sha1::digest([7; 16384]), Sha1::digest([8; 16384])].concat().into()),
        info: bytes::Bytes::from_static(b"de"),
    };
    let store = Store::open(&CacheDir::open(directory.path()).unwrap(), torrent, false).unwrap().store;
    store.write(layout.piece(0).unwrap(), 1, 0, &[vec![7; 16384].into()]).unwrap();
    let uploader = Uploader::new(fast, store, DiskPool::new(2));
    Bench { uploader, layout, out: BytesMut::new(), _directory: directory }
}

impl Bench {
    fn request(&mut self, piece: u32, begin: u32, length: u32) {
        self.uploader.request(BlockRequest { piece, begin, length }, &mut self.out);
    }

    fn sent(&mut self, message: Message) {
        self.uploader.sent(&message, &mut self.out);
    }

    /// What goes out until nothing more does: `p0+100` for a block of piece 0 from byte 100, `r` for a reject.
    fn said(&mut self) -> Vec<String> {
        let (mut decoder, mut said) = (Decoder::new(self.layout.clone()), Vec::new());
        loop {
            self.uploader.fill(&mut self.out, 1 << 20);
            while !self.uploader.cold.is_empty() {
                let block = self.uploader.cold_receiver.blocking_recv().unwrap();
                self.uploader.finish(block, &mut self.out);
            }
            let Some(message) = decoder.decode(&mut self.out).unwrap() else { return said };
            said.push(match message {
                Message::Piece { piece, begin, data } => {
                    assert!(data.iter().all(|&byte| byte == 7));
                    format!("p{piece}+{begin}")
                }
                Message::Reject(request) => format!("r{}+{}", request.piece, request.begin),
                other => panic!("{other:?}"),
            });
        }
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
