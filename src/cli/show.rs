//! `btfs show`: what a torrent file says, as a person or a program wants it. v2-only torrents are shown as well.

use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::Serialize;

use super::get::choice::shown;
use super::text::{self, safe};
use super::torrents;
use crate::base::Date;
use crate::base::size::Bytes;
use crate::proto::metainfo::{EntryKind, Metainfo};

/// What can stand after `btfs show`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The .torrent file
    pub file: PathBuf,
    /// Print one JSON object instead
    #[arg(long)]
    pub json: bool,
}

/// Shows a torrent file on standard output, what is odd about it on standard error.
///
/// # Errors
/// One line that names the file and what is wrong: it cannot be read, or is not a usable torrent (and by which rule).
pub fn run(args: Args) -> anyhow::Result<()> {
    let name = safe(args.file.as_os_str().as_bytes());
    let metainfo = torrents::judge(&name, &torrents::read(&args.file)?)?;
    torrents::warn(&name, &metainfo);
    let mut out = BufWriter::new(io::stdout().lock());
    let written = match args.json {
        true => out.write_all(to_json(&metainfo)?.as_bytes()),
        false => write_text(&metainfo, &mut out),
    };
    match written.and_then(|()| out.flush()) {
        // `btfs show x | head` is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// The form for people: one line a fact, then the files.
fn write_text(metainfo: &Metainfo, out: &mut impl Write) -> io::Result<()> {
    let shown = Shown::new(metainfo);
    let mut line = |key: &str, value: &str| match value {
        "" => Ok(()),
        value => writeln!(out, "{key:<13} {value}"),
    };
    let text = |text: Option<&str>| safe(text.unwrap_or_default());
    line("name", &safe(shown.name))?;
    line("info-hash", shown.info_hash.as_deref().unwrap_or_default())?;
    line("info-hash v2", shown.info_hash_v2.as_deref().unwrap_or_default())?;
    let kind = match (metainfo.single_file, shown.files.len()) {
        (true, _) => "a single file".to_owned(),
        (false, 1) => "a directory with 1 file".to_owned(),
        (false, count) => format!("a directory with {count} files"),
    };
    line("size", &format!("{} ({} bytes), {kind}", Bytes(shown.size_bytes), shown.size_bytes))?;
    line("pieces", &format!("{} of {}", shown.piece_count, round_size(shown.piece_length)))?;
    line("private", if shown.private { "yes: no DHT, no peer exchange, no local discovery" } else { "" })?;
    line("created", &shown.creation_date.map(|date| Date(date).to_string()).unwrap_or_default())?;
    line("created by", &text(shown.created_by))?;
    line("comment", &text(shown.comment))?;
    line("source", &text(shown.source))?;
    for (tier, urls) in shown.trackers.iter().enumerate() {
        for url in urls {
            line(&format!("tracker {}", tier + 1), &safe(url))?;
        }
    }
    shown.web_seeds.iter().try_for_each(|url| line("web seed", &safe(url)))?;
    shown.http_seeds.iter().try_for_each(|url| line("http seed", &safe(url)))?;
    shown.nodes.iter().try_for_each(|(host, port)| line("DHT node", &safe(format!("{host}:{port}"))))?;
    writeln!(out)?;
    for file in &shown.files {
        let path = safe(file.path);
        match file.target {
            Some(target) => writeln!(out, "{:>5}  {:>10}  {path} -> {}", file.number, "link", safe(target))?,
            None => {
                let size = Bytes(file.size_bytes).to_string();
                writeln!(out, "{:>5}  {size:>10}  {path}{}", file.number, if file.executable { " *" } else { "" })?;
            }
        }
    }
    Ok(())
}

/// The form for programs: one JSON object and a line end. Characters that could steer a terminal are escaped.
fn to_json(metainfo: &Metainfo) -> anyhow::Result<String> {
    let mut out = text::safe_json(&serde_json::to_string_pretty(&Shown::new(metainfo))?);
    out.push('\n');
    Ok(out)
}

/// What `--json` prints; fields are only ever added.
#[derive(Debug, Serialize)]
struct Shown<'m> {
    name: &'m str,
    info_hash: Option<String>,
    info_hash_v2: Option<String>,
    single_file: bool,
    /// Bytes of all files, padding left out.
    size_bytes: u64,
    piece_length: u32,
    piece_count: usize,
    private: bool,
    creation_date: Option<i64>,
    created_by: Option<&'m str>,
    comment: Option<&'m str>,
    source: Option<&'m str>,
    trackers: &'m [Vec<String>],
    web_seeds: &'m [String],
    http_seeds: &'m [String],
    nodes: &'m [(String, u16)],
    files: Vec<ShownFile<'m>>,
    warnings: &'m [String],
}

/// One entry that a mount would show.
#[derive(Debug, Serialize)]
struct ShownFile<'m> {
    /// From 1, for `btfs get --files`.
    number: usize,
    path: &'m str,
    size_bytes: u64,
    /// First byte in the torrent's content.
    offset: u64,
    executable: bool,
    /// Of a symlink: the path it leads to, from the torrent's root.
    target: Option<&'m str>,
    pieces_root: Option<String>,
}

impl<'m> Shown<'m> {
    fn new(metainfo: &'m Metainfo) -> Self {
        let layout = &metainfo.layout;
        let files: Vec<_> = shown(metainfo)
            .map(|(number, file, entry)| ShownFile {
                number,
                path: utf8(&entry.path),
                size_bytes: layout.file_bytes(file),
                offset: layout.file_start(file),
                executable: entry.kind == EntryKind::File { executable: true },
                target: match &entry.kind {
                    EntryKind::Symlink { target } => Some(utf8(target)),
                    _ => None,
                },
                pieces_root: entry.pieces_root.as_deref().map(hex::encode),
            })
            .collect();
        Self {
            name: utf8(&metainfo.name),
            info_hash: metainfo.info_hash.map(|hash| hash.to_string()),
            info_hash_v2: metainfo.info_hash_v2.map(|hash| hash.to_string()),
            single_file: metainfo.single_file,
            size_bytes: files.iter().map(|file| file.size_bytes).sum(),
            piece_length: layout.piece_length(),
            piece_count: layout.piece_count(),
            private: metainfo.private,
            creation_date: metainfo.creation_date,
            created_by: metainfo.created_by.as_deref(),
            comment: metainfo.comment.as_deref(),
            source: metainfo.source.as_deref(),
            trackers: &metainfo.trackers,
            web_seeds: &metainfo.web_seeds,
            http_seeds: &metainfo.http_seeds,
            nodes: &metainfo.nodes,
            files,
            warnings: &metainfo.warnings,
        }
    }
}

/// A piece length in the largest unit that leaves no fraction.
pub(crate) fn round_size(bytes: u32) -> String {
    match bytes.trailing_zeros() {
        20.. => format!("{} MiB", bytes >> 20),
        10.. => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} bytes"),
    }
}

fn utf8(shown: &[u8]) -> &str {
    std::str::from_utf8(shown).expect("shown names are valid UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::path::is_unsafe_on_a_terminal;

    fn corpus(file: &str) -> Metainfo {
        let path = format!("{}/tests/corpus/torrents/{file}", env!("CARGO_MANIFEST_DIR"));
        Metainfo::parse(&std::fs::read(path).unwrap()).unwrap()
    }

    fn text(file: &str) -> String {
        let mut out = Vec::new();
        write_text(&corpus(file), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn people_see_what_is_in_it() {
        let shown = text("v26-symlink-inside.torrent");
        for part in [
            "name          v26-symlink-inside\n",
            "443eae4c7ee2",
            "19.5 KiB  dir/target.txt",
            "link  link.txt -> dir/target.txt",
        ] {
            assert!(shown.contains(part), "{part:?} in\n{shown}");
        }
        assert!(!text("v07-v1-pad.torrent").contains(".pad"));
    }

    #[test]
    fn nothing_in_a_torrent_steers_the_terminal() {
        for file in ["v33-control-char.torrent", "v40-rtl.torrent", "v39-html-name.torrent"] {
            let both = text(file) + &to_json(&corpus(file)).unwrap();
            assert!(!both.chars().any(|c| c != '\n' && is_unsafe_on_a_terminal(c)), "{file}");
        }
    }

    #[test]
    fn json_holds_every_name_as_it_is_shown() {
        for file in ["v33-control-char.torrent", "v40-rtl.torrent", "v46-bad-utf8-name.torrent", "v19-unicode.torrent"]
        {
            let metainfo = corpus(file);
            let json: serde_json::Value = serde_json::from_str(&to_json(&metainfo).unwrap()).unwrap();
            let paths: Vec<&[u8]> = json["files"]
                .as_array()
                .unwrap()
                .iter()
                .map(|file| file["path"].as_str().unwrap().as_bytes())
                .collect();
            assert_eq!(paths, metainfo.entries.iter().map(|entry| &*entry.path).collect::<Vec<_>>(), "{file}");
            assert_eq!(json["info_hash"], metainfo.info_hash.unwrap().to_string());
        }
    }
}
