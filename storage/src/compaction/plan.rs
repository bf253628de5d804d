//! What a compaction is told of a log, and how its segments are read: away from the shard, and
//! only bytes that are proved.
//!
//! A compaction goes so: the shard hands out a [`CompactionPlan`]; somewhere else the segments are
//! read through [`CompactionPlan::reader`], and what stays of neighbours is written to one new
//! file with its index ([`CompactionPlan::files`]); when both and their directory are synced, the
//! shard puts the new segment in the place of the old ones. No file is written twice, none is
//! renamed: the journal alone says which ones count.
//!
//! Start reading at [`CompactionPlan`].

use bytes::Bytes;
use tidemill_record::{Offset, TopicPartition};

use crate::block::{BLOCK_BYTES, round_up};
use crate::checkpoint::{SegmentName, SegmentState};
use crate::epochs::LeaderEpochs;
use crate::index::{Index, SPAN_BYTES_MIN};
use crate::io::FileName;
use crate::read::{Boundary, Damage, ReadPlan, SegmentWalk, Wanted};

/// So many bytes are read at once, unless a single span is longer.
const STEP_BYTES: u32 = 1024 * 1024;

/// What may be compacted of one log, as it is now.
#[derive(Clone, Debug)]
pub struct CompactionPlan {
    /// Whose log.
    pub partition: TopicPartition,
    /// The number of this compaction: part of the names of its files.
    pub number: u32,
    /// The log's generation.
    pub generation: u32,
    /// Offset of the first record kept.
    pub start: Offset,
    /// Everything below was compacted before, as far as that is remembered.
    pub compacted_to: Offset,
    /// Sealed segments, oldest first, each beginning where the one before ends.
    pub segments: Vec<SegmentState>,
    pub(crate) epochs: LeaderEpochs,
}

impl CompactionPlan {
    /// Reads segment number `at`. Panics if there are not so many.
    #[must_use]
    pub fn reader(&self, at: usize) -> SealedReader {
        SealedReader::new(self.partition, self.segments[at], self.epochs.clone())
    }

    /// The names of the new file and of its index, for segments whose first begins at
    /// `base_offset`.
    #[must_use]
    pub fn files(&self, base_offset: Offset) -> (FileName, FileName) {
        let name = SegmentName { base_offset, compaction: self.number };
        (name.file(self.partition), name.index_file(self.partition))
    }

    /// The index of a new file that begins there, without batches yet.
    #[must_use]
    pub fn new_index(&self, base_offset: Offset) -> Index {
        Index::with_gaps(self.partition, base_offset)
    }

    /// What the file of such an index holds: whole blocks.
    #[must_use]
    pub fn index_bytes(&self, index: &Index) -> Bytes {
        index.encode(self.generation)
    }
}

/// The bytes of a sealed segment, front to back, proved, in bounded steps.
///
/// Ask [`SealedReader::next_read`], read that, hand it to [`SealedReader::take`], until there is
/// nothing more to read.
#[derive(Debug)]
pub struct SealedReader {
    partition: TopicPartition,
    segment: SegmentState,
    epochs: LeaderEpochs,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The index file comes first.
    Index,
    /// It is not what it should be: the segment is walked, and the index made again.
    Walk(Box<SegmentWalk>),
    /// Whole spans are read, from this offset on.
    Spans { index: Index, from: Offset },
    /// Nothing more can be had.
    Over,
}

impl SealedReader {
    fn new(partition: TopicPartition, segment: SegmentState, epochs: LeaderEpochs) -> Self {
        Self { partition, segment, epochs, stage: Stage::Index }
    }

    /// What to read next: file, and aligned position and size. `None` at the end.
    #[must_use]
    pub fn next_read(&self) -> Option<(FileName, u64, u32)> {
        let name = self.segment.name();
        let file = name.file(self.partition);
        match &self.stage {
            Stage::Index => {
                Some((name.index_file(self.partition), 0, index_file_bytes_max(&self.segment)))
            }
            Stage::Walk(walk) => walk.next_read().map(|(position, size)| (file, position, size)),
            Stage::Spans { index, from } => {
                let plan = self.plan(index, *from)?;
                Some((file, plan.position(), plan.size_bytes()))
            }
            Stage::Over => None,
        }
    }

    /// Takes what was read where [`SealedReader::next_read`] said, shorter only at the file's end;
    /// `None` if there is no such file. Returns the next batches, whole ones, back to back; none
    /// if more must be read first.
    ///
    /// After damage nothing more can be read.
    pub fn take(&mut self, bytes: Option<&Bytes>) -> Result<Bytes, Damage> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Index => {
                let index = bytes.and_then(|bytes| self.decode(bytes));
                self.stage = match index {
                    Some(index) => Stage::Spans { index, from: self.segment.base_offset },
                    None => Stage::Walk(Box::new(self.new_walk())),
                };
                Ok(Bytes::new())
            }
            Stage::Walk(mut walk) => {
                walk.take(bytes.map_or(&[], |bytes| bytes), |_, _| {})?;
                self.stage = match walk.next_read() {
                    Some(_) => Stage::Walk(walk),
                    None => self.check_walked(walk.into_index())?,
                };
                Ok(Bytes::new())
            }
            Stage::Spans { index, from } => {
                let plan = self.plan(&index, from).expect("it was asked for");
                let cut = plan.cut(bytes.unwrap_or(&Bytes::new()));
                if let Some(damage) = cut.damage {
                    return Err(damage);
                }
                if cut.next_offset <= from {
                    // The right checksum, but no batch.
                    return Err(self.all_of_it());
                }
                self.stage = Stage::Spans { index, from: cut.next_offset };
                Ok(cut.batches)
            }
            Stage::Over => panic!("there was nothing more to read"),
        }
    }

    fn plan(&self, index: &Index, from: Offset) -> Option<ReadPlan> {
        let visible_end = self.segment.next_offset;
        let wanted = Wanted { from, visible_end, limit_bytes: STEP_BYTES, min_one: true };
        ReadPlan::new(index, self.end(), wanted, STEP_BYTES)
    }

    fn decode(&self, bytes: &Bytes) -> Option<Index> {
        let SegmentState { base_offset, generation, .. } = self.segment;
        let index = Index::decode(bytes, self.partition, base_offset, generation).ok()?;
        self.is_whole(&index).then_some(index)
    }

    fn is_whole(&self, index: &Index) -> bool {
        let end = Boundary { position: index.size_bytes(), offset: index.next_offset() };
        end == self.end() && self.segment.accepts(index)
    }

    fn new_walk(&self) -> SegmentWalk {
        let index = self.segment.empty_index(self.partition);
        let (size, end) = (self.segment.size_bytes, self.segment.next_offset);
        let batch_bytes_max = u32::try_from(size).unwrap_or(u32::MAX);
        SegmentWalk::new(index, self.epochs.clone(), size, end, batch_bytes_max)
    }

    fn check_walked(&self, index: Index) -> Result<Stage, Damage> {
        if !self.is_whole(&index) {
            return Err(self.all_of_it());
        }
        Ok(Stage::Spans { index, from: self.segment.base_offset })
    }

    fn end(&self) -> Boundary {
        Boundary { position: self.segment.size_bytes, offset: self.segment.next_offset }
    }

    fn all_of_it(&self) -> Damage {
        let start = Boundary { position: 0, offset: self.segment.base_offset };
        Damage { start, end: self.end() }
    }
}

/// The most bytes the index file of a segment can have.
pub(crate) fn index_file_bytes_max(segment: &SegmentState) -> u32 {
    const ENTRY_BYTES: u64 = 24;
    let spans = segment.size_bytes / u64::from(SPAN_BYTES_MIN) + 1;
    round_up(spans * ENTRY_BYTES + BLOCK_BYTES as u64) as u32
}
