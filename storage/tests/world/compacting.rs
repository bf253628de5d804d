//! Compactions in the world: what the broker's background executor does, on the disk that crashes.
//!
//! What stays is left to chance, batch by batch, but for the last one of each new file. The files
//! are written request by request among all others, so that a crash may come at any of them.

use std::collections::VecDeque;

use bytes::Bytes;
use tidemill_record::{Batch, Offset, TopicPartition, checksum};
use tidemill_storage::block::AlignedBytes;
use tidemill_storage::checkpoint::SegmentState;
use tidemill_storage::index::IndexedBatch;
use tidemill_storage::io::{Action, Completion, FileName, Outcome, Request, RequestId};
use tidemill_storage::{CompactionPlan, LogId, SealedReader, Swap, SwapError};

use super::World;
use crate::disk::Disk;

/// Stands where the shard's number does in the ids of requests.
const BACKGROUND: u64 = 0xffff;
/// The step of a compaction.
const STEP: RequestId = RequestId(BACKGROUND << 48);
/// The removal of what one has left.
const REMOVAL: RequestId = RequestId(BACKGROUND << 48 | 1);

/// What becomes of a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    Stays,
    /// It stays without records.
    Emptied,
    Goes,
}

/// A compaction under way.
#[derive(Clone, Debug)]
pub struct Background {
    shard: usize,
    log: LogId,
    chores: VecDeque<Action>,
    files: [FileName; 2],
    swap: Swap,
    asked: bool,
}

impl World {
    /// Begins to compact the sealed segments `which` says, if there are such and it may. Whether
    /// it did.
    pub fn begin_compaction(
        &mut self,
        tp: TopicPartition,
        which: fn(&[SegmentState]) -> std::ops::Range<usize>,
        mut fate: impl FnMut(&Batch<'_>) -> Fate,
    ) -> bool {
        let (shard, log) = self.logs[&tp];
        if self.background.is_some() || self.models[&tp].truncating.is_some() {
            return false;
        }
        let below = self.log(tp).durable_end();
        let Some(plan) = self.shards[shard].begin_compaction(log, below) else { return false };
        let row = which(&plan.segments);
        let (first, last) = (plan.segments[row.start], plan.segments[row.end - 1]);
        let mut index = plan.new_index(first.base_offset);
        let mut file = Vec::new();
        for at in row {
            let bytes = read_sealed(&self.disk, plan.reader(at)).expect("nothing is damaged");
            let mut rest = &bytes[..];
            while let Ok((batch, behind)) = Batch::parse(rest) {
                rest = behind;
                let is_last = batch.next_offset() == last.next_offset;
                let fate = match fate(&batch) {
                    Fate::Goes if is_last => Fate::Emptied,
                    fate => fate,
                };
                let model = self.models.get_mut(&tp).expect("a known partition");
                let stays = match fate {
                    Fate::Stays => batch.bytes().to_vec(),
                    Fate::Emptied => emptied(batch.bytes()),
                    Fate::Goes => {
                        model.may_go(batch.base_offset());
                        continue;
                    }
                };
                model.may_be(batch.base_offset(), &stays);
                index.append(&IndexedBatch::of(&Batch::parse(&stays).expect("a batch").0));
                file.extend_from_slice(&stays);
            }
            assert!(rest.is_empty(), "whole batches");
        }
        let (log_file, index_file) = plan.files(first.base_offset);
        let chores = chores(&plan, [&log_file, &index_file], &file, plan.index_bytes(&index));
        let sources = first.base_offset..last.next_offset;
        let swap = Swap { number: plan.number, sources, index };
        let files = [log_file, index_file];
        self.background = Some(Background { shard, log, chores, files, swap, asked: false });
        true
    }

    /// Has all sealed segments covered by a checkpoint, as a compaction needs them.
    pub fn cover(&mut self, tp: TopicPartition) {
        for _ in 0..4 {
            self.settle();
            let (shard, log) = self.logs[&tp];
            let (end, sealed) = (self.log(tp).durable_end(), self.log(tp).segments_count() - 1);
            let Some(plan) = self.shards[shard].begin_compaction(log, end) else { continue };
            self.shards[shard].end_compaction(log, plan.number, None);
            if plan.segments.len() == sealed {
                return self.settle();
            }
        }
        panic!("sealed segments are never covered by a checkpoint");
    }

    /// Compacts all that may be, to the end. Whether there was something.
    pub fn compact(&mut self, tp: TopicPartition, fate: impl FnMut(&Batch<'_>) -> Fate) -> bool {
        let begun = self.begin_compaction(tp, |all| 0..all.len(), fate);
        self.settle();
        begun
    }

    /// The next step of the compaction under way.
    pub(super) fn step_background(&mut self) {
        let Some(background) = &mut self.background else { return };
        if background.asked {
            return;
        }
        if let Some(action) = background.chores.pop_front() {
            background.asked = true;
            return self.disk.submit(Request { id: STEP, action });
        }
        let Background { shard, log, swap, .. } = background.clone();
        let compacted_to = match self.shards[shard].swap_in(log, &swap, self.now) {
            Err(SwapError::Busy) => return,
            Err(_) => return self.give_up(),
            Ok(()) => Some(swap.sources.end),
        };
        self.swaps += 1;
        self.background = None;
        self.shards[shard].end_compaction(log, swap.number, compacted_to);
    }

    /// Whether this is the end of a step of it.
    pub(super) fn background_ended(&mut self, completion: &Completion) -> bool {
        if completion.id.0 >> 48 != BACKGROUND {
            return false;
        }
        let background = self.background.as_mut().filter(|_| completion.id == STEP);
        let Some(background) = background else { return true };
        background.asked = false;
        match &completion.result {
            Ok(Outcome::Done) => self.step_background(),
            _ => self.give_up(),
        }
        true
    }

    fn give_up(&mut self) {
        let Some(Background { shard, log, swap, files, .. }) = self.background.take() else {
            return;
        };
        self.shards[shard].end_compaction(log, swap.number, None);
        for file in files {
            self.disk.submit(Request { id: REMOVAL, action: Action::Remove { file } });
        }
    }
}

/// What the background executor does to have the new files on disk.
fn chores(
    plan: &CompactionPlan,
    [log_file, index_file]: [&FileName; 2],
    bytes: &[u8],
    index: Bytes,
) -> VecDeque<Action> {
    let (file, size) = (log_file.clone(), bytes.len() as u64);
    let blocks = AlignedBytes::copy_of(bytes).into_blocks();
    let (index_file, dir) = (index_file.clone(), log_file.dir());
    assert_eq!(dir, index_file.dir());
    assert!(plan.segments.iter().all(|segment| segment.compaction < plan.number));
    let space = blocks.len() as u64;
    [
        Action::Create { file: file.clone() },
        Action::Allocate { file: file.clone(), position: 0, size: space },
        Action::Write { file: file.clone(), position: 0, bytes: blocks, durable: false },
        Action::Truncate { file: file.clone(), size },
        Action::Sync { file },
        Action::Create { file: index_file.clone() },
        Action::Write { file: index_file.clone(), position: 0, bytes: index, durable: false },
        Action::Sync { file: index_file },
        Action::SyncDir { dir },
    ]
    .into()
}

/// All batches of a sealed segment; `None` if something of it is damaged.
pub fn read_sealed(disk: &Disk, mut reader: SealedReader) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    while let Some((file, position, size)) = reader.next_read() {
        let bytes = disk.file(&file).map(|file| {
            let start = (position as usize).min(file.len());
            let end = (start + size as usize).min(file.len());
            Bytes::copy_from_slice(&file[start..end])
        });
        all.extend_from_slice(&reader.take(bytes.as_ref()).ok()?);
    }
    Some(all)
}

/// The batch without its records: its offsets and its producer stay.
pub fn emptied(batch: &[u8]) -> Vec<u8> {
    let mut header = batch[..tidemill_record::HEADER_BYTES].to_vec();
    let length = header.len() as u32 - 12;
    header[8..12].copy_from_slice(&length.to_be_bytes());
    header[57..61].fill(0);
    let crc = checksum::crc32c(&header[21..]);
    header[17..21].copy_from_slice(&crc.to_be_bytes());
    header
}

/// Where the batches of a log begin, as read back.
pub fn base_offsets(bytes: &[u8]) -> Vec<Offset> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Ok((batch, behind)) = Batch::parse(rest) {
        found.push(batch.base_offset());
        rest = behind;
    }
    found
}
