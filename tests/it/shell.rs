//! What the program hands to shells, to man(1) and to systemd, tried on the real ones.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use btfs::cli::Cli;
use clap::CommandFactory;

/// A directory with `btfs` in it, first in the path of what is run.
struct Room(tempfile::TempDir);

impl Room {
    fn new() -> Self {
        let room = Self(tempfile::tempdir().unwrap());
        fs::create_dir(room.path("bin")).unwrap();
        symlink(env!("CARGO_BIN_EXE_btfs"), room.path("bin/btfs")).unwrap();
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a program; `None`, and a word about it, where there is none.
    fn run(&self, program: &str, arguments: &[&str]) -> Option<Output> {
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.0.path()).env("PATH", path).env("HOME", self.0.path());
        command.env("LC_ALL", "C.UTF-8").env("MANPAGER", "cat").env("MANWIDTH", "100").env_remove("MANPATH");
        match command.stdin(Stdio::null()).output() {
            Ok(output) => Some(output),
            Err(error) => {
                eprintln!("SKIPPED: {program}: {error}");
                None
            }
        }
    }

    fn btfs(&self, arguments: &[&str]) -> String {
        let output = self.run("btfs", arguments).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// What a program printed; it must be fine, and have nothing to complain of.
fn said(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The commands, each with its long options.
fn commands() -> Vec<(String, Vec<String>)> {
    let mut cli = Cli::command();
    cli.build();
    let options = |command: &clap::Command| {
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        shown.filter_map(|arg| arg.get_long()).map(|long| format!("--{long}")).collect()
    };
    let all = cli.get_subcommands().filter(|command| command.get_name() != "help");
    all.map(|command| (command.get_name().to_owned(), options(command))).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    let room = Room::new();
    let script = r#"
        source <(btfs completions bash) || exit
        complete -p btfs || exit
        for line in "$@"; do
            COMP_LINE=$line COMP_POINT=${#line}
            read -ra COMP_WORDS <<<"$line"
            [[ $line != *' ' ]] || COMP_WORDS+=("")
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
            _btfs btfs "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            echo "$line:" "${COMPREPLY[@]}"
        done"#;
    let mut lines = vec!["btfs mo".to_owned(), "btfs mount --fill ".to_owned(), "btfs completions ".to_owned()];
    lines.extend(commands().iter().map(|(command, _)| format!("btfs {command} --")));
    let mut arguments = vec!["--norc", "-c", script, "bash"];
    arguments.extend(lines.iter().map(String::as_str));
    let Some(output) = room.run("bash", &arguments) else { return };
    let said = said(output);
    let of = |line: &str| {
        let said = said.lines().find_map(|said| said.strip_prefix(line)?.strip_prefix(':'));
        said.unwrap_or_else(|| panic!("{line:?} in\n{said:?}")).split_whitespace().collect::<Vec<_>>()
    };
    assert!(said.starts_with("complete ") && said.lines().next().unwrap().ends_with(" btfs"), "{said}");
    assert_eq!(of("btfs mo"), ["mount"]);
    assert_eq!(of("btfs mount --fill "), ["none", "file", "all"]);
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(of("btfs completions ").contains(&shell), "{shell}");
    }
    for (command, options) in commands() {
        let completed = of(&format!("btfs {command} --"));
        for option in options {
            assert!(completed.contains(&option.as_str()), "{command} {option}: {completed:?}");
        }
    }
}

#[test]
fn zsh_completes_commands_and_options_as_they_are_typed() {
    let room = Room::new();
    fs::create_dir(room.path("functions")).unwrap();
    fs::write(room.path("functions/_btfs"), room.btfs(&["completions", "zsh"])).unwrap();
    // An interactive zsh in a terminal of its own; in place of the program a function that says what it was given.
    fs::write(
        room.path("functions/.zshrc"),
        "PS1='ready> '\nfpath=($ZDOTDIR $fpath)\nautoload -Uz compinit\ncompinit -D -u\nbtfs() { print -r -- \"got<$*>\" }\n",
    )
    .unwrap();
    let script = r#"
        zmodload zsh/zpty
        export ZDOTDIR=$PWD/functions TERM=dumb
        zpty typist zsh -i
        typed() {
            zpty -w -n typist "$1"$'\n'
            zpty -r -m typist heard "*got<*>*" && print -r -- ${(M)heard%got<*>*}
        }
        typed $'btfs moun\t'
        typed $'btfs mount --read-t\t'
        zpty -d typist"#;
    let Some(output) = room.run("zsh", &["-f", "-c", script]) else { return };
    let said = said(output);
    let heard: Vec<_> =
        said.lines().filter_map(|line| Some(line.split_once("got<")?.1.split_once('>')?.0.trim())).collect();
    assert_eq!(heard, ["mount", "mount --read-timeout"], "{said:?}");
}

#[test]
fn fish_completes_commands_options_and_values() {
    let room = Room::new();
    let complete = |line: &str| {
        let script = format!("btfs completions fish | source; complete -C '{line}'");
        room.run("fish", &["--no-config", "-c", &script]).map(said)
    };
    let Some(commands_said) = complete("btfs ") else { return };
    for (command, options) in commands() {
        let completes = |said: &str, word: &str| said.lines().any(|line| line.split('\t').next() == Some(word));
        assert!(completes(&commands_said, &command), "{command} in\n{commands_said}");
        let said = complete(&format!("btfs {command} --")).unwrap();
        for option in options {
            assert!(completes(&said, &option), "{command} {option} in\n{said}");
        }
    }
    let values = complete("btfs mount --fill ").unwrap();
    assert!(["none", "file", "all"].iter().all(|value| values.lines().any(|line| line.starts_with(value))), "{values}");
}

#[test]
fn every_shell_has_its_script_and_unknown_ones_are_usage_errors() {
    let room = Room::new();
    for (shell, begin) in
        [("bash", "_btfs() {"), ("zsh", "#compdef btfs"), ("fish", "#"), ("elvish", ""), ("powershell", "")]
    {
        let script = room.btfs(&["completions", shell]);
        assert!(script.starts_with(begin) && script.contains("read-timeout"), "{shell}");
    }
    let output = room.run("btfs", &["completions", "csh"]).unwrap();
    assert_eq!(output.status.code(), Some(2));
    // Whoever reads only the beginning is no error.
    let script = "set -o pipefail; btfs completions bash | head -1; btfs man mount | head -1";
    let Some(output) = room.run("bash", &["-c", script]) else { return };
    assert_eq!(said(output).lines().count(), 2);
    let help = room.btfs(&["completions", "--help"]);
    for place in [".local/share/bash-completion/completions/btfs", "fpath", ".config/fish/completions/btfs.fish"] {
        assert!(help.contains(place), "{place} in\n{help}");
    }
}

#[test]
fn man_shows_a_page_for_every_command() {
    let room = Room::new();
    assert!(room.btfs(&["man", "--to", "share/man"]).starts_with("wrote "));
    let pages = |section: &str| {
        let names = fs::read_dir(room.path("share/man").join(section)).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let mut wanted: Vec<_> = commands().iter().map(|(command, _)| format!("btfs-{command}.1")).collect();
    wanted.push("btfs.1".to_owned());
    wanted.sort();
    assert_eq!((pages("man1"), pages("man8")), (wanted, vec!["mount.btfs.8".to_owned()]));
    for (command, options) in commands() {
        let page = room.path(&format!("share/man/man1/btfs-{command}.1"));
        assert_eq!(fs::read_to_string(&page).unwrap(), room.btfs(&["man", &command]));
        let Some(shown) = room.run("man", &["-l", page.to_str().unwrap()]).map(said) else { return };
        let shown = without_overstrikes(&shown);
        for part in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SEE ALSO"] {
            assert!(shown.lines().any(|line| line == part), "{part} in\n{shown}");
        }
        for option in options {
            assert!(shown.contains(&option), "{option} in\n{shown}");
        }
    }
    // By its name, from where it was written.
    let directory = room.path("share/man");
    for (name, line) in
        [("btfs-mount", "  btfs mount film.torrent /mnt/film"), ("mount.btfs", "  32  nothing was mounted")]
    {
        let Some(shown) = room.run("man", &["-M", directory.to_str().unwrap(), name]).map(said) else { return };
        let shown = without_overstrikes(&shown);
        assert!(shown.lines().any(|shown| shown.contains(line)), "{line:?} in\n{shown}");
    }
}

#[test]
fn pages_are_sound_roff() {
    let room = Room::new();
    room.btfs(&["man", "--to", "man"]);
    for page in fs::read_dir(room.path("man/man1")).unwrap().chain(fs::read_dir(room.path("man/man8")).unwrap()) {
        let page = page.unwrap().path();
        let page = page.to_str().unwrap();
        let Some(output) = room.run("groff", &["-man", "-Tutf8", "-ww", "-z", page]) else { return };
        assert_eq!(said(output), "", "{page}");
        if let Some(output) = room.run("mandoc", &["-T", "lint", "-W", "error", page]) {
            assert_eq!(said(output), "", "{page}");
        }
    }
}

#[test]
fn a_page_that_is_not_there_and_a_place_that_is_none_are_told() {
    let room = Room::new();
    let output = room.run("btfs", &["man", "dance"]).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(errors.contains("no page for dance") && errors.contains("mount.btfs"), "{errors}");
    fs::write(room.path("file"), "").unwrap();
    let output = room.run("btfs", &["man", "--to", "file"]).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), errors.lines().count()), (Some(1), 1), "{errors}");
    assert!(errors.contains("file/man1/btfs.1"), "{errors}");
}

#[test]
fn systemd_finds_no_fault_with_the_units() {
    let room = Room::new();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/systemd");
    let btfs = room.path("bin/btfs").display().to_string();
    let verify = |unit: &Path| room.run("systemd-analyze", &["verify", "--man=no", unit.to_str().unwrap()]);
    for (file, commands, name) in [("btfs@.service", 2, "btfs@mnt-debian"), ("btfs-tracker.service", 1, "btfs-tracker")]
    {
        let here = fs::read_to_string(units.join(file)).unwrap().replace("=btfs ", &format!("={btfs} "));
        assert_eq!(here.matches(&btfs).count(), commands, "all commands: {here}");
        let unit = room.path(&format!("{name}.service"));
        fs::write(&unit, &here).unwrap();
        let Some(output) = verify(&unit) else { return };
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !errors.contains(name), "{errors}");
    }
    let unit = room.path("btfs@mnt-debian.service");
    let here = fs::read_to_string(&unit).unwrap();
    // It would have seen one.
    fs::write(&unit, here.replace("Type=forking", "Type=spoon")).unwrap();
    let output = verify(&unit).unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("btfs@"), "{output:?}");
}

/// Some versions make bold by writing a character twice.
fn without_overstrikes(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        if c == '\u{8}' {
            shown.pop();
        } else {
            shown.push(c);
        }
    }
    shown
}
