//! What hangs in a mount: folders and torrents, under which names and inode numbers.
//!
//! Each torrent owns a run of inode numbers from the moment it is shown, each folder one. Numbers never change while
//! mounted and are never given out twice, and the same torrents in the same order get the same numbers next time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::tree::{NodeIndex, Tree};

/// The inode number of a mount's root, by the protocol's definition.
pub(crate) const ROOT_INODE: u64 = 1;

/// One torrent as it hangs in a folder.
#[derive(Debug)]
pub(crate) struct Branch<T> {
    /// Its names.
    pub(crate) tree: Arc<Tree>,
    /// Whatever its owner knows of it.
    pub(crate) torrent: T,
    folder: u64,
    serial: u64,
    first_inode: u64,
}

impl<T> Branch<T> {
    /// The inode number of a node.
    pub(crate) fn inode(&self, node: NodeIndex) -> u64 {
        self.first_inode + node.at() as u64
    }

    /// The inode number of the folder that it hangs in.
    pub(crate) fn folder(&self) -> u64 {
        self.folder
    }
}

/// A directory that holds torrents and folders; the root is one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Folder {
    parent: u64,
    serial: u64,
    /// What it is called where it is mirrored from; shown under another name where that one was taken.
    origin: Box<[u8]>,
    /// By the order in which they came: numbers that are never given out twice, so a listing that is taken up again
    /// misses nothing, whatever has come and gone in between.
    children: BTreeMap<u64, Child>,
    names: HashMap<Box<[u8]>, u64>,
}

#[derive(Debug, Clone)]
struct Child {
    name: Box<[u8]>,
    inode: u64,
}

impl Folder {
    /// The inode number behind a name.
    pub(crate) fn find(&self, name: &[u8]) -> Option<u64> {
        self.names.get(name).and_then(|serial| self.children.get(serial)).map(|child| child.inode)
    }

    /// Names and inode numbers of those that came after the `serial`th, in that order, each with its own serial.
    pub(crate) fn children(&self, serial: u64) -> impl Iterator<Item = (u64, &[u8], u64)> {
        self.children.range(serial.saturating_add(1)..).map(|(&serial, child)| (serial, &*child.name, child.inode))
    }

    /// The inode number of the folder that it lies in; the root's is its own.
    pub(crate) fn parent(&self) -> u64 {
        self.parent
    }
}

/// What an inode number stands for.
#[derive(Debug)]
pub(crate) enum Place<'a, T> {
    /// A folder.
    Folder(&'a Folder),
    /// A node of a torrent.
    Node(&'a Branch<T>, NodeIndex),
}

/// A name that is shown no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gone {
    /// The inode number of the folder that it was in.
    pub(crate) folder: u64,
    /// The name.
    pub(crate) name: Box<[u8]>,
}

/// All torrents of a mount, and the folders that they hang in. A copy costs a little for each of them.
#[derive(Debug)]
pub(crate) struct Forest<T> {
    /// By their first inode numbers.
    branches: BTreeMap<u64, Arc<Branch<T>>>,
    folders: BTreeMap<u64, Folder>,
    next_inode: u64,
    next_serial: u64,
}

impl<T> Clone for Forest<T> {
    fn clone(&self) -> Self {
        let Self { branches, folders, next_inode, next_serial } = self;
        let (branches, folders) = (branches.clone(), folders.clone());
        Self { branches, folders, next_inode: *next_inode, next_serial: *next_serial }
    }
}

impl<T> Default for Forest<T> {
    fn default() -> Self {
        let root = Folder { parent: ROOT_INODE, ..Folder::default() };
        Self {
            branches: BTreeMap::new(),
            folders: BTreeMap::from([(ROOT_INODE, root)]),
            next_inode: ROOT_INODE + 1,
            next_serial: 1,
        }
    }
}

impl<T> Forest<T> {
    /// Hangs a torrent into a folder, the root where there is no such folder; its first inode number. `hash` (hex) tells
    /// torrents of one name apart; `is_file` keeps a file's extension at the end of its name then.
    pub(crate) fn add(
        &mut self,
        folder: u64,
        name: &[u8],
        hash: &str,
        is_file: bool,
        tree: Arc<Tree>,
        torrent: T,
    ) -> u64 {
        let folder = if self.folders.contains_key(&folder) { folder } else { ROOT_INODE };
        let short = hash.get(..SHORT_HASH).unwrap_or(hash);
        let names = [Box::from(name), suffixed(name, short, is_file), suffixed(name, hash, is_file)];
        let name = self.first_free(folder, names).unwrap_or_else(|| {
            // Serial numbers are never given out twice.
            suffixed(name, &format!("{hash}.{}", self.next_serial), is_file)
        });
        let first_inode = self.next_inode;
        self.next_inode += tree.len() as u64;
        let serial = self.enter(folder, name, first_inode);
        self.branches.insert(first_inode, Arc::new(Branch { tree, torrent, folder, serial, first_inode }));
        first_inode
    }

    /// Takes a torrent away, by its first inode number.
    pub(crate) fn remove(&mut self, first_inode: u64) -> Option<(Arc<Branch<T>>, Gone)> {
        let branch = self.branches.remove(&first_inode)?;
        let gone = self.leave(branch.folder, branch.serial)?;
        Some((branch, gone))
    }

    /// The folder that mirrors a directory of this name, made if it is missing; its inode number. One whose name a
    /// torrent has already gets `.d` at its end.
    pub(crate) fn folder(&mut self, parent: u64, name: &[u8]) -> u64 {
        if let Some(inode) = self.mirror(parent, name) {
            return inode;
        }
        let suffixes = (0..).map(|times: usize| suffixed(name, &vec!["d"; times + 1].join("."), false));
        let names = std::iter::once(Box::from(name)).chain(suffixes.take(MAX_TRIES));
        let shown = self.first_free(parent, names).unwrap_or_else(|| {
            // As above.
            suffixed(name, &self.next_serial.to_string(), false)
        });
        let inode = self.next_inode;
        self.next_inode += 1;
        let serial = self.enter(parent, shown, inode);
        self.folders.insert(inode, Folder { parent, serial, origin: name.into(), ..Folder::default() });
        inode
    }

    /// The folder in `parent` that mirrors a directory of this name, if there is one.
    pub(crate) fn mirror(&self, parent: u64, name: &[u8]) -> Option<u64> {
        let mut children = self.folders.get(&parent)?.children.values().map(|child| child.inode);
        children.find(|inode| self.folders.get(inode).is_some_and(|folder| *folder.origin == *name))
    }

    /// Takes a folder away if nothing is in it.
    pub(crate) fn remove_folder(&mut self, inode: u64) -> Option<Gone> {
        let folder = self.folders.get(&inode).filter(|folder| inode != ROOT_INODE && folder.children.is_empty())?;
        let (parent, serial) = (folder.parent, folder.serial);
        self.folders.remove(&inode);
        self.leave(parent, serial)
    }

    /// The folders, the root excepted: inode numbers, and the names of the directories that they mirror from the root on.
    pub(crate) fn folders(&self) -> Vec<(u64, Vec<Box<[u8]>>)> {
        let others = self.folders.keys().copied().filter(|&inode| inode != ROOT_INODE);
        others.map(|inode| (inode, self.chain(inode, |folder, _| folder.origin.clone()))).collect()
    }

    /// The torrents in the order in which they were added.
    pub(crate) fn branches(&self) -> impl Iterator<Item = &Arc<Branch<T>>> {
        self.branches.values()
    }

    /// Number of folders, the root included.
    pub(crate) fn folder_count(&self) -> usize {
        self.folders.len()
    }

    /// Where a torrent is shown: names from the root on.
    pub(crate) fn path(&self, branch: &Branch<T>) -> Vec<Box<[u8]>> {
        let mut path = self.chain(branch.folder, |_, shown| shown.into());
        let own = self.folders.get(&branch.folder).and_then(|folder| folder.children.get(&branch.serial));
        path.extend(own.map(|child| child.name.clone()));
        path
    }

    /// What an inode number stands for; `None` for a number that means nothing (any more).
    pub(crate) fn place(&self, inode: u64) -> Option<Place<'_, T>> {
        if let Some(folder) = self.folders.get(&inode) {
            return Some(Place::Folder(folder));
        }
        let (first, branch) = self.branches.range(..=inode).next_back()?;
        Some(Place::Node(branch, branch.tree.node(inode - first)?))
    }

    /// What `name` tells of each folder on the way from the root to this one, the root excepted; it gets the folder and
    /// the name under which it is shown.
    fn chain(&self, inode: u64, name: impl Fn(&Folder, &[u8]) -> Box<[u8]>) -> Vec<Box<[u8]>> {
        let mut names = Vec::new();
        let mut at = inode;
        while let Some(folder) = self.folders.get(&at).filter(|_| at != ROOT_INODE) {
            let shown = self.folders.get(&folder.parent).and_then(|parent| parent.children.get(&folder.serial));
            names.push(name(folder, shown.map_or(&[], |child| &child.name)));
            at = folder.parent;
        }
        names.reverse();
        names
    }

    fn first_free(&self, folder: u64, names: impl IntoIterator<Item = Box<[u8]>>) -> Option<Box<[u8]>> {
        let folder = self.folders.get(&folder);
        names.into_iter().find(|name| folder.is_none_or(|folder| folder.find(name).is_none()))
    }

    fn enter(&mut self, folder: u64, name: Box<[u8]>, inode: u64) -> u64 {
        let serial = self.next_serial;
        self.next_serial += 1;
        if let Some(folder) = self.folders.get_mut(&folder) {
            folder.names.insert(name.clone(), serial);
            folder.children.insert(serial, Child { name, inode });
        }
        serial
    }

    fn leave(&mut self, folder: u64, serial: u64) -> Option<Gone> {
        let entered = self.folders.get_mut(&folder)?;
        let child = entered.children.remove(&serial)?;
        entered.names.remove(&child.name);
        Some(Gone { folder, name: child.name })
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

/// Names that are tried for a folder.
const MAX_TRIES: usize = 8;

/// The longest file name on Linux.
pub(crate) const MAX_NAME_BYTES: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tree::tests::metainfo;

    fn tree(name: &str) -> Arc<Tree> {
        Arc::new(Tree::new(&metainfo(name, 16384, &["a=1", "d/b=2"])))
    }

    fn forest(names: &[&str]) -> Forest<()> {
        let mut forest = Forest::default();
        for (number, name) in names.iter().enumerate() {
            let hash = format!("{number}123456789abcdef");
            forest.add(ROOT_INODE, name.as_bytes(), &hash, false, tree(name), ());
        }
        forest
    }

    fn root(forest: &Forest<()>) -> &Folder {
        let Some(Place::Folder(root)) = forest.place(ROOT_INODE) else { panic!("no root") };
        root
    }

    fn listed(forest: &Forest<()>, after: u64) -> Vec<String> {
        root(forest).children(after).map(|(_, name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    }

    #[test]
    fn torrents_of_one_name_are_told_apart_by_their_hash() {
        let forest = forest(&["x", "x", "y"]);
        assert_eq!(listed(&forest, 0), ["x", "x.11234567", "y"]);
        assert_eq!(*suffixed(b"film.mkv", "ab", true), *b"film.ab.mkv");
        assert_eq!(*suffixed(b"film.d", "ab", false), *b"film.d.ab");
        assert_eq!(*suffixed(b".hidden", "ab", true), *b".hidden.ab");
        assert_eq!(suffixed(&[b'n'; 255], "abcd", true).len(), 255);
    }

    #[test]
    fn inode_numbers_lead_back_to_their_nodes() {
        let forest = forest(&["x", "y"]);
        assert!(matches!(forest.place(ROOT_INODE), Some(Place::Folder(_))));
        assert!(forest.place(0).is_none());
        let mut expected = ROOT_INODE + 1;
        for branch in forest.branches() {
            for at in 0..branch.tree.len() as u64 {
                let node = branch.tree.node(at).unwrap();
                assert_eq!(branch.inode(node), expected);
                let Some(Place::Node(found, same)) = forest.place(expected) else { panic!("no node {expected}") };
                assert!(std::ptr::eq(found, &**branch) && same == node);
                expected += 1;
            }
        }
        assert!(forest.place(expected).is_none());
    }

    #[test]
    fn what_goes_leaves_its_numbers_and_its_name_behind() {
        let mut forest = forest(&["x", "y", "z"]);
        let [_, second, _] = forest.branches().map(|branch| branch.inode(NodeIndex::TOP)).collect::<Vec<_>>()[..]
        else {
            panic!("three torrents")
        };
        let (_, gone) = forest.remove(second).unwrap();
        assert_eq!(gone, Gone { folder: ROOT_INODE, name: (*b"y").into() });
        assert!(
            forest.remove(second).is_none() && forest.place(second).is_none() && forest.place(second + 1).is_none()
        );
        let again = forest.add(ROOT_INODE, b"y", "aaaaaaaaaa", false, tree("y"), ());
        assert!(again > second + 3, "numbers are not given out twice");
        assert_eq!(root(&forest).find(b"y"), Some(again));
        // Who has listed x and y goes on with z, and meets the new y.
        assert_eq!(listed(&forest, 2), ["z", "y"]);
    }

    #[test]
    fn folders_mirror_directories_beside_torrents_of_their_name() {
        let mut forest = forest(&["films"]);
        let films = forest.folder(ROOT_INODE, b"films");
        assert_eq!(forest.folder(ROOT_INODE, b"films"), films);
        let old = forest.folder(films, b"old");
        let inode = forest.add(old, b"a", "0000000000", false, tree("a"), ());
        let names =
            |path: Vec<Box<[u8]>>| path.iter().map(|n| String::from_utf8_lossy(n).into_owned()).collect::<Vec<_>>();
        let branch = forest.branches().last().unwrap().clone();
        assert_eq!(names(forest.path(&branch)), ["films.d", "old", "a"]);
        let mirrored: Vec<_> = forest.folders().into_iter().map(|(_, origin)| names(origin)).collect();
        assert_eq!(mirrored, [vec!["films"], vec!["films", "old"]]);
        assert!(forest.remove_folder(films).is_none() && forest.remove_folder(old).is_none(), "not empty");
        forest.remove(inode).unwrap();
        assert_eq!(forest.remove_folder(old).unwrap().folder, films);
        assert_eq!(*forest.remove_folder(films).unwrap().name, *b"films.d");
        assert!(forest.remove_folder(ROOT_INODE).is_none());
    }
}
