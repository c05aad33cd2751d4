//! A directory whose torrent files are shown as long as they lie in it; its directories become folders.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::InfoHash;
use crate::proto::metainfo::Metainfo;
use crate::proto::path::escape;
use crate::storage::{Folder, Judged, Links, read_torrent_file};

/// Where torrents are to be shown.
pub trait Shelf {
    /// Whether nobody wants it any more: a look ends there, and what it has not come to is not shown.
    fn is_ending(&self) -> bool {
        false
    }
    /// Shows a torrent in this folder.
    ///
    /// # Errors
    /// Why not, for people.
    fn add(&self, torrent: Arc<Metainfo>, folder: &Path) -> Result<(), String>;
    /// Shows these no more.
    fn remove(&self, torrents: &[InfoHash]);
    /// The file of a torrent that is shown was written anew: what stands beside the torrent in it may be different.
    fn read_anew(&self, torrent: &Metainfo);
    /// Shows it in another folder.
    fn move_to(&self, torrent: &InfoHash, folder: &Path);
    /// There are these folders, and no others.
    fn set_folders(&self, folders: &BTreeSet<PathBuf>);
}

/// What is known of a watched directory. All paths but its own are relative to it.
#[derive(Debug)]
pub struct Watch {
    folder: Folder<InfoHash>,
    /// What we have put on the shelf, and for the sake of which file.
    shown: HashMap<InfoHash, PathBuf>,
    /// What the shelf did not take: it is tried again then.
    refused: HashMap<InfoHash, Instant>,
}

impl Watch {
    /// Watches a directory; nothing is looked at yet.
    pub fn new(directory: PathBuf) -> Self {
        Self { folder: Folder::new(directory, Links::Followed), shown: HashMap::new(), refused: HashMap::new() }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        self.folder.directory()
    }

    /// Torrents that are shown for its sake.
    pub fn shown(&self) -> usize {
        self.shown.len()
    }

    /// Looks, and brings the shelf to what there is now. Blocking. Returns how long it took to list the directory: what
    /// every look costs, whatever comes of it.
    pub fn look(&mut self, now: Instant, shelf: &dyn Shelf) -> Duration {
        let mut read = HashMap::new();
        let look = self.folder.look(now, &mut |path, full, _| match load(full) {
            Ok((torrent, metainfo)) => {
                read.insert(path.to_owned(), Arc::new(metainfo));
                Judged::Whole(torrent)
            }
            Err(reason) => Judged::Senseless(format!("not a usable torrent: {reason}")),
        });
        if let Some(folders) = look.folders {
            self.settle(now, shelf, &folders, read);
        }
        look.listing
    }

    /// Brings the shelf to what the files say. Of two that hold the same torrent the first counts.
    fn settle(
        &mut self,
        now: Instant,
        shelf: &dyn Shelf,
        folders: &BTreeSet<PathBuf>,
        mut read: HashMap<PathBuf, Arc<Metainfo>>,
    ) {
        let mut wanted: HashMap<InfoHash, &Path> = HashMap::new();
        let mut order = Vec::new();
        for (path, &torrent) in self.folder.whole() {
            wanted.entry(torrent).or_insert_with(|| {
                order.push(torrent);
                path
            });
        }
        self.refused.retain(|torrent, _| wanted.contains_key(torrent));
        let gone: Vec<_> = self.shown.keys().filter(|torrent| !wanted.contains_key(torrent)).copied().collect();
        if !gone.is_empty() {
            self.shown.retain(|torrent, _| !gone.contains(torrent));
            shelf.remove(&gone);
        }
        // Those that are left empty go after what was in them, and new ones come before what is to be in them.
        shelf.set_folders(folders);
        for torrent in order {
            if shelf.is_ending() {
                return;
            }
            let path = wanted[&torrent];
            let folder = path.parent().unwrap_or(Path::new(""));
            if let Some(metainfo) = read.get(path).filter(|_| self.shown.contains_key(&torrent)) {
                shelf.read_anew(metainfo);
            }
            match self.shown.get_mut(&torrent) {
                Some(shown) if shown.parent() != Some(folder) => {
                    shelf.move_to(&torrent, folder);
                    *shown = path.to_owned();
                }
                Some(shown) => *shown = path.to_owned(),
                None if self.refused.get(&torrent).is_some_and(|&until| now < until) => {}
                None => {
                    let full = self.folder.directory().join(path);
                    let metainfo = read.remove(path).or_else(|| Some(Arc::new(load(&full).ok()?.1)));
                    let Some(metainfo) = metainfo else { continue };
                    match shelf.add(metainfo, folder) {
                        Ok(()) => {
                            self.refused.remove(&torrent);
                            self.shown.insert(torrent, path.to_owned());
                        }
                        Err(reason) => {
                            if self.refused.insert(torrent, now + REFUSAL).is_none() {
                                tracing::warn!("{}: {reason}", escape(full.as_os_str().as_bytes()));
                            }
                        }
                    }
                }
            }
        }
        // Folders that could not go while something was in them: moved out since.
        shelf.set_folders(folders);
    }
}

/// Reads and judges a torrent file.
fn load(path: &Path) -> Result<(InfoHash, Metainfo), String> {
    let bytes = read_torrent_file(path).map_err(|error| error.to_string())?;
    let metainfo = Metainfo::parse(&bytes).map_err(|error| error.to_string())?;
    match metainfo.info_hash {
        Some(torrent) => Ok((torrent, metainfo)),
        None => Err("this is a v2-only torrent, which btfs can show but not mount or seed yet".to_owned()),
    }
}

/// What could not be shown is tried again after this long.
const REFUSAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;

    use super::*;
    use crate::proto::metainfo::{NewEntry, NewTorrent};

    /// Notes what it is asked to do.
    #[derive(Default)]
    struct Notes {
        said: RefCell<Vec<String>>,
        full: std::cell::Cell<bool>,
        /// What a removal takes.
        slow: Duration,
        /// Nothing is wanted after so many.
        enough: std::cell::Cell<Option<usize>>,
        names: RefCell<HashMap<InfoHash, String>>,
        folders: RefCell<BTreeSet<PathBuf>>,
    }

    impl Notes {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.said.borrow_mut())
        }

        fn name(&self, torrent: &InfoHash) -> String {
            self.names.borrow()[torrent].clone()
        }
    }

    impl Shelf for Notes {
        fn is_ending(&self) -> bool {
            self.enough.get().is_some_and(|enough| self.said.borrow().len() >= enough)
        }

        fn add(&self, torrent: Arc<Metainfo>, folder: &Path) -> Result<(), String> {
            let name = String::from_utf8_lossy(&torrent.name).into_owned();
            self.names.borrow_mut().insert(torrent.info_hash.unwrap(), name.clone());
            if self.full.get() {
                return Err("full".to_owned());
            }
            self.said.borrow_mut().push(format!("+{}", folder.join(name).display()));
            Ok(())
        }

        fn remove(&self, torrents: &[InfoHash]) {
            std::thread::sleep(self.slow);
            let mut names: Vec<_> = torrents.iter().map(|torrent| self.name(torrent)).collect();
            names.sort();
            self.said.borrow_mut().push(format!("-{}", names.join(",")));
        }

        fn read_anew(&self, torrent: &Metainfo) {
            let name = self.name(&torrent.info_hash.unwrap());
            self.said.borrow_mut().push(format!("={name} {}", torrent.trackers.concat().join(",")));
        }

        fn move_to(&self, torrent: &InfoHash, folder: &Path) {
            self.said.borrow_mut().push(format!(">{}", folder.join(self.name(torrent)).display()));
        }

        fn set_folders(&self, folders: &BTreeSet<PathBuf>) {
            *self.folders.borrow_mut() = folders.clone();
        }
    }

    /// The bytes of a torrent file.
    fn torrent(name: &str) -> Vec<u8> {
        torrent_at(name, &[])
    }

    fn torrent_at(name: &str, trackers: &[&str]) -> Vec<u8> {
        let entry = NewEntry { path: vec![name.into()], length: 5, executable: false, target: None };
        let torrent = NewTorrent {
            name: name.into(),
            single_file: true,
            entries: vec![entry],
            piece_length: 16384,
            pieces: vec![7; 20],
            trackers: trackers.iter().map(|url| vec![(*url).to_owned()]).collect(),
            ..NewTorrent::default()
        };
        torrent.write().unwrap().0.to_vec()
    }

    struct World {
        directory: tempfile::TempDir,
        notes: Notes,
        watch: Watch,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let watch = Watch::new(directory.path().join("watched"));
            fs::create_dir(watch.directory()).unwrap();
            Self { directory, notes: Notes::default(), watch, now: Instant::now() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.watch.directory().join(name)
        }

        fn write(&self, name: &str, bytes: &[u8]) {
            // As a file of its own, so that no stamp is by chance that of before.
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let other = self.directory.path().join("other");
            fs::write(&other, bytes).unwrap();
            fs::rename(other, path).unwrap();
        }

        /// What a look a second later does.
        fn look(&mut self) -> Vec<String> {
            self.now += Duration::from_secs(1);
            self.watch.look(self.now, &self.notes);
            self.notes.take()
        }
    }

    #[test]
    fn files_come_and_go_and_directories_are_folders() {
        let mut world = World::new();
        world.write("a.torrent", &torrent("a"));
        world.write("deep/er/b.TORRENT", &torrent("b"));
        world.write("notes.txt", b"x");
        world.write(".hidden.torrent", &torrent("h"));
        fs::create_dir(world.path("empty")).unwrap();
        std::os::unix::fs::symlink("..", world.path("loop")).unwrap();
        assert_eq!(world.look(), ["+a", "+deep/er/b"]);
        let folders = |world: &World| world.notes.folders.borrow().iter().cloned().collect::<Vec<_>>();
        assert_eq!(folders(&world), ["deep", "deep/er", "empty"].map(PathBuf::from));
        assert_eq!(world.look(), [""; 0]);
        fs::remove_file(world.path("a.torrent")).unwrap();
        fs::rename(world.path("deep/er/b.TORRENT"), world.path("empty/b.torrent")).unwrap();
        assert_eq!(world.look(), ["-a", "=b ", ">empty/b"]);
        fs::remove_dir_all(world.path("empty")).unwrap();
        fs::remove_dir_all(world.path("deep")).unwrap();
        assert_eq!(world.look(), ["-b"]);
        assert_eq!(folders(&world), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn a_file_may_be_written_slowly_or_replaced() {
        let mut world = World::new();
        let whole = torrent("a");
        world.write("a.torrent", &whole[..40]);
        assert_eq!(world.look(), [""; 0]);
        world.write("a.torrent", &whole);
        assert_eq!(world.look(), ["+a"]);
        // Written anew in place: what it was stays until it is something else.
        world.write("a.torrent", b"");
        assert_eq!((world.look(), world.look()), (vec![], vec![]));
        world.write("a.torrent", &torrent("c"));
        assert_eq!(world.look(), ["-a", "+c"]);
        world.write("a.torrent", b"d");
        assert!(world.look().is_empty());
        fs::remove_file(world.path("a.torrent")).unwrap();
        assert_eq!(world.look(), ["-c"]);
    }

    #[test]
    fn a_file_without_sense_is_named_once_after_some_patience() {
        let mut world = World::new();
        world.write("a.torrent", b"nonsense");
        let mut named = Vec::new();
        for _ in 0..8 {
            assert!(world.look().is_empty());
            named.push(world.watch.folder.is_named(Path::new("a.torrent")));
        }
        assert_eq!(named, [false, false, false, true, true, true, true, true]);
        world.write("a.torrent", &torrent("a"));
        assert_eq!(world.look(), ["+a"]);
    }

    #[test]
    fn a_torrent_in_two_files_is_shown_once_until_both_are_gone() {
        let mut world = World::new();
        world.write("1.torrent", &torrent("a"));
        world.write("two/2.torrent", &torrent("a"));
        assert_eq!(world.look(), ["+a"]);
        fs::remove_file(world.path("1.torrent")).unwrap();
        assert_eq!(world.look(), [">two/a"]);
        fs::remove_file(world.path("two/2.torrent")).unwrap();
        assert_eq!(world.look(), ["-a"]);
    }

    #[test]
    fn a_file_that_names_other_trackers_now_tells_of_them() {
        let mut world = World::new();
        world.write("a.torrent", &torrent_at("a", &["http://one/"]));
        assert_eq!(world.look(), ["+a"]);
        world.write("a.torrent", &torrent_at("a", &["http://two/", "http://one/"]));
        assert_eq!(world.look(), ["=a http://two/,http://one/"]);
        assert_eq!(world.look(), [""; 0], "once");
    }

    #[test]
    fn what_goes_goes_together_and_its_end_is_no_part_of_what_looking_takes() {
        let mut world = World::new();
        world.notes.slow = Duration::from_millis(200);
        for name in ["a", "b", "c"] {
            world.write(&format!("{name}.torrent"), &torrent(name));
        }
        world.look();
        for name in ["a", "c"] {
            fs::remove_file(world.path(&format!("{name}.torrent"))).unwrap();
        }
        let begun = Instant::now();
        let listing = world.watch.look(world.now, &world.notes);
        assert!(listing + world.notes.slow <= begun.elapsed(), "{listing:?}");
        assert_eq!(world.notes.take(), ["-a,c"]);
    }

    #[test]
    fn what_was_refused_is_tried_again_after_a_while() {
        let mut world = World::new();
        world.write("a.torrent", &torrent("a"));
        world.notes.full.set(true);
        assert!(world.look().is_empty());
        world.notes.full.set(false);
        assert!(world.look().is_empty(), "not at once");
        world.now += REFUSAL;
        assert_eq!(world.look(), ["+a"]);
    }

    #[test]
    fn a_look_ends_where_nobody_wants_it_any_more() {
        let mut world = World::new();
        for name in ["a", "b", "c"] {
            world.write(&format!("{name}.torrent"), &torrent(name));
        }
        world.notes.enough.set(Some(1));
        assert_eq!(world.look(), ["+a"]);
        world.notes.enough.set(None);
        assert_eq!(world.look(), ["+b", "+c"]);
    }

    #[test]
    fn a_directory_that_is_gone_takes_nothing_with_it() {
        let mut world = World::new();
        world.write("a.torrent", &torrent("a"));
        assert_eq!(world.look(), ["+a"]);
        let aside = world.directory.path().join("aside");
        fs::rename(world.watch.directory(), &aside).unwrap();
        assert!(world.look().is_empty());
        fs::rename(&aside, world.watch.directory()).unwrap();
        assert!(world.look().is_empty());
        fs::remove_file(world.path("a.torrent")).unwrap();
        assert_eq!(world.look(), ["-a"]);
    }
}
