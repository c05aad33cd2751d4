//! Seeds and leechers over time, for charts.
//!
//! A row is written where figures changed, so a swarm at rest costs nothing. Rows are thinned out with age: all of a day,
//! one an hour for a week, one in six hours for a month, none later. So a torrent has about 400 at most.
//!
//! Age is counted by a clock of its own, since what is thinned out does not come back: it follows the machine's at once
//! where that goes on or back, but a jump forward only after it has lasted for three days of samples.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, params};

use super::catalog::Pulse;
use super::health::Health;
use super::{Index, IndexError, unix, unsigned};
use crate::tracker::store::Store;

/// The time between two calls of [`Index::sample`].
pub const SAMPLE_EVERY: Duration = Duration::from_secs(600);

/// Figures of one swarm at one time; they hold until the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Seconds since 1970.
    pub time: i64,
    /// Peers that had everything.
    pub seeds: u64,
    /// Peers that lacked something.
    pub leechers: u64,
}

/// Figures of the whole tracker at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// Seconds since 1970.
    pub time: i64,
    /// Torrents with peers.
    pub torrents: u64,
    /// Seeds of torrents that are listed.
    pub seeds: u64,
    /// Leechers of torrents that are listed.
    pub leechers: u64,
    /// Torrents in the index.
    pub listed: u64,
}

impl Index {
    /// Writes down how things are; to be called every [`SAMPLE_EVERY`] or so.
    ///
    /// # Errors
    /// The database's trouble.
    pub fn sample(&self, store: &Store, now: SystemTime) -> Result<(), IndexError> {
        let pulse = self.pulse(store);
        let (time, summary) = (unix(now), self.summary(store));
        let (torrents, listed) = (store.torrent_count() as i64, self.len() as i64);
        let clock = self.write(move |connection| {
            let sql = "INSERT OR REPLACE INTO totals (time, torrents, seeds, leechers, listed) VALUES (?, ?, ?, ?, ?)";
            let (seeds, leechers) = (summary.seeds as i64, summary.leechers as i64);
            connection.execute(sql, params![time, torrents, seeds, leechers, listed])?;
            let clock = tick(connection, time)?;
            thin(connection, "totals", "1", clock, TOTALS_AGES, (0, i64::MAX))?;
            Ok(clock)
        })?;
        let mut changed = self.changed(&pulse)?;
        changed.sort_unstable_by_key(|&(id, _)| id);
        // In small transactions: an upload waits for one of them, not for all.
        for some in changed.chunks(ROWS_TOGETHER) {
            let some = some.to_vec();
            let outcome = self.write(move |connection| write_samples(connection, &some, time));
            if outcome.is_err() {
                // What counts is what the database has.
                *self.shared.written.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
            outcome?;
        }
        let (first, last) =
            self.catalog(|catalog| (catalog.all().first().map(|t| t.id), catalog.all().last().map(|t| t.id)));
        let mut from = first.unwrap_or(0);
        // One of so many parts of all torrents at a time: each has its turn within hours.
        let part = (time / 600).rem_euclid(PARTS);
        while from <= last.unwrap_or(-1) {
            let to = from + TORRENTS_TOGETHER;
            if (from / TORRENTS_TOGETHER).rem_euclid(PARTS) == part {
                self.write(move |connection| thin(connection, "history", "torrent", clock, AGES, (from, to)))?;
            }
            from = to;
        }
        Ok(())
    }

    /// What is known of a torrent since `from` (seconds since 1970), the oldest first, the first perhaps older.
    ///
    /// # Errors
    /// The database's trouble.
    pub fn history(&self, id: i64, from: i64) -> Result<Vec<Sample>, IndexError> {
        self.read(|connection| {
            let sql = "SELECT time, seeds, leechers FROM history WHERE torrent = ?1 AND time >= ifnull(
                           (SELECT max(time) FROM history WHERE torrent = ?1 AND time <= ?2), ?2) ORDER BY time";
            let mut statement = connection.prepare_cached(sql)?;
            let sample = |row: &rusqlite::Row<'_>| {
                Ok(Sample { time: row.get(0)?, seeds: unsigned(row.get(1)?), leechers: unsigned(row.get(2)?) })
            };
            Ok(statement.query_map((id, from), sample)?.collect::<Result<_, _>>()?)
        })
    }

    /// The tracker's figures since `from`, the oldest first.
    ///
    /// # Errors
    /// The database's trouble.
    pub fn totals(&self, from: i64) -> Result<Vec<Total>, IndexError> {
        self.read(|connection| {
            let sql = "SELECT time, torrents, seeds, leechers, listed FROM totals WHERE time >= ? ORDER BY time";
            let total = |row: &rusqlite::Row<'_>| {
                Ok(Total {
                    time: row.get(0)?,
                    torrents: unsigned(row.get(1)?),
                    seeds: unsigned(row.get(2)?),
                    leechers: unsigned(row.get(3)?),
                    listed: unsigned(row.get(4)?),
                })
            };
            Ok(connection.prepare_cached(sql)?.query_map([from], total)?.collect::<Result<_, _>>()?)
        })
    }

    /// Swarms whose figures are others than those written last.
    fn changed(&self, pulse: &Pulse) -> Result<Vec<(i64, Figures)>, IndexError> {
        let mut written = self.shared.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.is_none() {
            // Once in the life of the process. By the thread that writes: readers are bound to be quick.
            *written = Some(self.write(last_samples)?);
        }
        let known = written.get_or_insert_default();
        let now = |health: Health| (health.seeds as u64, health.leechers as u64);
        let mut changed: Vec<_> = pulse.iter().map(|(id, health)| (id, now(health))).collect();
        changed.extend(known.keys().filter(|&&id| pulse.of(id) == Health::default()).map(|&id| (id, (0, 0))));
        changed.retain(|(id, figures)| known.get(id).copied().unwrap_or_default() != *figures);
        for &(id, figures) in &changed {
            known.insert(id, figures);
        }
        known.retain(|_, figures| *figures != (0, 0));
        Ok(changed)
    }
}

/// Seeds and leechers.
pub(super) type Figures = (u64, u64);

fn last_samples(connection: &Connection) -> Result<HashMap<i64, Figures>, IndexError> {
    let sql = "SELECT id, seeds, leechers FROM torrents JOIN history ON torrent = id
               WHERE time = (SELECT max(time) FROM history WHERE torrent = id)";
    let last = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, (unsigned(row.get(1)?), unsigned(row.get(2)?))));
    Ok(connection.prepare(sql)?.query_map([], last)?.collect::<Result<_, _>>()?)
}

fn write_samples(connection: &Connection, samples: &[(i64, Figures)], time: i64) -> Result<(), IndexError> {
    // The torrent may be gone by now.
    let sql = "INSERT OR REPLACE INTO history (torrent, time, seeds, leechers)
               SELECT id, ?2, ?3, ?4 FROM torrents WHERE id = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    for &(id, (seeds, leechers)) in samples {
        statement.execute(params![id, time, seeds as i64, leechers as i64])?;
    }
    Ok(())
}

/// The time by which rows have their age, and for how many samples the machine's has been far ahead of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Clock {
    time: i64,
    ahead: i64,
}

impl Clock {
    /// What it shows at the next sample, where the machine's shows `now`.
    fn after(known: Option<Self>, now: i64) -> Self {
        match known {
            Some(Self { time, ahead }) if now > time.saturating_add(JUMP) && ahead < BELIEVED => {
                Self { time: time + SAMPLE_EVERY.as_secs() as i64, ahead: ahead + 1 }
            }
            _ => Self { time: now, ahead: 0 },
        }
    }
}

fn tick(connection: &Connection, now: i64) -> Result<i64, IndexError> {
    let row = |row: &rusqlite::Row<'_>| Ok(Clock { time: row.get(0)?, ahead: row.get(1)? });
    let known = connection.query_row("SELECT clock, ahead FROM thinning", [], row).optional()?;
    let Clock { time, ahead } = Clock::after(known, now);
    connection.execute("DELETE FROM thinning", [])?;
    connection.execute("INSERT INTO thinning (clock, ahead) VALUES (?, ?)", params![time, ahead])?;
    Ok(time)
}

/// Keeps the first row of each `step` seconds of what is older than `age`, for each pair of `ages`; a step of 0 keeps only
/// the last row, which holds until today if nothing has changed since.
fn thin(
    connection: &Connection,
    table: &str,
    key: &str,
    now: i64,
    ages: &[(i64, i64)],
    (from, to): (i64, i64),
) -> Result<(), IndexError> {
    let keyed = format!("{key} >= ?1 AND {key} < ?2 AND time < ?3");
    let same = if key == "1" { String::new() } else { format!("other.{key} = {table}.{key} AND ") };
    for &(age, step) in ages {
        let old = now - age;
        if step == 0 {
            let sql = format!(
                "DELETE FROM {table} WHERE {keyed} AND EXISTS (SELECT 1 FROM {table} AS other
                 WHERE {same} other.time > {table}.time AND other.time < ?3)"
            );
            connection.execute(&sql, params![from, to, old])?;
        } else {
            let sql = format!(
                "DELETE FROM {table} WHERE {keyed} AND EXISTS (SELECT 1 FROM {table} AS other
                 WHERE {same} other.time >= {table}.time - {table}.time % ?4 AND other.time < {table}.time)"
            );
            connection.execute(&sql, params![from, to, old, step])?;
        }
    }
    Ok(())
}

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// From which age on, one row in how many seconds.
const AGES: &[(i64, i64)] = &[(30 * DAY, 0), (7 * DAY, 6 * HOUR), (DAY, HOUR)];
/// The whole tracker has one row at a time: a year of it is little.
const TOTALS_AGES: &[(i64, i64)] = &[(365 * DAY, 0), (30 * DAY, 6 * HOUR), (2 * DAY, HOUR)];
/// Further ahead than this the machine's clock has jumped, or the tracker has not been running.
const JUMP: i64 = HOUR;
/// Samples of three days.
const BELIEVED: i64 = 3 * DAY / SAMPLE_EVERY.as_secs() as i64;
const ROWS_TOGETHER: usize = 1000;
const TORRENTS_TOGETHER: i64 = 500;
const PARTS: i64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_forward_is_believed_after_three_days() {
        let start = 1000 * DAY;
        let mut clock = Clock::after(None, start);
        assert_eq!(clock.time, start);
        clock = Clock::after(Some(clock), start + 700);
        assert_eq!(clock.time, start + 700, "it goes on");
        for sample in 1..=3 * 144 {
            clock = Clock::after(Some(clock), start + 365 * DAY + 600 * sample);
            assert_eq!(clock.time, start + 700 + 600 * sample);
        }
        assert_eq!(Clock::after(Some(clock), start + 368 * DAY).time, start + 368 * DAY);
        let back = Clock::after(Some(clock), start + 3 * DAY);
        assert_eq!(back, Clock { time: start + 3 * DAY, ahead: 0 }, "what was right all the time");
        assert_eq!(Clock::after(Some(back), start).time, start);
        assert_eq!(Clock::after(Some(back), i64::MAX).ahead, 1);
    }
}
