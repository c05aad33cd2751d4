//! The benchmark's own reckoning: what it makes of results, without measuring anything.

use std::path::Path;
use std::process::Command;

/// Runs scripts/bench with these arguments: its standard output, or `None` where there is no python.
fn bench(arguments: &[&str]) -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/bench");
    let output = match Command::new("python3").arg(script).args(arguments).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: python3: {error}");
            return None;
        }
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_benchmark_lists_its_scenarios() {
    let Some(help) = bench(&["--help"]) else { return };
    for scenario in ["wan", "hetero", "dead", "cold-1", "seeding", "complete-user", "zip", "video", "many", "scan"] {
        assert!(help.contains(scenario), "{scenario}: {help}");
    }
}

#[test]
fn the_benchmark_judges_by_ratios_within_rounds() {
    let directory = tempfile::tempdir().unwrap();
    let (results, drawing) = (directory.path().join("results.json"), directory.path().join("drawing.svg"));
    let lines = [
        r#"{"scenario": "cold-1", "client": "ours", "round": 0, "rate": 120.0, "about": "a machine"}"#,
        r#"{"scenario": "cold-1", "client": "libtorrent", "round": 0, "rate": 100.0, "about": "a machine"}"#,
        r#"{"scenario": "cold-1", "client": "ours", "round": 1, "rate": 60.0, "about": "a machine"}"#,
        r#"{"scenario": "cold-1", "client": "libtorrent", "round": 1, "rate": 50.0, "about": "a machine"}"#,
        r#"{"scenario": "wan", "client": "ours", "round": 0, "first": 0.5, "peak": 41.0, "about": "a machine"}"#,
        r#"{"scenario": "wan", "client": "ours", "round": 1, "error": "it\nbroke", "about": "a machine"}"#,
    ];
    std::fs::write(&results, lines.join("\n")).unwrap();
    let (results, svg) = (results.to_str().unwrap(), drawing.to_str().unwrap());
    let Some(text) = bench(&["--from", results, "--svg", svg]) else { return };
    for line in [
        "| sequential | 90.0 MB/s (60.0 to 120) | ≥ 1.15 × | libtorrent 75.0 | 1.20 | reached |",
        "| first 64 KiB after listing | 0.500 s | ≤ 0.27 s | – | – | short; 1 run failed |",
        "| peak of memory, in all but the 100,000 files | 41.0 MiB | ≤ 40 MiB | – | – | short |",
        "* failed: wan, ours, round 2: it broke",
    ] {
        assert!(text.contains(line), "{line}\nnot in\n{text}");
    }
    let drawn = std::fs::read_to_string(&drawing).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.contains("libtorrent 75.0"));
}
