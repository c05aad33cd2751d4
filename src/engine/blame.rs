//! Who sent the blocks of pieces that failed their hash, and who of them lied.
//!
//! A failed piece is kept as digests of its blocks and their senders. When a later attempt matches, the blocks that
//! differ name the liars; nobody else is harmed. Whoever sent a whole bad piece alone needs no comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::PeerKey;
use crate::base::PieceIndex;

/// A peer that sent a block, wherever it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sender {
    pub key: PeerKey,
    pub addr: SocketAddr,
}

#[derive(Debug)]
struct Failure {
    digests: Vec<[u8; 20]>,
    senders: Vec<Option<Sender>>,
}

/// What is known of failed pieces.
#[derive(Debug, Default)]
pub(crate) struct Blame {
    failures: BTreeMap<PieceIndex, Vec<Failure>>,
    /// How often a failed piece was entrusted to a peer alone.
    paroles: BTreeMap<PieceIndex, BTreeMap<PeerKey, u32>>,
    kept_blocks: usize,
    /// Bad pieces sent, by address: alone, or proven of somebody we cannot do without.
    strikes: BTreeMap<SocketAddr, u32>,
}

impl Blame {
    /// A piece failed; the peer to be banned at once, if one has sent too many bad pieces alone.
    pub(crate) fn failed(
        &mut self,
        piece: PieceIndex,
        digests: Vec<[u8; 20]>,
        senders: Vec<Option<Sender>>,
    ) -> Option<Sender> {
        let all: BTreeSet<_> = senders.iter().flatten().copied().collect();
        let blocks = digests.len().min(senders.len());
        if blocks > 0 && self.kept_blocks + blocks <= KEPT_BLOCKS_MAX {
            self.kept_blocks += blocks;
            self.failures.entry(piece).or_default().push(Failure { digests, senders });
        } else {
            self.failures.entry(piece).or_default();
        }
        let sole = all.first().copied().filter(|_| all.len() == 1)?;
        self.strike(sole.addr).then_some(sole)
    }

    /// Counts a bad piece against an address; true when it is one too many.
    pub(crate) fn strike(&mut self, addr: SocketAddr) -> bool {
        if self.strikes.len() >= STRIKES_MAX {
            self.strikes.clear();
        }
        let strikes = self.strikes.entry(addr).or_default();
        *strikes += 1;
        *strikes >= STRIKES_TO_BAN
    }

    /// Whether the piece has failed and was not seen to match since.
    pub(crate) fn is_doubtful(&self, piece: PieceIndex) -> bool {
        self.failures.contains_key(&piece)
    }

    /// The pieces that have failed and were not seen to match since.
    pub(crate) fn doubtful(&self) -> Vec<PieceIndex> {
        self.failures.keys().copied().collect()
    }

    /// Notes that a peer is to fetch a failed piece alone.
    pub(crate) fn entrusted(&mut self, piece: PieceIndex, peer: PeerKey) {
        *self.paroles.entry(piece).or_default().entry(peer).or_default() += 1;
    }

    /// How little this peer is to be trusted with a failed piece: how often it tried alone, in how many failed attempts
    /// it took part.
    pub(crate) fn suspicion(&self, piece: PieceIndex, peer: PeerKey) -> (u32, usize) {
        let tries = self.paroles.get(&piece).and_then(|tries| tries.get(&peer)).copied().unwrap_or(0);
        let failures = self.failures.get(&piece).into_iter().flatten();
        let took_part = |failure: &&Failure| failure.senders.iter().flatten().any(|sender| sender.key == peer);
        (tries, failures.filter(took_part).count())
    }

    /// Whether digests of the piece that matched would name somebody.
    pub(crate) fn wants_digests(&self, piece: PieceIndex) -> bool {
        self.failures.get(&piece).is_some_and(|failures| !failures.is_empty())
    }

    /// The right digests of a piece: everybody whose block differs, in order. Forgets the failures.
    pub(crate) fn settle(&mut self, piece: PieceIndex, right: &[[u8; 20]]) -> Vec<Sender> {
        let mut liars = BTreeSet::new();
        self.paroles.remove(&piece);
        for failure in self.failures.remove(&piece).into_iter().flatten() {
            self.kept_blocks -= failure.digests.len().min(failure.senders.len());
            let blocks = failure.digests.iter().zip(&failure.senders).zip(right);
            liars.extend(blocks.filter(|((sent, _), right)| sent != right).filter_map(|((_, sender), _)| *sender));
        }
        liars.into_iter().collect()
    }
}

/// I7: block digests kept for comparison, some 3 MiB.
const KEPT_BLOCKS_MAX: usize = 64 * 1024;
const STRIKES_MAX: usize = 4096;
const STRIKES_TO_BAN: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(name: u8) -> Sender {
        Sender { key: PeerKey(name.into()), addr: SocketAddr::from(([127, 0, 0, name], 6881)) }
    }

    /// One character a block: its content; one character a block: its sender.
    fn fail(blame: &mut Blame, content: &str, senders: &str) -> Option<Sender> {
        let senders = senders.bytes().map(|name| Some(sender(name))).collect();
        blame.failed(PieceIndex(0), digests(content), senders)
    }

    fn digests(content: &str) -> Vec<[u8; 20]> {
        content.bytes().map(|byte| [byte; 20]).collect()
    }

    #[test]
    fn only_senders_of_differing_blocks_are_named() {
        let mut blame = Blame::default();
        assert_eq!(fail(&mut blame, "gXgg", "ABCA"), None);
        assert_eq!(fail(&mut blame, "gggY", "CCBD"), None);
        assert!(blame.is_doubtful(PieceIndex(0)));
        blame.entrusted(PieceIndex(0), sender(b'D').key);
        let suspicion = |name| blame.suspicion(PieceIndex(0), sender(name).key);
        assert_eq!([suspicion(b'B'), suspicion(b'D'), suspicion(b'E')], [(0, 2), (1, 1), (0, 0)]);
        assert_eq!(blame.settle(PieceIndex(0), &digests("gggg")), [sender(b'B'), sender(b'D')]);
        assert!(!blame.is_doubtful(PieceIndex(0)));
        assert_eq!(blame.kept_blocks, 0);
    }

    #[test]
    fn the_sole_sender_is_named_at_the_third_bad_piece() {
        let mut blame = Blame::default();
        assert_eq!([(); 3].map(|()| fail(&mut blame, "XX", "AA")), [None, None, Some(sender(b'A'))]);
        assert_eq!([(); 5].map(|()| fail(&mut blame, "XX", "BC")), [None; 5]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut blame = Blame::default();
        for _ in 0..100 {
            blame.failed(PieceIndex(1), vec![[0; 20]; 4096], vec![Some(sender(1)); 4096]);
        }
        assert!(blame.kept_blocks <= KEPT_BLOCKS_MAX && blame.is_doubtful(PieceIndex(1)));
    }
}
