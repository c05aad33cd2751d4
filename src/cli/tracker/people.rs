//! `btfs tracker token`, `user` and `remove`: who may upload, who may announce, and what is in the index no more. They
//! work on the database itself, whether its tracker runs or not; a running one sees it within seconds.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail};
use clap::{Subcommand, ValueHint};
use serde_json::json;

use crate::base::Date;
use crate::base::size::Bytes;
use crate::cli::exit;
use crate::cli::text::{complain, safe, say};
use crate::tracker::Moved;
use crate::tracker::index::{Index, Person, Role, TorrentName};

/// What can stand after `btfs tracker` instead of options.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Who may upload to the index
    Token(PeopleArgs),
    /// Who may announce, where the tracker is private
    User(PeopleArgs),
    /// Take a torrent out of the index
    Remove {
        /// Its info-hash
        #[arg(value_name = "INFO-HASH")]
        torrent: TorrentName,
        #[command(flatten)]
        place: Place,
    },
}

/// Of tokens and users alike.
#[derive(Debug, Clone, clap::Args)]
pub struct PeopleArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What can be done.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// Make one and print its secret
    Add {
        /// For whom: a name for the list
        #[arg(value_parser = name)]
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// Show all; of users also what they have sent and received, as their programs say, and its ratio
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Make one invalid
    Remove {
        /// As `list` shows it
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Where the database is.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// The tracker's directory [default: as of btfs tracker]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state_dir: Option<PathBuf>,
}

pub(super) fn run(command: &Command) -> anyhow::Result<i32> {
    match command {
        Command::Token(args) => people(Role::Uploader, "token", &args.action),
        Command::User(args) => people(Role::User, "user", &args.action),
        Command::Remove { torrent, place } => {
            if !place.open_known()?.remove(torrent)? {
                bail!("no such torrent is in the index");
            }
            say("removed");
            Ok(exit::OK)
        }
    }
}

fn people(role: Role, word: &str, action: &Action) -> anyhow::Result<i32> {
    match action {
        Action::Add { name, place } => {
            // Alone on standard output, for scripts.
            say(place
                .open()?
                .add_person(role, name, SystemTime::now())
                .with_context(|| format!("{word} {}", safe(name)))?);
        }
        Action::List { json, place } => {
            let people = place.open_known()?.people(role)?;
            if people.is_empty() && !*json {
                complain(format_args!("there is no {word} yet; `btfs tracker {word} add NAME` makes one"));
            }
            for person in people {
                show(&person, *json);
            }
        }
        Action::Remove { name, place } => {
            if !place.open_known()?.remove_person(role, name)? {
                bail!("there is no {word} of the name {}", safe(name));
            }
        }
    }
    Ok(exit::OK)
}

fn show(person: &Person, json: bool) {
    let (created, Moved { uploaded, downloaded }) = (Date(person.created), person.moved);
    // Of a user, and then with what his peers have moved.
    let passkey = person.passkey.as_deref();
    if json {
        let mut object = json!({ "name": person.name, "created": created.rfc3339() });
        if let Some(passkey) = passkey {
            object["passkey"] = passkey.into();
            object["uploaded_bytes"] = uploaded.into();
            object["downloaded_bytes"] = downloaded.into();
            object["ratio"] = person.ratio().into();
        }
        say(object);
        return;
    }
    let more = passkey.map(|passkey| {
        let ratio = person.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        format!("  /{passkey}/announce  up {}, down {}, ratio {ratio}", Bytes(uploaded), Bytes(downloaded))
    });
    say(format_args!("{}  {}{}", created.day(), safe(&person.name), more.unwrap_or_default()));
}

impl Place {
    /// The index, made if it is missing, which is told: the directory may be another one than was meant.
    fn open(&self) -> anyhow::Result<Index> {
        let directory = self.directory()?;
        if !is_known(&directory) {
            complain(format_args!("{}: no tracker has used this directory yet", shown(&directory)));
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).with_context(|| shown(&directory))?;
        open_index(&directory)
    }

    /// The index, which must be there.
    fn open_known(&self) -> anyhow::Result<Index> {
        let directory = self.directory()?;
        if !is_known(&directory) {
            bail!("{}: no tracker has used this directory; name the right one with --state-dir", shown(&directory));
        }
        open_index(&directory)
    }

    fn directory(&self) -> anyhow::Result<PathBuf> {
        match &self.state_dir {
            Some(directory) => Ok(directory.clone()),
            None => super::default_state_dir().context(super::NO_STATE_DIR),
        }
    }
}

fn is_known(directory: &Path) -> bool {
    directory.join(INDEX).symlink_metadata().is_ok()
}

fn shown(path: &Path) -> String {
    safe(path.as_os_str().as_bytes())
}

/// The index in a tracker's directory.
pub(in crate::cli) fn open_index(directory: &Path) -> anyhow::Result<Index> {
    let path = directory.join(INDEX);
    Index::open(&path).with_context(|| shown(&path))
}

fn name(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= MAX_NAME_BYTES && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned()).ok_or_else(|| format!("expected 1 to {MAX_NAME_BYTES} bytes of text"))
}

const INDEX: &str = "index.sqlite";
const MAX_NAME_BYTES: usize = 64;
