//! Putting compacted segments in the place of those they were made of.
//!
//! What is to be compacted is read and written away from the shard, and synced there. So the new
//! segment is served from the moment it is told of; only the removal of the old files waits for
//! the journal's entry, and for the last request on them. Until that is durable a crash brings
//! the old ones back, and then the new file is one nobody names, which the next start removes.
//!
//! ```text
//! before:   | a      | b   | c   | d …          a.log  b.log  c.log
//! after:    | a.1        gaps    | d …          a.1.log
//! ```
//!
//! Only segments below the last durable checkpoint are handed out: replay never writes to them,
//! and never reads a large run from them.
//!
//! Start reading at [`ShardStorage::begin_compaction`].

use std::ops::Range;

use tidemill_record::Offset;

use super::ShardStorage;
use crate::checkpoint::SegmentState;
use crate::compaction::plan::CompactionPlan;
use crate::compaction::policy::{self, Dirt, SegmentFacts, When};
use crate::index::Index;
use crate::layout::{Entry, EntryKind};
use crate::log::{Log, LogId};
use crate::segment::{Seal, Segment};

/// A compaction under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Compacting {
    /// Its number.
    number: u32,
    /// The log's generation when it was begun.
    generation: u32,
}

/// A new segment, written and synced: its file, its index's file, and their directory.
#[derive(Clone, Debug)]
pub struct Swap {
    /// The compaction that wrote it.
    pub number: u32,
    /// The offsets of the segments it is made of, all of them.
    pub sources: Range<Offset>,
    /// Its index. Its last batch ends where the last of the old segments does.
    pub index: Index,
}

/// Why a compacted segment was not put in. Its files are not needed any more, unless it is told to
/// try again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SwapError {
    /// The log is not what the plan says any more: it was trimmed or truncated, or the compaction
    /// has ended.
    Changed,
    /// The log is being cut or dropped, or the node stops.
    Closing,
    /// A write or sync failed before.
    Fenced,
    /// The journal is full; it is being freed. Try again later.
    Busy,
}

impl ShardStorage {
    /// What of the log may be compacted: sealed segments that end at or below `below`, none of
    /// them damaged. Until [`ShardStorage::end_compaction`] there is no other compaction of it.
    ///
    /// `None` if there is nothing, or nothing yet: what no checkpoint covers is asked to be, and
    /// can be had a little later. So is what the compaction before made the log forget, and that
    /// the log is compacted at all.
    pub fn begin_compaction(&mut self, log: LogId, below: Offset) -> Option<CompactionPlan> {
        let books = self.log(log);
        let cannot = self.fenced || self.stopping || books.closing.is_some();
        if cannot || books.broken_at.is_some() || books.compacting.is_some() {
            return None;
        }
        let below = below.min(books.durable_end);
        let segments = books.compactable(below.min(books.checkpointed));
        let end = segments.last().map(|last| last.next_offset);
        let waits = end < books.compactable(below).last().map(|last| last.next_offset);
        let has_new = end.is_some_and(|end| books.compacted_to < end);
        if segments.is_empty() && !waits {
            return None;
        }
        let is_told = self.tell_of_compactions(log);
        // A crash must not bring back what was forgotten once its marker may go.
        let has_forgotten = self.is_durable(self.log(log).forgotten_in);
        if waits || !has_forgotten || !is_told {
            self.force_park(log);
        }
        if segments.is_empty() || (waits && !has_new) || !has_forgotten || !is_told {
            return None;
        }
        let books = self.log_mut(log);
        books.compactions += 1;
        books.changed = true;
        let (number, generation) = (books.compactions, books.generation);
        books.compacting = Some(Compacting { number, generation });
        Some(CompactionPlan {
            partition: books.partition,
            number,
            generation,
            start: books.trimmed_to,
            compacted_to: books.compacted_to,
            segments,
            epochs: books.epochs.clone(),
        })
    }

    /// Whether a durable checkpoint tells that the log is compacted. Only of such logs a start
    /// looks for what a crash has left of a compaction, whatever the policy is by then; so the
    /// first number of each log is spent on telling.
    fn tell_of_compactions(&mut self, log: LogId) -> bool {
        let checkpoint = self.next_checkpoint();
        let books = self.log_mut(log);
        if books.compactions == 0 {
            books.compactions = 1;
            books.compactions_told_in = checkpoint;
            books.changed = true;
        }
        let told_in = books.compactions_told_in;
        self.is_durable(told_in)
    }

    /// Puts a new segment in the place of those it is made of.
    pub fn swap_in(&mut self, log: LogId, swap: &Swap, now: u64) -> Result<(), SwapError> {
        self.now = self.now.max(now);
        if self.fenced {
            return Err(SwapError::Fenced);
        }
        let books = self.log(log);
        if self.stopping || books.closing.is_some() {
            return Err(SwapError::Closing);
        }
        let generation = books.generation;
        let is_current = books.compacting == Some(Compacting { number: swap.number, generation });
        let row = books.row(&swap.sources).filter(|_| is_current).ok_or(SwapError::Changed)?;
        if !self.journal.has_room(&self.config, 0) {
            return Err(SwapError::Busy);
        }
        let (state, freed) = {
            let books = self.log_mut(log);
            let state = books.state_of(swap, &row);
            let new = Segment::compacted(books.partition, state, swap.index.clone());
            let old: Vec<Segment> = books.segments.splice(row, [new]).collect();
            for segment in &old {
                books.doom(segment);
                books.doomed_swaps.push((segment.state.name(), state.name()));
            }
            (state, books.tail.forget_below(state.next_offset))
        };
        self.note_freed(freed);
        self.note_index(log, state.base_offset);
        let mut payload = Vec::new();
        state.encode(&mut payload);
        let entry = Entry {
            segment: state.base_offset,
            position: state.size_bytes,
            base_offset: state.base_offset,
            next_offset: state.next_offset,
            ..self.log(log).entry(EntryKind::Swap)
        };
        self.journal_with(log, entry, payload.into());
        Ok(())
    }

    /// A compaction has ended, well or not; `compacted_to` is how far the log is compacted now,
    /// if it tells. Nothing is written to its files any more.
    pub fn end_compaction(&mut self, log: LogId, number: u32, compacted_to: Option<Offset>) {
        let Some(books) = self.find_log_mut(log) else { return };
        let Some(ended) = books.compacting.take_if(|it| it.number == number) else { return };
        if let Some(to) = compacted_to.filter(|_| ended.generation == books.generation) {
            books.compacted_to = books.compacted_to.max(to);
            books.changed = true;
        }
        self.step_drop(log);
    }

    /// Forgets aborted transactions, named by the offsets of their markers, in order, of which
    /// compaction has left nothing. Not journaled: a crash may bring them back, and then they are
    /// found again, since no compaction begins that could drop their markers before a checkpoint.
    pub fn forget_aborted(&mut self, log: LogId, markers: &[Offset]) {
        if markers.is_empty() {
            return;
        }
        let checkpoint = self.next_checkpoint();
        let books = self.log_mut(log);
        books.transactions.forget_aborted(markers);
        books.changed = true;
        books.forgotten_in = checkpoint;
    }

    /// The new segment that begins there survives a crash: the old ones' files may go.
    pub(super) fn handle_swap_durable(&mut self, id: LogId, entry: &Entry) {
        let log = self.log_mut(id);
        // Entries become durable in the order they were made in.
        let durable = log.doomed_swaps.first().expect("its entry was under way").1;
        assert!(durable.base_offset == entry.segment, "durable in order");
        log.doomed_swaps.retain(|(_, new)| *new != durable);
        self.remove_doomed(id);
    }
}

impl Log {
    /// What could be compacted of it, as far as it may be: sealed, undamaged and stable. None if
    /// there is nothing.
    #[must_use]
    pub fn dirt(&self, when: When, now_ms: i64) -> Option<Dirt> {
        if self.broken_at.is_some() {
            return None;
        }
        let stable_end = self.last_stable(self.durable_end);
        let end = self.compactable(stable_end).last()?.next_offset;
        let facts: Vec<SegmentFacts> = self.segments().map(SegmentFacts::from).collect();
        policy::look(&facts, self.compacted_to.max(self.start), end, when, now_ms)
    }

    /// Whether something of it cannot be served, so that it and what lies behind it is not
    /// compacted.
    #[must_use]
    pub fn has_damage(&self) -> bool {
        self.broken_at.is_some() || !self.damaged.is_empty()
    }

    /// Its sealed, undamaged segments that end at or below `below`, oldest first.
    fn compactable(&self, below: Offset) -> Vec<SegmentState> {
        let sealed = &self.segments[..self.segments.len().saturating_sub(1)];
        let is_damaged = |state: &SegmentState| {
            let touches = |range: &Range<Offset>| {
                range.start < state.next_offset && state.base_offset < range.end
            };
            self.damaged.iter().any(touches)
        };
        let may_be = |segment: &&Segment| {
            let state = &segment.state;
            segment.seal == Seal::Sealed && state.next_offset <= below && !is_damaged(state)
        };
        let kept = sealed.iter().skip_while(|segment| segment.state.next_offset <= self.trimmed_to);
        kept.take_while(may_be).map(|segment| segment.state).collect()
    }

    /// Where in the log the segments with just these offsets are. None of them is on its way out:
    /// a trim that was journaled before would remove it in a replay, too.
    fn row(&self, sources: &Range<Offset>) -> Option<Range<usize>> {
        let row = row_of(self.segments.iter().map(|segment| &segment.state), sources)?;
        let is_kept = self.trimmed_to < self.segments[row.start].state.next_offset;
        (is_kept && row.end < self.segments.len()).then_some(row)
    }

    /// What the log knows of the new segment from now on.
    fn state_of(&self, swap: &Swap, row: &Range<usize>) -> SegmentState {
        let Swap { number, sources, index } = swap;
        assert!(index.has_gaps() && index.partition() == self.partition, "an index of this plan's");
        assert!(index.base_offset() == sources.start && index.next_offset() == sources.end);
        SegmentState {
            base_offset: sources.start,
            next_offset: sources.end,
            generation: self.generation,
            size_bytes: index.size_bytes(),
            max_timestamp: index.max_timestamp(),
            opened_ms: self.segments[row.start].state.opened_ms,
            appended_ms: self.segments[row.end - 1].state.appended_ms,
            compaction: *number,
            index_crc: index.checksum(self.generation),
        }
    }
}

/// Which of the segments have just these offsets.
pub(crate) fn row_of<'a>(
    segments: impl Iterator<Item = &'a SegmentState>,
    sources: &Range<Offset>,
) -> Option<Range<usize>> {
    let mut row: Option<Range<usize>> = None;
    let mut end = sources.start;
    for (at, segment) in segments.enumerate() {
        if segment.base_offset == end && end < sources.end {
            row = Some(row.map_or(at, |row| row.start)..at + 1);
            end = segment.next_offset;
        }
    }
    row.filter(|_| end == sources.end)
}
