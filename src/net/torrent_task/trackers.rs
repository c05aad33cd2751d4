//! What the log says of trackers: a line when one begins to fail and one when it works again, not one each time.

use std::collections::HashMap;

use tracing::{debug, info, warn};

use crate::engine::{AnnounceOutcome, Announcement, TrackerId};
use crate::proto::announce::tracker_host;

/// The trackers that have been asked; as many as the torrent has.
#[derive(Debug, Default)]
pub(super) struct Trackers {
    known: HashMap<TrackerId, Known>,
}

#[derive(Debug)]
struct Known {
    /// Without the rest of the URL, which may hold a passkey.
    host: String,
    fails: bool,
}

impl Trackers {
    /// An announce begins.
    pub(super) fn asked(&mut self, announcement: &Announcement) {
        self.known.entry(announcement.tracker).or_insert_with(|| Known {
            host: match tracker_host(&announcement.url) {
                Some((host, Some(port))) => format!("{host}:{port}"),
                Some((host, None)) => host.to_owned(),
                None => String::new(),
            },
            fails: false,
        });
    }

    /// An announce has ended. Returns whether the state changed, which is logged.
    pub(super) fn ended(&mut self, tracker: TrackerId, outcome: &AnnounceOutcome) -> bool {
        let Some(Known { host, fails }) = self.known.get_mut(&tracker) else { return false };
        let failed_before = *fails;
        *fails = matches!(outcome, AnnounceOutcome::Failed { .. });
        match outcome {
            AnnounceOutcome::Failed { reason, .. } if !failed_before => warn!(tracker = *host, "tracker: {reason}"),
            AnnounceOutcome::Failed { reason, .. } => debug!(tracker = *host, "tracker still: {reason}"),
            AnnounceOutcome::Answered { .. } if failed_before => info!(tracker = *host, "the tracker works again"),
            AnnounceOutcome::Answered { peers, .. } => debug!(tracker = *host, peers = peers.len(), "announced"),
        }
        *fails != failed_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::AnnounceEvent;

    #[test]
    fn a_tracker_is_spoken_of_when_it_begins_to_fail_and_when_it_recovers() {
        let mut trackers = Trackers::default();
        let url = "udp://user@tracker.example:6969/secret/announce".to_owned();
        let announcement = Announcement {
            tracker: TrackerId(3),
            url,
            event: AnnounceEvent::Started,
            uploaded: 0,
            downloaded: 0,
            left: 0,
            numwant: 0,
            tracker_id: None,
        };
        trackers.asked(&announcement);
        assert_eq!(trackers.known[&TrackerId(3)].host, "tracker.example:6969");
        let failed = AnnounceOutcome::Failed { reason: "timed out".into(), retry: None };
        let answered = AnnounceOutcome::Answered {
            interval: None,
            min_interval: None,
            peers: Vec::new(),
            complete: None,
            incomplete: None,
            downloaded: None,
            warning: None,
            external_ip: None,
            tracker_id: None,
        };
        let outcomes = [&answered, &failed, &failed, &failed, &answered, &answered, &failed];
        let spoken = outcomes.map(|outcome| trackers.ended(TrackerId(3), outcome));
        assert_eq!(spoken, [false, true, false, false, true, false, true]);
        assert!(!trackers.ended(TrackerId(4), &failed), "nobody has asked it");
    }
}
