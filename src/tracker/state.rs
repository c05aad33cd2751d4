//! What outlives the process: a directory that one tracker at a time owns, with a snapshot of the swarms in it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::store::{Restored, SnapshotError, Store};

/// Why a directory cannot be a tracker's.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another tracker uses it.
    #[error("{0} is used by another tracker")]
    InUse(PathBuf),
    /// It cannot be made or used.
    #[error("{path}: {source}")]
    Io {
        /// What.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The directory, held for the life of this value. It and what is in it are for its owner's eyes: addresses of peers.
#[derive(Debug)]
pub struct StateDir {
    directory: PathBuf,
    /// Holds the `flock`.
    lock: Mutex<File>,
}

impl StateDir {
    /// Makes it if it is missing, and takes its lock.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        let wrong = |source| StateError::Io { path: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(wrong)?;
        let lock = Mutex::new(take_lock(directory)?);
        Ok(Self { directory: directory.to_owned(), lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Fills an empty store with what was saved. Without a snapshot, or with one that is damaged, which is put aside and
    /// warned of, the start is a fresh one.
    pub fn restore(&self, store: &Store, now: Instant) -> Restored {
        let path = self.directory.join(SNAPSHOT);
        let read = || -> Result<Restored, SnapshotError> {
            // Whatever lies there, opening it must not wait.
            let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path)?;
            if !file.metadata()?.is_file() {
                return Err(SnapshotError::Format);
            }
            store.restore(now, unix_seconds(), &mut BufReader::with_capacity(BUFFER_BYTES, file))
        };
        match read() {
            Ok(restored) => restored,
            Err(SnapshotError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Restored::default(),
            Err(error) => {
                let aside = self.directory.join("swarms.damaged");
                let kept =
                    fs::rename(&path, &aside).map_or_else(|error| error.to_string(), |()| aside.display().to_string());
                tracing::warn!(path = %path.display(), %error, %kept, "the swarms of last time are lost: a fresh start");
                Restored::default()
            }
        }
    }

    /// Writes a snapshot beside the last one and puts it in that one's place when all of it is on the disk.
    ///
    /// # Errors
    /// Those of the disk; the last snapshot is still there then. Also when the directory is another one than at the start
    /// and has become another tracker's: [`StateError`] inside.
    pub fn save(&self, store: &Store, now: Instant) -> io::Result<()> {
        self.hold().map_err(|error| match error {
            StateError::Io { path, source } => io::Error::new(source.kind(), format!("{}: {source}", path.display())),
            error => io::Error::other(error),
        })?;
        let fresh = self.directory.join("swarms.new");
        let written = write_snapshot(&fresh, store, now).and_then(|()| {
            fs::rename(&fresh, self.directory.join(SNAPSHOT))?;
            File::open(&self.directory)?.sync_all()
        });
        if written.is_err() {
            // Half of one only takes the room that others lack.
            let _ = fs::remove_file(&fresh);
        }
        written
    }

    /// Takes the lock anew where somebody has removed the directory and made it again.
    fn hold(&self) -> Result<(), StateError> {
        let path = self.directory.join("lock");
        let wrong = |source| StateError::Io { path: path.clone(), source };
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let held = lock.metadata().map_err(wrong)?;
        match fs::metadata(&path) {
            Ok(found) if (found.dev(), found.ino()) == (held.dev(), held.ino()) => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrong(error)),
            _ => *lock = take_lock(&self.directory)?,
        }
        Ok(())
    }
}

fn take_lock(directory: &Path) -> Result<File, StateError> {
    let path = directory.join("lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    match lock.map(|lock| (lock.try_lock(), lock)) {
        Ok((Ok(()), lock)) => Ok(lock),
        Ok((Err(TryLockError::WouldBlock), _)) => Err(StateError::InUse(directory.to_owned())),
        Ok((Err(TryLockError::Error(source)), _)) | Err(source) => Err(StateError::Io { path, source }),
    }
}

fn write_snapshot(path: &Path, store: &Store, now: Instant) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
    store.save(now, unix_seconds(), &mut out)?;
    out.flush()?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

const SNAPSHOT: &str = "swarms";
const BUFFER_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::store::{Announce, Counts, Event, StoreConfig};
    use super::*;
    use crate::base::InfoHash;

    fn store(now: Instant) -> Store {
        Store::new(StoreConfig::default(), now)
    }

    fn filled(now: Instant) -> Store {
        let store = store(now);
        let announce = Announce {
            info_hash: InfoHash([7; 20]),
            addr: "192.0.2.1:1".parse().unwrap(),
            complete: true,
            event: Event::Completed,
            wanted: 0,
            uploaded: 0,
            downloaded: 0,
        };
        store.announce(now, &announce, &mut Vec::new()).unwrap();
        store
    }

    #[test]
    fn swarms_outlive_the_process_and_one_process_owns_them() {
        let (room, now) = (tempfile::tempdir().unwrap(), Instant::now());
        let path = room.path().join("a/tracker");
        let state = StateDir::open(&path).unwrap();
        assert!(matches!(StateDir::open(&path), Err(StateError::InUse(_))));
        assert_eq!(state.restore(&store(now), now), Restored::default());
        state.save(&filled(now), now).unwrap();
        state.save(&filled(now), now + Duration::from_secs(1)).unwrap();
        drop(state);
        let (state, later) = (StateDir::open(&path).unwrap(), store(now));
        assert_eq!(state.restore(&later, now), Restored { torrents: 1, peers: 1 });
        later.check_invariants();
        let counts = Counts { seeds: 1, completed: 1, ..Counts::default() };
        assert_eq!(later.scrape(&InfoHash([7; 20])), counts);
    }

    #[test]
    fn whatever_lies_there_is_put_aside() {
        let (room, now) = (tempfile::tempdir().unwrap(), Instant::now());
        let state = StateDir::open(room.path()).unwrap();
        let snapshot = room.path().join(SNAPSHOT);
        state.save(&filled(now), now).unwrap();
        let whole = fs::read(&snapshot).unwrap();
        for broken in [&whole[..whole.len() - 1], &whole[..9], b"", b"something else, and longer"] {
            fs::write(&snapshot, broken).unwrap();
            let fresh = store(now);
            assert_eq!(state.restore(&fresh, now), Restored::default());
            assert!(!snapshot.exists() && room.path().join("swarms.damaged").exists());
            assert_eq!(fresh.totals().torrents, 0);
            fresh.check_invariants();
        }
        fs::create_dir(&snapshot).unwrap();
        fs::remove_file(room.path().join("swarms.damaged")).unwrap();
        assert_eq!(state.restore(&store(now), now), Restored::default());
        state.save(&filled(now), now).unwrap();
    }
}
