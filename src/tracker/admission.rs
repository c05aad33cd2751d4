//! Keeps what is allowed to announce in step with the index: torrents that are listed, users that have a passkey.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::index::{Added, Changes, Index, IndexError, Role};
use super::{Lists, Tracker};

/// Lets in what the index has, and goes on with it until `shutdown` becomes true or its sender is gone: what another
/// process changes (`btfs tracker user add`) is known within seconds.
pub async fn keep_access(index: Index, tracker: Arc<Tracker>, mut shutdown: watch::Receiver<bool>) {
    let mut known = tracker.access.passkeys();
    let mut tick = tokio::time::interval(EVERY);
    for turn in 0_u64.. {
        // Cancel-safe: both lose nothing.
        tokio::select! {
            () = async { _ = shutdown.wait_for(|&end| end).await } => return,
            _ = tick.tick() => {}
        }
        let (index, tracker) = (index.clone(), tracker.clone());
        let step = tokio::task::spawn_blocking(move || {
            let mut outcome = step(&index, &tracker, &mut known);
            if turn % BOOKED_EVERY == 0 {
                outcome = outcome.and(book_users(&index, &tracker));
            }
            (known, outcome)
        });
        // Its panic is logged already.
        let Ok((back, outcome)) = step.await else { return };
        known = back;
        if let Err(error) = outcome {
            // The index itself warns, once.
            tracing::debug!(%error, "the index cannot be asked who may announce, or told what users have moved");
        }
    }
}

/// Lets in what the index has at first, torrents and users; to be called before the first announce, as who is refused for
/// his passkey is told never to come again.
///
/// # Errors
/// The database's trouble.
pub fn admit_known(index: &Index, tracker: &Tracker) -> Result<(), IndexError> {
    tracker.access.pair(index.hybrids()?);
    index.announced().into_iter().for_each(|hash| tracker.access.list(hash));
    step(index, tracker, &mut HashSet::new())
}

/// Has the operator's lists count from now on, for announces and for the index. Blocking.
///
/// # Errors
/// The database's trouble; then everything is as before.
pub fn set_lists(index: &Index, tracker: &Tracker, lists: &Arc<Lists>) -> Result<(), IndexError> {
    tracker.access.pair(index.hybrids()?);
    let changes = index.set_lists(lists.clone())?;
    tracker.access.set_lists(lists.clone());
    follow(tracker, &changes);
    Ok(())
}

/// Tells the tracker of a torrent that was added to the index.
pub fn admit_added(index: &Index, tracker: &Tracker, added: &Added) {
    tracker.access.pair(added.hashes.pair());
    if !added.shown {
        return;
    }
    for hash in added.hashes.announced() {
        tracker.access.list(hash);
        // Other lists may count since it was added.
        if !index.is_listed(&hash) {
            tracker.access.unlist(&hash);
        }
    }
}

/// Writes down what users have moved; what cannot be written is kept for the next time. Blocking.
///
/// # Errors
/// The database's trouble.
pub fn book_users(index: &Index, tracker: &Tracker) -> Result<(), IndexError> {
    let moved = tracker.access.take_credits();
    if moved.is_empty() {
        return Ok(());
    }
    let outcome = index.book(moved.clone());
    if outcome.is_err() {
        moved.into_iter().for_each(|(passkey, moved)| tracker.access.credit(&passkey, moved));
    }
    outcome
}

fn follow(tracker: &Tracker, changes: &Changes) {
    changes.come.iter().for_each(|&hash| tracker.access.list(hash));
    changes.gone.iter().for_each(|hash| tracker.access.unlist(hash));
}

fn step(index: &Index, tracker: &Tracker, known: &mut HashSet<String>) -> Result<(), IndexError> {
    follow(tracker, &index.refresh()?);
    let passkeys: HashSet<_> = index.people(Role::User)?.into_iter().filter_map(|person| person.passkey).collect();
    known.difference(&passkeys).for_each(|passkey| tracker.access.expel(passkey));
    passkeys.difference(known).for_each(|passkey| tracker.access.admit(passkey.as_str()));
    *known = passkeys;
    Ok(())
}

const EVERY: Duration = Duration::from_secs(2);
/// Looks from one writing of what users have moved to the next: a sync each, and at most what ten seconds hold is lost.
const BOOKED_EVERY: u64 = 5;

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use super::*;
    use crate::tracker::{Refusal, StoreConfig};

    #[tokio::test]
    async fn who_is_known_is_let_in_from_the_first_announce_and_goes_when_removed() {
        let room = tempfile::tempdir().unwrap();
        let index = Index::open(&room.path().join("index.sqlite")).unwrap();
        let passkey = index.add_person(Role::User, "bob", SystemTime::now()).unwrap();
        let tracker = Arc::new(Tracker::new(StoreConfig::default(), Instant::now(), 1));
        tracker.access.set_private(true);
        admit_known(&index, &tracker).unwrap();
        assert_eq!(tracker.access.judge_passkey(Some(&passkey)), Ok(()));
        // Whoever goes before the first look goes as well.
        assert!(index.remove_person(Role::User, "bob").unwrap());
        let (stop, stopped) = watch::channel(false);
        let keeping = tokio::spawn(keep_access(index, tracker.clone(), stopped));
        while tracker.access.judge_passkey(Some(&passkey)).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(tracker.access.judge_passkey(Some(&passkey)), Err(Refusal::UnknownPasskey));
        stop.send(true).unwrap();
        keeping.await.unwrap();
    }

    #[test]
    fn one_hash_of_a_hybrid_in_a_list_is_enough_where_it_was_uploaded() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("index.sqlite");
        let file = std::fs::read("tests/corpus/torrents/v06-hybrid-single.torrent").unwrap();
        let tracker = || Tracker::new(StoreConfig::default(), Instant::now(), 1);
        let (index, first) = (Index::open(&path).unwrap(), tracker());
        let added = index.add(file.into(), None, SystemTime::now()).unwrap();
        admit_added(&index, &first, &added);
        let (a, b) = added.hashes.pair().unwrap();
        // At the time of the upload, and after a restart.
        let second = tracker();
        admit_known(&index, &second).unwrap();
        for tracker in [first, second, tracker()] {
            let deny = Lists { allow: None, deny: HashSet::from([a]) };
            set_lists(&index, &tracker, &Arc::new(deny)).unwrap();
            assert_eq!([a, b].map(|hash| tracker.access.judge(&hash, None)), [Err(Refusal::Denied); 2]);
            let allow = Lists { allow: Some(HashSet::from([b])), deny: HashSet::new() };
            set_lists(&index, &tracker, &Arc::new(allow)).unwrap();
            assert_eq!([a, b].map(|hash| tracker.access.judge(&hash, None)), [Ok(()); 2]);
        }
    }
}
