//! The root of a mount: which torrents it shows, under which names and inode numbers.
//!
//! Each torrent owns a run of inode numbers from the moment it is shown, so numbers never change while mounted, and the
//! same torrents in the same order get the same numbers next time.

use std::sync::Arc;

use super::tree::{NodeIndex, Tree};

/// The inode number of a mount's root, by the protocol's definition.
pub(crate) const ROOT_INODE: u64 = 1;

/// One torrent as it hangs in the root.
#[derive(Debug, Clone)]
pub(crate) struct Branch {
    /// Its name in the root: the torrent's own, unless another one had it first.
    pub(crate) name: Box<[u8]>,
    /// Its names.
    pub(crate) tree: Arc<Tree>,
    first_inode: u64,
}

impl Branch {
    /// The inode number of a node.
    pub(crate) fn inode(&self, node: NodeIndex) -> u64 {
        self.first_inode + node.at() as u64
    }
}

/// What an inode number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The mount's root.
    Root,
    /// A node of a torrent.
    Node {
        /// Position of the torrent's branch.
        branch: usize,
        /// The node in its tree.
        node: NodeIndex,
    },
}

/// All torrents of a mount.
#[derive(Debug, Default)]
pub(crate) struct Forest {
    branches: Vec<Branch>,
}

impl Forest {
    /// Hangs a torrent into the root. `hash` (hex) tells torrents of one name apart; `is_file` keeps a file's extension
    /// at the end of its name then.
    pub(crate) fn add(&mut self, name: &[u8], hash: &str, is_file: bool, tree: Arc<Tree>) {
        let short = hash.get(..SHORT_HASH).unwrap_or(hash);
        let name = [Box::from(name), suffixed(name, short, is_file), suffixed(name, hash, is_file)]
            .into_iter()
            .find(|name| self.find(name).is_none())
            .unwrap_or_else(|| suffixed(name, &format!("{hash}.{}", self.branches.len()), is_file));
        let first_inode = self.branches.last().map_or(ROOT_INODE + 1, |last| last.first_inode + last.tree.len() as u64);
        self.branches.push(Branch { name, tree, first_inode });
    }

    /// The torrents in the order in which they were added.
    pub(crate) fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// The position of the torrent that is shown under this name.
    pub(crate) fn find(&self, name: &[u8]) -> Option<usize> {
        self.branches.iter().position(|branch| *branch.name == *name)
    }

    /// What an inode number stands for; `None` for a number that was never given out.
    pub(crate) fn place(&self, inode: u64) -> Option<Place> {
        if inode == ROOT_INODE {
            return Some(Place::Root);
        }
        let after = self.branches.partition_point(|branch| branch.first_inode <= inode);
        let branch = after.checked_sub(1)?;
        let found = &self.branches[branch];
        let node = found.tree.node(inode - found.first_inode)?;
        Some(Place::Node { branch, node })
    }
}

/// `name` with `suffix` before its extension (for a file) or at its end, cut so that the whole fits into 255 bytes.
fn suffixed(name: &[u8], suffix: &str, is_file: bool) -> Box<[u8]> {
    let dot = if is_file { name.iter().rposition(|&byte| byte == b'.') } else { None };
    let (stem, extension) = name.split_at(dot.filter(|&at| at > 0).unwrap_or(name.len()));
    let room = MAX_NAME_BYTES.saturating_sub(suffix.len() + 1 + extension.len());
    // A cut may split a character: the name stays a valid file name, which is all that the kernel asks for.
    let stem = &stem[..stem.len().min(room)];
    [stem, b".", suffix.as_bytes(), extension].concat().into_boxed_slice()
}

/// Digits of the info-hash that tell torrents of one name apart; all of them when that is not enough.
const SHORT_HASH: usize = 8;

/// The longest file name on Linux.
pub(crate) const MAX_NAME_BYTES: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tree::tests::metainfo;

    fn forest(names: &[&str]) -> Forest {
        let mut forest = Forest::default();
        for (number, name) in names.iter().enumerate() {
            let tree = Arc::new(Tree::new(&metainfo(name, 16384, &["a=1", "d/b=2"])));
            forest.add(name.as_bytes(), &format!("{number}123456789abcdef"), false, tree);
        }
        forest
    }

    #[test]
    fn torrents_of_one_name_are_told_apart_by_their_hash() {
        let forest = forest(&["x", "x", "y"]);
        let names: Vec<_> =
            forest.branches().iter().map(|branch| String::from_utf8_lossy(&branch.name).into_owned()).collect();
        assert_eq!(names, ["x", "x.11234567", "y"]);
        assert_eq!(*suffixed(b"film.mkv", "ab", true), *b"film.ab.mkv");
        assert_eq!(*suffixed(b"film.d", "ab", false), *b"film.d.ab");
        assert_eq!(*suffixed(b".hidden", "ab", true), *b".hidden.ab");
        assert_eq!(suffixed(&[b'n'; 255], "abcd", true).len(), 255);
    }

    #[test]
    fn inode_numbers_lead_back_to_their_nodes() {
        let forest = forest(&["x", "y"]);
        assert_eq!(forest.place(ROOT_INODE), Some(Place::Root));
        assert_eq!(forest.place(0), None);
        let mut expected = ROOT_INODE + 1;
        for (branch, it) in forest.branches().iter().enumerate() {
            for at in 0..it.tree.len() as u64 {
                let node = it.tree.node(at).unwrap();
                assert_eq!(it.inode(node), expected);
                assert_eq!(forest.place(expected), Some(Place::Node { branch, node }));
                expected += 1;
            }
        }
        assert_eq!(forest.place(expected), None);
    }
}
