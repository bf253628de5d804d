//! Where offsets and timestamps are found in one segment, and what its bytes should be.
//!
//! A segment is divided into *spans*: whole batches, back to back, at least [`SPAN_BYTES_MIN`]
//! together. The index has one entry per span, so it is small, and whoever looks for a record
//! reads one span and walks it.
//!
//! ```text
//! position 0        32.1 KiB         65 KiB                  size_bytes
//! | batch | batch … | batch | batch … | … | batch | batch … |
//! |---- span 0 -----|---- span 1 -----| … |-- open span ----|
//! base offset 0      base offset 412                         next offset
//! ```
//!
//! An entry also keeps a CRC32C of the span's raw bytes, seeded with topic, partition and
//! position. A batch's own checksum leaves out its base offset and leader epoch, and it cannot
//! tell a block that was written to the wrong place; this one covers both.
//!
//! An index is a convenience: all of it can be had again from its segment ([`Index::append`] each
//! batch). So a damaged index file is no loss, and none is trusted further than its checksum.
//!
//! Start reading at [`Index::span_holding`].

use bytes::{Buf, BufMut, Bytes};
use tidemill_record::{Batch, Offset, Timestamp, TopicPartition, checksum};

use crate::block::AlignedBytes;

/// A span closes with the batch that makes it this long.
pub const SPAN_BYTES_MIN: u32 = 32 * 1024;

/// What the index is told about a batch that was put at the end of the segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IndexedBatch {
    /// The offset after its last record.
    pub next_offset: Offset,
    /// Its size, header included.
    pub size_bytes: u32,
    /// CRC32C of all its bytes as stored, header included.
    pub raw_crc: u32,
    /// The newest timestamp in it.
    pub max_timestamp: Timestamp,
}

impl IndexedBatch {
    /// What the index of a segment is told about `batch`.
    #[must_use]
    pub fn of(batch: &Batch<'_>) -> Self {
        // A batch whose records compaction has all removed is at no time.
        let is_empty = batch.records_count() == 0;
        Self {
            next_offset: batch.next_offset(),
            size_bytes: batch.size_bytes(),
            raw_crc: checksum::crc32c(batch.bytes()),
            max_timestamp: if is_empty { Timestamp::NONE } else { batch.max_timestamp() },
        }
    }
}

/// A row of whole batches in a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Span {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset of the first record behind it.
    pub next_offset: Offset,
    /// Position of its first byte in the segment.
    pub position: u64,
    /// Its size.
    pub size_bytes: u32,
    /// CRC32C of its raw bytes, seeded: see [`Index::crc_of`].
    pub crc: u32,
    /// The newest timestamp in the segment up to the end of this span.
    pub max_timestamp: Timestamp,
}

impl Span {
    /// Position of the first byte behind it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.position + u64::from(self.size_bytes)
    }
}

/// The index of one segment, in memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Index {
    partition: TopicPartition,
    base_offset: Offset,
    /// Its segment is compacted: offsets are missing before and within batches.
    has_gaps: bool,
    /// One entry per span, the open one included.
    entries: Vec<Entry>,
    next_offset: Offset,
    size_bytes: u32,
}

/// One span; it ends where the next begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Entry {
    base_offset: Offset,
    max_timestamp: Timestamp,
    position: u32,
    crc: u32,
}

/// Why bytes are not the index asked for. It can be built again from its segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IndexError {
    /// They end in the middle of it.
    TooShort,
    /// They do not begin as an index does.
    NotAnIndex,
    /// Written by a newer version of this program.
    UnknownVersion {
        /// The version they name.
        found: u16,
    },
    /// They do not match their checksum.
    ChecksumMismatch {
        /// The checksum they carry.
        expected: u32,
        /// The checksum they have.
        found: u32,
    },
    /// The index of another segment, or of one that had this name before a truncation.
    OfAnotherSegment,
    /// Entries that do not follow one another: written wrongly, though the checksum is right.
    Inconsistent,
}

impl Index {
    /// The index of a segment without batches.
    #[must_use]
    pub fn new(partition: TopicPartition, base_offset: Offset) -> Self {
        Self {
            partition,
            base_offset,
            has_gaps: false,
            entries: Vec::new(),
            next_offset: base_offset,
            size_bytes: 0,
        }
    }

    /// The index of a compacted segment without batches.
    ///
    /// What is missing before a batch belongs to it: so every offset has a span, and the span of
    /// one that is missing holds the batch a reader goes on with.
    #[must_use]
    pub fn with_gaps(partition: TopicPartition, base_offset: Offset) -> Self {
        Self { has_gaps: true, ..Self::new(partition, base_offset) }
    }

    /// Whether offsets may be missing.
    #[must_use]
    pub fn has_gaps(&self) -> bool {
        self.has_gaps
    }

    /// Notes the batch behind all before it.
    pub fn append(&mut self, batch: &IndexedBatch) {
        assert!(self.next_offset < batch.next_offset, "a batch has a record");
        let size_bytes = self
            .size_bytes
            .checked_add(batch.size_bytes)
            .expect("segments stay below 4 GiB: retention::SEGMENT_BYTES_MAX");

        if self.open_span_bytes().is_none_or(|open_bytes| SPAN_BYTES_MIN <= open_bytes) {
            self.entries.push(Entry {
                base_offset: self.next_offset,
                max_timestamp: self.max_timestamp(),
                position: self.size_bytes,
                crc: seed(self.partition, self.size_bytes),
            });
        }
        let open = self.entries.last_mut().expect("one was pushed if there was none");
        open.crc = checksum::combine(open.crc, batch.raw_crc, batch.size_bytes as usize);
        open.max_timestamp = open.max_timestamp.max(batch.max_timestamp);
        self.next_offset = batch.next_offset;
        self.size_bytes = size_bytes;
    }

    /// Whose segment this is about.
    #[must_use]
    pub fn partition(&self) -> TopicPartition {
        self.partition
    }

    /// Offset of the segment's first record.
    #[must_use]
    pub fn base_offset(&self) -> Offset {
        self.base_offset
    }

    /// Offset of the first record behind the last batch noted.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// Position behind the last batch noted.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        u64::from(self.size_bytes)
    }

    /// The newest timestamp of all, or [`Timestamp::NONE`].
    #[must_use]
    pub fn max_timestamp(&self) -> Timestamp {
        self.entries.last().map_or(Timestamp::NONE, |last| last.max_timestamp)
    }

    /// How many spans there are, the open one included.
    #[must_use]
    pub fn spans_count(&self) -> usize {
        self.entries.len()
    }

    /// The spans from number `first` on, front to back.
    pub fn spans_from(&self, first: usize) -> impl Iterator<Item = Span> + '_ {
        (first..self.entries.len()).map(|at| self.span(at))
    }

    /// The number of the span that holds `offset`, if the segment does.
    #[must_use]
    pub fn span_holding(&self, offset: Offset) -> Option<usize> {
        if offset < self.base_offset || self.next_offset <= offset {
            return None;
        }
        let after = self.entries.partition_point(|entry| entry.base_offset <= offset);
        after.checked_sub(1)
    }

    /// The number of the first span that holds a record with `timestamp` or a newer one.
    ///
    /// No span before it does: an entry keeps the newest timestamp so far.
    #[must_use]
    pub fn span_at_time(&self, timestamp: Timestamp) -> Option<usize> {
        let at = self.entries.partition_point(|entry| entry.max_timestamp < timestamp);
        (at < self.entries.len()).then_some(at)
    }

    /// Span number `at`. Panics if there are not so many.
    #[must_use]
    pub fn span(&self, at: usize) -> Span {
        let entry = &self.entries[at];
        let (next_offset, end) = match self.entries.get(at + 1) {
            Some(next) => (next.base_offset, next.position),
            None => (self.next_offset, self.size_bytes),
        };
        Span {
            base_offset: entry.base_offset,
            next_offset,
            position: u64::from(entry.position),
            size_bytes: end - entry.position,
            crc: entry.crc,
            max_timestamp: entry.max_timestamp,
        }
    }

    /// What [`Span::crc`] is for a span of these raw bytes at this position.
    #[must_use]
    pub fn crc_of(partition: TopicPartition, position: u64, bytes: &[u8]) -> u32 {
        let position = u32::try_from(position).expect("segments stay below 4 GiB");
        checksum::append(seed(partition, position), bytes)
    }

    /// Forgets all spans that reach above `position`, where the segment was cut. Returns the
    /// position from which the batches that stay are to be appended again.
    pub fn cut(&mut self, position: u64) -> u64 {
        while let Some(last) = self.entries.last().copied()
            && position < u64::from(self.size_bytes)
        {
            self.entries.pop();
            self.size_bytes = last.position;
            self.next_offset = last.base_offset;
        }
        u64::from(self.size_bytes)
    }

    /// About how much memory this takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.entries.capacity() * size_of::<Entry>()
    }

    /// How long the open span is, if there is one: the last, unless it is closed already.
    fn open_span_bytes(&self) -> Option<u32> {
        self.entries.last().map(|last| self.size_bytes - last.position)
    }
}

/// The checksum of what tells a span's place: where one begins, before its bytes.
fn seed(partition: TopicPartition, position: u32) -> u32 {
    let mut place = [0; 16 + 4 + 4];
    place[..16].copy_from_slice(&partition.topic.0);
    place[16..20].copy_from_slice(&partition.partition.0.to_be_bytes());
    place[20..].copy_from_slice(&position.to_be_bytes());
    checksum::crc32c(&place)
}

// --- the file: docs/formats/index.md ---

const MAGIC: [u8; 8] = *b"TIDEINDX";

/// The newest version of the file that is known.
pub const FORMAT_VERSION: u16 = 1;

const HEADER_BYTES: usize = 8 + 2 + 2 + 4 + 16 + 4 + 8 + 8 + 4 + 4 + 4;
const ENTRY_BYTES: usize = 8 + 8 + 4 + 4;
/// The flag of a compacted segment's index.
const HAS_GAPS: u16 = 1;
/// The header's last field is a checksum of all of the file but itself and the padding.
const CRC_AT: usize = HEADER_BYTES - 4;

const _: () = assert!(HEADER_BYTES == 64);

impl Index {
    /// The index file: zero-padded to whole blocks. `generation` is that of the log when the
    /// segment was begun: it tells this segment from one of the same name before a truncation.
    #[must_use]
    pub fn encode(&self, generation: u32) -> Bytes {
        AlignedBytes::copy_of(&self.file(generation)).into_blocks()
    }

    /// The checksum that the index file carries. A log keeps it of each compacted segment: that
    /// proves the index, and so every byte of the segment, wherever it was found.
    #[must_use]
    pub fn checksum(&self, generation: u32) -> u32 {
        file_crc(&self.file(generation))
    }

    fn file(&self, generation: u32) -> Vec<u8> {
        let mut file = Vec::with_capacity(HEADER_BYTES + self.entries.len() * ENTRY_BYTES);
        file.put_slice(&MAGIC);
        file.put_u16(FORMAT_VERSION);
        file.put_u16(if self.has_gaps { HAS_GAPS } else { 0 });
        file.put_i32(self.partition.partition.0);
        file.put_slice(&self.partition.topic.0);
        file.put_u32(generation);
        file.put_i64(self.base_offset.0);
        file.put_i64(self.next_offset.0);
        file.put_u32(self.size_bytes);
        file.put_u32(self.entries.len() as u32);
        file.put_u32(0);
        assert!(file.len() == HEADER_BYTES);
        for entry in &self.entries {
            file.put_i64(entry.base_offset.0);
            file.put_i64(entry.max_timestamp.0);
            file.put_u32(entry.position);
            file.put_u32(entry.crc);
        }
        let crc = file_crc(&file);
        file[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_be_bytes());
        file
    }

    /// Reads what [`Index::encode`] wrote, padding and all.
    pub fn decode(
        bytes: &[u8],
        partition: TopicPartition,
        base_offset: Offset,
        generation: u32,
    ) -> Result<Self, IndexError> {
        let (mut header, mut rest) =
            bytes.split_at_checked(HEADER_BYTES).ok_or(IndexError::TooShort)?;
        let mut magic = [0; 8];
        header.copy_to_slice(&mut magic);
        if magic != MAGIC {
            return Err(IndexError::NotAnIndex);
        }
        let found = header.get_u16();
        if found != FORMAT_VERSION {
            return Err(IndexError::UnknownVersion { found });
        }
        let flags = header.get_u16();
        let partition_id = header.get_i32();
        let mut topic = [0; 16];
        header.copy_to_slice(&mut topic);
        let found_generation = header.get_u32();
        let found_base = Offset(header.get_i64());
        let next_offset = Offset(header.get_i64());
        let size_bytes = header.get_u32();
        let count = header.get_u32() as usize;
        let expected = header.get_u32();

        let entries_bytes = count.checked_mul(ENTRY_BYTES).ok_or(IndexError::TooShort)?;
        rest = rest.get(..entries_bytes).ok_or(IndexError::TooShort)?;
        let found = file_crc(&bytes[..HEADER_BYTES + entries_bytes]);
        if expected != found {
            return Err(IndexError::ChecksumMismatch { expected, found });
        }
        let has_gaps = match flags {
            0 => false,
            HAS_GAPS => true,
            _ => return Err(IndexError::Inconsistent),
        };
        let same = topic == partition.topic.0
            && partition_id == partition.partition.0
            && found_base == base_offset
            && found_generation == generation;
        if !same {
            return Err(IndexError::OfAnotherSegment);
        }
        let mut entries = Vec::with_capacity(count);
        while rest.has_remaining() {
            entries.push(Entry {
                base_offset: Offset(rest.get_i64()),
                max_timestamp: Timestamp(rest.get_i64()),
                position: rest.get_u32(),
                crc: rest.get_u32(),
            });
        }
        let index = Self { partition, base_offset, has_gaps, entries, next_offset, size_bytes };
        if index.is_consistent() { Ok(index) } else { Err(IndexError::Inconsistent) }
    }

    fn is_consistent(&self) -> bool {
        let rises = |pair: &[Entry]| {
            pair[0].base_offset < pair[1].base_offset
                && pair[0].position < pair[1].position
                && pair[0].max_timestamp <= pair[1].max_timestamp
        };
        let ends_right = match (self.entries.first(), self.entries.last()) {
            (Some(first), Some(last)) => {
                first.base_offset == self.base_offset
                    && first.position == 0
                    && last.base_offset < self.next_offset
                    && last.position < self.size_bytes
            }
            _ => self.next_offset == self.base_offset && self.size_bytes == 0,
        };
        ends_right && self.entries.windows(2).all(rises)
    }
}

fn file_crc(file: &[u8]) -> u32 {
    checksum::append(checksum::crc32c(&file[..CRC_AT]), &file[HEADER_BYTES..])
}

#[cfg(test)]
mod tests;
