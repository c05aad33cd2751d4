//! `btfs publish`: gives torrent files to an index.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use clap::ValueHint;
use serde::Deserialize;

use super::exit;
use super::text::{complain, safe, safe_json, say};
use super::torrents;
use crate::net::http::HttpClient;
use crate::proto::metainfo::Metainfo;

/// What can stand after `btfs publish`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The .torrent files
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<OsString>,
    /// The index: the URL of its first page
    #[arg(long, value_name = "URL", value_parser = index_url)]
    pub to: url::Url,
    /// The token that allows it; others on this machine can see it in the list of processes, but not in BTFS_TOKEN
    #[arg(long, value_name = "TOKEN", env = "BTFS_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// One JSON object a file and line, as the index says it
    #[arg(long)]
    pub json: bool,
}

/// What an index answers.
#[derive(Debug, Deserialize)]
struct Published {
    new: bool,
    page: String,
    torrent: String,
}

/// Publishes one after the other; what fails is said, and the next one is tried.
pub(crate) fn run(args: &Args) -> anyhow::Result<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = HttpClient::new(None).with_patience(PATIENCE);
    let mut status = exit::OK;
    for file in &args.files {
        let name = safe(file.as_bytes());
        if file.as_bytes().starts_with(b"magnet:") {
            complain("magnet links are not taken yet: publish the .torrent file itself");
            status = exit::FAILED;
            continue;
        }
        let published = torrents::read(Path::new(file)).and_then(|bytes| {
            // Judged here first, so that nothing is sent that cannot be taken.
            Metainfo::parse(&bytes).map_err(|error| anyhow!("{name}: not a usable torrent: {error}"))?;
            runtime.block_on(publish(&client, args, bytes.into())).with_context(|| name.clone())
        });
        match published {
            Ok(answer) if args.json => say(safe_json(&answer)),
            Ok(answer) => {
                let published: Published =
                    serde_json::from_str(&answer).context("the answer is not that of an index")?;
                let was = if published.new { "published" } else { "was there already, trackers joined" };
                say(format_args!(
                    "{name}: {was}\n  {}\n  btfs mount {} DIRECTORY",
                    safe(published.page),
                    safe(published.torrent)
                ));
            }
            Err(error) => {
                complain(format_args!("{error:#}"));
                status = exit::FAILED;
            }
        }
    }
    Ok(status)
}

/// The index's answer, JSON on one line.
async fn publish(client: &HttpClient, args: &Args, file: Bytes) -> anyhow::Result<String> {
    let mut url = args.to.clone();
    url.set_path(&format!("{}/api/torrents", url.path().trim_end_matches('/')));
    let answer =
        client.post(url.as_str(), "application/x-bittorrent", args.token.as_deref(), file, MAX_ANSWER_BYTES).await?;
    let json: serde_json::Value = serde_json::from_slice(&answer.body)
        .map_err(|_| anyhow!("{} is no index of btfs (status {})", safe(args.to.as_str()), answer.status))?;
    match answer.status {
        200 | 201 => Ok(json.to_string()),
        401 if args.token.is_none() => bail!("this index wants a token: --token or BTFS_TOKEN"),
        status => match json["error"].as_str() {
            Some(error) => bail!("{}", safe(error)),
            None => bail!("the index answers with status {status}"),
        },
    }
}

pub(crate) fn index_url(text: &str) -> Result<url::Url, String> {
    let url = url::Url::parse(text).map_err(|error| error.to_string())?;
    let fits = matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none();
    fits.then_some(url).ok_or_else(|| "expected an http or https URL, as of the index's first page".to_owned())
}

pub(super) const EXAMPLES: &str = "Examples:
  btfs publish film.torrent --to https://tracker.example
  BTFS_TOKEN=$TOKEN btfs publish *.torrent --to http://192.0.2.7:6969

Magnet links are not taken yet. Whoever runs the index makes the token: btfs tracker token add NAME";

/// 64 MiB over a slow line.
const PATIENCE: Duration = Duration::from_secs(600);
const MAX_ANSWER_BYTES: usize = 1 << 20;
