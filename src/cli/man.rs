//! `btfs man`: manual pages, made from what clap knows of the commands: they say what the program does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::builder::Resettable;
use clap::{Command, CommandFactory, ValueHint};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::args::Cli;
use super::exit::UsageError;
use super::helper::Helper;
use super::{exit, text};

/// What can stand after `btfs man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The command whose page it is to be, or mount.btfs [default: the page of btfs itself]
    #[arg(value_name = "COMMAND", conflicts_with = "to")]
    pub command: Option<String>,
    /// Write all pages to where man(1) looks for them below a directory: man1/btfs.1, man1/btfs-mount.1 and so on
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub to: Option<PathBuf>,
}

/// Prints a page, or writes all of them.
pub(crate) fn run(args: &Args) -> anyhow::Result<i32> {
    let pages = pages();
    if let Some(directory) = &args.to {
        for page in &pages {
            let path = directory.join(format!("man{}", page.section)).join(format!("{}.{}", page.name, page.section));
            write(&path, &page.roff()?).with_context(|| path.display().to_string())?;
        }
        text::say(format_args!("wrote {} pages; to read one: man -M {} btfs", pages.len(), directory.display()));
        return Ok(exit::OK);
    }
    let wanted = args.command.as_deref().unwrap_or("btfs");
    let Some(page) = pages.iter().find(|page| page.is_called(wanted)) else {
        let known: Vec<_> = pages.iter().map(|page| page.name.trim_start_matches("btfs-")).collect();
        return Err(UsageError(format!("no page for {wanted}: there are {}", known.join(", "))).into());
    };
    text::print(&page.roff()?)?;
    Ok(exit::OK)
}

/// A manual page to be.
struct Page {
    name: String,
    section: &'static str,
    command: Command,
}

/// All pages: of the program, of each command, and of the helper of mount(8).
fn pages() -> Vec<Page> {
    let page = |command: &Command, section| {
        let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
        Page { name, section, command: command.clone() }
    };
    let mut btfs = Cli::command().disable_help_subcommand(true);
    btfs.build();
    let mut helper = Helper::command();
    helper.build();
    let commands = btfs.get_subcommands().filter(|command| !command.is_hide_set());
    std::iter::once(page(&btfs, "1"))
        .chain(commands.map(|command| page(command, "1")))
        .chain(std::iter::once(page(&helper, "8")))
        .collect()
}

impl Page {
    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.name.strip_prefix("btfs-") == Some(name)
    }

    fn roff(&self) -> io::Result<Vec<u8>> {
        let about = self.command.get_after_long_help().or(self.command.get_after_help());
        let extra = about.map(ToString::to_string).unwrap_or_default();
        // clap_mangen would run the lines of our examples together.
        let command = self.command.clone().after_help(Resettable::Reset).after_long_help(Resettable::Reset);
        let man = Man::new(command).title(&self.name).section(self.section);
        let man = man.source(concat!("btfs ", env!("CARGO_PKG_VERSION"))).manual("btfs");
        let mut out = Vec::new();
        man.render(&mut out)?;
        let mut more = Roff::default();
        sections(&mut more, &extra);
        more.control("SH", ["SEE ALSO"]);
        more.text([roman(self.see_also())]);
        more.to_writer(&mut out)?;
        Ok(out)
    }

    fn see_also(&self) -> &'static str {
        match self.name.as_str() {
            "btfs" => "mount.btfs(8)",
            "btfs-mount" => "btfs(1), mount.btfs(8), fusermount3(1)",
            "mount.btfs" => "btfs-mount(1), mount(8), fstab(5), systemd.mount(5)",
            _ => "btfs(1)",
        }
    }
}

/// Adds what stands at the end of a help text. A line that ends with a colon begins a section, lines that are indented
/// stay lines, all others are flowing text.
fn sections(roff: &mut Roff, text: &str) {
    let mut verbatim = false;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let is_verbatim = line.starts_with("  ");
        if is_verbatim != verbatim {
            roff.control(if is_verbatim { "nf" } else { "fi" }, []);
            verbatim = is_verbatim;
        }
        match line.strip_suffix(':') {
            Some(heading) if lines.peek().is_some_and(|next| next.starts_with("  ")) && !is_verbatim => {
                roff.control("SH", [heading.to_uppercase().as_str()]);
            }
            _ if line.is_empty() => {
                // A section needs no paragraph before it.
                if lines.peek().is_some_and(|next| !next.ends_with(':')) {
                    roff.control("PP", []);
                }
            }
            _ => _ = roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]),
        }
    }
    if verbatim {
        roff.control("fi", []);
    }
}

fn write(path: &Path, page: &[u8]) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, page)
}

/// How to read and keep them.
pub(super) const EXAMPLES: &str = "Examples:
  btfs man mount | man -l -                    read the page of btfs mount
  btfs man --to ~/.local/share/man             for man(1) to find: man btfs-mount
  sudo btfs man --to /usr/local/share/man      for all users";

#[cfg(test)]
mod tests {
    use super::*;

    /// As a reader sees it, roughly: without the dashes' and dots' escapes, the fonts and the line breaks.
    fn plain(page: &Page) -> String {
        let text = String::from_utf8(page.roff().unwrap()).unwrap();
        let text = text.replace("\\-", "-").replace("\\(aq", "'").replace("\\*(Aq", "'");
        let text = text.replace("\\fB", "").replace("\\fI", "").replace("\\fR", "").replace("\\&", "");
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_option_of_every_command_is_in_its_page() {
        let mut options = 0;
        for page in pages() {
            let text = plain(&page);
            for arg in page.command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let mut wanted: Vec<String> = Vec::new();
                wanted.extend(arg.get_long().map(|long| format!("--{long}")));
                wanted.extend(arg.get_short().map(|short| format!("-{short}")));
                if !matches!(
                    arg.get_action(),
                    clap::ArgAction::SetTrue | clap::ArgAction::Help | clap::ArgAction::Version
                ) {
                    wanted.extend(arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string));
                }
                wanted.extend(arg.get_env().map(|name| name.to_string_lossy().into_owned()));
                wanted.extend(arg.get_possible_values().iter().map(|value| value.get_name().to_owned()));
                let help = arg.get_long_help().or(arg.get_help());
                let help = help.unwrap_or_else(|| panic!("{}: {} is not explained", page.name, arg.get_id()));
                wanted.push(help.to_string().split_whitespace().collect::<Vec<_>>().join(" "));
                for wanted in wanted {
                    assert!(text.contains(&wanted), "{}: {}: no {wanted:?} in\n{text}", page.name, arg.get_id());
                }
                options += 1;
            }
        }
        assert!(options > 60, "{options}");
    }

    #[test]
    fn every_command_has_a_page_and_the_first_names_them_all() {
        let pages = pages();
        let names: Vec<_> = pages.iter().map(|page| page.name.as_str()).collect();
        let first = plain(&pages[0]);
        for command in Cli::command().get_subcommands() {
            let name = format!("btfs-{}", command.get_name());
            assert!(names.contains(&name.as_str()), "{name} in {names:?}");
            assert!(first.contains(&format!("{name}(1)")), "{name} in\n{first}");
        }
        assert_eq!((names[0], names.last()), ("btfs", Some(&"mount.btfs")));
        assert!(pages.iter().all(|page| plain(page).contains("SH SYNOPSIS")));
    }

    #[test]
    fn examples_stay_lines_of_their_own() {
        let mount = pages().into_iter().find(|page| page.is_called("mount")).unwrap();
        let text = String::from_utf8(mount.roff().unwrap()).unwrap();
        let (_, examples) = text.split_once(".SH EXAMPLES\n.nf\n").unwrap_or_else(|| panic!("{text}"));
        assert!(examples.lines().next().unwrap().starts_with("btfs mount film.torrent"), "{examples}");
        let (lines, rest) = examples.split_once(".fi\n").unwrap();
        assert!(lines.lines().count() >= 5 && rest.starts_with(".PP\n"), "{examples}");
    }
}
