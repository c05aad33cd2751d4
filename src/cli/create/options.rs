//! The options of `btfs create`, and how their values are read: those of `btfs edit` are read alike.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::ValueHint;

use crate::base::size::parse_bytes;
use crate::cli::exit::UsageError;
use crate::cli::publish::index_url;
use crate::cli::text::safe;
use crate::proto::announce::tracker_scheme;

/// What can stand after `btfs create`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file or directory to share
    #[arg(value_hint = ValueHint::AnyPath)]
    pub path: PathBuf,
    /// Where to write the torrent [default: NAME.torrent here]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// The torrent's name [default: that of PATH]
    #[arg(short, long)]
    pub name: Option<String>,
    /// Bytes of a piece, a power of two from 16 KiB to 64 MiB [default: what makes 1000 to 2000 pieces]
    #[arg(short = 'l', long, value_name = "SIZE", value_parser = piece_length)]
    pub piece_length: Option<u32>,
    /// A text for people
    #[arg(short, long, value_name = "TEXT")]
    pub comment: Option<String>,
    /// A text that makes the info-hash another one, as some private trackers want
    #[arg(long, value_name = "TEXT")]
    pub source: Option<String>,
    /// Seconds since 1970, or `now`, to be noted in the torrent [default: no date, so that the bytes stay the same]
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH", value_parser = date, allow_negative_numbers = true)]
    pub creation_date: Option<i64>,
    /// Note no date, whatever SOURCE_DATE_EPOCH says
    #[arg(long)]
    pub no_creation_date: bool,
    /// Overwrite the output
    #[arg(short, long)]
    pub force: bool,
    /// Print the magnet link, too
    #[arg(long)]
    pub magnet: bool,
    /// Print the line, too, with which others mount it: to be copied into a shell
    #[arg(long)]
    pub mount_line: bool,
    /// Publish it to the index at this URL, too; the token is that of BTFS_TOKEN
    #[arg(long, value_name = "URL", value_parser = index_url, value_hint = ValueHint::Url)]
    pub publish: Option<url::Url>,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// What of a directory it is made of.
    #[command(flatten)]
    pub content: ContentArgs,
    /// Where peers come from.
    #[command(flatten)]
    pub sources: SourceArgs,
}

/// Which files, and how they lie.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Content")]
pub struct ContentArgs {
    /// Which files.
    #[command(flatten)]
    pub choice: ChoiceArgs,
    /// Take what symlinks lead to, also outside of PATH [default: symlinks stay symlinks, and must stay inside]
    #[arg(short = 'L', long)]
    pub follow_symlinks: bool,
}

/// Which files of a directory, of whatever torrent is made of it.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Content")]
pub struct ChoiceArgs {
    /// Take only what this pattern means: '*.flac' a name in any directory, 'disc1/*' a path from the top, of a directory
    /// all in it; repeatable
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    pub include: Vec<String>,
    /// Leave out what this pattern means, included or not; repeatable
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    pub exclude: Vec<String>,
    /// Begin each file with a piece, by padding that is never stored (BEP 47): no piece is shared by two files
    #[arg(long)]
    pub pad: bool,
}

/// Where peers and content come from.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sources")]
pub struct SourceArgs {
    /// A tracker; repeat it for further tiers, put commas between the trackers of one tier
    #[arg(short, long = "announce", visible_alias = "tracker", value_name = "URL", value_hint = ValueHint::Url)]
    pub announce: Vec<String>,
    /// A web server that has the content as well (BEP 19); can be repeated
    #[arg(short, long = "web-seed", value_name = "URL", value_parser = web_url, value_hint = ValueHint::Url)]
    pub web_seeds: Vec<String>,
    /// A DHT node to begin with (BEP 5); can be repeated
    #[arg(long = "node", value_name = "HOST:PORT", value_parser = node)]
    pub nodes: Vec<(String, u16)>,
    /// No DHT, no peer exchange, no local discovery: peers come from the trackers alone
    #[arg(short, long, conflicts_with = "nodes")]
    pub private: bool,
}

impl SourceArgs {
    /// Trackers by tier.
    pub(crate) fn tiers(&self) -> Result<Vec<Vec<String>>, UsageError> {
        self.announce.iter().map(|tier| split_tier(tier)).collect()
    }
}

/// The trackers of one tier: what stands between commas, except for commas inside a URL.
pub(crate) fn split_tier(tier: &str) -> Result<Vec<String>, UsageError> {
    let mut urls: Vec<String> = Vec::new();
    for part in tier.split(',') {
        match urls.last_mut() {
            Some(last) if !part.contains("://") => last.extend([",", part]),
            _ => urls.push(part.to_owned()),
        }
    }
    match urls.iter().find(|url| tracker_scheme(url).is_none()) {
        Some(url) => Err(UsageError(format!("{}: no tracker URL; it needs http, https or udp, and a host", safe(url)))),
        None => Ok(urls),
    }
}

/// The URL of a web seed.
pub(crate) fn web_url(text: &str) -> Result<String, String> {
    match text.starts_with("http") && tracker_scheme(text).is_some() {
        true => Ok(text.to_owned()),
        false => Err("web seeds need an http or https URL".to_owned()),
    }
}

/// A host and a port; IPv6 addresses stand in brackets, and go into the torrent without.
pub(crate) fn node(text: &str) -> Result<(String, u16), String> {
    let wrong = || "expected HOST:PORT, or [IPv6]:PORT".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(wrong)?;
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match inside {
        Some(inside) if inside.parse::<std::net::Ipv6Addr>().is_ok() => Ok((inside.to_owned(), port)),
        None if !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']) => Ok((host.to_owned(), port)),
        _ => Err(wrong()),
    }
}

/// Seconds since 1970, or `now`.
pub(crate) fn date(text: &str) -> Result<i64, String> {
    if text == "now" {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        return Ok(now.map_or(0, |since| since.as_secs().cast_signed()));
    }
    text.parse().map_err(|_| "expected seconds since 1970, or now".to_owned())
}

fn piece_length(text: &str) -> Result<u32, String> {
    let bytes = parse_bytes(text).map_err(|error| error.to_string())?;
    let fits = bytes.is_power_of_two() && (16 << 10..=64 << 20).contains(&bytes);
    fits.then_some(bytes as u32).ok_or_else(|| "expected a power of two from 16K to 64M".to_owned())
}

fn pattern(text: &str) -> Result<String, String> {
    match text.trim_matches('/').is_empty() {
        true => Err("an empty pattern means nothing".to_owned()),
        false => Ok(text.to_owned()),
    }
}

pub(crate) const EXAMPLES: &str = "Examples:
  btfs create ~/films                                      films.torrent, without a tracker
  btfs create ~/films -a udp://a.example:6969,http://b.example/announce -a http://c.example/announce
                                                           two trackers in the first tier, then one
  btfs create ~/music --include '*.flac' --exclude 'drafts/' --pad
  btfs create image.iso -w https://mirror.example/image.iso --magnet --mount-line
  SOURCE_DATE_EPOCH=1700000000 btfs create build/          the same bytes on every machine

It hashes on all cores; Ctrl-C ends it at once and leaves nothing. `btfs edit` changes trackers and
texts later.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_hosts_and_ports() {
        for (text, host, port) in
            [("a.example:1", "a.example", 1), ("127.0.0.1:6881", "127.0.0.1", 6881), ("[::1]:65535", "::1", 65535)]
        {
            assert_eq!(node(text), Ok((host.to_owned(), port)));
        }
        for text in ["", "a", "a:", ":1", "a:0", "a:65536", "::1:5", "[::1]", "[x]:1", "[]:1", "http://a:1", "a b:1"] {
            assert!(node(text).is_err(), "{text}");
        }
    }

    #[test]
    fn commas_divide_trackers_but_not_urls() {
        let urls = |tier: &str| split_tier(tier).unwrap().join(" ");
        assert_eq!(urls("http://a/1,2,udp://b:1,https://c/x,y"), "http://a/1,2 udp://b:1 https://c/x,y");
        assert!(split_tier("").is_err() && split_tier("http://a,gopher://b").is_err());
    }
}
