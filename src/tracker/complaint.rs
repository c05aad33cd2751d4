//! Trouble that lasts, told once.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Decides whether trouble is worth a line in the log: its beginning is, and its end; not each time that somebody meets
/// it, nor each time that it comes and goes within [`QUIET`].
#[derive(Debug, Default)]
pub(crate) struct Complaint(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    told: Option<Instant>,
    going_on: bool,
}

impl Complaint {
    /// Something went wrong; whether to say so.
    pub(crate) fn wrong(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = !state.going_on && state.told.is_none_or(|told| now.saturating_duration_since(told) >= QUIET);
        if new {
            *state = State { told: Some(now), going_on: true };
        }
        new
    }

    /// It worked; whether to say that trouble which was told is over.
    pub(crate) fn fine(&self) -> bool {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).going_on)
    }
}

/// What comes again within this time is the same trouble.
const QUIET: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_when_it_begins_and_when_it_is_over() {
        let (complaint, start) = (Complaint::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!complaint.fine());
        assert_eq!([0, 1, 1000].map(|seconds| complaint.wrong(at(seconds))), [true, false, false]);
        assert!(complaint.fine() && !complaint.fine());
        assert!(complaint.wrong(at(1001)) && complaint.fine());
        assert!(!complaint.wrong(at(1002)) && !complaint.fine(), "the same again");
        assert!(complaint.wrong(at(1001 + 300)));
    }
}
