//! The live line of a foreground process on a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{logging, text};
use crate::base::size::Bytes;
use crate::control::{Status, TorrentStatus};

/// How often it changes.
pub(crate) const PERIOD: Duration = Duration::from_secs(1);

/// One line at the bottom of the terminal.
pub(crate) struct Line(ProgressBar);

impl Line {
    /// `None` when standard error is no terminal.
    pub(crate) fn start() -> Option<Self> {
        if !std::io::stderr().is_terminal() {
            return None;
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{wide_msg}").expect("the template is right"));
        let _ = logging::LIVE_LINE.set(bar.clone());
        Some(Self(bar))
    }

    /// Shows the state.
    pub(crate) fn show(&self, status: &Status) {
        self.0.set_message(summary(status));
        self.0.tick();
    }

    /// Takes it away.
    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// The whole process in one line: progress, rates, peers, and what is being waited for.
pub(crate) fn summary(status: &Status) -> String {
    let sum = |figure: fn(&TorrentStatus) -> u64| status.torrents.iter().map(figure).sum::<u64>();
    let (have, total) = (sum(|torrent| torrent.have_bytes), sum(|torrent| torrent.total_bytes));
    let percent = if total == 0 { 100.0 } else { have as f64 * 100.0 / total as f64 };
    let peers: usize = status.torrents.iter().map(|torrent| torrent.peers.len()).sum();
    let mut line = format!(
        "{} of {} ({percent:.1} %)  ↓ {}/s  ↑ {}/s  {peers} {}",
        Bytes(have),
        Bytes(total),
        Bytes(sum(|torrent| torrent.download_rate)),
        Bytes(sum(|torrent| torrent.upload_rate)),
        if peers == 1 { "peer" } else { "peers" },
    );
    if let Some(read) = status.torrents.iter().find_map(|torrent| torrent.reads.first()) {
        let file = text::shorten(&text::safe(&read.file), 30);
        line.push_str(&format!("  a read of {file} waits {:.0} s: {}", read.waiting_seconds, read.waiting_for));
    }
    line
}
