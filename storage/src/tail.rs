//! The newest batches of a log, in memory, as they were received.
//!
//! A batch stays here until its segment has it, and after that for as long as memory allows:
//! consumers at the end of the log are served from here, without a copy.
//!
//! Start reading at [`Tail::read`].

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use tidemill_record::{Offset, Timestamp};

use crate::block::AlignedBytes;
use crate::read::{Boundary, Wanted};

/// A batch smaller than this is copied out of what was received, so that it does not keep all of
/// that in memory.
const COPY_BELOW_BYTES: usize = 16 * 1024;

/// A batch in memory.
#[derive(Clone, Debug)]
pub(crate) struct TailBatch {
    /// Offset of its first record.
    pub(crate) base_offset: Offset,
    /// Offset after its last record.
    pub(crate) next_offset: Offset,
    /// The segment it belongs to.
    pub(crate) segment: Offset,
    /// Its position there.
    pub(crate) position: u64,
    /// The newest timestamp in it.
    pub(crate) max_timestamp: Timestamp,
    /// The batch.
    pub(crate) bytes: Bytes,
}

/// What a batch in memory takes besides its bytes, about.
const BATCH_OVERHEAD_BYTES: usize = 128;

/// What left a tail.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Freed {
    /// How many batches.
    pub(crate) batches: usize,
    /// How much memory.
    pub(crate) bytes: usize,
}

impl TailBatch {
    /// The memory it takes.
    pub(crate) fn cost_bytes(&self) -> usize {
        self.bytes.len() + BATCH_OVERHEAD_BYTES
    }

    fn end(&self) -> u64 {
        self.position + self.bytes.len() as u64
    }
}

/// The newest batches of one log, without a gap up to its end.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    batches: VecDeque<TailBatch>,
}

fn freed(batches: impl Iterator<Item = TailBatch>) -> Freed {
    batches.fold(Freed::default(), |sum, batch| Freed {
        batches: sum.batches + 1,
        bytes: sum.bytes + batch.cost_bytes(),
    })
}

/// The memory a received batch is kept in.
pub(crate) fn keep(batch: BytesMut) -> Bytes {
    if batch.len() < COPY_BELOW_BYTES { Bytes::copy_from_slice(&batch) } else { batch.freeze() }
}

impl Tail {
    /// Adds the newest batch.
    pub(crate) fn push(&mut self, batch: TailBatch) {
        assert!(self.batches.back().is_none_or(|last| last.next_offset == batch.base_offset));
        self.batches.push_back(batch);
    }

    /// The oldest batch kept.
    pub(crate) fn first(&self) -> Option<&TailBatch> {
        self.batches.front()
    }

    /// All batches from the one that holds `from` on.
    pub(crate) fn iter_from(&self, from: Offset) -> impl Iterator<Item = &TailBatch> {
        let first = self.batches.partition_point(|batch| batch.next_offset <= from);
        self.batches.range(first..)
    }

    /// Whether the record at `offset` is here.
    pub(crate) fn holds(&self, offset: Offset) -> bool {
        self.batches.front().is_some_and(|first| first.base_offset <= offset)
            && self.batches.back().is_some_and(|last| offset < last.next_offset)
    }

    /// The batches that are wanted, if the first of them is here.
    pub(crate) fn read(&self, wanted: &Wanted) -> Option<(Vec<Bytes>, u64)> {
        if !self.holds(wanted.from) {
            return None;
        }
        let mut found = Vec::new();
        let mut size_bytes = 0;
        for batch in self.iter_from(wanted.from) {
            let grown = size_bytes + batch.bytes.len() as u64;
            let fits = grown <= u64::from(wanted.limit_bytes);
            let forced = wanted.min_one && found.is_empty();
            if wanted.visible_end < batch.next_offset || !(fits || forced) {
                break;
            }
            size_bytes = grown;
            found.push(batch.bytes.clone());
        }
        Some((found, size_bytes))
    }

    /// Takes out the oldest batch.
    pub(crate) fn pop_first(&mut self) -> Option<TailBatch> {
        self.batches.pop_front()
    }

    /// Drops the batches of segments before `first`.
    pub(crate) fn trim(&mut self, first: Offset) -> Freed {
        let gone = self.batches.partition_point(|batch| batch.segment < first);
        freed(self.batches.drain(..gone))
    }

    /// Drops the batches that end at or below `offset`.
    pub(crate) fn forget_below(&mut self, offset: Offset) -> Freed {
        let gone = self.batches.partition_point(|batch| batch.next_offset <= offset);
        freed(self.batches.drain(..gone))
    }

    /// Drops all batches.
    pub(crate) fn clear(&mut self) -> Freed {
        freed(self.batches.drain(..))
    }

    /// How many batches are here.
    pub(crate) fn len(&self) -> usize {
        self.batches.len()
    }

    /// Memory of all batches here.
    pub(crate) fn cost_bytes(&self) -> usize {
        self.batches.iter().map(TailBatch::cost_bytes).sum()
    }

    /// The boundary before the oldest batch here that belongs to `segment`: the segment's bytes
    /// before it are on disk.
    pub(crate) fn start_in(&self, segment: Offset) -> Option<Boundary> {
        let batch = self.batches.iter().find(|batch| segment <= batch.segment)?;
        (batch.segment == segment)
            .then_some(Boundary { position: batch.position, offset: batch.base_offset })
    }

    /// Gathers bytes `from..to` of `segment` into `out`. All of them are here.
    pub(crate) fn gather(&self, segment: Offset, from: u64, to: u64, out: &mut AlignedBytes) {
        let first = self
            .batches
            .partition_point(|b| b.segment < segment || (b.segment == segment && b.end() <= from));
        let mut position = from;
        for batch in self.batches.range(first..) {
            if to <= position {
                break;
            }
            assert!(batch.segment == segment && batch.position <= position, "a gap in the tail");
            let start = (position - batch.position) as usize;
            let end = (to.min(batch.end()) - batch.position) as usize;
            out.put(&batch.bytes[start..end]);
            position = batch.position + end as u64;
        }
        assert!(position == to, "the tail holds what its segment does not");
    }
}
