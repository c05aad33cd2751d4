//! Files with known bytes, and torrents of them made without the program under test.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha1::{Digest, Sha1};

/// Bytes that depend on `seed` and the position alone; no two blocks are alike.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    Stream::new(seed).fill(&mut out);
    out
}

/// Writes a file of such bytes.
pub fn write_file(path: &Path, seed: u64, length: u64) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    let mut stream = Stream::new(seed);
    let mut buffer = vec![0; 1 << 20];
    let mut left = length;
    while left > 0 {
        let now = left.min(buffer.len() as u64) as usize;
        stream.fill(&mut buffer[..now]);
        file.write_all(&buffer[..now]).unwrap();
        left -= now as u64;
    }
    file.flush().unwrap();
}

struct Stream(u64);

impl Stream {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// xorshift64*: fast, and good enough to have no repeats. Chunks must be multiples of 8 but for the last.
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            chunk.copy_from_slice(&self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Fails with the first difference when two files are not the same.
#[track_caller]
pub fn assert_same(got: &Path, wanted: &Path) {
    if let Err(difference) = compare(got, wanted) {
        panic!("{} is not {}: {difference}", got.display(), wanted.display());
    }
}

/// The first difference of two files, or the error of reading one.
pub fn compare(got: &Path, wanted: &Path) -> Result<(), String> {
    let say = |path: &Path| format!("{}: ", path.display());
    let mut a = File::open(got).map_err(|error| say(got) + &error.to_string())?;
    let mut b = File::open(wanted).map_err(|error| say(wanted) + &error.to_string())?;
    let (mut x, mut y) = (vec![0; 256 << 10], vec![0; 256 << 10]);
    let mut position = 0u64;
    loop {
        let n = a.read(&mut x).map_err(|error| format!("at {position}: {error}"))?;
        let m = b.read(&mut y[..n.max(1)]).map_err(|error| say(wanted) + &error.to_string())?;
        if n == 0 || m == 0 {
            return if n == m { Ok(()) } else { Err(format!("lengths differ at {position}")) };
        }
        if m < n {
            b.read_exact(&mut y[m..n]).map_err(|_| format!("longer than wanted, at {position}"))?;
        }
        if let Some(at) = (0..n).find(|&i| x[i] != y[i]) {
            return Err(format!("byte {} is {:#04x}, wanted {:#04x}", position + at as u64, x[at], y[at]));
        }
        position += n as u64;
    }
}

/// Compares one range; the error of the read, or a text on wrong bytes.
#[track_caller]
pub fn assert_range(got: &File, wanted: &File, offset: u64, length: usize) {
    let (mut x, mut y) = (vec![0; length], vec![0; length]);
    got.read_exact_at(&mut x, offset).unwrap_or_else(|error| panic!("read of {length} at {offset}: {error}"));
    wanted.read_exact_at(&mut y, offset).unwrap();
    assert!(x == y, "wrong bytes in {length} at {offset}");
}

/// A torrent file and where its content lies.
#[derive(Clone)]
pub struct Torrent {
    pub file: PathBuf,
    /// The content: a file, or the directory for several files.
    pub data: PathBuf,
    pub name: String,
    pub length: u64,
    pub piece_length: u64,
    pub info_hash: String,
}

impl Torrent {
    /// The directory that holds the content, as other programs want to be told.
    pub fn parent(&self) -> &Path {
        self.data.parent().unwrap()
    }
}

/// Makes a v1 torrent of a file or a directory, with our own dozen lines of bencode: independent of the program.
pub fn torrent(data: &Path, piece_length: u64, trackers: &[String]) -> Torrent {
    let mut files = Vec::new();
    walk(data, &mut Vec::new(), &mut files);
    let name = data.file_name().unwrap().to_str().unwrap().to_owned();

    let mut pieces = Vec::new();
    let mut piece = Vec::with_capacity(piece_length as usize);
    let mut length = 0;
    for (path, _) in &files {
        let mut file = File::open(path).unwrap();
        loop {
            let room = piece_length - piece.len() as u64;
            let got = (&mut file).take(room).read_to_end(&mut piece).unwrap();
            length += got as u64;
            if piece.len() as u64 == piece_length {
                pieces.extend_from_slice(&Sha1::digest(&piece));
                piece.clear();
            } else if got == 0 || (got as u64) < room {
                break;
            }
        }
    }
    if !piece.is_empty() {
        pieces.extend_from_slice(&Sha1::digest(&piece));
    }

    let mut info = b"d".to_vec();
    if data.is_dir() {
        info.extend_from_slice(b"5:filesl");
        for (path, parts) in &files {
            let size = path.metadata().unwrap().len();
            info.extend_from_slice(format!("d6:lengthi{size}e4:pathl").as_bytes());
            parts.iter().for_each(|part| put(&mut info, part.as_bytes()));
            info.extend_from_slice(b"ee");
        }
        info.push(b'e');
    } else {
        info.extend_from_slice(format!("6:lengthi{length}e").as_bytes());
    }
    info.extend_from_slice(b"4:name");
    put(&mut info, name.as_bytes());
    info.extend_from_slice(format!("12:piece lengthi{piece_length}e6:pieces").as_bytes());
    put(&mut info, &pieces);
    info.push(b'e');

    let mut root = b"d".to_vec();
    if let Some(first) = trackers.first() {
        root.extend_from_slice(b"8:announce");
        put(&mut root, first.as_bytes());
        root.extend_from_slice(b"13:announce-listll");
        root.pop();
        for tracker in trackers {
            root.push(b'l');
            put(&mut root, tracker.as_bytes());
            root.push(b'e');
        }
        root.push(b'e');
    }
    root.extend_from_slice(b"4:info");
    root.extend_from_slice(&info);
    root.push(b'e');

    let file = data.with_file_name(format!("{name}.torrent"));
    std::fs::write(&file, root).unwrap();
    let info_hash = Sha1::digest(&info).iter().map(|byte| format!("{byte:02x}")).collect();
    Torrent { file, data: data.to_path_buf(), name, length, piece_length, info_hash }
}

fn put(out: &mut Vec<u8>, string: &[u8]) {
    out.extend_from_slice(format!("{}:", string.len()).as_bytes());
    out.extend_from_slice(string);
}

/// All files below, sorted by name at each level, with their path components.
fn walk(path: &Path, parts: &mut Vec<String>, out: &mut Vec<(PathBuf, Vec<String>)>) {
    if !path.is_dir() {
        out.push((path.to_path_buf(), parts.clone()));
        return;
    }
    let mut names: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        parts.push(name.to_str().unwrap().to_owned());
        walk(&path.join(&name), parts, out);
        parts.pop();
    }
}

/// `target`, given from the torrent's root, as seen from the directory of `link`.
pub fn link_text(link: &[u8], target: &[u8]) -> Vec<u8> {
    let mut from: Vec<&[u8]> = link.split(|&byte| byte == b'/').collect();
    from.pop();
    let to: Vec<&[u8]> = target.split(|&byte| byte == b'/').collect();
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let mut parts: Vec<&[u8]> = vec![b".."; from.len() - common];
    parts.extend(&to[common..]);
    if parts.is_empty() { b".".to_vec() } else { parts.join(&b'/') }
}
