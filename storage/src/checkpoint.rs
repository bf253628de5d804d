//! What is known of each log without its journal: the root recovery starts from.
//!
//! Two files hold the same thing, a [`Snapshot`]. The *base* holds all logs of the node and is
//! written once by each recovery. A shard's *checkpoint*, in two alternating slots, holds the logs
//! that changed since, and where in its journal replay has to begin.
//!
//! A log's state describes everything below its `end`. All of its bytes below `synced` are durable
//! in segments; those between are in journal windows that replay still finds. `synced` is where
//! the log was *parked*: its last, partial block is on disk too, padded with zeros. The next
//! append carries the bytes of that block again in its journal entry, as prefix, so that a torn
//! rewrite of the block can be repaired.
//!
//! ```text
//! segment:  | block | block | blo---- |          synced: behind "blo"
//! journal:                   [blo|batch]         prefix "blo", then the batch
//! ```
//!
//! Start reading at [`LogState`].

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes};
use tidemill_record::{Offset, PartitionId, Timestamp, TopicId, TopicPartition, checksum};

use crate::block::{AlignedBytes, BLOCK_BYTES, is_aligned};
use crate::epochs::LeaderEpochs;
use crate::index::Index;
use crate::io::FileName;
use crate::producers::Producers;
use crate::transactions::Transactions;

/// The version of both files. The first one knew no transactions, the second no compaction, and
/// there were none.
pub const SNAPSHOT_VERSION: u16 = 3;

/// From this version on transactions follow the producers.
const TRANSACTIONS_FROM: u16 = 2;

/// From this version on segments may be compacted.
const COMPACTION_FROM: u16 = 3;

/// The name of a segment: its files are called so.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SegmentName {
    /// Offset of the first record there was.
    pub base_offset: Offset,
    /// The compaction of the log that wrote it; 0: it is as appended.
    pub compaction: u32,
}

impl SegmentName {
    /// The name of a segment that begins with the record at `base_offset`, as appended.
    #[must_use]
    pub fn appended(base_offset: Offset) -> Self {
        Self { base_offset, compaction: 0 }
    }

    /// Its file.
    #[must_use]
    pub fn file(self, owner: TopicPartition) -> FileName {
        let Self { base_offset, compaction } = self;
        let TopicPartition { topic, partition } = owner;
        FileName::Log { topic, partition, base_offset, compaction }
    }

    /// The file of its index.
    #[must_use]
    pub fn index_file(self, owner: TopicPartition) -> FileName {
        let Self { base_offset, compaction } = self;
        let TopicPartition { topic, partition } = owner;
        FileName::Index { topic, partition, base_offset, compaction }
    }
}

/// A segment as its log knows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SegmentState {
    /// Offset of its first record: its name.
    pub base_offset: Offset,
    /// Offset after its last record.
    pub next_offset: Offset,
    /// The log's generation when it was begun.
    pub generation: u32,
    /// Bytes of batches.
    pub size_bytes: u64,
    /// The newest timestamp in it.
    pub max_timestamp: Timestamp,
    /// When its first batch was appended.
    pub opened_ms: i64,
    /// When its last batch was appended.
    pub appended_ms: i64,
    /// The compaction of the log that wrote it; 0: it is as appended, and no offset is missing.
    pub compaction: u32,
    /// If it is compacted: the checksum of its index, and so of all its bytes.
    pub index_crc: u32,
}

impl SegmentState {
    /// A segment that nothing was appended to yet.
    #[must_use]
    pub fn new(base_offset: Offset, generation: u32) -> Self {
        Self {
            base_offset,
            next_offset: base_offset,
            generation,
            size_bytes: 0,
            max_timestamp: Timestamp::NONE,
            opened_ms: 0,
            appended_ms: 0,
            compaction: 0,
            index_crc: 0,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> SegmentName {
        SegmentName { base_offset: self.base_offset, compaction: self.compaction }
    }

    /// Whether offsets may be missing in it.
    #[must_use]
    pub fn is_compacted(&self) -> bool {
        self.compaction != 0
    }

    /// An index of it without batches.
    #[must_use]
    pub(crate) fn empty_index(&self, owner: TopicPartition) -> Index {
        match self.is_compacted() {
            true => Index::with_gaps(owner, self.base_offset),
            false => Index::new(owner, self.base_offset),
        }
    }

    /// Whether `index` may be its index. Of a compacted segment the log knows the checksum.
    #[must_use]
    pub(crate) fn accepts(&self, index: &Index) -> bool {
        index.has_gaps() == self.is_compacted()
            && (!self.is_compacted() || index.checksum(self.generation) == self.index_crc)
    }

    /// Writes it.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_i64(self.base_offset.0);
        out.put_i64(self.next_offset.0);
        out.put_u32(self.generation);
        out.put_u64(self.size_bytes);
        out.put_i64(self.max_timestamp.0);
        out.put_i64(self.opened_ms);
        out.put_i64(self.appended_ms);
        out.put_u32(self.compaction);
        out.put_u32(self.index_crc);
    }

    /// Reads what [`SegmentState::encode`] wrote, as of now.
    pub(crate) fn read(mut bytes: &[u8]) -> Option<Self> {
        Self::decode(&mut bytes, SNAPSHOT_VERSION)
    }

    fn decode(bytes: &mut &[u8], version: u16) -> Option<Self> {
        let mut segment = Self {
            base_offset: offset(bytes)?,
            next_offset: offset(bytes)?,
            generation: bytes.try_get_u32().ok()?,
            size_bytes: bytes.try_get_u64().ok()?,
            max_timestamp: Timestamp(bytes.try_get_i64().ok()?),
            opened_ms: bytes.try_get_i64().ok()?,
            appended_ms: bytes.try_get_i64().ok()?,
            compaction: 0,
            index_crc: 0,
        };
        if COMPACTION_FROM <= version {
            segment.compaction = bytes.try_get_u32().ok()?;
            segment.index_crc = bytes.try_get_u32().ok()?;
        }
        Some(segment)
    }
}

/// A place in a log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Place {
    /// Offset of the first record behind it.
    pub offset: Offset,
    /// Base offset of the segment.
    pub segment: Offset,
    /// Position in the segment.
    pub position: u64,
}

/// What is known of one log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LogState {
    /// Whose.
    pub partition: TopicPartition,
    /// The shard whose journal it is in.
    pub home: u16,
    /// Raised by each truncation.
    pub generation: u32,
    /// Offset of the first record kept.
    pub start: Offset,
    /// Offset after the last record this state knows of.
    pub end: Offset,
    /// Everything before it is durable in segments.
    pub synced: Place,
    /// Oldest first; the last one grows. Empty if nothing was ever appended.
    pub segments: Vec<SegmentState>,
    /// Segments that are deleted, but whose files may still be there.
    pub doomed: Vec<SegmentName>,
    /// The number of the last compaction: the next one is numbered above. While it is 0, no
    /// compaction has left a file.
    pub compactions: u32,
    /// Everything below was compacted.
    pub compacted_to: Offset,
    /// Where leader epochs began.
    pub epochs: LeaderEpochs,
    /// The producers' last batches.
    pub producers: Producers,
    /// Which transactions are open, and which were aborted.
    pub transactions: Transactions,
    /// What cannot be served.
    pub damaged: Vec<Range<Offset>>,
    /// From here on the log's continuity could not be proved: nothing is appended any more.
    pub broken_at: Option<Offset>,
    /// The log is deleted.
    pub dropped: bool,
}

/// Where replay begins.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ReplayFrom {
    /// The first window to replay.
    pub sequence: u64,
    /// The file it is in, or will be in.
    pub file_number: u32,
    /// Its position there.
    pub position: u64,
    /// The checksum of the window before it.
    pub previous_checksum: u32,
}

/// A base or a checkpoint.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    /// Whose checkpoint; 0 for a base.
    pub shard: u16,
    /// The start of the node that wrote it.
    pub incarnation: u64,
    /// Counts the checkpoints of this incarnation from 1; 0 for a base.
    pub number: u64,
    /// Of a checkpoint: where replay begins.
    pub replay_from: ReplayFrom,
    /// The logs.
    pub logs: Vec<LogState>,
}

/// Why bytes are not a snapshot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SnapshotError {
    /// Not one, or torn, or damaged.
    Damaged,
    /// Written by a newer program.
    NewerFormat {
        /// Its version.
        found: u16,
    },
}

const MAGIC: [u8; 8] = *b"TIDESNAP";
/// Bytes before the logs.
pub const SNAPSHOT_HEADER_BYTES: usize = 8 + 2 + 2 + 4 + 8 + 8 + 8 + 4 + 4 + 8 + 8 + 4 + 4;
const CHECKSUM_AT: usize = SNAPSHOT_HEADER_BYTES - 4;
const SEGMENT_BYTES: usize = 8 + 8 + 4 + 8 + 8 + 8 + 8;

const _: () = assert!(SNAPSHOT_HEADER_BYTES == 72 && SNAPSHOT_HEADER_BYTES <= BLOCK_BYTES);

impl Snapshot {
    /// The whole file, in whole blocks.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(BLOCK_BYTES);
        out.put_slice(&MAGIC);
        out.put_u16(SNAPSHOT_VERSION);
        out.put_u16(self.shard);
        out.put_u32(0);
        out.put_u64(self.incarnation);
        out.put_u64(self.number);
        out.put_u64(self.replay_from.sequence);
        out.put_u32(self.replay_from.file_number);
        out.put_u32(self.replay_from.previous_checksum);
        out.put_u64(self.replay_from.position);
        let total_at = out.len();
        out.put_u64(0);
        out.put_u32(self.logs.len() as u32);
        out.put_u32(0);
        assert!(out.len() == SNAPSHOT_HEADER_BYTES);
        for log in &self.logs {
            log.encode(&mut out);
        }
        let total = out.len() as u64;
        out[total_at..total_at + 8].copy_from_slice(&total.to_be_bytes());
        let checksum = file_checksum(&out);
        out[CHECKSUM_AT..SNAPSHOT_HEADER_BYTES].copy_from_slice(&checksum.to_be_bytes());
        AlignedBytes::copy_of(&out).into_blocks()
    }

    /// How long the snapshot is that begins with `bytes`, by its own account, unproved.
    #[must_use]
    pub fn total_bytes(bytes: &[u8]) -> Option<u64> {
        let header = bytes.get(..SNAPSHOT_HEADER_BYTES)?;
        let total = header[CHECKSUM_AT - 12..].first_chunk()?;
        header.starts_with(&MAGIC).then(|| u64::from_be_bytes(*total))
    }

    /// Reads what [`Snapshot::encode`] wrote, padding and all.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let damaged = SnapshotError::Damaged;
        let total = Self::total_bytes(bytes).ok_or(damaged)?;
        let total = usize::try_from(total).map_err(|_| damaged)?;
        let bytes = bytes.get(..total).ok_or(damaged)?;
        let mut header = bytes.get(..SNAPSHOT_HEADER_BYTES).ok_or(damaged)?;
        let mut rest = &bytes[SNAPSHOT_HEADER_BYTES..];
        header.advance(MAGIC.len());
        let version = header.get_u16();
        let shard = header.get_u16();
        header.advance(4);
        let incarnation = header.get_u64();
        let number = header.get_u64();
        let sequence = header.get_u64();
        let file_number = header.get_u32();
        let previous_checksum = header.get_u32();
        let position = header.get_u64();
        header.advance(8);
        let count = header.get_u32();
        if header.get_u32() != file_checksum(bytes) {
            return Err(damaged);
        }
        if SNAPSHOT_VERSION < version {
            return Err(SnapshotError::NewerFormat { found: version });
        }
        if !is_aligned(position) {
            return Err(damaged);
        }
        let mut logs = Vec::new();
        for _ in 0..count {
            logs.push(LogState::decode(&mut rest, version).ok_or(damaged)?);
        }
        let replay_from = ReplayFrom { sequence, file_number, position, previous_checksum };
        Ok(Self { shard, incarnation, number, replay_from, logs })
    }
}

/// Of everything but the checksum itself.
fn file_checksum(bytes: &[u8]) -> u32 {
    let crc = checksum::crc32c(&bytes[..CHECKSUM_AT]);
    checksum::append(crc, &bytes[SNAPSHOT_HEADER_BYTES..])
}

impl LogState {
    /// The state of a log nothing was ever appended to.
    #[must_use]
    pub fn new(partition: TopicPartition) -> Self {
        Self { partition, ..Self::default() }
    }

    /// Bytes of batches in all segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size_bytes).sum()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_slice(&self.partition.topic.0);
        out.put_i32(self.partition.partition.0);
        out.put_u16(self.home);
        out.put_u32(self.generation);
        out.put_u8(u8::from(self.dropped));
        out.put_i64(self.start.0);
        out.put_i64(self.end.0);
        out.put_i64(self.synced.offset.0);
        out.put_i64(self.synced.segment.0);
        out.put_u64(self.synced.position);
        out.put_i64(self.broken_at.map_or(-1, |at| at.0));
        out.put_u32(self.segments.len() as u32);
        self.segments.iter().for_each(|segment| segment.encode(out));
        out.put_u32(self.doomed.len() as u32);
        for name in &self.doomed {
            out.put_i64(name.base_offset.0);
            out.put_u32(name.compaction);
        }
        out.put_u32(self.damaged.len() as u32);
        for range in &self.damaged {
            out.put_i64(range.start.0);
            out.put_i64(range.end.0);
        }
        self.epochs.encode(out);
        self.producers.encode(out);
        self.transactions.encode(out);
        out.put_u32(self.compactions);
        out.put_i64(self.compacted_to.0);
    }

    fn decode(bytes: &mut &[u8], version: u16) -> Option<Self> {
        let mut topic = [0; 16];
        bytes.try_copy_to_slice(&mut topic).ok()?;
        let partition = PartitionId(bytes.try_get_i32().ok()?);
        let mut log = Self::new(TopicPartition { topic: TopicId(topic), partition });
        log.home = bytes.try_get_u16().ok()?;
        log.generation = bytes.try_get_u32().ok()?;
        log.dropped = bytes.try_get_u8().ok()? != 0;
        log.start = offset(bytes)?;
        log.end = offset(bytes)?;
        log.synced = Place {
            offset: offset(bytes)?,
            segment: offset(bytes)?,
            position: bytes.try_get_u64().ok()?,
        };
        log.broken_at = Some(offset(bytes)?).filter(|at| Offset::ZERO <= *at);
        for _ in 0..count(bytes, SEGMENT_BYTES)? {
            log.segments.push(SegmentState::decode(bytes, version)?);
        }
        for _ in 0..count(bytes, 8)? {
            let base_offset = offset(bytes)?;
            let compaction = match COMPACTION_FROM <= version {
                true => bytes.try_get_u32().ok()?,
                false => 0,
            };
            log.doomed.push(SegmentName { base_offset, compaction });
        }
        for _ in 0..count(bytes, 16)? {
            log.damaged.push(offset(bytes)?..offset(bytes)?);
        }
        log.epochs = LeaderEpochs::decode(bytes).ok()?;
        log.producers = Producers::decode(bytes).ok()?;
        if TRANSACTIONS_FROM <= version {
            log.transactions = Transactions::decode(bytes)?;
        }
        if COMPACTION_FROM <= version {
            log.compactions = bytes.try_get_u32().ok()?;
            log.compacted_to = offset(bytes)?;
        }
        log.is_consistent().then_some(log)
    }

    /// Whether what was read can be true: nobody else checks it again.
    fn is_consistent(&self) -> bool {
        let rises = |pair: &[SegmentState]| {
            pair[0].base_offset < pair[0].next_offset && pair[0].next_offset == pair[1].base_offset
        };
        self.start <= self.end
            && self.synced.offset <= self.end
            && self.segments.windows(2).all(rises)
            && self.segments.last().is_none_or(|last| last.next_offset == self.end)
    }
}

fn offset(bytes: &mut &[u8]) -> Option<Offset> {
    bytes.try_get_i64().ok().map(Offset)
}

/// A count of things that are `each_bytes` long, if so many can follow.
fn count(bytes: &mut &[u8], each_bytes: usize) -> Option<u32> {
    let count = bytes.try_get_u32().ok()?;
    (count as usize <= bytes.remaining() / each_bytes).then_some(count)
}

#[cfg(test)]
mod tests;
