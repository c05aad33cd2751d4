//! SHA-1 (RFC 3174) of several messages at once.
//!
//! One message keeps a core's SHA unit busy for two thirds of the time at most: each step waits for the one before. Steps of
//! others fill the gaps, so that four pieces take little longer than two. A message alone, and every other machine, goes
//! by the `sha1` crate.

use sha1::block_api::compress;

/// A SHA-1 under way.
#[derive(Debug, Clone)]
pub(crate) struct Sha1 {
    state: State,
    /// Bytes taken so far.
    length: u64,
    /// Those that do not make a block yet: the first `length % 64`.
    rest: Block,
}

type State = [u32; 5];
type Block = [u8; 64];

/// How many messages go at a time: more would not fit into the registers.
pub(crate) const TOGETHER: usize = 4;

/// Whether several take less time together than one after the other.
pub(crate) fn gains_together() -> bool {
    #[cfg(target_arch = "x86_64")]
    let gains =
        is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1");
    #[cfg(not(target_arch = "x86_64"))]
    let gains = false;
    gains
}

impl Sha1 {
    pub(crate) fn new() -> Self {
        Self { state: FIRST, length: 0, rest: [0; 64] }
    }

    /// Takes more bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        let (blocks, rest) = self.complete_rest(bytes).as_chunks();
        compress(&mut self.state, blocks);
        self.keep(blocks.len(), rest);
    }

    /// The digest of all that was taken.
    pub(crate) fn finish(mut self) -> [u8; 20] {
        let bits = self.length.wrapping_mul(8);
        // A one, then zeros until the length fits behind them.
        let used = (self.length % 64) as usize;
        let padding = if used < 56 { 56 - used } else { 120 - used };
        self.update(&PADDING[..padding]);
        self.update(&bits.to_be_bytes());
        let mut digest = [0; 20];
        for (to, word) in digest.chunks_exact_mut(4).zip(self.state) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }

    /// Takes what fills the block that was begun, if one was; what is left of `bytes` begins at a block, or is nothing.
    fn complete_rest<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let used = (self.length % 64) as usize;
        if used == 0 {
            return bytes;
        }
        let (head, bytes) = bytes.split_at(bytes.len().min(64 - used));
        self.rest[used..used + head.len()].copy_from_slice(head);
        self.length += head.len() as u64;
        if used + head.len() == 64 {
            compress(&mut self.state, &[self.rest]);
        }
        bytes
    }

    /// Counts blocks that went into the state, and keeps what came behind them.
    fn keep(&mut self, blocks: usize, rest: &[u8]) {
        self.length += (blocks * 64 + rest.len()) as u64;
        self.rest[..rest.len()].copy_from_slice(rest);
    }
}

/// The digest of each of these messages.
pub(crate) fn digests<'b>(messages: impl IntoIterator<Item = &'b [u8]>) -> Vec<[u8; 20]> {
    let messages: Vec<&[u8]> = messages.into_iter().collect();
    let mut hashes = vec![Sha1::new(); messages.len()];
    update_together(hashes.iter_mut().zip(messages));
    hashes.into_iter().map(Sha1::finish).collect()
}

/// Takes more bytes for each of several messages.
pub(crate) fn update_together<'h, 'b>(messages: impl IntoIterator<Item = (&'h mut Sha1, &'b [u8])>) {
    let mut under_way: Vec<UnderWay<'h, 'b>> = messages
        .into_iter()
        .map(|(hash, bytes)| {
            let (blocks, rest) = hash.complete_rest(bytes).as_chunks();
            hash.keep(blocks.len(), rest);
            UnderWay { state: &mut hash.state, blocks }
        })
        .collect();
    loop {
        under_way.retain(|one| !one.blocks.is_empty());
        match &mut under_way[..] {
            [] => return,
            [one] => compress(one.state, std::mem::take(&mut one.blocks)),
            [a, b, c, d, ..] => interleave([a, b, c, d]),
            [a, b, c] => interleave([a, b, c]),
            [a, b] => interleave([a, b]),
        }
    }
}

/// A message and the blocks that it is to take.
struct UnderWay<'h, 'b> {
    state: &'h mut State,
    blocks: &'b [Block],
}

/// Has each take as many blocks as the one takes that has the fewest.
fn interleave<const N: usize>(messages: [&mut UnderWay<'_, '_>; N]) {
    let count = messages.iter().map(|one| one.blocks.len()).min().unwrap_or(0);
    let mut states = messages.each_ref().map(|one| *one.state);
    let blocks = messages.each_ref().map(|one| &one.blocks[..count]);
    compress_all(&mut states, blocks);
    for (one, state) in messages.into_iter().zip(states) {
        *one.state = state;
        one.blocks = &one.blocks[count..];
    }
}

/// As `compress` for each message; all have equally many blocks.
fn compress_all<const N: usize>(states: &mut [State; N], blocks: [&[Block]; N]) {
    #[cfg(target_arch = "x86_64")]
    if gains_together() {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { x86::compress_all(states, blocks) };
    }
    states.iter_mut().zip(blocks).for_each(|(state, blocks)| compress(state, blocks));
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Block, State};

    /// By the SHA instructions (Intel SDM 2, `SHA1RNDS4` and its neighbours), four rounds at a time, each for every message.
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    pub(super) fn compress_all<const N: usize>(states: &mut [State; N], blocks: [&[Block]; N]) {
        let zero = [_mm_setzero_si128(); N];
        // Four words of a state with the first on top, and its fifth alone.
        let (mut abcd, mut e) = (zero, zero);
        for (at, &[a, b, c, d, last]) in states.iter().enumerate() {
            abcd[at] = _mm_set_epi32(a as i32, b as i32, c as i32, d as i32);
            e[at] = _mm_set_epi32(last as i32, 0, 0, 0);
        }
        for number in 0..blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0) {
            let (abcd_before, e_before) = (abcd, e);
            // The last 16 words of the schedule, four in each; and `abcd` as it was four rounds ago.
            let (mut words, mut earlier) = ([zero; 4], zero);
            for (at, blocks) in blocks.iter().enumerate() {
                for (group, bytes) in blocks[number].as_chunks::<16>().0.iter().enumerate() {
                    words[group][at] = load(bytes);
                }
            }
            macro_rules! rounds {
                ($function:literal: $($group:literal)*) => { $(
                    for at in 0..N {
                        let word = if $group < 4 {
                            words[$group % 4][at]
                        } else {
                            let mixed = _mm_sha1msg1_epu32(words[$group % 4][at], words[($group + 1) % 4][at]);
                            let mixed = _mm_xor_si128(mixed, words[($group + 2) % 4][at]);
                            _mm_sha1msg2_epu32(mixed, words[($group + 3) % 4][at])
                        };
                        words[$group % 4][at] = word;
                        let with_e = if $group == 0 { _mm_add_epi32(e[at], word) } else { _mm_sha1nexte_epu32(earlier[at], word) };
                        earlier[at] = abcd[at];
                        abcd[at] = _mm_sha1rnds4_epu32::<$function>(abcd[at], with_e);
                    }
                )* };
            }
            rounds!(0: 0 1 2 3 4);
            rounds!(1: 5 6 7 8 9);
            rounds!(2: 10 11 12 13 14);
            rounds!(3: 15 16 17 18 19);
            for at in 0..N {
                e[at] = _mm_sha1nexte_epu32(earlier[at], e_before[at]);
                abcd[at] = _mm_add_epi32(abcd[at], abcd_before[at]);
            }
        }
        for (at, state) in states.iter_mut().enumerate() {
            *state = [
                _mm_extract_epi32::<3>(abcd[at]) as u32,
                _mm_extract_epi32::<2>(abcd[at]) as u32,
                _mm_extract_epi32::<1>(abcd[at]) as u32,
                _mm_extract_epi32::<0>(abcd[at]) as u32,
                _mm_extract_epi32::<3>(e[at]) as u32,
            ];
        }
    }

    /// Four words, the first of them on top.
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn load(bytes: &[u8; 16]) -> __m128i {
        let turned = _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f);
        // SAFETY: 16 bytes can be read there; no alignment is needed.
        _mm_shuffle_epi8(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }, turned)
    }
}

const FIRST: State = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

const PADDING: Block = {
    let mut padding = [0; 64];
    padding[0] = 0x80;
    padding
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha1::Digest;

    use super::*;

    fn bytes(seed: u8, length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 31 + at / 251 + usize::from(seed) * 7) as u8).collect()
    }

    #[test]
    fn digests_are_those_of_the_crate_at_every_length() {
        for length in (0..300).chain([4095, 4096, 4097]) {
            let bytes = bytes(1, length);
            let mut hash = Sha1::new();
            hash.update(&bytes);
            assert_eq!(hash.finish(), <[u8; 20]>::from(sha1::Sha1::digest(&bytes)), "{length}");
        }
    }

    proptest! {
        /// Messages of any lengths in any parts, some of them together: each has its own digest.
        #[test]
        fn what_is_hashed_together_is_hashed_right(
            parts in proptest::collection::vec(proptest::collection::vec(0_usize..400, 0..9), 0..7),
        ) {
            let messages: Vec<Vec<Vec<u8>>> = parts
                .iter()
                .zip(0..)
                .map(|(lengths, seed)| lengths.iter().map(|&length| bytes(seed, length)).collect())
                .collect();
            let mut hashes = vec![Sha1::new(); messages.len()];
            for step in 0..9 {
                let now = hashes.iter_mut().zip(&messages);
                update_together(now.filter_map(|(hash, parts)| Some((hash, &parts.get(step)?[..]))));
            }
            for (hash, parts) in hashes.into_iter().zip(&messages) {
                prop_assert_eq!(hash.finish(), <[u8; 20]>::from(sha1::Sha1::digest(parts.concat())));
            }
        }
    }
}
