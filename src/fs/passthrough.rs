//! Complete files that the kernel reads past us (FUSE passthrough): which inode is read how, and its backing id.
//!
//! The kernel wants every open of an inode alike, cached or passthrough, and refuses the other kind with `EIO`. So the
//! open that finds an inode without others decides, and all follow it until the last close. An open counts from before
//! its reply until its release; the kernel leaves a mode before it sends the last release, so it is never behind us.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{BackingId, ReplyOpen};

use crate::storage::Loan;

/// How the open inodes of a mount are read.
#[derive(Debug, Default)]
pub(crate) struct Passthrough {
    /// As far as we know, the kernel lets us.
    possible: AtomicBool,
    open: Mutex<HashMap<u64, OpenInode>>,
}

#[derive(Debug, Default)]
struct OpenInode {
    opens: u64,
    /// The kernel reads it by itself; `None`: it asks us.
    lent: Option<Arc<Lent>>,
}

/// A file that the kernel reads by itself.
#[derive(Debug)]
pub(crate) struct Lent {
    // Dropped in this order: the kernel gives it back before its pieces may go.
    pub(crate) backing: BackingId,
    pub(crate) loan: Loan,
}

impl Passthrough {
    /// The kernel offers it; whether this process has the right to use it shows at the first try.
    pub(crate) fn offered(&self) {
        self.possible.store(true, Ordering::Relaxed);
    }

    /// Counts an open of an inode, and tells how it is to be read. `lend` is called where this open may decide; it may
    /// wait for the disk.
    pub(crate) fn enter(
        &self,
        inode: u64,
        reply: &ReplyOpen,
        lend: impl FnOnce() -> Option<Loan>,
    ) -> Option<Arc<Lent>> {
        if let Some(entered) = self.lock().get_mut(&inode) {
            entered.opens += 1;
            return entered.lent.clone();
        }
        let lent = if self.possible.load(Ordering::Relaxed) { lend() } else { None };
        let mut lent = lent.and_then(|loan| self.register(loan, reply)).map(Arc::new);
        let mut open = self.lock();
        let entered = open.entry(inode).or_default();
        if entered.opens == 0 {
            entered.lent = lent.take();
        }
        entered.opens += 1;
        let decided = entered.lent.clone();
        drop(open);
        // What another open was faster with than this one is given back without the lock.
        drop(lent);
        decided
    }

    /// Ends what [`enter`](Self::enter) began.
    pub(crate) fn leave(&self, inode: u64) {
        let mut open = self.lock();
        let Some(entered) = open.get_mut(&inode) else { return };
        entered.opens -= 1;
        let last = if entered.opens == 0 { open.remove(&inode) } else { None };
        drop(open);
        drop(last);
    }

    /// Files that the kernel reads by itself now.
    pub(crate) fn files(&self) -> usize {
        self.lock().values().filter(|inode| inode.lent.is_some()).count()
    }

    fn register(&self, mut loan: Loan, reply: &ReplyOpen) -> Option<Lent> {
        match reply.open_backing(loan.file()?) {
            Ok(backing) => {
                loan.let_go();
                Some(Lent { backing, loan })
            }
            Err(error) => {
                // Whatever the reason, it is one of this mount and not of the moment.
                self.possible.store(false, Ordering::Relaxed);
                if error.kind() == io::ErrorKind::PermissionDenied {
                    tracing::debug!("complete files are read through this process: passthrough is root's");
                } else {
                    tracing::info!(%error, "complete files are read through this process");
                }
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, OpenInode>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
