//! The rooms depend on each other one way only, and the calls that a room has forsworn do not occur in it
//! (docs/architecture.md §2). Reads `src/` as text: comments, `#[cfg(test)]` modules at the end of a file and files
//! called `tests.rs` or below `tests/` are left out.

use std::fs;
use std::path::{Path, PathBuf};

/// A room, the other rooms it may name, and what must not occur in it.
struct Room {
    name: &'static str,
    may_use: &'static [&'static str],
    never: &'static [&'static str],
}

const ROOMS: &[Room] = &[
    Room { name: "base", may_use: &[], never: &["tokio", "std::net::Tcp", "std::fs", "Instant::now", "libc::"] },
    Room {
        name: "proto",
        may_use: &["base"],
        never: &["tokio", "std::fs", "std::time", "Instant", "TcpStream", "std::thread", "libc::", "tracing::"],
    },
    Room {
        name: "engine",
        may_use: &["base", "proto"],
        never: &[
            "tokio",
            "std::fs",
            "Instant::now",
            "SystemTime",
            "TcpStream",
            "UdpSocket",
            "std::thread",
            "fastrand::Rng::new",
            "fastrand::u",
            "libc::",
        ],
    },
    Room { name: "storage", may_use: &["base", "proto"], never: &["tokio", "fuser", "clap"] },
    Room { name: "net", may_use: &["base", "proto", "engine", "storage"], never: &["fuser", "clap", "tokio::fs"] },
    Room {
        name: "fs",
        may_use: &["base", "proto", "engine", "storage", "net"],
        never: &["clap", "block_on", "tokio", "net::session", "reqwest"],
    },
    Room { name: "tracker", may_use: &["base", "proto"], never: &["fuser", "clap", "block_on"] },
    Room {
        name: "control",
        may_use: &["base", "proto", "engine", "storage", "net", "fs"],
        never: &["fuser::", "clap", "crate::fs::fuse", "crate::fs::tree"],
    },
];

#[test]
fn rooms_depend_one_way_only() {
    let mut wrong = Vec::new();
    for room in ROOMS {
        for (path, text) in sources(room.name) {
            for (number, line) in code_lines(&text) {
                let stranger =
                    rooms_named(line).into_iter().find(|&other| other != room.name && !room.may_use.contains(&other));
                if let Some(other) = stranger {
                    wrong.push(format!("{}:{number}: {} uses {other}: {}", path.display(), room.name, line.trim()));
                }
                if let Some(call) = room.never.iter().find(|call| line.contains(**call)) {
                    wrong.push(format!(
                        "{}:{number}: {} must not say {call}: {}",
                        path.display(),
                        room.name,
                        line.trim()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn only_the_command_line_prints() {
    let mut wrong = Vec::new();
    for room in ROOMS {
        for (path, text) in sources(room.name) {
            for (number, line) in code_lines(&text) {
                if ["println!", "print!(", "eprintln!", "dbg!("].iter().any(|call| line.contains(call)) {
                    wrong.push(format!("{}:{number}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_lives_in_thin_wrappers_only() {
    let allowed = [
        "src/storage/sys.rs",
        "src/storage/sha1.rs",
        "src/fs/mount.rs",
        "src/fs/sys.rs",
        "src/tracker/sys.rs",
        "src/cli/daemon.rs",
    ];
    let mut wrong = Vec::new();
    for path in rust_files(Path::new("src")) {
        let text = fs::read_to_string(&path).expect("a source file is readable");
        let uses = code_lines(&text).any(|(_, line)| line.contains("unsafe {") || line.contains("unsafe fn"));
        if uses && !allowed.iter().any(|name| path.ends_with(name)) {
            wrong.push(path.display().to_string());
        }
    }
    assert!(wrong.is_empty(), "unsafe outside its wrappers: {wrong:?}");
}

#[test]
fn no_file_grows_beyond_its_bound() {
    let mut wrong = Vec::new();
    for root in ["src", "tests"] {
        for path in rust_files(Path::new(root)) {
            let text = fs::read_to_string(&path).expect("a source file is readable");
            let lines = text.lines().count();
            if lines > MAX_LINES {
                wrong.push(format!("{} has {lines} lines", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "split these (more than {MAX_LINES} lines): {wrong:?}");
}

#[test]
fn nothing_is_left_undone_in_the_source() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("unimplemented", "!(")];
    let mut wrong = Vec::new();
    for root in ["src", "tests"] {
        for path in rust_files(Path::new(root)) {
            let text = fs::read_to_string(&path).expect("a source file is readable");
            for (number, line) in text.lines().enumerate() {
                if marks.iter().any(|mark| line.contains(mark)) {
                    wrong.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// All sources of a room: `src/room.rs` and everything below `src/room/`.
fn sources(room: &str) -> Vec<(PathBuf, String)> {
    let mut paths = rust_files(&Path::new("src").join(room));
    paths.push(PathBuf::from(format!("src/{room}.rs")));
    paths
        .into_iter()
        .filter(|path| !path.ends_with("tests.rs") && path.components().all(|part| part.as_os_str() != "tests"))
        .map(|path| (path.clone(), fs::read_to_string(&path).expect("a source file is readable")))
        .collect()
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_path_buf()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("fuzz") {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Numbered lines of code: no comments, nothing after the first `#[cfg(test)]`.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.trim_start().starts_with("#[cfg(test)]"))
        .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
}

/// The rooms that a line names as `crate::room`, also in a group such as `crate::{base, net}`.
fn rooms_named(line: &str) -> Vec<&'static str> {
    let Some((_, rest)) = line.split_once("crate::") else { return Vec::new() };
    let group = rest.strip_prefix('{').map(|rest| rest.split('}').next().unwrap_or(rest));
    let all = ["base", "proto", "engine", "storage", "net", "fs", "tracker", "control", "cli"];
    let words = |text: &'_ str| -> Vec<String> {
        text.split(',').map(|item| item.trim().split(':').next().unwrap_or_default().to_owned()).collect()
    };
    let named = match group {
        Some(group) => words(group),
        None => vec![rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned()],
    };
    all.into_iter().filter(|room| named.iter().any(|word| word == room)).collect()
}

/// About 600 lines of code and their tests; a file past this wants to be two.
const MAX_LINES: usize = 700;
