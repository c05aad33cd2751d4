//! Where complete files of a download go: names of their own below a directory of the user's.
//!
//! Everything is reached from that directory component by component, through real directories only, so that no link that
//! lies there, or that the torrent itself brings, leads elsewhere. Nothing that exists is ever replaced.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::disk::entry;
use crate::base::{FileIndex, InfoHash, Layout};
use crate::storage::StorageError;
use crate::storage::sys::{self, FileStatus, Open};

/// The names, and which files have theirs.
#[derive(Debug)]
pub(crate) struct Places {
    root: File,
    /// Of `root`, for messages.
    path: PathBuf,
    /// For each file the path below `root`; `None`: it stays in the slot.
    paths: Vec<Option<PathBuf>>,
    placed: Box<[AtomicBool]>,
}

impl Places {
    /// Looks at what has the names already: a file of the right length is taken as placed, if `begun` says that the slot
    /// has none of it. Nothing is made.
    ///
    /// # Errors
    /// [`StorageError::Mismatch`] when something else is in the way.
    pub(crate) fn new(
        root: File,
        path: PathBuf,
        paths: Vec<Option<PathBuf>>,
        layout: &Layout,
        begun: impl Fn(FileIndex) -> bool,
    ) -> Result<Self, StorageError> {
        let placed = (0..layout.file_count()).map(|_| AtomicBool::new(false)).collect();
        let places = Self { root, path, paths, placed };
        for file in layout.files() {
            let Some(name) = places.name(file) else { continue };
            let Some(status) = places.status(name)? else { continue };
            let wanted = layout.file_bytes(file);
            let reason = match status {
                FileStatus { regular: false, .. } => "exists already, and is no file".to_owned(),
                FileStatus { size, .. } if size != wanted => {
                    format!("exists already, with {size} bytes instead of {wanted}")
                }
                _ if begun(file) => "exists already, beside what was fetched of it".to_owned(),
                _ => {
                    places.placed[file.at()].store(true, Ordering::Release);
                    continue;
                }
            };
            return Err(places.in_the_way(name, &reason));
        }
        Ok(places)
    }

    pub(crate) fn root(&self) -> &File {
        &self.root
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file that has its name.
    pub(crate) fn placed(&self, file: FileIndex) -> Option<&Path> {
        let placed = self.placed.get(file.at()).is_some_and(|placed| placed.load(Ordering::Acquire));
        if placed { self.name(file) } else { None }
    }

    /// Moves `from`, in `dir`, to the place of a file.
    pub(crate) fn place(&self, file: FileIndex, dir: &File, from: &OsStr) -> Result<(), StorageError> {
        let Some(path) = self.name(file) else {
            return Err(self.in_the_way(Path::new(""), "has no place"));
        };
        let (parent, name) = self.make_parents(path)?;
        match sys::move_new_at(dir, from, parent.as_ref().unwrap_or(&self.root), name) {
            Ok(()) => {
                self.placed[file.at()].store(true, Ordering::Release);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(self.in_the_way(path, "exists already")),
            Err(source) => Err(StorageError::Io { op: "create", path: self.path.join(path), source }),
        }
    }

    /// Makes a symlink, unless it is there.
    pub(crate) fn link(&self, path: &Path, target: &OsStr) -> Result<(), StorageError> {
        let (parent, name) = self.make_parents(path)?;
        let parent = parent.as_ref().unwrap_or(&self.root);
        match sys::symlink_at(target, parent, name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match sys::read_link_at(parent, name) {
                Ok(there) if there == target.as_bytes() => Ok(()),
                _ => Err(self.in_the_way(path, "exists already, and is not the symlink of the torrent")),
            },
            Err(source) => Err(StorageError::Io { op: "link", path: self.path.join(path), source }),
            Ok(()) => Ok(()),
        }
    }

    fn name(&self, file: FileIndex) -> Option<&Path> {
        self.paths.get(file.at()).and_then(Option::as_deref)
    }

    /// What has a path; an error when something that is no directory is in the way to it.
    fn status(&self, path: &Path) -> Result<Option<FileStatus>, StorageError> {
        let failed = |source| StorageError::Io { op: "look at", path: self.path.join(path), source };
        match entry(&self.root, path) {
            Ok((dir, name)) => sys::status_at(dir.as_ref().unwrap_or(&self.root), name).map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if is_no_directory(&error) => Err(self.in_the_way(path, NO_DIRECTORY)),
            Err(error) => Err(failed(error)),
        }
    }

    /// The directory that a path lies in (`None`: the root), made if it is missing, and the last component.
    fn make_parents<'p>(&self, path: &'p Path) -> Result<(Option<File>, &'p OsStr), StorageError> {
        let failed = |source: io::Error| match is_no_directory(&source) {
            true => self.in_the_way(path, NO_DIRECTORY),
            false => StorageError::Io { op: "create", path: self.path.join(path), source },
        };
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        };
        let mut dir: Option<File> = None;
        for component in parent.components() {
            let Component::Normal(part) = component else { return Err(failed(io::ErrorKind::InvalidInput.into())) };
            let within = dir.as_ref().unwrap_or(&self.root);
            match sys::make_dir_with_mode_at(within, part, 0o777) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
                _ => {}
            }
            dir = Some(sys::open_at(within, part, Open::Directory).map_err(failed)?);
        }
        Ok((dir, name))
    }

    fn in_the_way(&self, path: &Path, reason: &str) -> StorageError {
        let reason = format!("{reason}; move it away, or get the torrent into another directory");
        StorageError::Mismatch { path: self.path.join(path), reason }
    }
}

/// The directory beside the names that holds what is not complete.
pub(crate) fn slot_name(torrent: InfoHash) -> String {
    format!("{SLOT_PREFIX}{torrent}")
}

/// What the names of such directories begin with.
pub(crate) const SLOT_PREFIX: &str = ".btfs-";

fn is_no_directory(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP))
}

const NO_DIRECTORY: &str = "a link, or something else that is no directory, is in the way to it";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::base::FileSpec;

    fn layout() -> Layout {
        Layout::new(16384, &[5, 0, 7].map(|length| FileSpec { length, padding: false })).unwrap()
    }

    fn places(directory: &Path, names: [&str; 3], begun: bool) -> Result<Places, StorageError> {
        let names = names.iter().map(|name| Some(PathBuf::from(name))).collect();
        Places::new(File::open(directory).unwrap(), directory.to_owned(), names, &layout(), |_| begun)
    }

    fn file(number: u32) -> FileIndex {
        layout().file(number).unwrap()
    }

    #[test]
    fn a_file_is_moved_to_its_name_below_directories_that_are_made() {
        let temp = tempfile::tempdir().unwrap();
        let (slot, root) = (temp.path().join("slot"), temp.path().join("root"));
        fs::create_dir(&slot).unwrap();
        fs::create_dir(&root).unwrap();
        fs::write(slot.join("0"), "12345").unwrap();
        let places = places(&root, ["a/b/c", "e", "f"], false).unwrap();
        assert_eq!(places.placed(file(0)), None);
        places.place(file(0), &File::open(&slot).unwrap(), OsStr::new("0")).unwrap();
        assert_eq!(fs::read(root.join("a/b/c")).unwrap(), b"12345");
        assert_eq!(places.placed(file(0)), Some(Path::new("a/b/c")));
        assert!(!slot.join("0").exists());
        places.link(Path::new("a/link"), OsStr::new("b/c")).unwrap();
        places.link(Path::new("a/link"), OsStr::new("b/c")).unwrap();
        assert_eq!(fs::read_link(root.join("a/link")).unwrap(), Path::new("b/c"));
        let other = places.link(Path::new("a/link"), OsStr::new("b")).unwrap_err().to_string();
        assert!(other.contains("not the symlink of the torrent"), "{other}");
    }

    #[test]
    fn nothing_that_exists_is_replaced_and_no_link_followed() {
        let temp = tempfile::tempdir().unwrap();
        let (slot, root, outside) = (temp.path().join("slot"), temp.path().join("root"), temp.path().join("outside"));
        [&slot, &root, &outside].iter().for_each(|path| fs::create_dir(path).unwrap());
        for name in ["0", "1", "2"] {
            fs::write(slot.join(name), "ours").unwrap();
        }
        let places = places(&root, ["there", "link/x", "file/x"], false).unwrap();
        // All of it came after the look.
        fs::write(root.join("there"), "theirs").unwrap();
        symlink(&outside, root.join("link")).unwrap();
        fs::write(root.join("file"), "theirs").unwrap();
        let slot_dir = File::open(&slot).unwrap();
        for number in 0..3 {
            let refused = places.place(file(number), &slot_dir, OsStr::new(&number.to_string())).unwrap_err();
            assert!(refused.to_string().contains("move it away"), "{refused}");
            assert!(slot.join(number.to_string()).exists() && places.placed(file(number)).is_none());
        }
        assert_eq!(fs::read(root.join("there")).unwrap(), b"theirs");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn what_has_a_name_already_is_taken_or_refused() {
        for (make, begun, expected) in [
            ("12345", false, Ok(true)),
            ("12345", true, Err("beside what was fetched")),
            ("1234", false, Err("4 bytes instead of 5")),
            ("/", false, Err("is no file")),
            ("@", false, Err("is no file")),
        ] {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join("x");
            match make {
                "/" => fs::create_dir(&path).unwrap(),
                "@" => symlink("elsewhere", &path).unwrap(),
                text => fs::write(&path, text).unwrap(),
            }
            match (places(temp.path(), ["x", "y", "z"], begun), expected) {
                (Ok(places), Ok(placed)) => assert_eq!(places.placed(file(0)).is_some(), placed),
                (Err(error), Err(reason)) => assert!(error.to_string().contains(reason), "{error}"),
                (got, expected) => panic!("{make}: {got:?}, not {expected:?}"),
            }
        }
    }
}
