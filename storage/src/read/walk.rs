//! A walk over a whole segment: to build its index again, to find where a truncation cuts, to look
//! inside. Bounded steps, and the same proofs as for any other read.

use tidemill_record::{Batch, BatchError, HEADER_BYTES, Offset};

use super::{Boundary, Damage, next_sound};
use crate::block::{round_down, round_up};
use crate::epochs::LeaderEpochs;
use crate::index::{Index, IndexedBatch};

/// The bytes one step of a [`SegmentWalk`] reads, unless a single batch is longer.
pub const STEP_BYTES: u32 = 256 * 1024;

const _: () = assert!(crate::block::is_aligned(STEP_BYTES as u64));

/// A walk over a segment's bytes, front to back, one bounded step at a time, with its index as
/// the result.
///
/// Ask [`SegmentWalk::next_read`], read that, hand it to [`SegmentWalk::take`], until there is
/// nothing more to read.
#[derive(Clone, Debug)]
pub struct SegmentWalk {
    index: Index,
    epochs: LeaderEpochs,
    /// Where the segment ends.
    pub(super) end: u64,
    /// No batch that reaches past this is taken.
    stop_at: Offset,
    batch_bytes_max: u32,
    /// The next batch is known to need so many bytes.
    needed_bytes: u32,
    stopped: bool,
}

impl SegmentWalk {
    /// A walk from where `index` ends (a new index: from the front) to `end`, or to the first
    /// batch that reaches past `stop_at`. Batches must be of the leader epochs that `epochs` tells.
    ///
    /// Of a compacted segment (an index with gaps) the walk proves each batch, but not its offsets:
    /// that the checksum of the whole index does.
    #[must_use]
    pub fn new(
        index: Index,
        epochs: LeaderEpochs,
        end: u64,
        stop_at: Offset,
        batch_bytes_max: u32,
    ) -> Self {
        assert!(index.size_bytes() <= end, "the index knows more than the segment has");
        let needed_bytes = HEADER_BYTES as u32;
        Self { index, epochs, end, stop_at, batch_bytes_max, needed_bytes, stopped: false }
    }

    /// What to read next, as aligned position and size; `None` when the walk has ended.
    #[must_use]
    pub fn next_read(&self) -> Option<(u64, u32)> {
        let position = self.index.size_bytes();
        if self.stopped || self.end <= position {
            return None;
        }
        let aligned = round_down(position);
        let needed_end = round_up(position + u64::from(self.needed_bytes));
        let step_end = (aligned + u64::from(STEP_BYTES)).min(round_up(self.end));
        Some((aligned, (needed_end.max(step_end) - aligned) as u32))
    }

    /// Takes the bytes read where [`SegmentWalk::next_read`] said, shorter only at the file's
    /// end. `each` is told of every batch and its position.
    ///
    /// After damage the walk is over; the index holds what lies before it.
    pub fn take(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&Batch<'_>, u64),
    ) -> Result<(), Damage> {
        let aligned = round_down(self.index.size_bytes());
        let skip = (self.index.size_bytes() - aligned) as usize;
        let known = (self.end - aligned).min(bytes.len() as u64) as usize;
        let mut rest = bytes.get(skip..known).unwrap_or_default();
        let before = self.index.size_bytes();

        while self.index.size_bytes() < self.end {
            let sound = next_sound(rest, self.index.next_offset(), self.index.has_gaps())
                .filter(|(batch, _)| self.epochs.agree(batch.base_offset(), batch.leader_epoch()));
            match sound {
                Some((batch, _)) if self.stop_at < batch.next_offset() => {
                    self.stopped = true;
                    return Ok(());
                }
                Some((batch, behind)) => {
                    each(&batch, self.index.size_bytes());
                    self.index.append(&IndexedBatch::of(&batch));
                    self.needed_bytes = HEADER_BYTES as u32;
                    rest = behind;
                }
                None => return self.read_on_or_give_up(rest, before),
            }
        }
        Ok(())
    }

    /// The index of all batches taken.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The index of all batches taken.
    #[must_use]
    pub fn into_index(self) -> Index {
        self.index
    }

    /// The next batch is not there: because the step ended within it, or because it is damaged.
    fn read_on_or_give_up(&mut self, rest: &[u8], before: u64) -> Result<(), Damage> {
        let position = self.index.size_bytes();
        if let Err(BatchError::Truncated { needed_bytes, .. }) = Batch::parse(rest) {
            let asked_already = position == before && needed_bytes <= self.needed_bytes as usize;
            let may_be_right = needed_bytes <= self.batch_bytes_max as usize
                && position + needed_bytes as u64 <= self.end;
            if may_be_right && !asked_already {
                self.needed_bytes = needed_bytes as u32;
                return Ok(());
            }
        }
        self.stopped = true;
        let start = Boundary { position, offset: self.index.next_offset() };
        let end = Boundary { position: self.end, offset: self.stop_at };
        Err(Damage { start, end })
    }
}
