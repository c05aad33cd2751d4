//! Where each byte of a torrent lies: pieces, blocks and files, and the maps between them.
//!
//! The content of a torrent is one run of bytes: its files in order, padding files included (BEP 47). Pieces cut
//! that run at multiples of the piece length, blocks cut each piece at multiples of 16 KiB. Knows no names.

use std::fmt;

use super::{BlockRef, FileIndex, PieceIndex, PieceRange};

/// The transfer unit that everybody requests: 16 KiB (BEP 3).
pub const BLOCK_BYTES: u32 = 16 * 1024;

/// The longest piece that is accepted: 512 MiB.
pub const MAX_PIECE_BYTES: u32 = 512 * 1024 * 1024;

/// One file as the layout sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSpec {
    /// Length in bytes.
    pub length: u64,
    /// A padding file (BEP 47): all zeros, never stored, never requested on its own, never shown.
    pub padding: bool,
}

/// Numbers that do not describe a torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayoutError {
    /// Piece length outside 1..=512 MiB.
    PieceLength,
    /// The lengths add up to more than 2^63 - 1.
    TooLong,
    /// No content at all.
    Empty,
    /// More than 2^32 - 1 pieces or files.
    TooMany,
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PieceLength => "piece length is not between 1 byte and 512 MiB",
            Self::TooLong => "file lengths add up to more than 2^63 - 1 bytes",
            Self::Empty => "there is no content: the total length is 0",
            Self::TooMany => "too many pieces or files",
        })
    }
}

impl std::error::Error for LayoutError {}

/// A run of bytes inside one file: part of what [`Layout::spans`] yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The file.
    pub file: FileIndex,
    /// First byte inside the file.
    pub offset: u64,
    /// Bytes, at least 1.
    pub length: u64,
    /// The file is padding: the bytes are zeros and stored nowhere.
    pub padding: bool,
}

/// The layout of one torrent's content; immutable, shared everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    piece_length: u32,
    piece_count: u32,
    total: u64,
    files: Vec<Placed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Placed {
    start: u64,
    spec: FileSpec,
}

impl Layout {
    /// Lays `files` out in order.
    ///
    /// # Errors
    /// [`LayoutError`] when the numbers describe no torrent; nothing is allocated by their size.
    pub fn new(piece_length: u32, files: &[FileSpec]) -> Result<Self, LayoutError> {
        if piece_length == 0 || piece_length > MAX_PIECE_BYTES {
            return Err(LayoutError::PieceLength);
        }
        u32::try_from(files.len()).map_err(|_| LayoutError::TooMany)?;
        let mut total = 0_u64;
        let mut placed = Vec::with_capacity(files.len());
        for &spec in files {
            placed.push(Placed { start: total, spec });
            total = total.checked_add(spec.length).filter(|&sum| sum <= i64::MAX as u64).ok_or(LayoutError::TooLong)?;
        }
        if total == 0 {
            return Err(LayoutError::Empty);
        }
        let piece_count = u32::try_from(total.div_ceil(u64::from(piece_length))).map_err(|_| LayoutError::TooMany)?;
        Ok(Self { piece_length, piece_count, total, files: placed })
    }

    /// Bytes of the whole content, padding included.
    pub fn total_bytes(&self) -> u64 {
        self.total
    }

    /// Length of every piece but the last.
    pub fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// Number of pieces, at least 1.
    pub fn piece_count(&self) -> usize {
        self.piece_count as usize
    }

    /// Number of files, padding files included.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// The piece of this number, if there is one.
    pub fn piece(&self, raw: u32) -> Option<PieceIndex> {
        (raw < self.piece_count).then_some(PieceIndex(raw))
    }

    /// The file of this number, if there is one.
    pub fn file(&self, raw: u32) -> Option<FileIndex> {
        ((raw as usize) < self.files.len()).then_some(FileIndex(raw))
    }

    /// All pieces.
    pub fn pieces(&self) -> PieceRange {
        PieceRange { start: 0, end: self.piece_count }
    }

    /// All files, padding files included, in order.
    pub fn files(&self) -> impl DoubleEndedIterator<Item = FileIndex> + ExactSizeIterator {
        (0..self.files.len()).map(|raw| FileIndex(raw as u32))
    }

    /// Length of a file in bytes.
    pub fn file_bytes(&self, file: FileIndex) -> u64 {
        self.files[file.at()].spec.length
    }

    /// First byte of a file in the content.
    pub fn file_start(&self, file: FileIndex) -> u64 {
        self.files[file.at()].start
    }

    /// Whether a file is padding (BEP 47).
    pub fn is_padding(&self, file: FileIndex) -> bool {
        self.files[file.at()].spec.padding
    }

    /// Length of a piece in bytes: the piece length, or less for the last one.
    pub fn piece_bytes(&self, piece: PieceIndex) -> u32 {
        let left = self.total - self.piece_start(piece);
        left.min(u64::from(self.piece_length)) as u32
    }

    /// First byte of a piece in the content.
    pub fn piece_start(&self, piece: PieceIndex) -> u64 {
        u64::from(piece.0) * u64::from(self.piece_length)
    }

    /// Number of 16 KiB blocks in a piece (the last may be shorter).
    pub fn block_count(&self, piece: PieceIndex) -> usize {
        self.piece_bytes(piece).div_ceil(BLOCK_BYTES) as usize
    }

    /// Block number `number` of a piece, if there is one.
    pub fn block(&self, piece: PieceIndex, number: usize) -> Option<BlockRef> {
        let begin = u32::try_from(number).ok()?.checked_mul(BLOCK_BYTES)?;
        let left = self.piece_bytes(piece).checked_sub(begin).filter(|&left| left > 0)?;
        Some(BlockRef { piece, begin, length: left.min(BLOCK_BYTES) })
    }

    /// A range that came over the wire, if it is not empty and lies inside one piece.
    pub fn block_ref(&self, piece: u32, begin: u32, length: u32) -> Option<BlockRef> {
        let piece = self.piece(piece)?;
        let end = begin.checked_add(length)?;
        (length > 0 && end <= self.piece_bytes(piece)).then_some(BlockRef { piece, begin, length })
    }

    /// The pieces that hold `length` bytes from `offset` of a file (cut at its end); empty when there are none.
    pub fn pieces_of(&self, file: FileIndex, offset: u64, length: u64) -> PieceRange {
        let size = self.file_bytes(file);
        let offset = offset.min(size);
        let length = length.min(size - offset);
        self.pieces_at(self.file_start(file) + offset, length)
    }

    /// The pieces that hold `length` bytes from `offset` of the content (cut at its end).
    pub fn pieces_at(&self, offset: u64, length: u64) -> PieceRange {
        let offset = offset.min(self.total);
        let length = length.min(self.total - offset);
        if length == 0 {
            return PieceRange::default();
        }
        let piece_length = u64::from(self.piece_length);
        PieceRange { start: (offset / piece_length) as u32, end: ((offset + length - 1) / piece_length) as u32 + 1 }
    }

    /// The files that hold `length` bytes from `offset` of the content (cut at its end), in order, none empty.
    pub fn spans(&self, offset: u64, length: u64) -> impl Iterator<Item = Span> + '_ {
        let offset = offset.min(self.total);
        let end = offset + length.min(self.total - offset);
        let first = self.files.partition_point(|file| file.start + file.spec.length <= offset);
        self.files[first..].iter().enumerate().take_while(move |(_, file)| file.start < end).filter_map(
            move |(index, file)| {
                let from = offset.max(file.start);
                let to = end.min(file.start + file.spec.length);
                (from < to).then_some(Span {
                    file: FileIndex((first + index) as u32),
                    offset: from - file.start,
                    length: to - from,
                    padding: file.spec.padding,
                })
            },
        )
    }

    /// The files that a range inside a piece covers: [`spans`](Self::spans) of a block.
    pub fn block_spans(&self, block: BlockRef) -> impl Iterator<Item = Span> + '_ {
        self.spans(self.piece_start(block.piece) + u64::from(block.begin), u64::from(block.length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(piece_length: u32, lengths: &[u64]) -> Layout {
        let files: Vec<_> = lengths.iter().map(|&length| FileSpec { length, padding: false }).collect();
        Layout::new(piece_length, &files).unwrap()
    }

    #[test]
    fn numbers_that_describe_no_torrent_are_refused() {
        let file = |length| FileSpec { length, padding: false };
        assert_eq!(Layout::new(0, &[file(1)]), Err(LayoutError::PieceLength));
        assert_eq!(Layout::new(MAX_PIECE_BYTES + 1, &[file(1)]), Err(LayoutError::PieceLength));
        assert_eq!(Layout::new(1, &[]), Err(LayoutError::Empty));
        assert_eq!(Layout::new(1, &[file(0)]), Err(LayoutError::Empty));
        assert_eq!(Layout::new(16, &[file(u64::MAX), file(2)]), Err(LayoutError::TooLong));
        assert_eq!(Layout::new(16, &[file(i64::MAX as u64), file(1)]), Err(LayoutError::TooLong));
        assert_eq!(Layout::new(1, &[file(1 << 33)]), Err(LayoutError::TooMany));
    }

    #[test]
    fn the_last_piece_and_block_are_short() {
        let layout = layout(32768, &[40000]);
        let last = layout.piece(1).unwrap();
        assert_eq!((layout.piece_count(), layout.piece_bytes(last), layout.block_count(last)), (2, 7232, 1));
        assert_eq!(layout.block(last, 0).unwrap().length, 7232);
        assert_eq!(layout.block(last, 1), None);
        assert_eq!(layout.piece(2), None);
    }

    #[test]
    fn wire_ranges_outside_a_piece_are_refused() {
        let layout = layout(32768, &[40000]);
        for (piece, begin, length) in [(2, 0, 1), (0, 0, 0), (0, 32768, 1), (0, u32::MAX, 2), (1, 7000, 300)] {
            assert_eq!(layout.block_ref(piece, begin, length), None, "{piece} {begin} {length}");
        }
        assert!(layout.block_ref(1, 7000, 232).is_some());
    }

    #[test]
    fn spans_skip_empty_files_and_cover_every_byte_once() {
        let layout = layout(10, &[0, 7, 0, 0, 12, 0, 1]);
        for offset in 0..=20 {
            for length in 0..=25 {
                let mut at = offset.min(20);
                for span in layout.spans(offset, length) {
                    assert_eq!(layout.file_start(span.file) + span.offset, at);
                    assert!(span.offset + span.length <= layout.file_bytes(span.file));
                    at += span.length;
                }
                assert_eq!(at, (offset + length).min(20).max(offset.min(20)));
            }
        }
    }

    #[test]
    fn pieces_of_a_file_are_those_that_its_bytes_touch() {
        let layout = layout(10, &[7, 0, 12, 1]);
        let file = layout.file(2).unwrap();
        assert_eq!(layout.pieces_of(file, 0, 100).as_usizes(), 0..2);
        assert_eq!(layout.pieces_of(file, 3, 1).as_usizes(), 1..2);
        assert!(layout.pieces_of(file, 12, 5).is_empty());
        assert!(layout.pieces_of(layout.file(1).unwrap(), 0, 9).is_empty());
    }
}
