//! One name for each entry: files that want the same path, and files that want a directory's.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The first entry that wants exactly this path.
    pub entry: Option<usize>,
    /// Entries lie below the path.
    pub directory: bool,
}

/// The paths that the entries of a torrent want, in an order in which equal ones and those below each other are
/// neighbours. Empty paths take no part.
#[derive(Debug)]
pub struct PathIndex<'p, P> {
    paths: &'p [P],
    order: Vec<u32>,
}

impl<'p, P: AsRef<[u8]>> PathIndex<'p, P> {
    /// An index of `paths`, which must not be more than 2^32.
    pub fn new(paths: &'p [P]) -> Self {
        let wanted = |index: &u32| !paths[*index as usize].as_ref().is_empty();
        let mut order: Vec<u32> = (0..paths.len() as u32).filter(wanted).collect();
        order
            .sort_unstable_by(|&a, &b| compare(paths[a as usize].as_ref(), paths[b as usize].as_ref()).then(a.cmp(&b)));
        Self { paths, order }
    }

    /// What lies at `path`.
    pub fn find(&self, path: &[u8]) -> Found {
        let start = self.order.partition_point(|&index| compare(self.path(index), path) == Ordering::Less);
        let end = start + self.run_length(start, path);
        let entry = (start < end).then(|| self.order[start] as usize);
        Found { entry, directory: self.directory_at(end, path) }
    }

    /// New paths for the entries that cannot have the one they want: of several files with the same path the first
    /// keeps it, and a directory keeps its name before any file. Depends on nothing but the paths and their order.
    pub fn renames(&self) -> Vec<(usize, Box<[u8]>)> {
        let mut renames = Vec::new();
        // Hashes instead of paths: where two are the same by chance, a number is left out, no more.
        let mut given: HashSet<u64> = HashSet::new();
        let mut start = 0;
        while let Some(&first) = self.order.get(start) {
            let path = self.path(first);
            let end = start + self.run_length(start, path);
            let keeps = if self.directory_at(end, path) { 0 } else { 1 };
            let (parent, name) =
                path.split_at(path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1));
            let mut number = 2;
            for &index in &self.order[start + keeps..end] {
                let free = loop {
                    let candidate = [parent, &super::numbered_name(name, number)].concat().into_boxed_slice();
                    number += 1;
                    let found = self.find(&candidate);
                    if found.entry.is_none() && !found.directory && given.insert(hash(&candidate)) {
                        break candidate;
                    }
                };
                renames.push((index as usize, free));
            }
            start = end;
        }
        renames
    }

    fn path(&self, index: u32) -> &'p [u8] {
        self.paths[index as usize].as_ref()
    }

    /// Entries from `start` of the order on that have exactly this path.
    fn run_length(&self, start: usize, path: &[u8]) -> usize {
        self.order[start..].partition_point(|&index| self.path(index) == path)
    }

    /// Whether the entry at `at` of the order lies below `path`.
    fn directory_at(&self, at: usize, path: &[u8]) -> bool {
        let below = |index: &u32| self.path(*index).strip_prefix(path).is_some_and(|rest| rest.first() == Some(&b'/'));
        self.order.get(at).is_some_and(below)
    }
}

fn hash(path: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// Orders paths so that whatever lies below a path follows it directly.
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    a[same..].first().map(rank).cmp(&b[same..].first().map(rank))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolved(paths: &[&str]) -> Vec<String> {
        let mut out: Vec<String> = paths.iter().map(ToString::to_string).collect();
        for (index, path) in PathIndex::new(paths).renames() {
            out[index] = String::from_utf8(path.into_vec()).unwrap();
        }
        out
    }

    #[test]
    fn of_equal_paths_the_first_keeps_its_name() {
        assert_eq!(resolved(&["a.x", "b", "a.x", "a.x"]), ["a.x", "b", "a (2).x", "a (3).x"]);
        assert_eq!(resolved(&["a", "a", "a (2)", "a (2)"]), ["a", "a (3)", "a (2)", "a (2) (2)"]);
    }

    #[test]
    fn a_directory_keeps_its_name_before_a_file() {
        assert_eq!(resolved(&["a", "a/b"]), ["a (2)", "a/b"]);
        assert_eq!(resolved(&["a", "a-b", "a!", "a/b/c", "a/b"]), ["a (2)", "a-b", "a!", "a/b/c", "a/b (2)"]);
        assert_eq!(resolved(&["a", "a/b", "a (2)/c"]), ["a (3)", "a/b", "a (2)/c"]);
    }

    #[test]
    fn files_and_directories_are_found() {
        let index = PathIndex::new(&["d/x", "f", "d/x", "", "d-e"]);
        assert_eq!(index.find(b"d/x"), Found { entry: Some(0), directory: false });
        assert_eq!(index.find(b"d"), Found { entry: None, directory: true });
        assert_eq!(index.find(b"f"), Found { entry: Some(1), directory: false });
        assert_eq!(index.find(b"e"), Found { entry: None, directory: false });
        assert_eq!(index.find(b""), Found { entry: None, directory: false });
    }

    proptest! {
        #[test]
        fn no_two_entries_end_at_the_same_path_or_below_a_file(
            paths in proptest::collection::vec("[ab]( \\(2\\))?(/[ab]( \\(2\\))?){0,2}", 0..12),
        ) {
            let wanted: Vec<&str> = paths.iter().map(String::as_str).collect();
            let mut got = resolved(&wanted);
            for (want, have) in wanted.iter().zip(&got) {
                prop_assert_eq!(want.rsplit_once('/').map(|w| w.0), have.rsplit_once('/').map(|h| h.0));
            }
            got.sort();
            for pair in got.windows(2) {
                prop_assert_ne!(&pair[0], &pair[1]);
            }
            for file in &got {
                let below = format!("{file}/");
                prop_assert!(!got.iter().any(|other| other.starts_with(&below)), "{} in {:?}", file, got);
            }
        }
    }
}
