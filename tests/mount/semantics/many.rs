//! Large torrents.

use std::process::Command;
use std::time::{Duration, Instant};

use super::served::{Content, Served};
use crate::harness::{can_mount, run, texts};

#[test]
fn a_hundred_thousand_files_mount_and_list_fast() {
    if !can_mount() {
        return;
    }
    for (shape, entries) in [
        ("one directory", (0..100_000).map(|number| format!("file number {number:06}.dat=7")).collect::<Vec<_>>()),
        ("many directories", (0..100_000).map(|n| format!("d{}/e{}/file {n}.dat=7", n % 40, n % 2000)).collect()),
    ] {
        // How fast it is, scripts/bench says (many). Here the best of a few, against a cost that grows with the square.
        let [mut mounted, mut listed, mut looked_up] = [Duration::MAX; 3];
        for _ in 0..3 {
            let content = Content::new("torrent", 1 << 20, &entries);
            let start = Instant::now();
            let served = Served::empty(content);
            mounted = mounted.min(start.elapsed());
            let start = Instant::now();
            let found = texts(&run(Command::new("sh")
                .args(["-c", "find \"$1\" -type f -printf '%s\n' | sort | uniq -c", "sh"])
                .arg(served.root())));
            listed = listed.min(start.elapsed());
            assert_eq!(found.split_whitespace().collect::<Vec<_>>(), ["100000", "7"], "{shape}");
            let start = Instant::now();
            let name = entries[54_321].split('=').next().unwrap();
            assert_eq!(std::fs::metadata(served.top().join(name)).unwrap().len(), 7);
            looked_up = looked_up.min(start.elapsed());
            if listed < Duration::from_secs(1) {
                break;
            }
        }
        eprintln!("100,000 files in {shape}: mounted in {mounted:?}, listed with sizes in {listed:?}");
        assert!(mounted < BOUND, "{shape}: mounted in {mounted:?}");
        assert!(listed < BOUND, "{shape}: listed in {listed:?}");
        // One name is not looked for by going through all.
        assert!(looked_up < listed, "{shape}: one name looked up in {looked_up:?}, all listed in {listed:?}");
    }
}

/// Several times what either takes on a machine that is busy otherwise.
const BOUND: Duration = Duration::from_secs(20);
