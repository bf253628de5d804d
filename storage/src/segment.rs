//! One segment of a partition's log: a file written once, from front to back.
//!
//! A log is a row of segments. Only the last one, the *active* segment, grows. The others are
//! sealed: no byte of them changes again.
//!
//! ```text
//! position 0          written      durable     size_bytes    allocated
//!    | in the file     | in the journal | in memory |  zeros     |
//! ```
//!
//! Batches reach the file behind the journal: in large pieces, whole blocks, each block once. Only
//! when the log is parked is its last, partial block written too, padded with zeros; then that
//! block is written again when it has filled.
//!
//! This module keeps the books of one segment. The shard carries out what follows from them.

use std::collections::VecDeque;

use bytes::Bytes;
use tidemill_record::{Offset, Timestamp, TopicPartition};

use crate::block::{round_down, round_up};
use crate::checkpoint::SegmentState;
use crate::compaction::plan::index_file_bytes_max;
use crate::config::Config;
use crate::index::{Index, IndexedBatch};
use crate::io::FileName;

/// The largest piece written to a segment at once.
pub(crate) const PIECE_BYTES_MAX: u64 = 1 << 20;

/// How far the sealing of a segment is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Seal {
    /// It still grows.
    Active,
    /// No more batches come; what is not in the file yet is being written.
    Draining,
    /// Its bytes are being synced.
    Syncing,
    /// The file is being cut to its size.
    Cutting,
    /// The file of its index is being made.
    MakingIndex,
    /// Its index is being written.
    Indexing,
    /// Nothing of it changes any more.
    Sealed,
}

/// The index of a segment, or what is needed to have it.
#[derive(Debug)]
pub(crate) enum IndexSlot {
    /// In memory.
    Ready(Index),
    /// Not in memory. These batches were appended since it was last; the first begins at `from`.
    Absent {
        /// Where in the segment the first of `since` begins.
        from: u64,
        /// Offset of the first of `since`.
        from_offset: Offset,
        /// Appended since.
        since: Vec<IndexedBatch>,
    },
}

/// One segment of a log.
#[derive(Debug)]
pub(crate) struct Segment {
    /// What is remembered of it across restarts.
    pub(crate) state: SegmentState,
    /// Below this position the journal has it.
    pub(crate) durable: u64,
    /// Below this position the file has it, though perhaps not durably.
    pub(crate) written: u64,
    /// The bytes between the last block boundary and `written`; `None`: not read yet.
    pub(crate) front: Option<Bytes>,
    /// A write of the bytes up to this position is under way.
    pub(crate) writing_to: Option<u64>,
    /// Everything up to this position is to be written, be its last block full or not.
    pub(crate) park_to: u64,
    /// The newest timestamp of those of its batches that are not in memory any more.
    pub(crate) released_max: Timestamp,
    /// The offset after the last large run in it, of this incarnation.
    pub(crate) runs_end: Offset,
    /// Written to since it was last synced.
    pub(crate) dirty: bool,
    /// The file is there.
    pub(crate) made: bool,
    /// And its name is durable.
    pub(crate) name_durable: bool,
    /// Blocks of large runs, written or being written ahead of `written`: positions `from..to`.
    pub(crate) direct: VecDeque<(u64, u64)>,
    /// Space reserved for it.
    pub(crate) allocated: u64,
    /// How far its sealing is.
    pub(crate) seal: Seal,
    /// Its index.
    pub(crate) index: IndexSlot,
    /// While it is active: its index's file was last written when it was so long.
    pub(crate) indexed_to: u64,
    /// And that is still being done: sealing, which writes it as a whole, waits for it.
    pub(crate) writes_index: bool,
}

impl Segment {
    /// A new, empty segment.
    pub(crate) fn new(partition: TopicPartition, base_offset: Offset, generation: u32) -> Self {
        Self {
            state: SegmentState::new(base_offset, generation),
            durable: 0,
            written: 0,
            front: Some(Bytes::new()),
            writing_to: None,
            park_to: 0,
            dirty: false,
            made: false,
            name_durable: false,
            direct: VecDeque::new(),
            released_max: Timestamp::NONE,
            runs_end: Offset::ZERO,
            allocated: 0,
            seal: Seal::Active,
            index: IndexSlot::Ready(Index::new(partition, base_offset)),
            indexed_to: 0,
            writes_index: false,
        }
    }

    /// A segment recovery has left: all of it is durable in the file.
    pub(crate) fn recovered(
        partition: TopicPartition,
        state: SegmentState,
        is_active: bool,
    ) -> Self {
        let size = state.size_bytes;
        if size == 0 {
            return Self { state, ..Self::new(partition, state.base_offset, state.generation) };
        }
        let aligned = size == round_down(size);
        Self {
            state,
            released_max: state.max_timestamp,
            durable: size,
            written: size,
            // Nothing is ever appended to a compacted one.
            front: (aligned || state.is_compacted()).then(Bytes::new),
            writing_to: None,
            park_to: 0,
            dirty: false,
            made: true,
            name_durable: true,
            direct: VecDeque::new(),
            runs_end: Offset::ZERO,
            // It may have been cut to its size, though the roll that did so was never durable. So
            // its last block is reserved again when it grows.
            allocated: round_down(size),
            seal: if is_active { Seal::Active } else { Seal::Sealed },
            index: IndexSlot::Absent {
                from: size,
                from_offset: state.next_offset,
                since: Vec::new(),
            },
            indexed_to: 0,
            writes_index: false,
        }
    }

    /// A segment that compaction wrote: all of it is durable in the file.
    pub(crate) fn compacted(partition: TopicPartition, state: SegmentState, index: Index) -> Self {
        let index = IndexSlot::Ready(index);
        Self { index, ..Self::recovered(partition, state, false) }
    }

    /// Its file.
    pub(crate) fn file(&self, partition: TopicPartition) -> FileName {
        self.state.name().file(partition)
    }

    /// The file of its index.
    pub(crate) fn index_file(&self, partition: TopicPartition) -> FileName {
        self.state.name().index_file(partition)
    }

    /// Notes a batch behind all before it.
    pub(crate) fn append(&mut self, batch: &IndexedBatch, wall_ms: i64) {
        assert!(self.seal == Seal::Active, "a sealed segment never grows");
        if self.state.size_bytes == 0 {
            self.state.opened_ms = wall_ms;
        }
        self.state.appended_ms = wall_ms;
        self.state.next_offset = batch.next_offset;
        self.state.size_bytes += u64::from(batch.size_bytes);
        self.state.max_timestamp = self.state.max_timestamp.max(batch.max_timestamp);
        match &mut self.index {
            IndexSlot::Ready(index) => index.append(batch),
            IndexSlot::Absent { since, .. } => since.push(*batch),
        }
    }

    /// How much space to reserve next so that `bytes` more fit; `None` if they do already.
    pub(crate) fn space_wanted(&self, config: &Config, bytes: u64) -> Option<(u64, u64)> {
        let end = round_up(self.state.size_bytes + bytes);
        if end <= self.allocated {
            return None;
        }
        // Doubling, so that a small log takes little and a large one asks seldom.
        let step = self.allocated.clamp(config.allocate_bytes_min, config.allocate_bytes_max);
        let missing = end - self.allocated;
        Some((self.allocated, round_up(missing.max(step))))
    }

    /// The next piece to be written to the file, as `from..to`, if there is one: whole blocks
    /// from `from` on, except that a parked end is padded.
    ///
    /// One piece at a time: two writes of one block could come to the disk in the wrong order.
    pub(crate) fn next_piece(&self, flush_bytes: u64) -> Option<(u64, u64)> {
        if self.writing_to.is_some() || self.front.is_none() {
            return None;
        }
        let from = round_down(self.written);
        let whole = round_down(self.durable);
        let parks = self.written < self.park_to && self.park_to <= self.durable;
        let end = if parks { self.park_to.max(whole) } else { whole };
        // Up to a run there is nothing more to wait for.
        let (to, now) = match self.direct.front() {
            Some(&(run, _)) if run <= end => (run, true),
            _ => (end, parks),
        };
        let is_piece = if now { self.written < to } else { from + flush_bytes <= to };
        is_piece.then(|| (from, to.min(from + PIECE_BYTES_MAX)))
    }

    /// The journal has everything below `position`.
    pub(crate) fn advance_durable(&mut self, position: u64) {
        self.durable = position;
        self.pass_runs();
    }

    /// The file has everything below `position`; `front` are the bytes of the last block of it.
    pub(crate) fn advance_written(&mut self, position: u64, front: Bytes) {
        self.writing_to = None;
        self.written = position;
        self.front = Some(front);
        self.dirty = true;
        self.pass_runs();
    }

    /// What comes next was written ahead, and its reference is durable.
    fn pass_runs(&mut self) {
        while let Some(&(from, to)) = self.direct.front()
            && self.written == from
            && to <= self.durable
            && self.writing_to.is_none()
        {
            self.direct.pop_front();
            self.written = to;
            self.front = Some(Bytes::new());
        }
    }

    /// Whether all of a segment that no longer grows is in its file.
    pub(crate) fn is_drained(&self) -> bool {
        self.writing_to.is_none() && self.written == self.state.size_bytes
    }

    /// The most bytes its index file can have.
    pub(crate) fn index_file_bytes_max(&self) -> u32 {
        index_file_bytes_max(&self.state)
    }
}
