//! The bounds of a cache directory, kept by all of its processes together (docs/architecture.md §6).
//!
//! Whoever writes is admitted first, against a credit that the process has drawn from the common account; where that has
//! no room, pieces go until it has. Decides how much goes and when; `victims` which, the stores how.

mod account;
mod limits;
pub(crate) mod victims;

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use self::account::{Account, Books};
pub use self::limits::{CacheLimits, CacheUsage, MinFree, Room};
use self::victims::{Candidate, choose};
use super::recency::Moment;
use super::{CacheDir, StorageError, Store, io_error, sys};
use crate::base::InfoHash;

/// Nothing of the cache may go, and it is as far above its bound as it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full {
    /// Bytes that were to be written.
    pub(crate) wanted: u64,
}

/// One process's part in keeping a cache directory within its bounds.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: CacheLimits,
    /// Bytes of what is bounded, the size or the disk: all measures below are shares of it.
    scale: u64,
    cache: CacheDir,
    account: RwLock<Arc<Account>>,
    credit: Mutex<Credit>,
    stores: Mutex<Vec<Weak<Store>>>,
    /// Stores that were not swept yet.
    unswept: Mutex<Vec<Weak<Store>>>,
    /// Held by the thread that evicts.
    evicting: Mutex<()>,
    /// Slots of nobody are not looked at before: nothing of them could go.
    orphans_again: Mutex<Option<Instant>>,
    room: AtomicU8,
    warned: AtomicBool,
    /// Who looks after it, and whether he sleeps longer, as the bounds are far.
    watch: OnceLock<Thread>,
    far: AtomicBool,
    offer: Mutex<Option<Offer>>,
}

/// What could go when it was last looked at.
#[derive(Debug)]
struct Offer {
    /// Our stores then, and their [versions](Store::candidates_version).
    versions: Vec<(InfoHash, u64)>,
    /// It is looked at anew from then on whatever the versions say.
    stale_at: Instant,
    bytes: u64,
    /// When the first to go was last used.
    coldest: Option<Moment>,
    /// A number of its own, for tests.
    #[cfg(test)]
    number: u64,
}

#[derive(Debug, Default)]
struct Credit {
    /// Bytes that may be written without asking.
    left: u64,
    /// Admitted bytes whose writes have not ended.
    in_flight: u64,
}

/// Bytes that may be written now; given back when the write has ended, as the files tell then what they take.
#[derive(Debug)]
pub(crate) struct Admitted<'b> {
    budget: &'b Budget,
    bytes: u64,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.budget.credit().in_flight -= self.bytes;
    }
}

/// What the common account came to.
#[derive(Debug, Clone, Copy)]
struct Standing {
    granted: bool,
    /// Bytes below the nearer bound; negative above it.
    room: i64,
    orphans: u64,
    others_evictable: u64,
    /// Of what others could give up, when the first was last used.
    others_coldest: Option<Moment>,
    /// What others lack, and since when.
    others_want: u64,
    others_since: Option<Moment>,
}

impl Standing {
    /// Of a cache without anything in it, and no bounds.
    const EMPTY: Self = Self {
        granted: false,
        room: i64::MAX,
        orphans: 0,
        others_evictable: 0,
        others_coldest: None,
        others_want: 0,
        others_since: None,
    };
}

impl Budget {
    /// Takes part in keeping the bounds of `cache`. A thread looks after it while this lives, four times a second or,
    /// far from the bounds, once.
    pub(crate) fn open(cache: CacheDir, limits: CacheLimits) -> Result<Arc<Self>, StorageError> {
        let (account, uncounted) = Account::open(&cache.dir()).map_err(io_error("open", cache.path()))?;
        let disk = sys::disk_space(cache.dir()).map_or(u64::MAX, |(_, total)| total);
        let budget = Arc::new(Self {
            limits,
            scale: limits.size.unwrap_or(u64::MAX).min(disk),
            cache,
            account: RwLock::new(Arc::new(account)),
            credit: Mutex::default(),
            stores: Mutex::default(),
            unswept: Mutex::default(),
            evicting: Mutex::default(),
            orphans_again: Mutex::new(None),
            room: AtomicU8::new(Room::Plenty as u8),
            warned: AtomicBool::new(false),
            watch: OnceLock::new(),
            far: AtomicBool::new(false),
            offer: Mutex::new(None),
        });
        if uncounted {
            budget.count_orphans();
        }
        budget.tick();
        let watched = Arc::downgrade(&budget);
        let watch = move || {
            while let Some(budget) = watched.upgrade() {
                budget.sweep();
                let pause = budget.tick();
                budget.far.store(pause > TICK, Ordering::Relaxed);
                drop(budget);
                std::thread::park_timeout(pause);
            }
        };
        let watch = std::thread::Builder::new().name("cache".into()).spawn(watch);
        let watch = watch.map_err(io_error("watch", budget.cache.path()))?;
        let _ = budget.watch.set(watch.thread().clone());
        Ok(budget)
    }

    /// The cache is another directory from now on, with an account of its own.
    pub(super) fn settle(&self) {
        match Account::open(&self.cache.dir()) {
            Ok((account, uncounted)) => {
                *self.account.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(account);
                if uncounted {
                    self.count_orphans();
                }
            }
            Err(error) => tracing::debug!(%error, "the account of the cache is not opened anew"),
        }
    }

    fn account(&self) -> Arc<Account> {
        Arc::clone(&self.account.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A store has been opened: its slot is no longer nobody's.
    pub(super) fn joined(&self, store: &Arc<Store>) {
        let bytes = store.allocated();
        self.with_books(|books| books.orphans = books.orphans.saturating_sub(bytes));
        lock(&self.stores).push(Arc::downgrade(store));
        lock(&self.unswept).push(Arc::downgrade(store));
        self.with_books(|_| ());
    }

    /// A store ends: what it has becomes nobody's.
    pub(super) fn left(&self, bytes: u64) {
        lock(&self.stores).retain(|store| store.strong_count() > 0);
        self.with_books(|books| books.orphans = books.orphans.saturating_add(bytes));
    }

    /// Lets `bytes` be written, making room for them first. May evict, and so wait for the disk.
    pub(super) fn admit(&self, bytes: u64) -> Result<Admitted<'_>, Full> {
        for _ in 0..TRIES {
            if self.spend(bytes) {
                return Ok(Admitted { budget: self, bytes });
            }
            if self.draw(bytes, false).granted {
                continue;
            }
            let _alone = lock(&self.evicting);
            // Whoever evicted before us may have left enough.
            let standing = self.draw(bytes, false);
            if standing.granted || self.make_room(bytes, standing) > 0 {
                continue;
            }
            if self.draw(bytes, true).granted {
                self.warn();
                continue;
            }
            if self.evict_own(bytes + self.reserve(), true) == 0 {
                break;
            }
        }
        self.room.store(Room::Scarce as u8, Ordering::Relaxed);
        Err(Full { wanted: bytes })
    }

    /// The disk itself had no room for a write; how many bytes were evicted for it.
    pub(super) fn evict_for_disk(&self, bytes: u64) -> u64 {
        let _alone = lock(&self.evicting);
        let wanted = bytes + self.reserve();
        match self.evict_orphans(wanted) {
            0 => self.evict_own(wanted, true),
            freed => freed,
        }
    }

    /// What may be fetched now.
    pub(super) fn room(&self) -> Room {
        match self.room.load(Ordering::Relaxed) {
            0 => Room::Plenty,
            1 => Room::Tight,
            _ => Room::Scarce,
        }
    }

    /// What the cache takes, and its bounds.
    pub(super) fn usage(&self) -> CacheUsage {
        let (free, total) = sys::disk_space(self.cache.dir()).unwrap_or((0, 0));
        CacheUsage {
            path: self.cache.path().to_owned(),
            used: self.with_books(|books| books.total().saturating_sub(books.credits())).unwrap_or(0),
            size: self.limits.size,
            free,
            min_free: self.limits.min_free.of(total),
            room: self.room(),
        }
    }

    /// A process's readers together may want so much ahead of them.
    pub(super) fn window_bytes(&self) -> u64 {
        (self.scale / WINDOW_SHARE / self.account().living()).max(WINDOW_MIN)
    }

    fn spend(&self, bytes: u64) -> bool {
        let mut credit = self.credit();
        let enough = credit.left >= bytes;
        if enough {
            credit.left -= bytes;
            credit.in_flight += bytes;
        }
        enough
    }

    /// Draws credit for `bytes` and some more; `beyond`: above the bounds, by as much as they may be passed.
    fn draw(&self, bytes: u64, beyond: bool) -> Standing {
        let allowance = self.allowance() as i64;
        let drawn = self.with_books(|books| {
            let mut standing = self.standing(books);
            // However full the disk is, by whomever: a window fits.
            let total = i64::try_from(books.total()).unwrap_or(i64::MAX);
            let mut credit = self.credit();
            let wanted = bytes.saturating_sub(credit.left) as i64;
            if standing.room >= wanted {
                let more = self.chunk().max(bytes) as i64;
                let drawn = more.min(standing.room) as u64;
                (credit.left, standing.granted) = (credit.left + drawn, true);
                books.own.used += drawn;
                (books.own.wanted, books.own.wanted_since) = (0, Moment::default());
            } else if beyond && standing.room.saturating_add(allowance).max(allowance - total) >= wanted {
                (credit.left, standing.granted) = (credit.left + wanted as u64, true);
                books.own.used += wanted as u64;
            } else {
                if books.own.wanted == 0 || books.own.wanted_since.age(Moment::now()) > BELIEVED {
                    books.own.wanted_since = Moment::now();
                }
                books.own.wanted = wanted.saturating_sub(standing.room).max(0) as u64 + self.reserve();
            }
            books.own.credit = credit.left;
            standing
        });
        let Some(standing) = drawn else {
            self.credit().left += bytes;
            return Standing { granted: true, ..Standing::EMPTY };
        };
        if !self.is_far(&standing) && self.far.swap(false, Ordering::Relaxed) {
            self.watch.get().inspect(|watch| watch.unpark());
        }
        standing
    }

    /// Makes room for `bytes`; how much it made. Nothing when others are to do so, who were asked to.
    fn make_room(&self, bytes: u64, standing: Standing) -> u64 {
        let needed = (bytes as i64).saturating_sub(standing.room).max(0) as u64 + self.reserve();
        if standing.orphans > 0 {
            let freed = self.evict_orphans(needed);
            if freed > 0 {
                return freed;
            }
        }
        let victims = choose(self.candidates().1, 1);
        let ours = victims.first().map(|victim| victim.used.last);
        let others_older = match (ours, standing.others_coldest) {
            (Some(ours), Some(others)) => others.0 + MUCH_OLDER < ours.0,
            _ => false,
        };
        // Until they have heard of it we go on beyond the bound a little.
        let little = (bytes as i64).saturating_sub(standing.room) < (self.allowance() / 4) as i64;
        if others_older && little { 0 } else { self.evict_own(needed, false) }
    }

    /// Looks at the account: gives what others lack if ours is the oldest, keeps a little free, says what may be fetched.
    /// When it is to be looked at again.
    fn tick(&self) -> Duration {
        if self.account().lost_somebody() {
            self.count_orphans();
        }
        let looked = self.with_books(|books| (self.standing(books), (books.own.evictable, books.own.coldest)));
        let (mut standing, told) = looked.unwrap_or((Standing::EMPTY, (0, Moment::default())));
        let reserve = self.reserve() as i64;
        let lacking = match standing.others_want {
            0 if standing.room < reserve => (2 * reserve).saturating_sub(standing.room),
            0 => 0,
            wanted => (wanted as i64).saturating_sub(standing.room),
        };
        let relieves = lacking > 0 && (standing.orphans > 0 || self.offer().0 > 0);
        if relieves {
            self.relieve(lacking as u64, standing);
        }
        let under_pressure = standing.room < 4 * reserve || standing.others_want > 0;
        let (evictable, coldest) = if under_pressure { self.offer() } else { (0, None) };
        let offered = (evictable, coldest.unwrap_or_default());
        if relieves || offered != told {
            let told = self.with_books(|books| {
                (books.own.evictable, books.own.coldest) = offered;
                self.standing(books)
            });
            standing = told.unwrap_or(Standing::EMPTY);
        }
        let free = standing.room.saturating_add(i64::try_from(standing.orphans).unwrap_or(i64::MAX));
        let could_go = evictable.saturating_add(standing.others_evictable);
        let room = if free >= 2 * reserve || (free >= reserve && self.room() == Room::Plenty) {
            Room::Plenty
        } else if free.saturating_add(i64::try_from(could_go).unwrap_or(i64::MAX)) >= reserve {
            Room::Tight
        } else {
            Room::Scarce
        };
        self.room.store(room as u8, Ordering::Relaxed);
        if self.is_far(&standing) { FAR_TICK } else { TICK }
    }

    /// The bounds are nobody's concern now.
    fn is_far(&self, standing: &Standing) -> bool {
        standing.room >= FAR * self.reserve() as i64 && standing.others_want == 0
    }

    /// The bytes that could go, and when the first of them was last used. All pieces are looked through for that, so it is
    /// done only where something has changed, or after a while.
    fn offer(&self) -> (u64, Option<Moment>) {
        let now = Instant::now();
        let stores: Vec<_> = lock(&self.stores).iter().filter_map(Weak::upgrade).collect();
        let versions: Vec<_> = stores.iter().map(|store| (store.info_hash(), store.candidates_version())).collect();
        drop(stores);
        let mut offer = lock(&self.offer);
        if let Some(known) = offer.as_ref().filter(|known| known.versions == versions && now < known.stale_at) {
            return (known.bytes, known.coldest);
        }
        let (_, candidates) = self.candidates();
        let bytes = candidates.iter().map(|candidate| candidate.bytes).sum();
        let coldest = choose(candidates, 1).first().map(|victim| victim.used.last);
        let stale_at = now + STALE.max(now.elapsed() * OFFER_REST);
        *offer = Some(Offer {
            versions,
            stale_at,
            bytes,
            coldest,
            #[cfg(test)]
            number: offer.as_ref().map_or(0, |before| before.number + 1),
        });
        (bytes, coldest)
    }

    fn relieve(&self, lacking: u64, standing: Standing) {
        // Somebody who writes is at it.
        let Ok(_alone) = self.evicting.try_lock() else { return };
        if standing.orphans > 0 && self.evict_orphans(lacking) > 0 {
            return;
        }
        let (stores, candidates) = self.candidates();
        let victims = choose(candidates, lacking);
        let Some(ours) = victims.first().map(|victim| victim.used.last) else { return };
        let oldest = standing.others_coldest.is_none_or(|others| ours <= others);
        // Whoever should have given does not, for whatever reason.
        let overdue = standing.others_since.is_some_and(|since| since.age(Moment::now()) > OVERDUE);
        if oldest || overdue {
            evict(&stores, &victims, false);
            self.with_books(|_| ());
        }
    }

    /// Evicts pieces of this process; how many bytes.
    fn evict_own(&self, bytes: u64, patient: bool) -> u64 {
        let (stores, candidates) = self.candidates();
        let freed = evict(&stores, &choose(candidates, bytes), patient);
        if freed > 0 {
            self.with_books(|_| ());
        }
        freed
    }

    /// Removes slots that nobody owns, least recently used first; how many bytes that gave.
    fn evict_orphans(&self, bytes: u64) -> u64 {
        let now = Instant::now();
        if lock(&self.orphans_again).is_some_and(|again| again > now) {
            return 0;
        }
        let freed = self.cache.remove_oldest(bytes).unwrap_or_else(|error| {
            tracing::debug!(%error, "no slot can be removed");
            0
        });
        if freed > 0 {
            tracing::info!(bytes = freed, "made room in the cache: torrents that were used longest ago went");
            self.with_books(|books| books.orphans = books.orphans.saturating_sub(freed));
        } else {
            *lock(&self.orphans_again) = Some(now + ORPHANS_AGAIN);
            self.count_orphans();
        }
        freed
    }

    /// Counts what lies in slots that nobody owns.
    fn count_orphans(&self) {
        match self.cache.unowned_bytes() {
            Ok(bytes) => drop(self.with_books(|books| books.orphans = bytes)),
            Err(error) => tracing::debug!(%error, "the cache is not counted"),
        }
    }

    fn sweep(&self) {
        for store in std::mem::take(&mut *lock(&self.unswept)) {
            let Some(store) = store.upgrade() else { continue };
            if let Err(error) = store.sweep() {
                tracing::debug!(%error, "what was begun in an earlier life is not given back");
            }
        }
    }

    /// The process's stores, and the pieces of theirs that may go.
    fn candidates(&self) -> (Vec<Arc<Store>>, Vec<Candidate>) {
        let stores: Vec<_> = lock(&self.stores).iter().filter_map(Weak::upgrade).collect();
        let (mut candidates, now) = (Vec::new(), Moment::now());
        for (number, store) in stores.iter().enumerate().filter(|(_, store)| !self.cache.is_pinned(store.info_hash())) {
            store.candidates(number, now, &mut candidates);
        }
        (stores, candidates)
    }

    /// Brings our record up to date and looks at it or changes it together with the others'.
    /// `None` when it cannot be read: the bounds do not hold then, reading does.
    fn with_books<T>(&self, with: impl FnOnce(&mut Books) -> T) -> Option<T> {
        let updated = self.account().update(|books| {
            {
                let credit = self.credit();
                // In this order: what is no longer in flight is told by the files.
                let written = credit.left + credit.in_flight;
                books.own.credit = credit.left;
                let stores: Vec<_> = lock(&self.stores).iter().filter_map(Weak::upgrade).collect();
                books.own.used = written + stores.iter().map(|store| store.allocated()).sum::<u64>();
            }
            with(books)
        });
        updated.inspect_err(|error| tracing::debug!(%error, "the account of the cache cannot be read")).ok()
    }

    fn standing(&self, books: &Books) -> Standing {
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let below_size = self.limits.size.map_or(i64::MAX, |size| signed(size).saturating_sub(signed(books.total())));
        let above_free = match sys::disk_space(self.cache.dir()) {
            Ok((free, total)) => signed(free)
                .saturating_sub(signed(self.limits.min_free.of(total)))
                .saturating_sub(signed(books.credits())),
            Err(_) => i64::MAX,
        };
        let now = Moment::now();
        let wanting = || books.others.iter().filter(|other| other.wanted > 0 && other.wanted_since.age(now) < BELIEVED);
        Standing {
            granted: false,
            room: below_size.min(above_free),
            orphans: books.orphans,
            others_evictable: books.others.iter().map(|other| other.evictable).sum(),
            others_coldest: books.others.iter().filter(|other| other.evictable > 0).map(|other| other.coldest).min(),
            others_want: wanting().map(|other| other.wanted).sum(),
            others_since: wanting().map(|other| other.wanted_since).min(),
        }
    }

    /// Credit that is drawn at once: a call of the account costs some system calls.
    fn chunk(&self) -> u64 {
        (self.scale / 128).clamp(CHUNK_MIN, CHUNK_MAX)
    }

    /// What is evicted beyond the need, so that it is not done for each write.
    fn reserve(&self) -> u64 {
        (self.scale / 32).clamp(RESERVE_MIN, RESERVE_MAX)
    }

    /// How far the bounds may be passed when nothing may go: a window, or a few pieces.
    fn allowance(&self) -> u64 {
        let stores: Vec<_> = lock(&self.stores).iter().filter_map(Weak::upgrade).collect();
        let largest = stores.iter().map(|store| u64::from(store.layout().piece_length())).max().unwrap_or(0);
        (self.scale / WINDOW_SHARE).clamp(WINDOW_MIN, WINDOW_MAX).max(ALLOWED_PIECES * largest)
    }

    fn warn(&self) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            let path = self.cache.path().display();
            tracing::warn!(
                "{path}: the cache is full of what is pinned or being read; it grows a little beyond its bound, and \
                 nothing is read ahead: give it more room with --cache-size or --cache-min-free"
            );
        }
    }

    fn credit(&self) -> MutexGuard<'_, Credit> {
        lock(&self.credit)
    }
}

/// Evicts these victims, as far as that is possible; how many bytes went.
fn evict(stores: &[Arc<Store>], victims: &[Candidate], patient: bool) -> u64 {
    let mut freed = 0;
    for (number, store) in stores.iter().enumerate() {
        let pieces: Vec<_> =
            victims.iter().filter(|victim| victim.store == number).map(|victim| victim.piece).collect();
        if pieces.is_empty() {
            continue;
        }
        match store.evict_all(&pieces, patient) {
            Ok(gone) => freed += gone.iter().map(|&piece| u64::from(store.layout().piece_bytes(piece))).sum::<u64>(),
            Err(error) => tracing::debug!(%error, "pieces cannot be evicted"),
        }
    }
    freed
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often the account is looked at: others may lack something.
const TICK: Duration = Duration::from_millis(250);
/// And where so many reserves are free; whoever comes nearer says so.
const FAR_TICK: Duration = Duration::from_secs(1);
const FAR: i64 = 16;
/// Rounds of asking and evicting before a write is refused.
const TRIES: u32 = 16;
/// What somebody lacks is believed for so long.
const BELIEVED: Duration = Duration::from_secs(5);
const OVERDUE: Duration = Duration::from_millis(800);
/// Milliseconds by which others' pieces must be older than ours to go before them.
const MUCH_OLDER: u64 = 2000;
/// What could go is looked through anew after this long, for what nobody tells of: pins of a moment, and `btfs cache unpin`.
const STALE: Duration = Duration::from_secs(5);
/// And after so many times of what the last look took: of an idle process it is a thousandth of the time.
const OFFER_REST: u32 = 1000;
const ORPHANS_AGAIN: Duration = Duration::from_secs(10);
const CHUNK_MIN: u64 = 64 << 10;
const CHUNK_MAX: u64 = 8 << 20;
const RESERVE_MIN: u64 = 128 << 10;
const RESERVE_MAX: u64 = 64 << 20;
/// All windows together: one part in so many of the cache.
const WINDOW_SHARE: u64 = 4;
const WINDOW_MIN: u64 = 256 << 10;
const WINDOW_MAX: u64 = 64 << 20;
const ALLOWED_PIECES: u64 = 4;

#[cfg(test)]
mod tests;
