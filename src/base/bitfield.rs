//! A set of pieces, kept in wire order.

use super::PieceIndex;

/// Which pieces somebody has: one bit a piece, most significant bit first, as in the `bitfield` message (BEP 3).
///
/// Spare bits of the last byte are always zero; the count of set bits is kept, so asking for it costs nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Bitfield {
    bytes: Vec<u8>,
    len: usize,
    ones: usize,
}

impl Bitfield {
    /// `len` pieces, none of them set.
    pub fn new(len: usize) -> Self {
        Self { bytes: vec![0; len.div_ceil(8)], len, ones: 0 }
    }

    /// `len` pieces, all of them set.
    pub fn full(len: usize) -> Self {
        let mut bytes = vec![0xff; len.div_ceil(8)];
        if let Some(last) = bytes.last_mut() {
            *last &= !spare_mask(len);
        }
        Self { bytes, len, ones: len }
    }

    /// Reads the wire form for `len` pieces; `None` when it has the wrong length or a spare bit is set.
    pub fn from_wire(bytes: &[u8], len: usize) -> Option<Self> {
        if bytes.len() != len.div_ceil(8) || bytes.last().is_some_and(|last| last & spare_mask(len) != 0) {
            return None;
        }
        let ones = bytes.iter().map(|byte| byte.count_ones() as usize).sum();
        Some(Self { bytes: bytes.to_vec(), len, ones })
    }

    /// The wire form: one bit a piece, spare bits zero.
    pub fn as_wire(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of pieces, set or not.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it speaks of no piece at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of pieces that are set.
    pub fn count(&self) -> usize {
        self.ones
    }

    /// Whether every piece is set.
    pub fn is_full(&self) -> bool {
        self.ones == self.len
    }

    /// Whether `piece` is set; false outside the range.
    pub fn has(&self, piece: PieceIndex) -> bool {
        self.bytes.get(piece.at() / 8).is_some_and(|byte| byte & (0x80 >> (piece.at() % 8)) != 0)
    }

    /// Sets `piece`; true when it was not set before. Nothing happens outside the range.
    pub fn set(&mut self, piece: PieceIndex) -> bool {
        let fresh = piece.at() < self.len && !self.has(piece);
        if fresh {
            self.bytes[piece.at() / 8] |= 0x80 >> (piece.at() % 8);
            self.ones += 1;
        }
        fresh
    }

    /// Clears `piece`; true when it was set before.
    pub fn clear(&mut self, piece: PieceIndex) -> bool {
        let was = self.has(piece);
        if was {
            self.bytes[piece.at() / 8] &= !(0x80 >> (piece.at() % 8));
            self.ones -= 1;
        }
        was
    }

    /// The set pieces in order.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.bytes.iter().enumerate().filter(|(_, byte)| **byte != 0).flat_map(|(index, byte)| {
            (0..8).filter(move |bit| byte & (0x80 >> bit) != 0).map(move |bit| PieceIndex((index * 8 + bit) as u32))
        })
    }

    /// The pieces that are not set, in order.
    pub fn iter_unset(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        let lacking = self.bytes.iter().enumerate().filter(|(_, byte)| **byte != 0xff).flat_map(|(index, byte)| {
            (0..8).filter(move |bit| byte & (0x80 >> bit) == 0).map(move |bit| PieceIndex((index * 8 + bit) as u32))
        });
        lacking.take_while(|piece| piece.at() < self.len)
    }

    /// Whether `self` has a piece that `other` lacks.
    pub fn has_any_not_in(&self, other: &Self) -> bool {
        self.bytes.iter().zip(&other.bytes).any(|(mine, theirs)| mine & !theirs != 0)
    }

    /// Whether `self` and `other` share a piece.
    pub fn has_any_in(&self, other: &Self) -> bool {
        self.bytes.iter().zip(&other.bytes).any(|(mine, theirs)| mine & theirs != 0)
    }
}

impl std::fmt::Debug for Bitfield {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bitfield({}/{})", self.ones, self.len)
    }
}

/// The bits of the last byte that stand for no piece.
fn spare_mask(len: usize) -> u8 {
    match len % 8 {
        0 => 0,
        used => 0xff >> used,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_checked() {
        assert!(Bitfield::from_wire(&[0xff, 0xf8], 13).unwrap().is_full());
        assert_eq!(Bitfield::from_wire(&[0xff, 0xfc], 13), None, "a spare bit");
        assert_eq!(Bitfield::from_wire(&[0xff], 13), None, "too short");
        assert_eq!(Bitfield::from_wire(&[0xff, 0xf8, 0], 13), None, "too long");
    }

    #[test]
    fn setting_and_clearing_keep_the_count() {
        let mut field = Bitfield::new(13);
        assert!(field.set(PieceIndex(12)) && !field.set(PieceIndex(12)) && !field.set(PieceIndex(13)));
        assert_eq!(field.as_wire(), [0, 0x08]);
        assert_eq!(field.iter().collect::<Vec<_>>(), [PieceIndex(12)]);
        assert!(field.clear(PieceIndex(12)) && !field.clear(PieceIndex(12)));
        assert_eq!(field.count(), 0);
        assert_eq!(Bitfield::full(13).iter().count(), 13);
        assert_eq!((Bitfield::full(13).iter_unset().count(), Bitfield::new(13).iter_unset().count()), (0, 13));
        let mut almost = Bitfield::full(13);
        almost.clear(PieceIndex(9));
        assert_eq!(almost.iter_unset().collect::<Vec<_>>(), [PieceIndex(9)]);
    }

    #[test]
    fn difference_sees_only_what_the_other_lacks() {
        let (mut mine, mut theirs) = (Bitfield::new(20), Bitfield::full(20));
        mine.set(PieceIndex(17));
        assert!(!mine.has_any_not_in(&theirs));
        assert!(mine.has_any_in(&theirs) && !mine.has_any_in(&Bitfield::new(20)));
        theirs.clear(PieceIndex(17));
        assert!(mine.has_any_not_in(&theirs));
    }
}
