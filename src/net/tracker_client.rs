//! One announce to one tracker: the engine says when and what, this asks and brings the answer back.

use std::time::Duration;

use super::http::{HttpClient, Purpose};
use crate::base::{InfoHash, PeerId};
use crate::engine::{self, AnnounceOutcome, Announcement};
use crate::proto::announce::{AnnounceReply, AnnounceRequest, TrackerScheme, tracker_scheme};
use crate::proto::http_tracker::{TrackerError, announce_url, parse_reply};

/// Announces one torrent; cheap to clone.
#[derive(Debug, Clone)]
pub struct TrackerClient {
    /// Who asks.
    pub http: HttpClient,
    /// About which torrent.
    pub info_hash: InfoHash,
    /// What we call ourselves.
    pub peer_id: PeerId,
    /// Where peers reach us.
    pub port: u16,
    /// One number for this life (BEP 7).
    pub key: u32,
}

impl TrackerClient {
    /// Asks, and waits for the answer; bounded in time by the HTTP client.
    pub async fn announce(&self, announcement: Announcement) -> AnnounceOutcome {
        match tracker_scheme(&announcement.url) {
            Some(TrackerScheme::Http) => {}
            Some(TrackerScheme::Udp) => return failed("UDP trackers are not supported yet"),
            Some(TrackerScheme::WebSocket) => return failed("WebSocket trackers are not supported"),
            None => return failed("not a usable tracker URL"),
        }
        let url = announce_url(&announcement.url, &self.request(&announcement));
        let answer = match self.http.get(&url, Purpose::Tracker, MAX_REPLY_BYTES).await {
            Ok(answer) => answer,
            Err(error) => return failed(error),
        };
        match (answer.status, parse_reply(&answer.body)) {
            (200..=299, Ok(reply)) => answered(reply),
            // Some trackers refuse with a status beside their reason: the reason says more.
            (_, Err(error @ TrackerError::Refused { .. })) => failed(error),
            (200..=299, Err(error)) => failed(error),
            (status, _) => failed(format_args!("the tracker answered with HTTP status {status}")),
        }
    }

    fn request(&self, announcement: &Announcement) -> AnnounceRequest {
        use crate::proto::announce::AnnounceEvent;
        AnnounceRequest {
            info_hash: self.info_hash,
            peer_id: self.peer_id,
            port: self.port,
            uploaded: announcement.uploaded,
            downloaded: announcement.downloaded,
            left: announcement.left,
            event: match announcement.event {
                engine::AnnounceEvent::Periodic => AnnounceEvent::Periodic,
                engine::AnnounceEvent::Started => AnnounceEvent::Started,
                engine::AnnounceEvent::Completed => AnnounceEvent::Completed,
                engine::AnnounceEvent::Stopped => AnnounceEvent::Stopped,
            },
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
        warning: reply.warning,
        external_ip: reply.external_ip,
        tracker_id: reply.tracker_id,
    }
}

fn failed(reason: impl ToString) -> AnnounceOutcome {
    AnnounceOutcome::Failed { reason: reason.to_string() }
}

/// The longest reply that is read.
const MAX_REPLY_BYTES: usize = 1024 * 1024;
