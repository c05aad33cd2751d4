//! The file system: torrents as read-only directories on fuser.
//!
//! [`View`] knows names, data and blocked reads and nothing of FUSE; `fuse.rs` translates; [`Mount`] puts both at a
//! mount point and takes them away again. Metadata never waits; a read waits only for its own pieces.

mod errno;
mod forest;
mod fuse;
mod handle;
mod mount;
mod mountpoint;
mod passthrough;
mod pending;
mod read;
mod ready;
mod sys;
mod tree;
mod view;
mod watch;
mod xattr;

pub use errno::Errno;
pub use mount::{Mount, MountConfig, MountError};
pub(crate) use mount::{detach, detach_device};
pub(crate) use mountpoint::MountInfo;
pub use mountpoint::prepare_mountpoint;
pub use view::{Attr, DirEntry, Kind, Totals, View, ViewConfig};
