//! What users of a private tracker have sent and received.

use serde_json::Value;

use super::{Running, say, until};
use crate::index::torrents::named;

/// Tells of bytes, as one peer of the torrent; what else is in the query.
fn announce(server: &Running, passkey: &str, name: &str, port: u16, more: &str) {
    let hash = named(name).info_hash().0.map(|byte| format!("%{byte:02x}")).concat();
    let path = format!("/{passkey}/announce?info_hash={hash}&peer_id=-XX0001-000000000000&port={port}&left=1{more}");
    let answer = server.get(&path);
    assert!(!answer.contains("failure"), "{answer}");
}

#[test]
fn what_users_move_is_summed_and_survives_restarts() {
    let room = tempfile::tempdir().unwrap();
    let room = room.path();
    let keys = ["bob", "eve"].map(|name| say(room, &["tracker", "user", "add", name]));
    let [bob, eve] = &keys;
    let listed = |name: &str| -> Value {
        let all = say(room, &["tracker", "user", "list", "--json"]);
        let mut people = all.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        people.find(|person| person["name"] == name).unwrap()
    };
    let moved = |name: &str| ["uploaded_bytes", "downloaded_bytes"].map(|key| listed(name)[key].as_u64().unwrap());
    assert_eq!((moved("bob"), listed("bob")["ratio"].is_null()), ([0, 0], true));
    let server = Running::start(room, &["--allow", "private"]);
    until("they are let in", || server.takes(&format!("/{bob}"), "x") && server.takes(&format!("/{eve}"), "x"));

    announce(&server, bob, "one", 1, "&event=started&uploaded=0&downloaded=0");
    announce(&server, bob, "one", 1, "&uploaded=3000&downloaded=1000");
    // It was begun anew: what it has moved since counts, nothing is taken away.
    announce(&server, bob, "one", 1, "&uploaded=500&downloaded=100");
    // Another peer and torrent of the same user.
    announce(&server, bob, "two", 2, "&event=started&uploaded=0&downloaded=0");
    announce(&server, bob, "two", 2, "&uploaded=0&downloaded=900");
    // Nobody moves that much.
    announce(&server, bob, "two", 2, "&uploaded=9000000000000000000&downloaded=900");
    // Who has been forgotten, or never said that he begins, has moved that elsewhere.
    announce(&server, eve, "one", 3, "&uploaded=77&downloaded=77");
    until("it is written down", || moved("bob") == [3500, 2000]);
    assert_eq!((listed("bob")["ratio"].as_f64(), moved("eve")), (Some(1.75), [0, 0]));
    let text = say(room, &["tracker", "user", "list"]);
    assert!(text.contains(&format!("bob  /{bob}/announce  up ")) && text.contains("ratio 1.75"), "{text}");
    assert!(text.lines().any(|line| line.contains("eve") && line.ends_with("ratio -")), "{text}");

    // An orderly end writes down what was moved last.
    announce(&server, bob, "two", 2, "&event=stopped&uploaded=9000000000000000000&downloaded=1000");
    let mut server = server;
    let pid = server.child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(server.child.wait().unwrap().success());
    assert_eq!(moved("bob"), [3500, 2100]);
    let server = Running::start(room, &["--allow", "private"]);
    until("they are let in again", || server.takes(&format!("/{bob}"), "x"));
    announce(&server, bob, "three", 4, "&event=started&uploaded=1000&downloaded=0");
    until("it goes on from there", || moved("bob") == [4500, 2100]);
}
