//! One announce to one tracker, or one scrape: the engine says when and what, this asks and brings the answer back.

mod words;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::debug;

use self::words::{failed, http_status};
use super::http::{HttpClient, Purpose};
use super::udp_tracker::UdpTrackers;
use crate::base::{InfoHash, PeerId};
use crate::engine::{AnnounceOutcome, Announcement, Scrape, ScrapeOutcome};
use crate::proto::announce::{AnnounceReply, AnnounceRequest, TrackerScheme, tracker_host, tracker_scheme};
use crate::proto::http_tracker::{TrackerError, announce_url, parse_reply, parse_scrape_reply, scrape_url};

/// Asks the trackers of one torrent; cheap to clone.
#[derive(Debug, Clone)]
pub struct TrackerClient {
    /// Who asks by HTTP.
    pub http: HttpClient,
    /// Who asks by UDP.
    pub udp: UdpTrackers,
    /// About which torrent.
    pub info_hash: InfoHash,
    /// What we call ourselves.
    pub peer_id: PeerId,
    /// Where peers reach us.
    pub port: u16,
    /// One number for this life (BEP 7).
    pub key: u32,
    /// Shared by all torrents: who has none waits before it opens a connection to a tracker.
    pub turns: Arc<Semaphore>,
}

impl TrackerClient {
    /// Announces, and waits for the answer; bounded in time by the clients.
    pub async fn announce(&self, announcement: Announcement) -> AnnounceOutcome {
        let request = self.request(&announcement);
        match tracker_scheme(&announcement.url) {
            Some(TrackerScheme::Http) => self.announce_by_http(&announcement.url, &request).await,
            Some(TrackerScheme::Udp) => match self.udp.announce(&announcement.url, &request).await {
                Ok(reply) => answered(reply),
                Err(error) => failed(error),
            },
            Some(TrackerScheme::WebSocket) => failed("WebSocket trackers are not supported"),
            None => failed("not a usable tracker URL"),
        }
    }

    /// Asks for the tracker's figures, and waits for the answer; bounded in time by the clients.
    pub async fn scrape(&self, scrape: Scrape) -> ScrapeOutcome {
        let outcome = match tracker_scheme(&scrape.url) {
            Some(TrackerScheme::Http) => {
                let Some(url) = scrape_url(&scrape.url, &self.info_hash) else { return ScrapeOutcome::Impossible };
                let _turn = self.turns.acquire().await;
                match self.http.get(&url, Purpose::Scrape, MAX_REPLY_BYTES).await {
                    Ok(answer) => parse_scrape_reply(&answer.body, &self.info_hash).map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                }
            }
            Some(TrackerScheme::Udp) => {
                self.udp.scrape(&scrape.url, &self.info_hash).await.map_err(|error| error.to_string())
            }
            _ => return ScrapeOutcome::Impossible,
        };
        match outcome {
            Ok(reply) => ScrapeOutcome::Answered(reply),
            Err(reason) => {
                debug!(tracker = tracker_host(&scrape.url).map(|(host, _)| host), reason, "not scraped");
                ScrapeOutcome::Failed
            }
        }
    }

    async fn announce_by_http(&self, tracker: &str, request: &AnnounceRequest) -> AnnounceOutcome {
        let url = announce_url(tracker, request);
        let _turn = self.turns.acquire().await;
        let answer = match self.http.get(&url, Purpose::Tracker, MAX_REPLY_BYTES).await {
            Ok(answer) => answer,
            Err(error) => return failed(error),
        };
        match (answer.status, parse_reply(&answer.body)) {
            (200..=299, Ok(reply)) => answered(reply),
            // Some trackers refuse with a status beside their reason: the reason says more.
            (_, Err(error @ TrackerError::Refused { .. })) => failed(error),
            (200..=299, Err(error)) => failed(error),
            (status, _) => failed(http_status(status)),
        }
    }

    fn request(&self, announcement: &Announcement) -> AnnounceRequest {
        AnnounceRequest {
            info_hash: self.info_hash,
            peer_id: self.peer_id,
            port: self.port,
            uploaded: announcement.uploaded,
            downloaded: announcement.downloaded,
            left: announcement.left,
            event: announcement.event,
            numwant: announcement.numwant,
            key: Some(self.key),
            tracker_id: announcement.tracker_id.clone(),
        }
    }
}

fn answered(reply: AnnounceReply) -> AnnounceOutcome {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    AnnounceOutcome::Answered {
        interval: reply.interval_seconds.map(seconds),
        min_interval: reply.min_interval_seconds.map(seconds),
        peers: reply.peers,
        complete: reply.complete,
        incomplete: reply.incomplete,
        downloaded: reply.downloaded,
        warning: reply.warning,
        external_ip: reply.external_ip,
        tracker_id: reply.tracker_id,
    }
}

/// The longest reply that is read.
const MAX_REPLY_BYTES: usize = 1024 * 1024;
