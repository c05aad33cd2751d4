//! A read of a present file as a mount answers it, all but the kernel's part: from the request to its reply.

#[path = "../mount/semantics/content.rs"]
#[allow(dead_code, reason = "the mount tests use the rest")]
mod content;

use std::hint::black_box;
use std::time::Duration;

use btfs::fs::{View, ViewConfig};
use content::{Content, Owner};
use criterion::{Criterion, Throughput};

const FILE_BYTES: u64 = 16 << 20;

pub fn benches(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let content = Content::new("film", 1 << 20, &[format!("film={FILE_BYTES}")]);
    let (_owner, torrent, _) = Owner::start(&content, directory.path(), true);
    let view = View::new(&[torrent], ViewConfig { uid: 0, gid: 0, readahead: Duration::from_secs(15) });
    let inode = view.lookup(View::ROOT, b"film").unwrap().expect("the torrent's only file").inode;
    let handle = view.open(inode, false).unwrap();
    let mut group = criterion.benchmark_group("view");
    group.bench_function("look a name up", |bencher| {
        bencher.iter(|| view.lookup(View::ROOT, black_box(b"film")).unwrap().expect("it is there"));
    });
    for (name, size) in [("read 4 KiB", 4096), ("read 128 KiB", 128 * 1024)] {
        let mut offset = 0;
        group.throughput(Throughput::Bytes(u64::from(size)));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                view.read(handle, offset, size, 0, move |answer| {
                    assert_eq!(black_box(answer.unwrap()).len(), size as usize);
                });
                offset = (offset + u64::from(size)) % FILE_BYTES;
            });
        });
    }
    group.finish();
}
