//! Searching: words to torrents, filtered, ranked, a page at a time.
//!
//! The database says what fits and, of at most [`RANKED`] torrents, how well (BM25: a word in a title counts ten times one
//! in a path). Words that fit more say little about which is meant: then it counts whether they are in the title. To
//! either the health of the swarm is added, and what is equal is ordered by age, the newest first.
//!
//! BM25 counts for each word how many torrents it fits, which for a word that fits most of them costs more than the search:
//! beside rarer ones it counts nothing.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension};

use super::catalog::{Hashes, Listed, Pulse};
use super::health::Health;
use super::torrents::hashes;
use super::words::{Term, all_of, terms};
use super::{Index, IndexError, unix, unsigned};
use crate::tracker::store::Store;

/// Torrents on one page.
pub const PER_PAGE: usize = 30;

/// A longer query is none.
pub const MAX_QUERY_CHARS: usize = 256;

/// What somebody looks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Words that must all occur; nothing: everything.
    pub text: String,
    /// Bytes of content at least.
    pub min_bytes: Option<u64>,
    /// Bytes of content at most.
    pub max_bytes: Option<u64>,
    /// Added no longer ago than this.
    pub max_age: Option<Duration>,
    /// Seeds at least.
    pub min_seeds: usize,
    /// The order.
    pub sort: Sort,
    /// From 0.
    pub page: usize,
}

/// Orders of results. Each begins with the most of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sort {
    /// What fits best and is healthy; without words the newest.
    #[default]
    Best,
    /// By seeds, then leechers.
    Seeds,
    /// The newest first.
    Newest,
    /// The largest first.
    Largest,
    /// The smallest first.
    Smallest,
}

/// One page of results.
#[derive(Debug, Clone)]
pub struct Found {
    /// All that fits, on all pages.
    pub total: usize,
    /// Those of this page.
    pub hits: Vec<Hit>,
}

/// A torrent in a list.
#[derive(Debug, Clone)]
pub struct Hit {
    /// Its names.
    pub hashes: Hashes,
    /// Its name, not safe for anything as it is.
    pub title: String,
    /// Bytes of all its files.
    pub size_bytes: u64,
    /// Files and symlinks.
    pub file_count: u64,
    /// BEP 27.
    pub private: bool,
    /// Seconds since 1970.
    pub added: i64,
    /// Its swarm, now.
    pub health: Health,
    /// Its trackers, without order.
    pub trackers: Vec<String>,
}

impl Index {
    /// Searches. `store` has the swarms.
    ///
    /// # Errors
    /// [`IndexError::TooLong`] after two seconds, else the database's trouble. No query is wrong.
    pub fn search(&self, query: &Query, store: &Store, now: SystemTime) -> Result<Found, IndexError> {
        let pulse = self.pulse(store);
        self.read(|connection| {
            let mut fitting = match query.text.trim() {
                "" => Fitting::Everything,
                text => Fitting::Some(fitting(connection, &terms(text), query.sort)?),
            };
            let candidates = self.filtered(&mut fitting, query, &pulse, now);
            let total = candidates.len();
            let mut hits = Vec::with_capacity(PER_PAGE);
            for id in ranked(&candidates, query, &pulse) {
                hits.extend(hit(connection, id, store)?);
            }
            Ok(Found { total, hits })
        })
    }

    /// Seeds, leechers and completed downloads of everything that is listed, together; at most some seconds old.
    pub fn summary(&self, store: &Store) -> Health {
        self.pulse(store).iter().fold(Health::default(), |sum, (_, health)| sum + health)
    }

    pub(super) fn pulse(&self, store: &Store) -> Pulse {
        self.catalog(|catalog| catalog.pulse()).unwrap_or_else(|| {
            let pulse = self.catalog(|catalog| catalog.measure(store));
            self.change_catalog(|catalog| catalog.set_pulse(pulse.clone()));
            pulse
        })
    }

    fn filtered(&self, fitting: &mut Fitting, query: &Query, pulse: &Pulse, now: SystemTime) -> Vec<Candidate> {
        let oldest = query.max_age.map_or(i64::MIN, |age| unix(now).saturating_sub(age.as_secs() as i64));
        let wanted = |torrent: &Listed| {
            torrent.added >= oldest
                && query.min_bytes.is_none_or(|least| torrent.size_bytes >= least)
                && query.max_bytes.is_none_or(|most| torrent.size_bytes <= most)
                && (query.min_seeds == 0 || pulse.of(torrent.id).seeds >= query.min_seeds)
        };
        let candidate = |torrent: &Listed, relevance| Candidate {
            id: torrent.id,
            size_bytes: torrent.size_bytes,
            added: torrent.added,
            relevance,
        };
        self.catalog(|catalog| match fitting {
            Fitting::Everything => {
                catalog.all().iter().filter(|torrent| wanted(torrent)).map(|torrent| candidate(torrent, 0.0)).collect()
            }
            Fitting::Some(some) => catalog
                .among(some.drain(..))
                .filter(|(torrent, _)| wanted(torrent))
                .map(|(torrent, relevance)| candidate(torrent, relevance))
                .collect(),
        })
    }
}

/// What the words leave.
enum Fitting {
    Everything,
    Some(Vec<Fit>),
}

/// An id, and its relevance from 0 to 1.
type Fit = (i64, f64);

struct Candidate {
    id: i64,
    size_bytes: u64,
    added: i64,
    relevance: f64,
}

/// Ids ascend.
fn fitting(connection: &Connection, terms: &[Term], sort: Sort) -> Result<Vec<Fit>, IndexError> {
    if terms.is_empty() {
        return Ok(Vec::new());
    }
    // First without ranks: BM25 looks at all that fits before it gives one.
    let all = rows(connection, &anywhere(terms))?;
    if sort != Sort::Best {
        return Ok(all.into_iter().map(|id| (id, 0.0)).collect());
    }
    if all.len() <= RANKED
        && let Some(found) = by_words(connection, terms, &all)?
    {
        return Ok(found);
    }
    let mut titles =
        rows(connection, &all_of(terms.iter().map(|term| term.in_titles.as_str())))?.into_iter().peekable();
    // Both ascend.
    let mut relevance = |id: i64| {
        while titles.next_if(|&title| title < id).is_some() {}
        if titles.next_if_eq(&id).is_some() { 1.0 } else { 0.3 }
    };
    Ok(all.into_iter().map(|id| (id, relevance(id))).collect())
}

/// The relevance of these, which fit, by BM25; `None`: the words say too little.
fn by_words(connection: &Connection, terms: &[Term], all: &[i64]) -> Result<Option<Vec<Fit>>, IndexError> {
    let mut telling = Vec::new();
    for term in terms {
        if terms.len() == 1 || !fits_more(connection, &term.anywhere, COMMON)? {
            telling.push(term);
        }
    }
    let expression = anywhere(telling.iter().copied());
    // All of them together fit no more than all words do.
    if telling.is_empty() || telling.len() < terms.len() && fits_more(connection, &expression, 2 * RANKED)? {
        return Ok(None);
    }
    // The columns: title, parts, paths, comment.
    let sql = "SELECT rowid, bm25(texts, 10.0, 2.0, 1.0, 1.0) FROM texts WHERE texts MATCH ? ORDER BY rowid";
    let mut statement = connection.prepare_cached(sql)?;
    let mut found: Vec<Fit> =
        statement.query_map([expression], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    found.retain(|(id, _)| all.binary_search(id).is_ok());
    // BM25 of SQLite is below zero, the best lowest.
    let best = found.iter().fold(0.0, |best: f64, &(_, rank)| best.min(rank));
    found.iter_mut().for_each(|(_, rank)| *rank = if best < 0.0 { *rank / best } else { 0.0 });
    Ok(Some(found))
}

fn anywhere<'a>(terms: impl IntoIterator<Item = &'a Term>) -> String {
    all_of(terms.into_iter().map(|term| term.anywhere.as_str()))
}

/// Whether more torrents than these fit; without looking at all of them.
fn fits_more(connection: &Connection, expression: &str, than: usize) -> Result<bool, IndexError> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM texts WHERE texts MATCH ? LIMIT ?)";
    let count: i64 = connection.prepare_cached(sql)?.query_row((expression, than as i64 + 1), |row| row.get(0))?;
    Ok(count > than as i64)
}

/// Ids of all that fits, ascending.
fn rows(connection: &Connection, expression: &str) -> Result<Vec<i64>, IndexError> {
    let sql = "SELECT rowid FROM texts WHERE texts MATCH ? ORDER BY rowid";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_map([expression], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// The ids of the page that is asked for, the first the best.
fn ranked(candidates: &[Candidate], query: &Query, pulse: &Pulse) -> Vec<i64> {
    let sort = match query.sort {
        Sort::Best if query.text.trim().is_empty() => Sort::Newest,
        sort => sort,
    };
    let page = |key: &dyn Fn(&Candidate) -> Key| page_of(candidates.iter().map(key).collect(), query.page);
    match sort {
        Sort::Best => page(&|candidate| {
            // Between 0 and 2: as many steps as a key may have are more than enough.
            let score = score(candidate.relevance, pulse.of(candidate.id)) * SCORE_STEPS;
            (score as u64, 0, candidate.id)
        }),
        Sort::Seeds => page(&|candidate| {
            let health = pulse.of(candidate.id);
            (health.seeds as u64, health.leechers as u64, candidate.id)
        }),
        Sort::Newest => page(&|candidate| (candidate.added.max(0) as u64, 0, candidate.id)),
        Sort::Largest => page(&|candidate| (candidate.size_bytes, 0, candidate.id)),
        Sort::Smallest => page(&|candidate| (u64::MAX - candidate.size_bytes, 0, candidate.id)),
    }
}

/// What is wanted most is largest; what is equal comes newest first, by its id.
type Key = (u64, u64, i64);

/// Only as much as is shown is put in order: of 100,000 candidates a page has 30.
fn page_of(mut keys: Vec<Key>, page: usize) -> Vec<i64> {
    let first = page.saturating_mul(PER_PAGE);
    if first >= keys.len() {
        return Vec::new();
    }
    let largest = |a: &Key, b: &Key| b.cmp(a);
    if first > 0 {
        keys.select_nth_unstable_by(first, largest);
    }
    let rest = &mut keys[first..];
    if rest.len() > PER_PAGE {
        rest.select_nth_unstable_by(PER_PAGE - 1, largest);
    }
    let many = rest.len().min(PER_PAGE);
    let shown = &mut rest[..many];
    shown.sort_unstable_by(largest);
    shown.iter().map(|&(.., id)| id).collect()
}

/// A thousand seeds weigh as much as the difference between a title and a path; the first seed weighs most.
fn score(relevance: f64, health: Health) -> f64 {
    let seeds = (1.0 + health.seeds as f64).log2().min(10.0) / 10.0;
    let alive = if health.seeds > 0 { 0.15 } else { 0.0 };
    relevance + 0.5 * seeds + alive
}

fn hit(connection: &Connection, id: i64, store: &Store) -> Result<Option<Hit>, IndexError> {
    let sql = "SELECT hash_v1, hash_v2, title, size_bytes, file_count, private, added FROM torrents WHERE id = ?";
    let found = connection.prepare_cached(sql)?.query_row([id], |row| {
        let hashes = hashes(row, 0)?;
        Ok(Hit {
            hashes,
            title: row.get(2)?,
            size_bytes: unsigned(row.get(3)?),
            file_count: unsigned(row.get(4)?),
            private: row.get(5)?,
            added: row.get(6)?,
            health: hashes.health(store),
            trackers: Vec::new(),
        })
    });
    // Removed meanwhile, perhaps.
    let Some(mut hit) = found.optional()? else { return Ok(None) };
    let mut sources =
        connection.prepare_cached("SELECT url FROM sources WHERE torrent = ? AND web = 0 ORDER BY url")?;
    hit.trackers = sources.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(Some(hit))
}

/// Relevance is computed for so many torrents at most; for 100,000 it would take a third of a second.
const RANKED: usize = 1000;
/// A word that fits more torrents than this says little where others fit fewer; to count them is what costs.
const COMMON: usize = 20_000;
/// Of a score, which is below 2: finer than what can be told apart.
const SCORE_STEPS: f64 = 1e15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_it_would_be_of_all_in_order() {
        let mut rng = fastrand::Rng::with_seed(7);
        for many in [0, 1, PER_PAGE - 1, PER_PAGE, PER_PAGE + 1, 3 * PER_PAGE, 1000] {
            let keys: Vec<Key> = (0..many as i64).map(|id| (rng.u64(..5), rng.u64(..3), id)).collect();
            let mut sorted = keys.clone();
            sorted.sort_by(|a, b| b.cmp(a));
            let all: Vec<_> = sorted.iter().map(|&(.., id)| id).collect();
            for page in 0..many / PER_PAGE + 2 {
                let expected: Vec<_> = all.iter().copied().skip(page * PER_PAGE).take(PER_PAGE).collect();
                assert_eq!(page_of(keys.clone(), page), expected, "page {page} of {many}");
            }
        }
        assert!(page_of(vec![(1, 1, 1)], usize::MAX).is_empty());
    }
}
