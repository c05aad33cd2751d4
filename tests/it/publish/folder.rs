//! `btfs tracker --watch`: what is dropped into a directory is in the index.

use std::path::Path;

use super::{Running, btfs, say, until};
use crate::index::torrents::{Torrent, named};

fn has(server: &Running, name: &str) -> bool {
    server.get(&format!("/torrent/{}.torrent", named(name).info_hash())).starts_with("HTTP/1.1 200")
}

/// How many lines of the log have all these words.
fn logged(room: &Path, words: &[&str]) -> usize {
    let log = std::fs::read_to_string(room.join("log")).unwrap();
    log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

fn restart(server: Running, room: &Path, arguments: &[&str]) -> Running {
    drop(server);
    Running::start(room, arguments)
}

#[test]
fn what_is_dropped_into_a_watched_directory_is_listed_and_tracked() {
    let room = tempfile::tempdir().unwrap();
    let room = room.path();
    let folder = room.join("incoming");
    std::fs::create_dir_all(folder.join("below")).unwrap();
    std::fs::write(folder.join("early.torrent"), named("early").bytes()).unwrap();
    std::fs::write(folder.join("below/deep.torrent"), named("deep").bytes()).unwrap();
    std::fs::write(folder.join("notes.txt"), "no torrent").unwrap();
    let arguments = ["--allow", "listed", "--watch", "incoming"];
    let server = Running::start(room, &arguments);
    until("what lay there is listed", || has(&server, "early") && has(&server, "deep"));
    assert!(server.takes("", "early") && !server.takes("", "late"));

    // Half of it first: what is being written is waited for.
    let late = named("late").bytes();
    std::fs::write(folder.join("late.torrent"), &late[..late.len() / 2]).unwrap();
    std::fs::write(folder.join("bad.torrent"), "nonsense").unwrap();
    until("a bad file is told of", || logged(room, &["WARN", "bad.torrent", "not a usable torrent"]) == 1);
    assert!(folder.join("bad.torrent").exists(), "it is left where it is");
    std::fs::write(folder.join("late.torrent"), &late).unwrap();
    until("it is listed when it is whole", || has(&server, "late") && server.takes("", "late"));

    // The same torrent once more, with a tracker that was not known.
    let other = Torrent { trackers: &["http://other.example/announce"], ..named("early") };
    std::fs::write(folder.join("again.torrent"), other.bytes()).unwrap();
    let page = format!("/torrent/{}.json", named("early").info_hash());
    until("duplicates are joined", || server.get(&page).contains("other.example"));
    let found = server.get("/api/torrents?q=early");
    assert!(found.contains("\"total\":1"), "{found}");
    assert_eq!(logged(room, &["bad.torrent"]), 1, "it was said once");

    std::fs::remove_file(folder.join("late.torrent")).unwrap();
    std::fs::write(folder.join("mark.torrent"), named("mark").bytes()).unwrap();
    until("a look later", || has(&server, "mark"));
    assert!(has(&server, "late"), "removing the file does not remove the torrent");

    // What was removed from the index stays away, also over a restart, until its file is written anew.
    say(room, &["tracker", "remove", &named("deep").info_hash().to_string()]);
    until("it is removed", || !has(&server, "deep"));
    let server = restart(server, room, &arguments);
    std::fs::write(folder.join("next.torrent"), named("next").bytes()).unwrap();
    until("the directory is looked at again", || has(&server, "next"));
    assert!(!has(&server, "deep") && has(&server, "early") && has(&server, "late"));
    std::fs::write(folder.join("below/deep.torrent"), named("deep").bytes()).unwrap();
    until("what is written anew is taken anew", || has(&server, "deep"));
}

#[test]
fn thousands_of_files_do_not_hold_up_the_start() {
    let room = tempfile::tempdir().unwrap();
    let room = room.path();
    let folder = room.join("many");
    std::fs::create_dir(&folder).unwrap();
    for number in 0..3000 {
        std::fs::write(folder.join(format!("{number}.torrent")), named(&format!("film {number}")).bytes()).unwrap();
    }
    std::fs::write(room.join("tracker.toml"), "watch = [\"many\"]").unwrap();
    // It listens, and answers, before any of it is there.
    let server = Running::start(room, &["--config", "tracker.toml"]);
    assert!(server.get("/health").starts_with("HTTP/1.1 200") && server.takes("", "film 7"));
    until("all are listed", || server.get("/api/torrents").contains("\"total\":3000"));
    until("it is said, in a line", || logged(room, &["INFO", "new=3000", "joined=0"]) == 1);
    let server = restart(server, room, &["--config", "tracker.toml"]);
    std::fs::write(folder.join("one.torrent"), named("one more").bytes()).unwrap();
    until("one more is listed", || has(&server, "one more"));
    until("the others were not taken again", || logged(room, &["new=1", "joined=0"]) == 1);
}

#[test]
fn what_cannot_be_watched_is_an_error_at_the_start() {
    let room = tempfile::tempdir().unwrap();
    std::fs::write(room.path().join("file"), "").unwrap();
    for wrong in ["nowhere", "file"] {
        let told = btfs(room.path(), &["tracker", "--listen", "127.0.0.1:0", "--watch", wrong]).output().unwrap();
        let error = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(told.status.code() == Some(1) && error.contains(&format!("{wrong}, to be watched")), "{error}");
    }
}
