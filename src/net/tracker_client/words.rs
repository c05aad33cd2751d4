//! Why an announce failed, as `btfs status` says it: in a few words, with what to do where that helps.

use super::super::http::HttpError;
use super::super::udp_tracker::UdpError;
use crate::engine::AnnounceOutcome;
use crate::proto::announce::Retry;
use crate::proto::http_tracker::TrackerError;

/// Something that went wrong, and when to come again.
pub(super) struct Failure {
    reason: String,
    retry: Option<Retry>,
}

/// The outcome of an announce that failed.
pub(super) fn failed(failure: impl Into<Failure>) -> AnnounceOutcome {
    let Failure { reason, retry } = failure.into();
    AnnounceOutcome::Failed { reason, retry }
}

/// Words for an HTTP status that is no success, from a tracker that gives no reason of its own.
pub(super) fn http_status(status: u16) -> String {
    let advice = match status {
        401 | 403 => " (no permission: is its URL right, passkey included?)",
        404 | 410 => " (its URL may be out of date)",
        429 => " (asked too often)",
        500..=599 => " (trouble of its own: it will be asked again)",
        _ => "",
    };
    format!("answered with HTTP status {status}{advice}")
}

fn says(words: &str) -> String {
    if words.is_empty() { "refused: it gives no reason".to_owned() } else { format!("says: {words}") }
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self { reason, retry: None }
    }
}

impl From<&str> for Failure {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}

impl From<TrackerError> for Failure {
    fn from(error: TrackerError) -> Self {
        let TrackerError::Refused { reason, retry } = error else { return error.to_string().into() };
        let advice = match retry {
            Some(Retry::Minutes(minutes)) => format!(" (and to come again in {minutes} min)"),
            Some(Retry::Never) => " (and never to come again)".to_owned(),
            None => String::new(),
        };
        Self { reason: says(&reason) + &advice, retry }
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Timeout => "timed out".into(),
            HttpError::Refused => "refused: connection (no tracker runs there)".into(),
            HttpError::Name(_) => format!("{error} (is its URL right, is this computer online?)").into(),
            other => other.to_string().into(),
        }
    }
}

impl From<UdpError> for Failure {
    fn from(error: UdpError) -> Self {
        match error {
            UdpError::Timeout => "timed out (it is gone, or UDP is blocked on the way)".into(),
            UdpError::Refused(reason) => says(&reason).into(),
            UdpError::Name(_) => format!("{error} (is its URL right, is this computer online?)").into(),
            UdpError::NoAddress => format!("{error} (--bind allows one family only)").into(),
            other => other.to_string().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_in_words() {
        let refused = |reason: &str, retry| failed(TrackerError::Refused { reason: reason.into(), retry });
        for (outcome, words, heeded) in [
            (failed(HttpError::Timeout), "timed out", None),
            (failed(HttpError::Refused), "refused: connection (no tracker runs there)", None),
            (failed(UdpError::Timeout), "timed out (it is gone, or UDP is blocked on the way)", None),
            (failed(UdpError::Refused("not here".into())), "says: not here", None),
            (failed(UdpError::Refused(String::new())), "refused: it gives no reason", None),
            (refused("no such user", None), "says: no such user", None),
            (
                refused("busy", Some(Retry::Minutes(5))),
                "says: busy (and to come again in 5 min)",
                Some(Retry::Minutes(5)),
            ),
            (refused("go", Some(Retry::Never)), "says: go (and never to come again)", Some(Retry::Never)),
            (
                failed(http_status(403)),
                "answered with HTTP status 403 (no permission: is its URL right, passkey included?)",
                None,
            ),
        ] {
            assert_eq!(outcome, AnnounceOutcome::Failed { reason: words.to_owned(), retry: heeded });
        }
    }
}
