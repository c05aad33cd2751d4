//! Keeps what is allowed to announce in step with the index: torrents that are listed, users that have a passkey.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Tracker;
use super::index::{Index, IndexError, Role};

/// Lets in what the index has, and goes on with it until `shutdown` becomes true or its sender is gone: what another
/// process changes (`btfs tracker user add`) is known within seconds.
pub async fn keep_access(index: Index, tracker: Arc<Tracker>, mut shutdown: watch::Receiver<bool>) {
    let mut known = HashSet::new();
    let mut tick = tokio::time::interval(EVERY);
    loop {
        // Cancel-safe: both lose nothing.
        tokio::select! {
            () = async { _ = shutdown.wait_for(|&end| end).await } => return,
            _ = tick.tick() => {}
        }
        let (index, tracker) = (index.clone(), tracker.clone());
        let step = tokio::task::spawn_blocking(move || {
            let outcome = step(&index, &tracker, &mut known);
            (known, outcome)
        });
        // Its panic is logged already.
        let Ok((back, outcome)) = step.await else { return };
        known = back;
        if let Err(error) = outcome {
            // The index itself warns, once.
            tracing::debug!(%error, "the index cannot be asked who may announce");
        }
    }
}

/// Lets in what the index has at first; to be called before the first announce.
pub fn admit_listed(index: &Index, tracker: &Tracker) {
    index.announced().into_iter().for_each(|hash| tracker.access.list(hash));
}

fn step(index: &Index, tracker: &Tracker, known: &mut HashSet<String>) -> Result<(), IndexError> {
    let changes = index.refresh()?;
    changes.come.into_iter().for_each(|hash| tracker.access.list(hash));
    changes.gone.iter().for_each(|hash| tracker.access.unlist(hash));
    let passkeys: HashSet<_> = index.people(Role::User)?.into_iter().filter_map(|person| person.passkey).collect();
    known.difference(&passkeys).for_each(|passkey| tracker.access.expel(passkey));
    passkeys.difference(known).for_each(|passkey| tracker.access.admit(passkey.as_str()));
    *known = passkeys;
    Ok(())
}

const EVERY: Duration = Duration::from_secs(2);
