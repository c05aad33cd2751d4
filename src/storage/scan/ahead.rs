//! Reading ahead of the hashers: a thread goes through the files in their order and tells the kernel what is needed soon,
//! so that a disk works while they hash. The bytes wait in the page cache; this holds none.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::hash::open;
use super::{TreeEntry, TreeEntryKind};
use crate::base::Layout;
use crate::storage::sys::{ADVICE_BYTES, advise_soon};

/// Goes on until everything was advised, or `over`. `next` is the first piece that no hasher has begun. Entry n of the tree
/// is what `files` says of file n. Errors are the hashers' to tell.
pub(super) fn read_ahead(files: &[Option<&TreeEntry>], layout: &Layout, next: &AtomicUsize, over: &AtomicBool) {
    let begun = || (next.load(Ordering::Relaxed) as u64).saturating_mul(layout.piece_length().into());
    for (file, entry) in layout.files().zip(files) {
        let Some(TreeEntry { kind: TreeEntryKind::File { location, stamp, .. }, .. }) = entry else { continue };
        let (start, mut opened) = (layout.file_start(file), None::<File>);
        let mut offset = 0;
        while offset < stamp.length {
            while start + offset > begun().saturating_add(AHEAD_BYTES) && !over.load(Ordering::Relaxed) {
                std::thread::park_timeout(PAUSE);
            }
            if over.load(Ordering::Relaxed) {
                return;
            }
            // The hashers were faster: what they have is behind.
            let behind = begun().saturating_sub(start).min(stamp.length);
            if behind > offset {
                offset = behind;
                continue;
            }
            if opened.is_none() {
                opened = open(location, stamp).ok();
            }
            let Some(opened) = &opened else { break };
            let length = ADVICE_BYTES.min(stamp.length - offset);
            advise_soon(opened, offset, length);
            offset += length;
        }
    }
}

/// Enough for a quick disk array between two looks of this thread, little beside the page cache.
const AHEAD_BYTES: u64 = 64 << 20;

/// How often the thread looks whether the hashers have come on; at 4 GB/s they hash a third of the above meanwhile.
const PAUSE: Duration = Duration::from_millis(5);
