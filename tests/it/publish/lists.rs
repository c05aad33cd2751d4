//! Lists of torrents that are let in or not, and what is read anew on SIGHUP.

use std::path::Path;
use std::process::Command;

use super::{Running, btfs, until};
use crate::index::torrents::named;

fn hang_up(server: &Running) {
    assert!(Command::new("kill").args(["-HUP", &server.child.id().to_string()]).status().unwrap().success());
}

fn hash(name: &str) -> String {
    named(name).info_hash().to_string()
}

fn scrape(server: &Running, names: &[&str]) -> String {
    let bytes = |name: &&str| -> String { named(name).info_hash().0.map(|byte| format!("%{byte:02x}")).concat() };
    let query: Vec<_> = names.iter().map(|name| format!("info_hash={}", bytes(name))).collect();
    server.get(&format!("/scrape?{}", query.join("&")))
}

fn log(room: &Path) -> String {
    std::fs::read_to_string(room.join("log")).unwrap()
}

#[test]
fn what_is_denied_is_neither_tracked_nor_taken_nor_shown() {
    let room = tempfile::tempdir().unwrap();
    let room = room.path();
    std::fs::write(room.join("deny"), format!("# none yet\n{}\n", hash("never"))).unwrap();
    std::fs::write(room.join("tracker.toml"), "deny-list = \"deny\"\nopen-upload = true\nwatch = [\"in\"]\n").unwrap();
    std::fs::create_dir(room.join("in")).unwrap();
    std::fs::write(room.join("in/never.torrent"), named("never").bytes()).unwrap();
    let server = Running::start(room, &["--config", "tracker.toml"]);
    let upload = |name: &str| Running::upload(&server.addr, "", &named(name).bytes()).unwrap();
    assert!(upload("film one").starts_with("HTTP/1.1 201") && upload("film two").starts_with("HTTP/1.1 201"));
    let refused = upload("never");
    assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("is not allowed on this tracker"), "{refused}");
    assert!(!server.takes("", "never") && server.takes("", "film one") && server.takes("", "film two"));
    until("the watched directory is judged, too", || log(room).contains("never.torrent: this torrent is not allowed"));

    std::fs::write(room.join("deny"), format!("{}  # gone\n\n", hash("film one").to_uppercase())).unwrap();
    hang_up(&server);
    until("the list is read anew", || !server.takes("", "film one"));
    assert!(server.takes("", "never") && server.takes("", "film two"));
    let found = server.get("/api/torrents?q=film");
    assert!(found.contains("\"total\":1") && found.contains("film two"), "{found}");
    for path in ["", ".torrent", ".json"] {
        let page = server.get(&format!("/torrent/{}{path}", hash("film one")));
        assert!(page.starts_with("HTTP/1.1 403") && page.contains("not allowed"), "{path}: {page}");
    }
    assert!(!server.get("/feed.atom").contains("film one"));
    let alone = scrape(&server, &["film one"]);
    assert!(alone.contains("failure reason") && alone.contains("not allowed"), "{alone}");
    let both = scrape(&server, &["film one", "film two"]);
    assert!(!both.contains("failure reason") && both.matches("8:complete").count() == 1, "{both}");
    until("what was refused is taken now", || server.get("/api/torrents?q=never").contains("\"total\":1"));

    // What cannot be read changes nothing.
    std::fs::write(room.join("deny"), format!("{}\nnonsense\n", hash("film two"))).unwrap();
    hang_up(&server);
    until("the mistake is named", || log(room).contains("deny: line 2: \"nonsense\" is no info-hash"));
    assert!(server.takes("", "film two") && !server.takes("", "film one"));

    std::fs::write(room.join("deny"), "").unwrap();
    hang_up(&server);
    until("what is denied no more is back", || server.takes("", "film one"));
    assert!(server.get("/api/torrents?q=film").contains("\"total\":2"));
}

#[test]
fn only_what_is_allowed_is_let_in_and_the_rest_of_the_options_can_be_told_anew() {
    let room = tempfile::tempdir().unwrap();
    let room = room.path();
    std::fs::write(room.join("allow"), hash("good")).unwrap();
    std::fs::write(room.join("tracker.toml"), "open-upload = true\n").unwrap();
    let server = Running::start(room, &["--config", "tracker.toml", "--allow-list", "allow"]);
    assert!(server.takes("", "good") && !server.takes("", "other"));
    let refused = Running::upload(&server.addr, "", &named("other").bytes()).unwrap();
    assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("none of those"), "{refused}");
    let other = server.get(&format!("/torrent/{}", hash("other")));
    assert!(other.starts_with("HTTP/1.1 404"), "it was never here: {other}");

    std::fs::write(room.join("tracker.toml"), "open-upload = true\nallow = \"private\"\ninterval-seconds = 99\n")
        .unwrap();
    hang_up(&server);
    until("it is private now", || !server.takes("", "good"));
    until("what counts later is said", || log(room).contains("counts from the next start"));
    std::fs::write(room.join("tracker.toml"), "open-upload = true\nallow = \"nobody\"\n").unwrap();
    hang_up(&server);
    until("a mistake changes nothing", || log(room).contains("tracker.toml: line 2: unknown variant `nobody`"));
    assert!(!server.takes("", "good"));
}

#[test]
fn a_bad_list_is_an_error_at_the_start() {
    let room = tempfile::tempdir().unwrap();
    std::fs::write(room.path().join("bad"), "# fine\n0123\n").unwrap();
    for (list, status, words) in [("bad", 2, "bad: line 2: \"0123\" is no info-hash"), ("none", 1, "none: ")] {
        let told = btfs(room.path(), &["tracker", "--listen", "127.0.0.1:0", "--deny-list", list]).output().unwrap();
        let error = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(told.status.code() == Some(status) && error.contains(words), "{error}");
    }
}

#[test]
fn a_list_that_is_a_pipe_now_keeps_nobody_waiting() {
    let room = tempfile::tempdir().unwrap();
    let room = room.path();
    std::fs::write(room.join("deny"), hash("never")).unwrap();
    let mut server = Running::start(room, &["--deny-list", "deny"]);
    assert!(!server.takes("", "never"), "it answers, so it hears signals");
    std::fs::remove_file(room.join("deny")).unwrap();
    assert!(Command::new("mkfifo").arg(room.join("deny")).status().unwrap().success());
    hang_up(&server);
    until("it is refused", || log(room).contains("deny: this is no regular file"));
    assert!(!server.takes("", "never"), "everything stays as it was");
    assert!(Command::new("kill").arg(server.child.id().to_string()).status().unwrap().success());
    assert!(server.child.wait().unwrap().success());
}
