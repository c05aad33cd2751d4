//! One torrent's names: an immutable tree, built once from the metainfo and answered from memory ever after.
//!
//! Nodes lie in one arena in breadth-first order, the children of a directory side by side and sorted by name, so that
//! a lookup is a binary search, a listing a walk over a slice, and 100,000 files are a few megabytes. Knows neither
//! inode numbers of the mount nor data.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::Range;

use crate::base::FileIndex;
use crate::proto::metainfo::{Entry, EntryKind, Metainfo};
use crate::proto::path::link_text;

/// A node of one [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct NodeIndex(u32);

impl NodeIndex {
    /// The torrent's own name: the top of the tree.
    pub(crate) const TOP: Self = Self(0);

    /// Position in the arena.
    pub(crate) fn at(self) -> usize {
        self.0 as usize
    }
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeKind {
    /// A directory.
    Directory {
        /// Directories among its children; each adds a link (its `..`).
        subdirectories: u32,
    },
    /// A file with bytes.
    File {
        /// Which.
        file: FileIndex,
        /// BEP 47 attribute `x`.
        executable: bool,
    },
    /// A symlink.
    Symlink,
}

/// The names of one torrent.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    names: Vec<u8>,
    /// Targets of symlinks, relative to their own directories.
    targets: Vec<Box<[u8]>>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    name_start: u32,
    name_length: u8,
    parent: u32,
    content: Content,
}

#[derive(Debug, Clone, Copy)]
enum Content {
    Directory { first: u32, count: u32, subdirectories: u32 },
    File { file: FileIndex, executable: bool },
    Symlink { target: u32 },
}

impl Tree {
    /// Builds the tree of a torrent.
    pub(crate) fn new(metainfo: &Metainfo) -> Self {
        let mut shown: Vec<u32> = (0..metainfo.entries.len() as u32)
            .filter(|&number| metainfo.entries[number as usize].kind != EntryKind::Padding)
            .collect();
        let mut tree = Self { nodes: Vec::with_capacity(shown.len() + 1), names: Vec::new(), targets: Vec::new() };
        match (metainfo.single_file, shown.first()) {
            (true, Some(&only)) => {
                let content = tree.leaf(metainfo, only);
                tree.push(&metainfo.name, 0, content);
            }
            _ => {
                shown.sort_by(|&a, &b| by_components(path(metainfo, a), path(metainfo, b)));
                tree.push(&metainfo.name, 0, Content::Directory { first: 0, count: 0, subdirectories: 0 });
                tree.grow(metainfo, &shown);
            }
        }
        tree
    }

    /// Number of nodes; indices are below it.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The node at a position of the arena, if there is one.
    pub(crate) fn node(&self, at: u64) -> Option<NodeIndex> {
        u32::try_from(at).ok().filter(|&at| (at as usize) < self.nodes.len()).map(NodeIndex)
    }

    /// What a node is.
    pub(crate) fn kind(&self, node: NodeIndex) -> NodeKind {
        match self.nodes[node.at()].content {
            Content::Directory { subdirectories, .. } => NodeKind::Directory { subdirectories },
            Content::File { file, executable } => NodeKind::File { file, executable },
            Content::Symlink { .. } => NodeKind::Symlink,
        }
    }

    /// A node's own name.
    pub(crate) fn name(&self, node: NodeIndex) -> &[u8] {
        let node = &self.nodes[node.at()];
        &self.names[node.name_start as usize..][..usize::from(node.name_length)]
    }

    /// The directory that a node lies in; `None` for the top.
    pub(crate) fn parent(&self, node: NodeIndex) -> Option<NodeIndex> {
        (node != NodeIndex::TOP).then(|| NodeIndex(self.nodes[node.at()].parent))
    }

    /// The children of a directory in the order of their names, without the first `skip`; `None` when the node is none.
    /// Skipping costs nothing, as a listing goes on where the last one ended again and again.
    pub(crate) fn children(
        &self,
        directory: NodeIndex,
        skip: usize,
    ) -> Option<impl DoubleEndedIterator<Item = NodeIndex> + use<>> {
        let range = self.child_range(directory)?;
        let start = range.start.saturating_add(u32::try_from(skip).unwrap_or(u32::MAX)).min(range.end);
        Some((start..range.end).map(NodeIndex))
    }

    /// The child of this name; `None` when there is none, or the node is no directory.
    pub(crate) fn child(&self, directory: NodeIndex, name: &[u8]) -> Option<NodeIndex> {
        let range = self.child_range(directory)?;
        let children = &self.nodes[range.start as usize..range.end as usize];
        let found = children
            .binary_search_by(|child| {
                self.names[child.name_start as usize..][..usize::from(child.name_length)].cmp(name)
            })
            .ok()?;
        Some(NodeIndex(range.start + found as u32))
    }

    /// Where a symlink points, relative to its own directory; `None` when the node is none.
    pub(crate) fn target(&self, link: NodeIndex) -> Option<&[u8]> {
        match self.nodes[link.at()].content {
            Content::Symlink { target } => Some(&self.targets[target as usize]),
            _ => None,
        }
    }

    fn child_range(&self, directory: NodeIndex) -> Option<Range<u32>> {
        match self.nodes[directory.at()].content {
            Content::Directory { first, count, .. } => Some(first..first + count),
            _ => None,
        }
    }

    /// Adds everything below the top. `shown` is sorted by components, so each directory is a run of it, and each run
    /// falls apart into shorter runs by the next component: no map, no recursion.
    fn grow(&mut self, metainfo: &Metainfo, shown: &[u32]) {
        let mut left = VecDeque::from([(0_u32, 0..shown.len(), 0_usize)]);
        while let Some((directory, run, skip)) = left.pop_front() {
            let first = self.nodes.len() as u32;
            let mut subdirectories = 0;
            let mut at = run.start;
            while at < run.end {
                let name = component(path(metainfo, shown[at]), skip);
                let same = shown[at..run.end]
                    .iter()
                    .take_while(|&&entry| component(path(metainfo, entry), skip) == name)
                    .count();
                let last = at + same - 1;
                let below = skip + name.len() + 1;
                if path(metainfo, shown[last]).len() < below {
                    let content = self.leaf(metainfo, shown[last]);
                    self.push(name, directory, content);
                } else {
                    // The metainfo's paths are unique and no file lies below a file; were it otherwise, the directory
                    // would win: an entry that ends here cannot be part of its run.
                    let start =
                        at + shown[at..=last].iter().take_while(|&&entry| path(metainfo, entry).len() < below).count();
                    subdirectories += 1;
                    let child =
                        self.push(name, directory, Content::Directory { first: 0, count: 0, subdirectories: 0 });
                    left.push_back((child, start..last + 1, below));
                }
                at = last + 1;
            }
            let count = self.nodes.len() as u32 - first;
            self.nodes[directory as usize].content = Content::Directory { first, count, subdirectories };
        }
    }

    fn leaf(&mut self, metainfo: &Metainfo, number: u32) -> Content {
        let Entry { path, kind, .. } = &metainfo.entries[number as usize];
        match kind {
            EntryKind::Symlink { target } => {
                self.targets.push(link_text(path, target));
                Content::Symlink { target: self.targets.len() as u32 - 1 }
            }
            EntryKind::File { .. } | EntryKind::Padding => Content::File {
                file: metainfo.layout.file(number).expect("entry n is file n of the layout"),
                executable: matches!(kind, EntryKind::File { executable: true }),
            },
        }
    }

    fn push(&mut self, name: &[u8], parent: u32, content: Content) -> u32 {
        // Names come from one metainfo file, which is far below 4 GiB, and are at most 255 bytes long each.
        let name_start = self.names.len() as u32;
        let name_length = name.len().min(usize::from(u8::MAX)) as u8;
        self.names.extend_from_slice(&name[..usize::from(name_length)]);
        self.nodes.push(Node { name_start, name_length, parent, content });
        self.nodes.len() as u32 - 1
    }
}

fn path(metainfo: &Metainfo, number: u32) -> &[u8] {
    &metainfo.entries[number as usize].path
}

/// The component that starts at byte `skip` of a path.
fn component(path: &[u8], skip: usize) -> &[u8] {
    let rest = path.get(skip..).unwrap_or_default();
    let end = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
    &rest[..end]
}

/// Order by components: as bytes, but a separator sorts before everything (names contain no zero byte).
fn by_components(a: &[u8], b: &[u8]) -> Ordering {
    let key = |&byte: &u8| if byte == b'/' { 0 } else { byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::Arc;

    use bytes::Bytes;

    use crate::base::{FileSpec, InfoHash, Layout};

    /// A torrent of these entries: `name` alone for a single file; `path=bytes`, `path*=bytes` for an executable,
    /// `path->target`, `#=bytes` for padding.
    pub(crate) fn metainfo(name: &str, piece_length: u32, entries: &[&str]) -> Metainfo {
        let mut specs = Vec::new();
        let mut list = Vec::new();
        for entry in entries {
            let (path, kind, length) = if let Some((path, target)) = entry.split_once("->") {
                (path, EntryKind::Symlink { target: target.as_bytes().into() }, 0)
            } else {
                let (path, length) = entry.split_once('=').expect("an entry has a length");
                let length = length.parse().expect("a length is a number");
                if path == "#" {
                    ("", EntryKind::Padding, length)
                } else {
                    let executable = path.ends_with('*');
                    (path.trim_end_matches('*'), EntryKind::File { executable }, length)
                }
            };
            specs.push(FileSpec { length, padding: kind == EntryKind::Padding });
            list.push(Entry { path: path.as_bytes().into(), kind, pieces_root: None });
        }
        let layout = Layout::new(piece_length, &specs).expect("a valid layout");
        Metainfo {
            info: Bytes::new(),
            info_hash: Some(InfoHash([7; 20])),
            info_hash_v2: None,
            name: name.as_bytes().into(),
            single_file: entries.len() == 1 && entries[0].starts_with(&format!("{name}=")),
            entries: list,
            piece_hashes: Bytes::from(vec![0; layout.piece_count() * 20]),
            layout: Arc::new(layout),
            private: false,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            http_seeds: Vec::new(),
            nodes: Vec::new(),
            creation_date: None,
            comment: None,
            created_by: None,
            source: None,
            warnings: Vec::new(),
        }
    }

    /// Every node as a path, directories with a slash and their link count, links with their target.
    fn drawing(tree: &Tree) -> Vec<String> {
        let mut lines = Vec::new();
        let mut left = vec![(NodeIndex::TOP, String::new())];
        while let Some((node, above)) = left.pop() {
            let name = format!("{above}{}", String::from_utf8_lossy(tree.name(node)));
            match tree.kind(node) {
                NodeKind::Directory { subdirectories } => {
                    lines.push(format!("{name}/ {subdirectories}"));
                    let children = tree.children(node, 0).expect("a directory has children");
                    for child in children.rev() {
                        assert_eq!(tree.parent(child), Some(node));
                        assert_eq!(tree.child(node, tree.name(child)), Some(child));
                        left.push((child, format!("{name}/")));
                    }
                }
                NodeKind::File { file, executable } => {
                    lines.push(format!("{name} #{file}{}", if executable { "*" } else { "" }));
                }
                NodeKind::Symlink => {
                    let target = tree.target(node).expect("a link has a target");
                    lines.push(format!("{name} -> {}", String::from_utf8_lossy(target)));
                }
            }
        }
        lines
    }

    #[test]
    fn a_single_file_torrent_is_one_node() {
        let tree = Tree::new(&metainfo("film.mkv", 16384, &["film.mkv=5"]));
        assert_eq!(drawing(&tree), ["film.mkv #0"]);
        assert_eq!(tree.parent(NodeIndex::TOP), None);
    }

    #[test]
    fn a_symlink_points_from_its_own_directory() {
        let tree = Tree::new(&metainfo("t", 16384, &["a=1", "d/l->a"]));
        assert_eq!(drawing(&tree), ["t/ 1", "t/a #0", "t/d/ 0", "t/d/l -> ../a"]);
    }

    #[test]
    fn directories_are_sorted_and_padding_is_not_shown() {
        let entries = ["b/z=1", "#=3", "b.x=1", "a=2", "b/y/q*=1", "b/y/p=1", "c/1=1"];
        let tree = Tree::new(&metainfo("t", 16384, &entries));
        assert_eq!(
            drawing(&tree),
            [
                "t/ 2",
                "t/a #3",
                "t/b/ 1",
                "t/b/y/ 0",
                "t/b/y/p #5",
                "t/b/y/q #4*",
                "t/b/z #0",
                "t/b.x #2",
                "t/c/ 0",
                "t/c/1 #6"
            ]
        );
        assert_eq!(tree.child(NodeIndex::TOP, b"nothing"), None);
        assert_eq!(tree.child(tree.child(NodeIndex::TOP, b"a").unwrap(), b"b"), None);
    }

    #[test]
    fn many_files_are_found_by_name() {
        let entries: Vec<String> = (0..5000).map(|number| format!("d{}/f{number}=1", number % 70)).collect();
        let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
        let tree = Tree::new(&metainfo("t", 16384, &entries));
        assert_eq!(tree.len(), 1 + 70 + 5000);
        for number in 0..5000 {
            let directory = tree.child(NodeIndex::TOP, format!("d{}", number % 70).as_bytes()).unwrap();
            let node = tree.child(directory, format!("f{number}").as_bytes()).unwrap();
            assert!(matches!(tree.kind(node), NodeKind::File { file, .. } if file.raw() == number));
        }
    }
}
