//! A disk in memory that forgets: it knows what was synced and what only lies in the page cache, can stop after any
//! number of operations, and can lose, tear and reorder what was not synced.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::base::{FileIndex, Layout};
use crate::storage::backing::{Backing, Identity, Seen};
use crate::storage::resume::StateFiles;

/// The disk; clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Disk(Arc<Mutex<World>>);

#[derive(Debug)]
struct World {
    layout: Arc<Layout>,
    data: Vec<Option<Data>>,
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names that are not on the disk, in order.
    name_changes: Vec<(String, Option<usize>)>,
    clock: i64,
    /// Operations so far that change or sync something.
    operations: usize,
    /// Calls of any kind so far.
    calls: usize,
    trouble: Trouble,
    rng: fastrand::Rng,
    /// What has been done, in order.
    record: Vec<Step>,
}

/// What is to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    Never,
    /// Operation `n` happens in part, and nothing works from there on.
    Stop(usize),
    /// Operation `n` happens in part and fails; the next ones work.
    Fail(usize),
    /// Of all calls, those that only read included, each `n`th fails from the `k`th on, and does its work in part.
    Each {
        n: usize,
        k: usize,
    },
    /// Nothing can be written or changed, for this reason; all can be read.
    Unwritable(i32),
    /// Nothing works, for this reason.
    Dead(i32),
}

/// One operation that has changed or synced something, as far as it got.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Prepare(FileIndex, u64),
    Write(FileIndex, usize, Vec<u8>),
    Punch(FileIndex, Range<usize>),
    Sync(FileIndex),
    SyncAll,
    Create(String, Vec<u8>),
    Append(String, Vec<u8>),
    SyncSmall(String),
    Rename(String, String),
    Remove(String),
    SyncNames,
}

/// A file of the torrent. Presence is kept by the byte.
#[derive(Debug, Clone)]
struct Data {
    now: Content,
    durable: Option<Content>,
    unsynced: Vec<Change>,
    /// Bytes could not be written: the next sync says so and drops them.
    broken: bool,
}

#[derive(Debug, Clone)]
struct Content {
    ino: u64,
    bytes: Vec<u8>,
    stored: Vec<bool>,
    time: i64,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Punch(Range<usize>),
    Length(usize),
}

/// A small file; appends are all that happens to it.
#[derive(Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: usize,
}

impl Content {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(offset, bytes) => {
                let end = offset + bytes.len();
                if self.bytes.len() < end {
                    self.bytes.resize(end, 0);
                    self.stored.resize(end, false);
                }
                self.bytes[*offset..end].copy_from_slice(bytes);
                self.stored[*offset..end].fill(true);
            }
            Change::Punch(range) => {
                let range = range.start.min(self.bytes.len())..range.end.min(self.bytes.len());
                self.bytes[range.clone()].fill(0);
                self.stored[range].fill(false);
            }
            Change::Length(length) => {
                self.bytes.resize(*length, 0);
                self.stored.resize(*length, false);
            }
        }
    }
}

impl Disk {
    pub(super) fn new(layout: Arc<Layout>, seed: u64) -> Self {
        let data = vec![None; layout.file_count()];
        Self(Arc::new(Mutex::new(World {
            layout,
            data,
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            clock: 1,
            operations: 0,
            calls: 0,
            trouble: Trouble::Never,
            rng: fastrand::Rng::with_seed(seed),
            record: Vec::new(),
        })))
    }

    /// All that has been done so far, if nothing has failed.
    pub(super) fn record(&self) -> Vec<Step> {
        self.world().record.clone()
    }

    /// A disk that has seen these operations and nothing else.
    pub(super) fn replay(layout: Arc<Layout>, seed: u64, steps: &[Step]) -> Self {
        let disk = Self::new(layout, seed);
        for step in steps {
            let mut world = disk.world();
            world.clock += 1;
            world.perform(step.clone()).expect("it could be done before");
        }
        disk
    }

    pub(super) fn set_trouble(&self, trouble: Trouble) {
        self.world().trouble = trouble;
    }

    pub(super) fn calls(&self) -> usize {
        self.world().calls
    }

    pub(super) fn operations(&self) -> usize {
        self.world().operations
    }

    /// The machine is switched off and on: nothing is left of what was not synced.
    pub(super) fn cut_power_and_lose_all(&self) {
        let world = &mut *self.world();
        for data in &mut world.data {
            *data =
                data.take().and_then(|file| Some(Data { now: file.durable.clone()?, unsynced: Vec::new(), ..file }));
        }
        for inode in &mut world.inodes {
            inode.bytes.truncate(inode.durable);
        }
        world.names = world.durable_names.clone();
        world.name_changes.clear();
    }

    /// The machine is switched off and on: of what was not synced any part may be there, in any order of bytes.
    pub(super) fn cut_power(&self) {
        let world = &mut *self.world();
        let rng = &mut world.rng;
        for data in &mut world.data {
            let Some(file) = data.take() else { continue };
            let Some(mut content) = file.durable.or_else(|| rng.bool().then(|| file.now.empty())) else { continue };
            for change in &file.unsynced {
                match change {
                    Change::Write(offset, bytes) if rng.bool() => {
                        let kept = if rng.bool() { bytes.len() } else { rng.usize(..=bytes.len()) };
                        content.apply(&Change::Write(*offset, bytes[..kept].to_vec()));
                    }
                    Change::Write(..) => {}
                    other => {
                        if rng.bool() {
                            content.apply(other);
                        }
                    }
                }
            }
            // The times may have reached the disk without the bytes, never the other way round for what we trust.
            if rng.bool() {
                content.time = file.now.time;
                content.apply(&Change::Length(file.now.bytes.len()));
            }
            *data = Some(Data { durable: Some(content.clone()), now: content, unsynced: Vec::new(), broken: false });
        }
        for inode in &mut world.inodes {
            let kept = rng.usize(inode.durable..=inode.bytes.len());
            let length = rng.usize(kept..=inode.bytes.len());
            // A length that reached the disk before its bytes reads as zeros.
            inode.bytes[kept..].fill(0);
            inode.bytes.truncate(length);
            inode.durable = length;
        }
        let kept = rng.usize(..=world.name_changes.len());
        world.names = world.durable_names.clone();
        for (name, inode) in world.name_changes.drain(..).take(kept) {
            match inode {
                Some(inode) => world.names.insert(name, inode),
                None => world.names.remove(&name),
            };
        }
        world.durable_names = world.names.clone();
    }

    /// Somebody else changes a byte of a file, if it is there.
    pub(super) fn meddle(&self, file: FileIndex) {
        let world = &mut *self.world();
        world.clock += 1;
        let Some(data) = world.data[file.at()].as_mut().filter(|data| !data.now.bytes.is_empty()) else { return };
        let at = world.rng.usize(..data.now.bytes.len());
        let change = Change::Write(at, vec![world.rng.u8(..)]);
        data.now.apply(&change);
        data.now.time = world.clock;
        data.unsynced.push(change);
    }

    /// Whether all bytes of a file's range are stored and equal to `expected`.
    pub(super) fn holds(&self, file: FileIndex, offset: usize, expected: &[u8]) -> bool {
        let world = self.world();
        let range = offset..offset + expected.len();
        world.data[file.at()].as_ref().is_some_and(|data| {
            data.now.bytes.get(range.clone()) == Some(expected) && data.now.stored[range].iter().all(|stored| *stored)
        })
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no test panics inside the disk")
    }
}

impl Content {
    fn empty(&self) -> Self {
        Self { bytes: Vec::new(), stored: Vec::new(), ..self.clone() }
    }
}

impl Data {
    /// All of it is on the disk.
    fn settle(&mut self) {
        self.durable = Some(self.now.clone());
        self.unsynced.clear();
    }
}

impl World {
    /// To be asked by each call that only reads.
    fn working(&mut self) -> io::Result<()> {
        self.calls += 1;
        match self.trouble {
            Trouble::Stop(at) if self.operations > at => Err(io::Error::from_raw_os_error(libc::EIO)),
            Trouble::Each { n, k } if self.calls >= k && (self.calls - k).is_multiple_of(n) => {
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
            Trouble::Dead(code) => Err(io::Error::from_raw_os_error(code)),
            _ => Ok(()),
        }
    }

    /// Does something, all of it, and records it.
    fn perform(&mut self, step: Step) -> io::Result<()> {
        match &step {
            Step::Prepare(file, ino) => {
                self.make(*file, *ino);
                let length = self.layout.file_bytes(*file) as usize;
                self.change(*file, Change::Length(length))?;
            }
            Step::Write(file, offset, bytes) => self.change(*file, Change::Write(*offset, bytes.clone()))?,
            Step::Punch(file, range) => self.change(*file, Change::Punch(range.clone()))?,
            Step::Sync(file) => self.data[file.at()].iter_mut().for_each(Data::settle),
            Step::SyncAll => self.data.iter_mut().flatten().for_each(Data::settle),
            Step::Create(name, bytes) => {
                self.inodes.push(Inode { bytes: bytes.clone(), durable: 0 });
                self.link(name, Some(self.inodes.len() - 1));
            }
            Step::Append(name, bytes) => {
                let inode = self.inode(name)?;
                self.inodes[inode].bytes.extend_from_slice(bytes);
            }
            Step::SyncSmall(name) => {
                let inode = self.inode(name)?;
                self.inodes[inode].durable = self.inodes[inode].bytes.len();
            }
            Step::Rename(from, to) => {
                let inode = self.inode(from)?;
                // One step in reality: the order of these two keeps the file reachable.
                self.link(to, Some(inode));
                self.link(from, None);
            }
            Step::Remove(name) => self.link(name, None),
            Step::SyncNames => {
                self.durable_names = self.names.clone();
                self.name_changes.clear();
            }
        }
        self.record.push(step);
        Ok(())
    }

    fn make(&mut self, file: FileIndex, ino: u64) {
        let time = self.clock;
        self.data[file.at()].get_or_insert_with(|| Data {
            now: Content { ino, bytes: Vec::new(), stored: Vec::new(), time },
            durable: None,
            unsynced: Vec::new(),
            broken: false,
        });
    }

    /// Counts an operation; how much of `length` units it is to do, and what it then says.
    fn operate(&mut self, length: usize) -> io::Result<(usize, io::Result<()>)> {
        let called = self.working();
        let failed = called.is_err();
        if !matches!(self.trouble, Trouble::Each { .. }) {
            called?;
        }
        let number = self.operations;
        self.operations += 1;
        self.clock += 1;
        let fails = match self.trouble {
            Trouble::Stop(at) | Trouble::Fail(at) => number == at,
            Trouble::Each { .. } => failed,
            Trouble::Unwritable(code) => return Err(io::Error::from_raw_os_error(code)),
            Trouble::Never | Trouble::Dead(_) => false,
        };
        if !fails {
            return Ok((length, Ok(())));
        }
        let code = if self.rng.bool() { libc::ENOSPC } else { libc::EIO };
        Ok((self.rng.usize(..=length), Err(io::Error::from_raw_os_error(code))))
    }

    fn change(&mut self, file: FileIndex, change: Change) -> io::Result<()> {
        let time = self.clock;
        let data = self.data[file.at()].as_mut().ok_or(io::ErrorKind::NotFound)?;
        data.now.apply(&change);
        data.now.time = time;
        data.unsynced.push(change);
        Ok(())
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn link(&mut self, name: &str, inode: Option<usize>) {
        match inode {
            Some(inode) => self.names.insert(name.to_owned(), inode),
            None => self.names.remove(name),
        };
        self.name_changes.push((name.to_owned(), inode));
    }
}

impl Backing for Disk {
    fn read_at(&self, file: FileIndex, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut world = self.world();
        world.working()?;
        let data = world.data[file.at()].as_ref().ok_or(io::ErrorKind::NotFound)?;
        let rest = data.now.bytes.get(offset as usize..).unwrap_or(&[]);
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn read_now_at(&self, file: FileIndex, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.read_at(file, offset, buffer).map(Some)
    }

    fn write_vectored_at(&self, file: FileIndex, offset: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        let mut world = self.world();
        let (count, result) = world.operate(bytes.len())?;
        bytes.truncate(count);
        world.perform(Step::Write(file, offset as usize, bytes)).and(result)
    }

    fn prepare(&self, file: FileIndex) -> io::Result<()> {
        let mut world = self.world();
        let (count, result) = world.operate(1)?;
        let ino = world.clock as u64;
        if count == 1 {
            let ino = world.data[file.at()].as_ref().map_or(ino, |data| data.now.ino);
            world.perform(Step::Prepare(file, ino))?;
        } else {
            world.make(file, ino);
        }
        result
    }

    fn punch(&self, file: FileIndex, offset: u64, length: u64) -> io::Result<()> {
        let mut world = self.world();
        let (count, result) = world.operate(length as usize)?;
        world.perform(Step::Punch(file, offset as usize..offset as usize + count)).and(result)
    }

    fn sync(&self, file: FileIndex) -> io::Result<()> {
        let mut world = self.world();
        let (count, result) = world.operate(1)?;
        let killed = matches!(world.trouble, Trouble::Stop(_));
        let data = world.data[file.at()].as_mut().ok_or(io::ErrorKind::NotFound)?;
        if killed && count == 0 {
            return result;
        }
        let broken = std::mem::take(&mut data.broken);
        let result = if broken { Err(io::ErrorKind::Other.into()) } else { result };
        if result.is_err() && !killed {
            // What could not be written is dropped; the times are as they were.
            let time = data.now.time;
            data.now = data.durable.clone().unwrap_or_else(|| data.now.empty());
            data.now.time = time;
        }
        data.settle();
        world.record.push(Step::Sync(file));
        result
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut world = self.world();
        let (count, result) = world.operate(1)?;
        let killed = matches!(world.trouble, Trouble::Stop(_));
        for data in world.data.iter_mut().flatten() {
            if result.is_err() && !killed {
                data.broken |= !data.unsynced.is_empty();
            } else if count == 1 {
                data.settle();
            }
        }
        world.record.push(Step::SyncAll);
        result
    }

    fn seen(&self, file: FileIndex) -> io::Result<Option<Seen>> {
        let mut world = self.world();
        world.working()?;
        Ok(world.data[file.at()].as_ref().map(|Data { now, .. }| Seen {
            identity: Identity { dev: 0, ino: now.ino, size: now.bytes.len() as u64, mtime: now.time, ctime: now.time },
            allocated: now.stored.iter().filter(|stored| **stored).count() as u64,
        }))
    }

    fn next_data(&self, file: FileIndex, offset: u64) -> io::Result<Option<Range<u64>>> {
        let mut world = self.world();
        world.working()?;
        let Some(Data { now, .. }) = &world.data[file.at()] else { return Ok(None) };
        let offset = offset as usize;
        let Some(start) = now.stored.iter().skip(offset).position(|stored| *stored) else { return Ok(None) };
        let start = offset + start;
        let length = now.stored[start..].iter().take_while(|stored| **stored).count();
        Ok(Some(start as u64..(start + length) as u64))
    }

    fn forget(&self, _: FileIndex) {}

    fn lend(&self, _file: FileIndex) -> io::Result<(Arc<File>, Identity)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn is_held(&self, _file: FileIndex) -> Option<bool> {
        Some(false)
    }

    fn path(&self, file: FileIndex) -> PathBuf {
        PathBuf::from(format!("simulated/{file}"))
    }
}

impl StateFiles for Disk {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut world = self.world();
        world.working()?;
        Ok(world.names.get(name).map(|&inode| world.inodes[inode].bytes.clone()))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut world = self.world();
        world.working()?;
        Ok(world.names.keys().cloned().collect())
    }

    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.world();
        let (count, result) = world.operate(bytes.len())?;
        world.perform(Step::Create(name.to_owned(), bytes[..count].to_vec())).and(result)
    }

    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.world();
        let (count, result) = world.operate(bytes.len())?;
        world.perform(Step::Append(name.to_owned(), bytes[..count].to_vec())).and(result)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let mut world = self.world();
        let (count, result) = world.operate(1)?;
        world.inode(name)?;
        if count == 1 {
            world.perform(Step::SyncSmall(name.to_owned()))?;
        }
        result
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.world();
        let (count, result) = world.operate(1)?;
        if count == 1 {
            world.perform(Step::Rename(from.to_owned(), to.to_owned()))?;
        }
        result
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.world();
        let (count, result) = world.operate(1)?;
        if count == 1 && world.names.contains_key(name) {
            world.perform(Step::Remove(name.to_owned()))?;
        }
        result
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut world = self.world();
        let (count, result) = world.operate(1)?;
        if count == 1 {
            world.perform(Step::SyncNames)?;
        }
        result
    }
}
