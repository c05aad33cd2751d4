//! A mount and a plain directory with the same files cannot be told apart by reading.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::served::{Content, Served};
use crate::harness::can_mount;

/// What an operation came to, comparable between the two.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Bytes(Vec<u8>),
    Number(u64),
    Names(Vec<String>),
    Error(Option<i32>),
}

impl<T: Into<Outcome>> From<std::io::Result<T>> for Outcome {
    fn from(result: std::io::Result<T>) -> Self {
        result.map_or_else(|error| Self::Error(error.raw_os_error()), Into::into)
    }
}

impl From<()> for Outcome {
    fn from((): ()) -> Self {
        Self::Done
    }
}

impl From<Vec<u8>> for Outcome {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<u64> for Outcome {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

/// One operation; the same list runs on both sides.
#[derive(Debug, Clone)]
enum Operation {
    Open { slot: u32, path: String },
    Close { slot: u32 },
    ReadAt { slot: u32, offset: u64, length: usize },
    Seek { slot: u32, to: SeekFrom },
    Read { slot: u32, length: usize },
    Whole { path: String },
    Length { path: String },
    Kind { path: String },
    List { path: String },
}

/// One side: a directory and its open files.
struct Side {
    top: PathBuf,
    open: HashMap<u32, File>,
}

impl Side {
    fn new(top: &Path) -> Self {
        Self { top: top.to_path_buf(), open: HashMap::new() }
    }

    fn run(&mut self, operation: &Operation) -> Outcome {
        let at = |path: &str| self.top.join(path);
        match operation {
            // Positions inside a directory mean something else on every file system.
            Operation::Open { path, .. } if at(path).is_dir() => Outcome::Done,
            Operation::Open { slot, path } => File::open(at(path))
                .map(|file| {
                    self.open.insert(*slot, file);
                })
                .into(),
            Operation::Close { slot } => {
                self.open.remove(slot);
                Outcome::Done
            }
            Operation::ReadAt { slot, offset, length } => self.with(*slot, |file| {
                let mut buffer = vec![0; *length];
                let count = file.read_at(&mut buffer, *offset)?;
                buffer.truncate(count);
                Ok(buffer)
            }),
            Operation::Seek { slot, to } => self.with(*slot, |file| file.seek(*to)),
            Operation::Read { slot, length } => self.with(*slot, |file| {
                let mut buffer = vec![0; *length];
                let count = file.read(&mut buffer)?;
                buffer.truncate(count);
                Ok(buffer)
            }),
            Operation::Whole { path } => fs::read(at(path)).into(),
            Operation::Length { path } => {
                fs::metadata(at(path)).map(|metadata| if metadata.is_file() { metadata.len() } else { 0 }).into()
            }
            Operation::Kind { path } => {
                fs::symlink_metadata(at(path)).map(|metadata| u64::from(metadata.mode() & libc::S_IFMT)).into()
            }
            Operation::List { path } => match fs::read_dir(at(path)) {
                Ok(entries) => {
                    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
                    let mut names: Vec<String> = names.collect();
                    names.sort();
                    Outcome::Names(names)
                }
                Err(error) => Outcome::Error(error.raw_os_error()),
            },
        }
    }

    fn with<T: Into<Outcome>>(&mut self, slot: u32, body: impl FnOnce(&mut File) -> std::io::Result<T>) -> Outcome {
        self.open.get_mut(&slot).map_or(Outcome::Done, |file| body(file).into())
    }
}

fn operations(seed: u64, count: usize) -> Vec<Operation> {
    let mut random = fastrand::Rng::with_seed(seed);
    let paths = ["small", "d/big", "d/e/odd", "empty", "d/e/piece", "none", "d", "d/e", "d/none", "small/x", ""];
    (0..count)
        .map(|_| {
            let slot = random.u32(0..12);
            let path = paths[random.usize(..paths.len())].to_owned();
            let length = match random.u32(0..4) {
                0 => random.usize(..10),
                1 => random.usize(..5000),
                2 => 4096 << random.u32(0..5),
                _ => random.usize(..300_000),
            };
            let offset = match random.u32(0..4) {
                0 => random.u64(..2_100_000),
                1 => 16384 * random.u64(..130),
                2 => (16384 * random.u64(1..130)) - random.u64(1..9),
                _ => random.u64(..70_000),
            };
            match random.u32(0..20) {
                0..=2 => Operation::Open { slot, path },
                3 => Operation::Close { slot },
                4..=10 => Operation::ReadAt { slot, offset, length },
                11 | 12 => Operation::Seek { slot, to: SeekFrom::Start(offset) },
                13 => Operation::Seek { slot, to: SeekFrom::End(random.i64(-3000..100)) },
                14..=16 => Operation::Read { slot, length },
                17 if random.u32(0..10) == 0 => Operation::Whole { path },
                17 => Operation::Kind { path },
                18 => Operation::Length { path },
                _ => Operation::List { path },
            }
        })
        .collect()
}

#[test]
fn ten_thousand_operations_give_what_a_plain_directory_gives() {
    if !can_mount() {
        return;
    }
    for (seed, count, complete) in [(1, 8000, false), (2, 2000, true)] {
        let entries = ["small=10", "d/big=2000003", "d/e/odd=65537", "empty=0", "d/e/piece=16384"];
        let content = Content::new("torrent", 16384, &entries);
        let served = if complete { Served::complete(content) } else { Served::empty(content) };
        let plain = served.beside("plain");
        served.content.write_below(&plain);
        let (mut ours, mut theirs) = (Side::new(&served.top()), Side::new(&plain));
        for (number, operation) in operations(seed, count).iter().enumerate() {
            let (got, wanted) = (ours.run(operation), theirs.run(operation));
            assert!(got == wanted, "seed {seed}, operation {number}, {operation:?}: not the same");
        }
    }
}
