//! Where logs go: standard error in the foreground, a bounded file in the background, the journal under systemd. The
//! last warnings are kept for `btfs status`.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Context as LayerContext, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use super::exit::UsageError;
use crate::control::Warning;

/// Where a process logs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Standard error.
    Stderr,
    /// This file, renamed to `.1` when it is full.
    File(PathBuf),
    /// systemd's journal.
    Journal,
}

impl Target {
    /// In the background: the journal if systemd started us, else a file named after `subject`.
    pub(crate) fn background(subject: &str) -> Self {
        if is_under_systemd() {
            return Self::Journal;
        }
        Self::File(super::paths::log_dir().join(format!("btfs-{}.log", file_name(subject))))
    }

    /// In the foreground: the journal if systemd started us, else standard error.
    pub(crate) fn foreground() -> Self {
        if is_under_systemd() { Self::Journal } else { Self::Stderr }
    }

    /// For people; `None` where they see it anyway.
    pub(crate) fn describe(&self) -> Option<String> {
        match self {
            Self::Stderr => None,
            Self::File(path) => Some(path.display().to_string()),
            Self::Journal => Some("the journal (journalctl -t btfs)".to_owned()),
        }
    }
}

/// Whether systemd has tied our standard error to its journal (`JOURNAL_STREAM` of systemd.exec(5) names the device and
/// the inode of that stream), and the journal can be written to. That the variable is set says nothing: a terminal that
/// the user's systemd has started hands it down to every command.
fn is_under_systemd() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = io::stderr().as_fd().try_clone_to_owned().and_then(|stderr| File::from(stderr).metadata());
    let is_stream = stderr.is_ok_and(|meta| format!("{}:{}", meta.dev(), meta.ino()) == stream);
    is_stream && tracing_journald::layer().is_ok()
}

/// The last warnings and errors of this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastWarnings(Arc<Mutex<VecDeque<Warning>>>);

impl LastWarnings {
    /// Oldest first.
    pub(crate) fn list(&self) -> Vec<Warning> {
        self.0.lock().map(|ring| ring.iter().cloned().collect()).unwrap_or_default()
    }
}

/// Logging that has been started.
#[derive(Debug)]
pub(crate) struct Logging {
    last: LastWarnings,
    directory: Option<PathBuf>,
}

impl Logging {
    /// The last warnings, for status.
    pub(crate) fn last_warnings(&self) -> LastWarnings {
        self.last.clone()
    }

    /// The log directory, made if it is missing. Held open, so that nobody mounts over it unnoticed.
    pub(crate) fn directory(&self) -> Option<File> {
        let directory = self.directory.as_ref()?;
        make_directory(directory).and_then(|()| File::open(directory)).ok()
    }
}

/// Starts logging. `filter` is a level or a list of `target=level`.
pub(crate) fn start(filter: &str, target: &Target) -> anyhow::Result<Logging> {
    // fuser warns of an unmount that somebody else was faster with; what matters of it comes back to us as errors.
    let filter = EnvFilter::builder()
        .parse(format!("fuser=error,{filter}"))
        .map_err(|error| UsageError(format!("--log {filter}: {error}")))?;
    let last = LastWarnings::default();
    // The verifier's errors are its refusals, without a URL; they come back to us as well. Its warnings are of files.
    let is_ours = |meta: &Metadata<'_>| *meta.level() > Level::ERROR || !meta.target().starts_with("rustls_platform");
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(is_ours)).with(last.clone());
    let mut directory = None;
    match target {
        Target::Stderr => {
            let coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let layer = fmt::layer().with_writer(|| Terminal).with_target(false).with_ansi(coloured);
            // Standard error may be closed: a complaint about that, on standard error, would be a panic.
            registry.with(layer.log_internal_errors(false)).try_init()?;
        }
        Target::Journal => {
            let layer = tracing_journald::layer().context("systemd's journal")?;
            registry.with(layer.with_syslog_identifier("btfs".to_owned())).try_init()?;
        }
        Target::File(path) => {
            let file = Arc::new(RotatingFile::new(path));
            let layer = fmt::layer().with_ansi(false).with_writer(move || Shared(file.clone()));
            registry.with(layer.log_internal_errors(false)).try_init()?;
            directory = path.parent().map(Path::to_path_buf);
        }
    }
    Ok(Logging { last, directory })
}

/// The live line on the terminal, while there is one: log lines must not tear it.
pub(crate) static LIVE_LINE: OnceLock<indicatif::ProgressBar> = OnceLock::new();

struct Terminal;

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match LIVE_LINE.get() {
            Some(line) => line.suspend(|| io::stderr().write_all(bytes))?,
            None => io::stderr().write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

struct Shared(Arc<RotatingFile>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A log file of at most [`MAX_LOG_BYTES`], and the one before it. Made with the first line.
struct RotatingFile {
    path: PathBuf,
    open: Mutex<Option<(File, u64)>>,
}

impl RotatingFile {
    fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), open: Mutex::new(None) }
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut open = self.open.lock().map_err(|_| io::ErrorKind::Other)?;
        if open.is_none() {
            self.path.parent().map_or(Ok(()), make_directory)?;
            *open = Some(self.open_file()?);
        }
        let full = open.as_ref().is_some_and(|(_, length)| length + bytes.len() as u64 > MAX_LOG_BYTES);
        if full {
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *open = Some(self.open_file()?);
        }
        if let Some((file, length)) = open.as_mut() {
            file.write_all(bytes)?;
            *length += bytes.len() as u64;
        }
        Ok(())
    }

    fn open_file(&self) -> io::Result<(File, u64)> {
        let file = File::options().append(true).create(true).mode(0o600).open(&self.path)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }
}

fn make_directory(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

impl<S: Subscriber> Layer<S> for LastWarnings {
    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::WARN {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let warning = Warning { at, level: level.to_string(), text: text.finish() };
        if let Ok(mut ring) = self.0.lock() {
            if ring.len() == MAX_WARNINGS {
                ring.pop_front();
            }
            ring.push_back(warning);
        }
    }
}

/// An event as one line: the message, then its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn finish(mut self) -> String {
        self.message.push_str(&self.fields);
        let mut safe: String = self.message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if let Some((end, _)) = safe.char_indices().nth(MAX_WARNING_CHARS) {
            safe.truncate(end);
        }
        safe
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// A path or hash as part of a file's name: short, and nothing but plain characters.
fn file_name(subject: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '-' };
    let name: String = subject.trim_matches('/').chars().map(plain).collect();
    // The end of a path tells more than its beginning.
    let start = name.len().saturating_sub(MAX_NAME_BYTES);
    if name.is_empty() { "root".to_owned() } else { name[start..].to_owned() }
}

const MAX_LOG_BYTES: u64 = 4 << 20;
const MAX_WARNINGS: usize = 20;
const MAX_WARNING_CHARS: usize = 400;
const MAX_NAME_BYTES: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_files_are_bounded_and_named_after_the_mount() {
        assert_eq!(file_name("/mnt/my films"), "mnt-my-films");
        assert_eq!(file_name("/"), "root");
        assert_eq!(file_name(&"é".repeat(300)).len(), MAX_NAME_BYTES);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("btfs-x.log");
        let file = RotatingFile::new(&path);
        assert!(!path.exists(), "nothing was logged yet");
        let line = vec![b'x'; 1 << 20];
        (0..11).for_each(|_| file.append(&line).unwrap());
        let sizes = ["btfs-x.log", "btfs-x.log.1"].map(|name| directory.path().join(name).metadata().unwrap().len());
        assert_eq!(sizes, [3 << 20, 4 << 20]);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn the_last_warnings_are_kept_with_their_fields_in_one_line() {
        let last = LastWarnings::default();
        let subscriber = tracing_subscriber::registry().with(last.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("nobody needs this");
            (0..30).for_each(|number| tracing::warn!(number, reason = %"a\x1b[2Jb\nc", "the disk is full"));
        });
        let list = last.list();
        assert_eq!((list.len(), list[0].level.as_str()), (MAX_WARNINGS, "WARN"));
        assert_eq!(list[19].text, "the disk is full number=29 reason=a [2Jb c");
    }
}
