//! Who may announce what. In memory, asked at every announce and changed while announces go on; where it comes from (a
//! database, a file) is somebody else's business.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use super::lists::Lists;
use super::store::Moved;
use crate::base::InfoHash;
use crate::proto::announce::Retry;

/// Why somebody is refused: the words that he is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This tracker does not track that torrent.
    #[error("this torrent is not registered here")]
    Unlisted,
    /// Its operator has named it as one that is not let in.
    #[error("this torrent is not allowed on this tracker")]
    Denied,
    /// Its operator has named those that are, and it is none of them.
    #[error("this torrent is none of those that this tracker allows")]
    NotAllowed,
    /// This tracker wants a passkey in the path, and there is none.
    #[error("this tracker is private: its URL needs your passkey")]
    NoPasskey,
    /// That passkey is nobody's.
    #[error("this passkey is not valid")]
    UnknownPasskey,
}

impl Refusal {
    /// When to come again (BEP 31).
    pub fn retry(self) -> Retry {
        match self {
            // It may be uploaded to the index in the meantime.
            Self::Unlisted | Self::NotAllowed => Retry::Minutes(30),
            Self::Denied | Self::NoPasskey | Self::UnknownPasskey => Retry::Never,
        }
    }
}

/// Why a torrent is not taken whose trackers' URLs tell a user's passkey.
pub const BETRAYS_A_PASSKEY: &str =
    "the passkey of a user of this tracker stands in this file, and everybody would see it: announce without one";

/// Which torrents and which peers are let in. At first everybody, with anything.
#[derive(Debug)]
pub struct Access {
    listed_only: AtomicBool,
    private: AtomicBool,
    torrents: Vec<RwLock<HashSet<InfoHash>>>,
    /// Whether the lists say anything: else nobody has to look at them.
    has_lists: AtomicBool,
    lists: RwLock<Arc<Lists>>,
    /// Of hybrid torrents each hash and the other one: what is said of one counts for both.
    twins: RwLock<HashMap<InfoHash, InfoHash>>,
    passkeys: RwLock<HashMap<String, Account>>,
}

/// What a user has moved and nobody has asked for yet.
#[derive(Debug, Default)]
struct Account {
    uploaded: AtomicU64,
    downloaded: AtomicU64,
}

impl Account {
    fn add(&self, moved: Moved) {
        // Saturating: who says much often enough must not come out at nothing.
        for (sum, bytes) in [(&self.uploaded, moved.uploaded), (&self.downloaded, moved.downloaded)] {
            if bytes > 0 {
                let _ = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sum| Some(sum.saturating_add(bytes)));
            }
        }
    }

    fn take(&self) -> Moved {
        let take = |sum: &AtomicU64| if sum.load(Ordering::Relaxed) == 0 { 0 } else { sum.swap(0, Ordering::Relaxed) };
        Moved { uploaded: take(&self.uploaded), downloaded: take(&self.downloaded) }
    }
}

impl Default for Access {
    fn default() -> Self {
        Self::open()
    }
}

impl Access {
    /// Everybody, with anything.
    pub fn open() -> Self {
        Self {
            listed_only: AtomicBool::new(false),
            private: AtomicBool::new(false),
            torrents: (0..SHARDS).map(|_| RwLock::default()).collect(),
            has_lists: AtomicBool::new(false),
            lists: RwLock::default(),
            twins: RwLock::default(),
            passkeys: RwLock::default(),
        }
    }

    /// Whether only torrents are tracked that [`list`](Self::list) has named.
    pub fn set_listed_only(&self, listed_only: bool) {
        self.listed_only.store(listed_only, Ordering::Release);
    }

    /// Whether only peers are served whose URL has a passkey that [`admit`](Self::admit) has named.
    pub fn set_private(&self, private: bool) {
        self.private.store(private, Ordering::Release);
    }

    /// Whether a passkey is asked for.
    pub fn is_private(&self) -> bool {
        self.private.load(Ordering::Acquire)
    }

    /// Whether only listed torrents are tracked.
    pub fn is_listed_only(&self) -> bool {
        self.listed_only.load(Ordering::Acquire)
    }

    /// Lets a torrent in.
    pub fn list(&self, info_hash: InfoHash) {
        self.shard(&info_hash).write().expect("no holder panics").insert(info_hash);
    }

    /// Lets a torrent in no more. Who is in its swarm is forgotten in time.
    pub fn unlist(&self, info_hash: &InfoHash) {
        self.shard(info_hash).write().expect("no holder panics").remove(info_hash);
    }

    /// How many torrents are listed.
    pub fn listed(&self) -> usize {
        self.torrents.iter().map(|shard| shard.read().expect("no holder panics").len()).sum()
    }

    /// Lets the holder of a passkey in.
    pub fn admit(&self, passkey: impl Into<String>) {
        self.passkeys.write().expect("no holder panics").entry(passkey.into()).or_default();
    }

    /// The passkeys that are let in.
    pub fn passkeys(&self) -> HashSet<String> {
        self.passkeys.read().expect("no holder panics").keys().cloned().collect()
    }

    /// Lets the holder of a passkey in no more.
    pub fn expel(&self, passkey: &str) {
        self.passkeys.write().expect("no holder panics").remove(passkey);
    }

    /// Books what a peer with this passkey has moved.
    pub fn credit(&self, passkey: &str, moved: Moved) {
        if moved != Moved::default()
            && let Some(account) = self.passkeys.read().expect("no holder panics").get(passkey)
        {
            account.add(moved);
        }
    }

    /// What users have moved since this was asked last: only those that have moved anything.
    pub fn take_credits(&self) -> Vec<(String, Moved)> {
        let passkeys = self.passkeys.read().expect("no holder panics");
        let taken = passkeys.iter().map(|(passkey, account)| (passkey, account.take()));
        taken.filter(|(_, moved)| *moved != Moved::default()).map(|(key, moved)| (key.clone(), moved)).collect()
    }

    /// Whether this torrent may be asked for by whoever showed this passkey, or none.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn judge(&self, info_hash: &InfoHash, passkey: Option<&str>) -> Result<(), Refusal> {
        self.judge_passkey(passkey)?;
        self.judge_lists(info_hash)?;
        let unlisted = self.is_listed_only() && !self.is_listed(info_hash);
        if unlisted { Err(Refusal::Unlisted) } else { Ok(()) }
    }

    /// Whether whoever shows this passkey, or none, may ask anything.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn judge_passkey(&self, passkey: Option<&str>) -> Result<(), Refusal> {
        if !self.is_private() {
            return Ok(());
        }
        let passkey = passkey.ok_or(Refusal::NoPasskey)?;
        // Not compared in constant time, but looked up by a keyed hash: time tells nothing of how much was right.
        let known = self.passkeys.read().expect("no holder panics").contains_key(passkey);
        if known { Ok(()) } else { Err(Refusal::UnknownPasskey) }
    }

    /// Whether somebody's passkey stands in this text, between signs that none consists of: whoever reads it has it.
    pub fn betrays_a_passkey(&self, text: &[u8]) -> bool {
        let passkeys = self.passkeys.read().expect("no holder panics");
        let Some(longest) = passkeys.keys().map(String::len).max() else { return false };
        let mut words =
            text.split(|byte| !byte.is_ascii_alphanumeric()).filter(|word| (1..=longest).contains(&word.len()));
        words.any(|word| std::str::from_utf8(word).is_ok_and(|word| passkeys.contains_key(word)))
    }

    /// Which torrents the operator lets in at all; beside the other rules.
    pub fn set_lists(&self, lists: Arc<Lists>) {
        self.has_lists.store(!lists.is_empty(), Ordering::Release);
        *self.lists.write().expect("no holder panics") = lists;
    }

    /// These are the two hashes of one torrent, as peers announce them.
    pub fn pair(&self, pairs: impl IntoIterator<Item = (InfoHash, InfoHash)>) {
        let mut twins = self.twins.write().expect("no holder panics");
        twins.extend(pairs.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]));
    }

    /// Whether the operator lets this torrent in, by any of the hashes that it is known to have.
    ///
    /// # Errors
    /// [`Refusal::Denied`], [`Refusal::NotAllowed`].
    pub fn judge_lists(&self, info_hash: &InfoHash) -> Result<(), Refusal> {
        if !self.has_lists.load(Ordering::Acquire) {
            return Ok(());
        }
        let twin = self.twins.read().expect("no holder panics").get(info_hash).copied();
        self.lists.read().expect("no holder panics").judge_all(std::iter::once(*info_hash).chain(twin))
    }

    /// Whether [`list`](Self::list) has named it.
    pub fn is_listed(&self, info_hash: &InfoHash) -> bool {
        self.shard(info_hash).read().expect("no holder panics").contains(info_hash)
    }

    fn shard(&self, info_hash: &InfoHash) -> &RwLock<HashSet<InfoHash>> {
        &self.torrents[usize::from(info_hash.0[0]) % SHARDS]
    }
}

const SHARDS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: InfoHash = InfoHash([7; 20]);

    #[test]
    fn everybody_is_let_in_at_first() {
        assert_eq!(Access::open().judge(&HASH, None), Ok(()));
        assert_eq!(Access::open().judge(&HASH, Some("whatever")), Ok(()));
    }

    #[test]
    fn lists_change_while_they_are_asked() {
        let access = Access::open();
        access.set_listed_only(true);
        assert_eq!(access.judge(&HASH, None), Err(Refusal::Unlisted));
        access.list(HASH);
        access.list(HASH);
        assert_eq!((access.judge(&HASH, None), access.listed()), (Ok(()), 1));
        assert_eq!(access.judge(&InfoHash([8; 20]), None), Err(Refusal::Unlisted));
        access.unlist(&HASH);
        assert_eq!(access.judge(&HASH, None), Err(Refusal::Unlisted));
    }

    #[test]
    fn a_private_tracker_wants_a_passkey_it_knows() {
        let access = Access::open();
        access.set_private(true);
        access.admit("alice");
        assert_eq!(access.judge(&HASH, None), Err(Refusal::NoPasskey));
        assert_eq!(access.judge(&HASH, Some("bob")), Err(Refusal::UnknownPasskey));
        assert_eq!(access.judge(&HASH, Some("alice")), Ok(()));
        access.set_listed_only(true);
        assert_eq!(access.judge(&HASH, Some("alice")), Err(Refusal::Unlisted));
        access.set_lists(Arc::new(Lists { allow: None, deny: HashSet::from([HASH]) }));
        assert_eq!(access.judge(&HASH, Some("alice")), Err(Refusal::Denied));
        assert_eq!(access.judge(&HASH, Some("bob")), Err(Refusal::UnknownPasskey), "strangers are told nothing");
        access.expel("alice");
        assert_eq!(access.judge(&HASH, Some("alice")), Err(Refusal::UnknownPasskey));
        assert_eq!(Refusal::UnknownPasskey.retry(), Retry::Never);
    }

    #[test]
    fn what_users_move_is_booked_until_it_is_taken() {
        let access = Access::open();
        ["alice", "bob", "idle"].into_iter().for_each(|name| access.admit(name));
        let moved = |uploaded, downloaded| Moved { uploaded, downloaded };
        access.credit("alice", moved(1, 0));
        access.credit("alice", moved(u64::MAX, 5));
        access.credit("bob", moved(0, 7));
        access.credit("nobody", moved(3, 3));
        access.admit("alice");
        let mut taken = access.take_credits();
        taken.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(taken, [("alice".to_owned(), moved(u64::MAX, 5)), ("bob".to_owned(), moved(0, 7))]);
        assert!(access.take_credits().is_empty());
    }

    #[test]
    fn what_lists_say_of_one_hash_of_a_hybrid_counts_for_the_other() {
        let access = Access::open();
        let [a, b, other] = [1, 2, 3].map(|byte| InfoHash([byte; 20]));
        access.pair([(a, b)]);
        access.set_lists(Arc::new(Lists { allow: None, deny: HashSet::from([a]) }));
        assert_eq!([a, b, other].map(|hash| access.judge_lists(&hash).is_ok()), [false, false, true]);
        access.set_lists(Arc::new(Lists { allow: Some(HashSet::from([b])), deny: HashSet::new() }));
        assert_eq!([a, b, other].map(|hash| access.judge_lists(&hash).is_ok()), [true, true, false]);
    }

    #[test]
    fn a_passkey_is_found_wherever_it_stands_and_only_a_whole_one() {
        let access = Access::open();
        assert!(!access.betrays_a_passkey(b"alice1"));
        ["alice1", "bob"].into_iter().for_each(|passkey| access.admit(passkey));
        for text in ["http://t/alice1/announce", "30:http://t/a?passkey=bob&x=1", "bob", "udp://t/\0alice1\u{e9}"] {
            assert!(access.betrays_a_passkey(text.as_bytes()), "{text}");
        }
        for text in ["", "http://t/alice/announce", "http://t/alice12/announce", "xbob", "Bob", "carol"] {
            assert!(!access.betrays_a_passkey(text.as_bytes()), "{text}");
        }
    }
}
