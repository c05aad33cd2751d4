//! `btfs edit` changes what stands beside the info dictionary, and of that dictionary not a byte.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use btfs::proto::bencode::{self, Writer};
use btfs::proto::metainfo::{Change, EditError, Edited, Metainfo, edit};
use proptest::prelude::*;

use crate::create::{create, libtorrent_reads, make_tree, parse};

#[test]
fn each_option_changes_what_it_says_and_the_info_hash_stays() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let original = parse(&dir.path().join("x.torrent"));
    let step = |args: &str| {
        let edited = edit_here(dir.path(), &args.split_whitespace().collect::<Vec<_>>());
        assert!(edited.status.success() && edited.stderr.is_empty(), "{args}: {edited:?}");
        let metainfo = parse(&dir.path().join("x.torrent"));
        assert_eq!((&metainfo.info, metainfo.info_hash), (&original.info, original.info_hash), "{args}");
        assert!(metainfo.warnings.is_empty(), "{args}: {:?}", metainfo.warnings);
        (metainfo, String::from_utf8(edited.stdout).unwrap())
    };
    let (metainfo, said) = step("x.torrent --add-tracker http://b/x,http://c/x --add-tracker udp://d:1 --comment new");
    assert_eq!(metainfo.trackers, [vec!["http://a/KEY1"], vec!["http://b/x", "http://c/x"], vec!["udp://d:1"]]);
    let hash = original.info_hash.unwrap();
    assert_eq!(
        said,
        format!(
            "x.torrent: changed; info-hash {hash}, as before\n+ tracker 2 http://b/x\n+ tracker 2 http://c/x\n\
             + tracker 3 udp://d:1\n- comment old\n+ comment new\n"
        )
    );
    let (metainfo, _) = step("x.torrent --remove-tracker http://b/x --replace KEY1 KEY2 --no-comment");
    assert_eq!(metainfo.trackers, [vec!["http://a/KEY2"], vec!["http://c/x"], vec!["udp://d:1"]]);
    assert_eq!(metainfo.comment, None);
    let (metainfo, _) =
        step("x.torrent -a http://e/x -w http://w/1/ --add-web-seed http://w/2/ --node h:1 --creation-date 7");
    assert_eq!((&metainfo.trackers, metainfo.creation_date), (&vec![vec!["http://e/x".to_owned()]], Some(7)));
    assert_eq!(metainfo.web_seeds, ["http://w/1/", "http://w/2/"]);
    assert_eq!(metainfo.nodes, [("h".to_owned(), 1)]);
    if let Some(read) = libtorrent_reads(&dir.path().join("x.torrent")) {
        assert_eq!(read["info_hash"], hash.to_string());
        assert_eq!(read["trackers"], serde_json::json!([["http://e/x"]]));
        assert_eq!(read["web_seeds"], serde_json::json!(["http://w/1/", "http://w/2/"]));
    }
    let (metainfo, _) = step("x.torrent --no-trackers --remove-web-seed http://w/1/ --no-nodes --no-creation-date");
    assert!(metainfo.trackers.is_empty() && metainfo.nodes.is_empty() && metainfo.creation_date.is_none());
    assert_eq!(metainfo.web_seeds, ["http://w/2/"]);
    let (metainfo, _) = step("x.torrent --no-web-seeds --tracker http://a/x,http://b/x");
    assert!(metainfo.web_seeds.is_empty() && metainfo.trackers == [["http://a/x", "http://b/x"]]);
}

#[test]
fn the_file_is_changed_in_place_or_left_alone_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let path = dir.path().join("x.torrent");
    let before = fs::read(&path).unwrap();
    // Nothing is written: the file is the same one.
    let inode = fs::metadata(&path).unwrap().ino();
    for args in [&["x.torrent", "-c", "old"][..], &["x.torrent", "-c", "new", "-n"]] {
        let edited = edit_here(dir.path(), &[args, &["--json"]].concat());
        let said: serde_json::Value = serde_json::from_slice(&edited.stdout).unwrap();
        assert_eq!((said["written"].as_bool(), fs::metadata(&path).unwrap().ino()), (Some(false), inode));
        let changes = said["changed"].as_array().unwrap().len();
        assert_eq!(changes, usize::from(args.contains(&"-n")), "{said}");
    }
    // Elsewhere.
    assert!(edit_here(dir.path(), &["x.torrent", "-c", "new", "-o", "y.torrent"]).status.success());
    assert_eq!((fs::read(&path).unwrap(), parse(&dir.path().join("y.torrent")).comment), (before, Some("new".into())));
    let refused = edit_here(dir.path(), &["x.torrent", "-c", "newer", "-o", "y.torrent"]);
    assert!(refused.status.code() == Some(1) && String::from_utf8_lossy(&refused.stderr).contains("--force"));
    assert!(edit_here(dir.path(), &["x.torrent", "-c", "newer", "-o", "y.torrent", "-f"]).status.success());
    // Behind a link, with the permissions that it had.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("x.torrent", dir.path().join("link")).unwrap();
    let edited = edit_here(dir.path(), &["link", "-c", "linked", "--json"]);
    let said: serde_json::Value = serde_json::from_slice(&edited.stdout).unwrap();
    assert_eq!(said["changed"][0], serde_json::json!({"key": "comment", "before": "old", "after": "linked"}));
    assert!(fs::symlink_metadata(dir.path().join("link")).unwrap().is_symlink());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(parse(&path).comment.as_deref(), Some("linked"));
    let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["link", "tree", "x.torrent", "y.torrent"]);
}

#[test]
fn what_cannot_be_changed_is_one_line_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    fs::write(dir.path().join("no.torrent"), "no").unwrap();
    assert!(create(dir.path(), &["tree", "-o", "p.torrent", "--private"]).status.success());
    let before = fs::read(dir.path().join("x.torrent")).unwrap();
    for (args, status, words) in [
        (&["x.torrent"][..], 2, "say what is to change"),
        (&["x.torrent", "--source", "S"], 2, "a swarm of its own"),
        (&["x.torrent", "--name", "n", "-c", "x"], 2, "--name: that is a part of what the info-hash is taken of"),
        (&["x.torrent", "--private"], 2, "btfs create"),
        (&["x.torrent", "--piece-length", "1M"], 2, "btfs create"),
        (&["x.torrent", "-c", "x", "--remove-tracker", "http://none/x"], 1, "there is no tracker http://none/x"),
        (&["x.torrent", "-c", "x", "--remove-web-seed", "http://none/x"], 1, "there is no web seed"),
        (&["x.torrent", "--replace", "none", "x"], 1, "there is no tracker with none"),
        (&["x.torrent", "--replace", "http", "gopher"], 1, "would be no tracker URL"),
        (&["x.torrent", "--replace", "", "x"], 2, "must not be empty"),
        (&["x.torrent", "--add-tracker", "gopher://x"], 2, "no tracker URL"),
        (&["x.torrent", "--add-web-seed", "udp://x"], 2, "web seeds need an http or https URL"),
        (&["x.torrent", "-c", "x", "--no-comment"], 2, "cannot be used with"),
        (&["p.torrent", "--node", "a:1"], 1, "BEP 27"),
        (&["no.torrent", "-c", "x"], 1, "not a usable torrent"),
        (&["none.torrent", "-c", "x"], 1, "No such file"),
    ] {
        let refused = edit_here(dir.path(), args);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(status), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
        assert_eq!(fs::read(dir.path().join("x.torrent")).unwrap(), before, "{args:?}");
    }
}

#[test]
fn every_torrent_of_the_corpus_keeps_its_info_hash_and_whatever_else_is_in_it() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/torrents");
    let mut edited = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let file = fs::read(&path).unwrap();
        let Ok(metainfo) = Metainfo::parse(&file) else {
            assert!(edit(&file, &changes()).is_err(), "{}", path.display());
            continue;
        };
        for change in changes() {
            check(&file, &metainfo, std::slice::from_ref(&change));
        }
        check(&file, &metainfo, &changes());
        assert_eq!(edit(&file, &[]).unwrap().bytes, bencode::scan(&file).unwrap().root.raw(), "{}", path.display());
        edited += 1;
    }
    assert!(edited > 50, "{edited}");
}

proptest! {
    #[test]
    fn info_and_strange_keys_keep_their_bytes(
        strange in proptest::collection::btree_map("[a-z -]{1,9}", any::<Vec<u8>>(), 0..6),
        comment in proptest::option::of(".{0,9}"),
        announce in proptest::option::of("(http|udp|wss|x)://[a-c]:[1-9]/[a-z]{0,3}"),
        tiers in proptest::collection::vec(proptest::collection::vec("(http|udp|ws)://[a-d]:[1-9]/?", 0..3), 0..4),
        wanted in proptest::collection::vec(any_change(), 0..5),
    ) {
        let file = Writer::dict_to_vec(|root| {
            for (key, value) in &strange {
                root.key(key).list(|list| list.bytes(value));
            }
            if let Some(comment) = &comment {
                root.key("comment").bytes(comment);
            }
            if let Some(announce) = &announce {
                root.key("announce").bytes(announce);
            }
            if !tiers.is_empty() {
                root.key("announce-list").list(|list| {
                    tiers.iter().for_each(|tier| list.list(|urls| tier.iter().for_each(|url| urls.bytes(url))));
                });
            }
            root.key("info").dict(|info| {
                info.key("length").int(1);
                info.key("name").bytes("x");
                info.key("piece length").int(16_384);
                info.key("pieces").bytes([7; 20]);
                info.key("unknown").bytes("kept");
            });
        });
        let metainfo = Metainfo::parse(&file).unwrap();
        match edit(&file, &wanted) {
            Ok(_) => check(&file, &metainfo, &wanted),
            Err(error) => prop_assert!(matches!(error, EditError::NotThere { .. }), "{error}"),
        }
    }
}

fn any_change() -> impl Strategy<Value = Change> {
    let url = || "(http|udp)://[a-d]:[1-9]/?";
    let tier = || proptest::collection::vec(url(), 0..3);
    prop_oneof![
        proptest::collection::vec(tier(), 0..3).prop_map(Change::Trackers),
        tier().prop_map(Change::AddTier),
        url().prop_map(Change::RemoveTracker),
        ("[a-d]:[1-9]", "[a-d]:[1-9]").prop_map(|(old, new)| Change::ReplaceInTrackers(old, new)),
        proptest::collection::vec("http://[a-d]/", 0..3).prop_map(Change::WebSeeds),
        "http://[a-d]/".prop_map(Change::AddWebSeed),
        "http://[a-d]/".prop_map(Change::RemoveWebSeed),
        proptest::collection::vec(("[a-d]", 1..9_u16), 0..3).prop_map(Change::Nodes),
        proptest::option::of(".{0,9}").prop_map(Change::Comment),
        any::<Option<i64>>().prop_map(Change::CreationDate),
    ]
}

/// What fits every torrent that is not private.
fn changes() -> Vec<Change> {
    vec![
        Change::Trackers(vec![vec!["http://a.example/x".into()], vec!["udp://b.example:1".into()]]),
        Change::AddTier(vec!["https://c.example/x".into()]),
        Change::WebSeeds(vec!["http://w.example/".into()]),
        Change::AddWebSeed("http://v.example/".into()),
        Change::Comment(Some("another".into())),
        Change::CreationDate(Some(-1)),
        Change::Nodes(Vec::new()),
    ]
}

/// Makes the changes and looks at everything that they are not to touch.
#[track_caller]
fn check(file: &[u8], old: &Metainfo, changes: &[Change]) {
    let edited = edit(file, changes).unwrap();
    assert_eq!(edited.metainfo.info, old.info, "{changes:?}");
    let hashes = |metainfo: &Metainfo| (metainfo.info_hash, metainfo.info_hash_v2);
    assert_eq!(hashes(&edited.metainfo), hashes(old), "{changes:?}");
    let root = |file| bencode::scan(file).unwrap().root.as_dict().unwrap();
    let meant: &[&[u8]] =
        &[b"announce", b"announce-list", b"url-list", b"nodes", b"comment", b"comment.utf-8", b"creation date"];
    let rest = |file| {
        let mut rest: Vec<_> = root(file).iter().filter(|(key, _)| !meant.contains(key)).collect();
        rest.sort_unstable_by_key(|(key, _)| *key);
        rest
    };
    assert_eq!(rest(&edited.bytes), rest(file), "{changes:?}");
    if edited.bytes != bencode::scan(file).unwrap().root.raw() {
        let keys: Vec<_> = root(&edited.bytes).iter().map(|(key, _)| key).collect();
        assert!(keys.is_sorted(), "{changes:?}");
    }
    // Told what it is, it does not change: after once, at most, as trackers that are there twice are told once.
    let tell = |edited: &Edited| {
        let same = [
            Change::Trackers(edited.after.trackers.clone()),
            Change::WebSeeds(edited.after.web_seeds.clone()),
            Change::CreationDate(edited.metainfo.creation_date),
        ];
        edit(&edited.bytes, &same).unwrap()
    };
    let told = tell(&edited);
    assert_eq!(tell(&told).bytes, told.bytes, "{changes:?}");
    // What does not concern trackers leaves them alone.
    let about_trackers = |change: &Change| {
        use Change::{AddTier, RemoveTracker, ReplaceInTrackers, Trackers};
        matches!(change, Trackers(_) | AddTier(_) | RemoveTracker(_) | ReplaceInTrackers(..))
    };
    if !changes.iter().any(about_trackers) {
        assert_eq!((&edited.after.trackers, &edited.metainfo.trackers), (&edited.before.trackers, &old.trackers));
        let lists =
            |file| [root(file).get("announce"), root(file).get("announce-list")].map(|v| v.map(|v| v.raw().to_vec()));
        assert_eq!(lists(&edited.bytes), lists(file));
    }
}

fn make(directory: &Path) {
    make_tree(&directory.join("tree"));
    let args = ["tree", "-o", "x.torrent", "-a", "http://a/KEY1", "-c", "old"];
    assert!(create(directory, &args).status.success());
}

fn edit_here(directory: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btfs"));
    // It is not for edit to set a date that nobody has asked for.
    command.arg("edit").args(args).current_dir(directory).env("SOURCE_DATE_EPOCH", "1").output().unwrap()
}
