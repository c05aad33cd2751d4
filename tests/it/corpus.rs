//! Every torrent of the corpus gets its verdict, its warning, its info-hashes and its listing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use btfs::proto::metainfo::{EntryKind, Metainfo, MetainfoError};

#[test]
fn every_torrent_gets_its_verdict_and_info_hashes() {
    let mut wrong = String::new();
    let rows = rows("expected.tsv");
    assert_eq!(rows.len(), 176);
    for row in &rows {
        let (expected, rules) = (row["expected"].as_str(), row["why"].as_str());
        let mut complain = |what: &str| writeln!(wrong, "{}: {what}", row["file"]).unwrap();
        match (parse(&row["file"]), expected) {
            (Err(error), "reject") => {
                // A rule of the corpus, where it names one: more than one may fit.
                let fits = rules.split([';', ',', ' ']).any(|rule| rule == error.rule)
                    || !rules.starts_with('P')
                    // Valid bencode, by chance: `info` is a string and an `e` follows the root.
                    || (row["file"].starts_with("r044") && error.rule == "BEP 3");
                if !fits {
                    complain(&format!("refused for {error}, expected {rules}"));
                }
                if error.to_string().contains('\n') || error.to_string().chars().any(char::is_control) {
                    complain("the reason is not one plain line");
                }
            }
            (Ok(metainfo), "accept" | "accept-with-warning") => {
                if (expected == "accept") != metainfo.warnings.is_empty() {
                    complain(&format!("expected {expected}, warnings are {:?}", metainfo.warnings));
                }
                if metainfo.warnings.iter().any(|line| line.chars().any(char::is_control)) {
                    complain("a warning is not one plain line");
                }
                let v1 = metainfo.info_hash.map_or("-".into(), |hash| hash.to_string());
                let v2 = metainfo.info_hash_v2.map_or("-".into(), |hash| hash.to_string());
                if (&v1, &v2) != (&row["v1_infohash"], &row["v2_infohash"]) {
                    complain(&format!("info-hashes are {v1} and {v2}"));
                }
                let again = Metainfo::from_info(metainfo.info.clone()).expect("the info dictionary alone is usable");
                if (again.info_hash, again.info_hash_v2) != (metainfo.info_hash, metainfo.info_hash_v2) {
                    complain("the info dictionary alone has other hashes");
                }
            }
            (Ok(_), _) => complain("accepted"),
            (Err(error), _) => complain(&format!("refused: {error}")),
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn every_listing_is_the_expected_one() {
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows("layout.tsv") {
        let line = match row["kind"].as_str() {
            "file" => format!("file {} {} {}", row["path"], row["length"], row["mode"]),
            "symlink" => format!("symlink {} -> {}", row["path"], row["target"]),
            "pad" => format!("pad {}", row["length"]),
            other => panic!("kind {other}"),
        };
        expected.entry(row["file"].clone()).or_default().push(line);
    }
    let mut wrong = String::new();
    for (file, expected) in &expected {
        let metainfo = parse(file).unwrap();
        let v2_only = metainfo.is_v2_only();
        let mut got = Vec::new();
        for (entry, index) in metainfo.entries.iter().zip(metainfo.layout.files()) {
            let length = metainfo.layout.file_bytes(index);
            let path = percent(&entry.path);
            match &entry.kind {
                EntryKind::File { executable } => {
                    got.push(format!("file {path} {length} {}", if *executable { "0555" } else { "0444" }));
                }
                EntryKind::Symlink { target } => got.push(format!("symlink {path} -> {}", percent(target))),
                // v2 torrents do not list their padding.
                EntryKind::Padding if v2_only => {}
                EntryKind::Padding => got.push(format!("pad {length}")),
            }
        }
        if got != *expected {
            let differing = got.iter().zip(expected).find(|(got, expected)| got != expected);
            writeln!(wrong, "{file}: {} entries, expected {}; {differing:?}", got.len(), expected.len()).unwrap();
        }
    }
    assert!(expected.len() > 40 && wrong.is_empty(), "\n{wrong}");
}

#[test]
fn names_that_cannot_be_shown_as_they_are_get_safe_unique_ones() {
    let paths = |file: &str| -> Vec<String> {
        let shown = |entry: &btfs::proto::metainfo::Entry| String::from_utf8(entry.path.to_vec()).unwrap();
        parse(file).unwrap().entries.iter().map(shown).collect()
    };
    assert_eq!(paths("v46-bad-utf8-name.torrent"), ["caf%E9.txt", "%FF%FE", "over%C0%AElong"]);
    assert_eq!(paths("v48-duplicate-path.torrent"), ["same.txt", "same (2).txt"]);
    assert_eq!(paths("v49-file-dir-conflict.torrent"), ["a (2)", "a/b"]);
    let long = paths("v47-name-too-long.torrent");
    assert!(long.iter().all(|name| name.len() <= 255) && long[0] != long[1] && long[0].ends_with(".bin"));
    assert_eq!(&*parse("v21-name-utf8.torrent").unwrap().name, "テスト".as_bytes());
    assert_eq!(paths("v21-name-utf8.torrent"), ["テスト.bin"]);
}

#[test]
fn what_stands_beside_the_info_dictionary_is_read() {
    let tiers = parse("v37-tiers.torrent").unwrap().trackers;
    assert_eq!(tiers, [["http://127.0.0.1:6969/announce", "udp://127.0.0.1:6969"]]);
    for file in ["v10-no-announce.torrent", "v43-announce-odd-types.torrent", "v44-bad-tracker-schemes.torrent"] {
        assert!(parse(file).unwrap().trackers.is_empty(), "{file}");
    }
    let nodes = parse("v11-nodes.torrent").unwrap().nodes;
    assert_eq!(nodes, [("127.0.0.1".to_owned(), 6881), ("router.invalid".to_owned(), 6881)]);
    assert!(parse("v12-private.torrent").unwrap().private && parse("v55-private-odd.torrent").unwrap().private);
    assert_eq!(parse("v13-urllist-string.torrent").unwrap().web_seeds.len(), 1);
    assert!(!parse("v14-urllist-list.torrent").unwrap().web_seeds.is_empty());
    assert_eq!(parse("v15-httpseeds.torrent").unwrap().http_seeds.len(), 1);
    assert!(parse("v23-negative-date.torrent").unwrap().creation_date.unwrap() < 0);
    assert_eq!(parse("v22-unknown-keys.torrent").unwrap().source.as_deref(), Some("TRK"));
    let hybrid = parse("v05-hybrid-multi.torrent").unwrap();
    assert!(hybrid.entries.iter().all(|entry| entry.pieces_root.is_some() != entry.path.is_empty()));
    assert!(parse("v06-hybrid-single.torrent").unwrap().single_file);
    assert!(parse("v03-v2-only-small.torrent").unwrap().single_file);
    assert!(!parse("v04-v2-only-multi.torrent").unwrap().single_file);
}

#[test]
fn a_cut_torrent_is_refused_at_every_length() {
    for file in ["v02-multi.torrent", "v05-hybrid-multi.torrent"] {
        let bytes = std::fs::read(corpus().join("torrents").join(file)).unwrap();
        for cut in 0..bytes.len() {
            assert!(Metainfo::parse(&bytes[..cut]).is_err(), "{file} cut at {cut}");
        }
    }
}

#[test]
fn no_altered_torrent_makes_the_parser_panic_or_show_an_unsafe_name() {
    // Every byte of some small torrents, replaced by the bytes that mean something in bencode and in paths.
    for file in ["v05-hybrid-multi.torrent", "v26-symlink-inside.torrent", "v04-v2-only-multi.torrent"] {
        let bytes = std::fs::read(corpus().join("torrents").join(file)).unwrap();
        for at in 0..bytes.len() {
            for byte in *b"09:deil./-\x00\xff" {
                let mut altered = bytes.clone();
                altered[at] = byte;
                let Ok(metainfo) = Metainfo::parse(&altered) else { continue };
                for entry in metainfo.entries.iter().filter(|entry| entry.kind != EntryKind::Padding) {
                    let safe = entry.path.split(|&b| b == b'/').all(|name| !matches!(name, b"" | b"." | b".."));
                    assert!(safe && std::str::from_utf8(&entry.path).is_ok(), "{file} byte {at} = {byte}");
                }
            }
        }
    }
}

#[test]
fn show_prints_each_verdict_as_status_and_lines() {
    let mut wrong = String::new();
    for row in rows("expected.tsv") {
        let path = corpus().join("torrents").join(&row["file"]);
        let output = Command::new(env!("CARGO_BIN_EXE_btfs")).arg("show").arg("--json").arg(&path).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let right = match row["expected"].as_str() {
            "reject" => {
                output.status.code() == Some(1)
                    && stdout.is_empty()
                    && stderr.lines().count() == 1
                    && stderr.starts_with(&format!("btfs: {}: not a usable torrent: ", path.display()))
            }
            verdict => {
                let hash = if row["v1_infohash"] == "-" { &row["v2_infohash"] } else { &row["v1_infohash"] };
                output.status.code() == Some(0)
                    && stdout.contains(&format!("\"{hash}\""))
                    && stderr.is_empty() == (verdict == "accept")
            }
        };
        if !right {
            writeln!(wrong, "{}: {}\n{stderr}", row["file"], output.status).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn parse(file: &str) -> Result<Metainfo, MetainfoError> {
    Metainfo::parse(&std::fs::read(corpus().join("torrents").join(file)).expect("a file of the corpus"))
}

fn corpus() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus"))
}

/// The rows of a table, by the names in its first line.
fn rows(table: &str) -> Vec<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(corpus().join(table)).unwrap();
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap().split('\t').collect();
    lines.map(|line| head.iter().map(ToString::to_string).zip(line.split('\t').map(Into::into)).collect()).collect()
}

/// A path as the tables write it.
fn percent(path: &[u8]) -> String {
    path.iter().fold(String::new(), |mut out, &byte| {
        match byte {
            b'%' | 0..=0x20 | 0x7f..=0xff => write!(out, "%{byte:02X}").unwrap(),
            _ => out.push(byte.into()),
        }
        out
    })
}
