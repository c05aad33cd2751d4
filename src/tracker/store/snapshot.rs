//! The swarms as bytes, so that they outlive a restart.
//!
//! `btfstrk1`, the time (8 bytes, seconds of Unix), then a section for each shard: its length and its CRC-32 (4 bytes
//! each), torrents. A section that says [`END`] for its length and the number of those before it ends the whole. A torrent
//! is its info-hash, three figures of 8 bytes (completed, uploaded, downloaded), four numbers of peers (IPv4 seeds,
//! leechers, IPv6 seeds, leechers) and those peers: 4 bytes of age in seconds, two figures of 8 bytes, the compact address.
//! Numbers are little-endian. What was written by another shard or with other bounds is read all the same.

use std::io::{self, Read, Write};
use std::time::Instant;

use super::swarm::{Peer, Swarm};
use super::{Shard, Store, Torrent, Totals};
use crate::base::InfoHash;

/// What came out of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restored {
    /// Torrents.
    pub torrents: usize,
    /// Their peers that are not expired yet.
    pub peers: usize,
}

/// Why a snapshot is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It begins with something else.
    #[error("it is no snapshot of a tracker, or one of another version")]
    Format,
    /// It ends early, or a part of it is not what was written.
    #[error("it is damaged")]
    Damaged,
}

impl Store {
    /// Writes everything; a shard is locked while it is copied, none while it is written.
    ///
    /// `unix_seconds` is what the clock on the wall says.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn save(&self, now: Instant, unix_seconds: u64, out: &mut impl Write) -> io::Result<()> {
        out.write_all(MAGIC)?;
        out.write_all(&unix_seconds.to_le_bytes())?;
        let now = self.seconds(now);
        let mut section = Vec::new();
        for shard in &self.shards {
            section.clear();
            write_shard(&shard.lock().expect("no shard's holder panics"), now, &mut section);
            let length = u32::try_from(section.len()).ok().filter(|&length| length != END);
            let length = length.ok_or(io::ErrorKind::FileTooLarge)?;
            out.write_all(&length.to_le_bytes())?;
            out.write_all(&crc32fast::hash(&section).to_le_bytes())?;
            out.write_all(&section)?;
        }
        out.write_all(&END.to_le_bytes())?;
        out.write_all(&(self.shards.len() as u32).to_le_bytes())
    }

    /// Takes in what [`save`](Self::save) has written, within this store's own bounds; for a store that is empty.
    ///
    /// # Errors
    /// [`SnapshotError`]; the store is empty then.
    pub fn restore(&self, now: Instant, unix_seconds: u64, input: &mut impl Read) -> Result<Restored, SnapshotError> {
        let restored = self.read(now, unix_seconds, input);
        if restored.is_err() {
            for shard in &self.shards {
                let mut shard = shard.lock().expect("no shard's holder panics");
                shard.totals = Totals::default();
                shard.torrents.clear();
            }
            self.torrents.store(0, std::sync::atomic::Ordering::Relaxed);
        }
        restored
    }

    fn read(&self, now: Instant, unix_seconds: u64, input: &mut impl Read) -> Result<Restored, SnapshotError> {
        let mut head = [0; 16];
        input.read_exact(&mut head).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => SnapshotError::Format,
            _ => error.into(),
        })?;
        let saved = head.strip_prefix(MAGIC).ok_or(SnapshotError::Format)?;
        let saved = u64::from_le_bytes(saved.try_into().expect("8 of 16 bytes are left"));
        // Whoever sets the clock back makes peers younger, not older.
        let away = u32::try_from(unix_seconds.saturating_sub(saved)).unwrap_or(u32::MAX);
        let times = Times { now: self.seconds(now), away, expiry: self.expiry() };
        let mut restored = Restored::default();
        let mut section = Vec::new();
        for sections in 0_u32.. {
            let (length, checksum) = (number(input)?, number(input)?);
            if length == END {
                let ended = checksum == sections && input.read(&mut [0])? == 0;
                return if ended { Ok(restored) } else { Err(SnapshotError::Damaged) };
            }
            section.clear();
            // I10: memory grows with what comes, not with what is claimed.
            input.take(u64::from(length)).read_to_end(&mut section)?;
            if section.len() != length as usize || crc32fast::hash(&section) != checksum {
                return Err(SnapshotError::Damaged);
            }
            let mut rest = &section[..];
            while !rest.is_empty() {
                let (info_hash, torrent) = read_torrent(&mut rest, &times, self.config.max_peers)?;
                self.adopt(info_hash, torrent, &mut restored);
            }
        }
        Err(SnapshotError::Damaged)
    }

    fn adopt(&self, info_hash: InfoHash, torrent: Torrent, restored: &mut Restored) {
        let Shard { torrents, totals, .. } = &mut *self.lock(&info_hash);
        let room = restored.torrents < self.config.max_torrents;
        if torrent.is_worthless() || !room || torrents.contains_key(&info_hash) {
            return;
        }
        totals.add(&torrent);
        restored.torrents += 1;
        restored.peers += torrent.v4.len() + torrent.v6.len();
        torrents.insert(info_hash, torrent);
        self.torrents.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// What ages a peer.
struct Times {
    now: u32,
    away: u32,
    expiry: u32,
}

fn write_shard(shard: &Shard, now: u32, out: &mut Vec<u8>) {
    for (info_hash, torrent) in &shard.torrents {
        out.extend_from_slice(info_hash.as_bytes());
        for figure in [torrent.completed, torrent.uploaded, torrent.downloaded] {
            out.extend_from_slice(&figure.to_le_bytes());
        }
        let (v4, v6) = (&torrent.v4, &torrent.v6);
        for number in [v4.seeds(), v4.len() - v4.seeds(), v6.seeds(), v6.len() - v6.seeds()] {
            out.extend_from_slice(&(number as u32).to_le_bytes());
        }
        write_peers(v4, now, out);
        write_peers(v6, now, out);
    }
}

fn write_peers<const N: usize>(swarm: &Swarm<N>, now: u32, out: &mut Vec<u8>) {
    for peer in swarm.peers() {
        out.extend_from_slice(&now.saturating_sub(peer.heard).to_le_bytes());
        out.extend_from_slice(&peer.uploaded().to_le_bytes());
        out.extend_from_slice(&peer.downloaded().to_le_bytes());
        out.extend_from_slice(&peer.addr);
    }
}

fn read_torrent(rest: &mut &[u8], times: &Times, most: usize) -> Result<(InfoHash, Torrent), SnapshotError> {
    let info_hash = InfoHash(*part(rest)?);
    let mut torrent = Torrent {
        completed: u64::from_le_bytes(*part(rest)?),
        uploaded: u64::from_le_bytes(*part(rest)?),
        downloaded: u64::from_le_bytes(*part(rest)?),
        ..Torrent::default()
    };
    let mut number = || part(rest).map(|bytes| u32::from_le_bytes(*bytes));
    let [v4_seeds, v4_leechers, v6_seeds, v6_leechers] = [number()?, number()?, number()?, number()?];
    read_peers(&mut torrent.v4, rest, [v4_seeds, v4_leechers], times, most)?;
    read_peers(&mut torrent.v6, rest, [v6_seeds, v6_leechers], times, most)?;
    Ok((info_hash, torrent))
}

fn read_peers<const N: usize>(
    swarm: &mut Swarm<N>,
    rest: &mut &[u8],
    numbers: [u32; 2],
    times: &Times,
    most: usize,
) -> Result<(), SnapshotError> {
    for (number, seed) in numbers.into_iter().zip([true, false]) {
        for _ in 0..number {
            let age = u32::from_le_bytes(*part(rest)?).saturating_add(times.away);
            let (uploaded, downloaded) = (u64::from_le_bytes(*part(rest)?), u64::from_le_bytes(*part(rest)?));
            let addr: [u8; N] = *part(rest)?;
            if age < times.expiry && swarm.len() < most {
                let _ = swarm.restore(Peer::new(addr, times.now.saturating_sub(age), uploaded, downloaded), seed);
            }
        }
    }
    Ok(())
}

fn part<'b, const N: usize>(rest: &mut &'b [u8]) -> Result<&'b [u8; N], SnapshotError> {
    let (part, behind) = rest.split_first_chunk().ok_or(SnapshotError::Damaged)?;
    *rest = behind;
    Ok(part)
}

fn number(input: &mut impl Read) -> Result<u32, SnapshotError> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::Damaged,
        _ => error.into(),
    })?;
    Ok(u32::from_le_bytes(bytes))
}

const MAGIC: &[u8; 8] = b"btfstrk1";
/// In place of a length.
const END: u32 = u32::MAX;
