//! Replay: a log's state and its journal entries become its state at the crash, and the bytes
//! that its segments still lack.
//!
//! Entries come in the order they were taken. Those the state knows of already only tell which
//! bytes may be missing from the segments; the others change the state, as they did when they
//! happened. A gap means that something durable is lost: then the log is broken there, and
//! nothing behind it is believed.
//!
//! Start reading at [`Replayed::apply`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tidemill_record::{Batch, Offset, Timestamp, TimestampType, checksum};

use crate::block::{AlignedBytes, BLOCK_BYTES, round_down, round_up};
use crate::checkpoint::{LogState, Place, SegmentName, SegmentState};
use crate::layout::{Entry, EntryKind};
use crate::mistake::{self, Mistake};
use crate::producers::PRODUCERS_MAX;
use crate::retention::SEGMENT_BYTES_MAX;
use crate::segment::PIECE_BYTES_MAX;
use crate::shard::{note_transaction, numbered};

/// Bytes to be written to a segment: from a block boundary on, without a gap.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// Which segment.
    pub(super) segment: Offset,
    /// Where it begins: a block boundary.
    pub(super) start: u64,
    /// Where it ends.
    pub(super) end: u64,
    pieces: Vec<Bytes>,
}

/// A log while its journal entries are replayed.
#[derive(Debug)]
pub(super) struct Replayed {
    /// What is known of it so far.
    pub(super) state: LogState,
    /// Below this place its bytes are in segments, or in `runs`.
    pub(super) cursor: Place,
    /// What is to be written.
    pub(super) runs: Vec<Run>,
    /// The last, partial block of what was written by this recovery: segment, end, bytes.
    front: Option<(Offset, u64, Bytes)>,
    /// Segments written by this recovery.
    pub(super) written: BTreeSet<Offset>,
    /// Segments that end exactly there.
    pub(super) cuts: BTreeMap<SegmentName, u64>,
    /// No window was lost that may have held an entry of it, or what came after shows that none
    /// was in it.
    pub(super) proved: bool,
}

impl Replayed {
    /// A log as the base or a checkpoint knows it.
    pub(super) fn new(state: LogState) -> Self {
        Self {
            cursor: state.synced,
            state,
            runs: Vec::new(),
            front: None,
            written: BTreeSet::new(),
            cuts: BTreeMap::new(),
            proved: true,
        }
    }

    /// Whether nothing is believed any more.
    fn is_over(&self) -> bool {
        self.state.dropped || self.state.broken_at.is_some()
    }

    /// Nothing from here on can be proved.
    pub(super) fn break_here(&mut self) {
        if !self.is_over() {
            self.state.broken_at = Some(self.cursor.offset);
        }
    }

    /// Applies one entry, whose payload has been proved.
    pub(super) fn apply(&mut self, entry: &Entry, payload: &Bytes) {
        // What is left of an older generation was synced before the truncation that ended it.
        let is_old = entry.generation < self.state.generation;
        let counts = match entry.kind {
            EntryKind::Drop => true,
            // Also a log that is not believed any more can be trimmed, and what was compacted of it
            // lies below all doubt: its old files are gone.
            EntryKind::Trim | EntryKind::Swap => !is_old && !self.state.dropped,
            _ => !is_old && !self.is_over(),
        };
        if !counts {
            return;
        }
        match entry.kind {
            EntryKind::Append => self.apply_append(entry, payload),
            // Its bytes were asked for first, unless it does not fit or is not needed.
            EntryKind::Reference => self.apply_reference(entry, payload, &[]),
            EntryKind::Roll => self.apply_roll(entry),
            EntryKind::Trim => self.apply_trim(entry),
            EntryKind::Truncate => self.apply_truncate(entry, payload),
            EntryKind::Swap => self.apply_swap(entry, payload),
            EntryKind::Drop => {
                self.state.dropped = true;
                self.runs.clear();
            }
        }
    }

    /// An entry whose payload is damaged, though it was durable.
    pub(super) fn lose(&mut self, entry: &Entry) {
        let is_needed = match entry.kind {
            EntryKind::Append | EntryKind::Reference => self.cursor.offset < entry.next_offset,
            EntryKind::Swap => self.lacks_swap(entry),
            _ => false,
        };
        if is_needed && self.state.generation <= entry.generation {
            self.break_here();
        }
    }

    fn apply_append(&mut self, entry: &Entry, payload: &Bytes) {
        if entry.next_offset <= self.cursor.offset {
            return;
        }
        let follows = entry.base_offset == self.cursor.offset
            && entry.generation == self.state.generation
            && self.add_bytes(entry, entry.prefix_bytes as usize, payload.clone());
        if !follows {
            return self.break_here();
        }
        self.proved = true;
        self.cursor = Place {
            offset: entry.next_offset,
            segment: entry.segment,
            position: entry.position + u64::from(entry.data_bytes),
        };
        if self.state.end <= entry.base_offset {
            self.note(entry, &payload.slice(entry.prefix_bytes as usize..));
        }
    }

    /// The blocks of the segment that hold what the reference refers to, if it is needed: from
    /// and to which position.
    pub(super) fn wants_run(&self, entry: &Entry) -> Option<(u64, u64)> {
        let fits = entry.kind == EntryKind::Reference
            && !self.is_over()
            && entry.generation == self.state.generation
            && entry.base_offset == self.cursor.offset
            && entry.base_offset < entry.next_offset
            && entry.position <= SEGMENT_BYTES_MAX;
        if !fits {
            return None;
        }
        let from = round_up(entry.position);
        let to = round_down(entry.position + u64::from(entry.data_bytes));
        let last_bytes = entry.position + u64::from(entry.data_bytes) - to;
        (from < to && last_bytes == u64::from(entry.last_bytes)).then_some((from, to))
    }

    /// Applies a reference; `blocks` is what [`Replayed::wants_run`] asked for.
    pub(super) fn apply_reference(&mut self, entry: &Entry, payload: &Bytes, blocks: &[u8]) {
        if entry.next_offset <= self.cursor.offset {
            return;
        }
        let Some((from, to)) = self.wants_run(entry) else { return self.break_here() };
        let ends = payload.slice(entry.prefix_bytes as usize..);
        let first_bytes = (from - entry.position) as usize;
        let whole = [&ends[..first_bytes], blocks, &ends[first_bytes..]].concat();
        let is_sound =
            whole.len() == entry.data_bytes as usize && checksum::crc32c(&whole) == entry.data_crc;
        let Some(parts) = is_sound.then(|| parts(entry, &whole)).flatten() else {
            return self.break_here();
        };
        let head = payload.slice(..entry.prefix_bytes as usize + first_bytes);
        if first_bytes != 0 && !self.add_bytes(entry, entry.prefix_bytes as usize, head) {
            return self.break_here();
        }
        let segment = entry.segment;
        let end = to + u64::from(entry.last_bytes);
        if to < end {
            let pieces = vec![ends.slice(first_bytes..)];
            self.runs.push(Run { segment, start: to, end, pieces });
        }
        self.front = None;
        self.proved = true;
        self.cursor = Place { offset: entry.next_offset, segment, position: end };
        let whole = Bytes::from(whole);
        for part in parts {
            if self.state.end <= part.base_offset {
                let at = (part.position - entry.position) as usize;
                self.note(&part, &whole.slice(at..at + part.data_bytes as usize));
            }
        }
    }

    /// What the append did to the log's state.
    fn note(&mut self, entry: &Entry, batch: &Bytes) {
        let state = &mut self.state;
        let Ok((batch, _)) = Batch::parse(batch) else { return self.break_here() };
        if state.segments.last().is_none_or(|last| last.base_offset != entry.segment) {
            if entry.segment != state.end {
                return self.break_here();
            }
            state.segments.push(SegmentState::new(entry.segment, state.generation));
        }
        // A deleted segment of this name was gone before this one was begun.
        state.doomed.retain(|name| *name != SegmentName::appended(entry.segment));
        let segment = state.segments.last_mut().expect("there is one");
        if segment.size_bytes == 0 {
            segment.opened_ms = entry.wall_ms;
        }
        segment.appended_ms = entry.wall_ms;
        segment.next_offset = entry.next_offset;
        segment.size_bytes = entry.position + u64::from(entry.data_bytes);
        segment.max_timestamp = segment.max_timestamp.max(batch.max_timestamp());
        state.end = entry.next_offset;
        if state.epochs.current().is_none_or(|current| current <= entry.epoch) {
            state.epochs.note(entry.epoch, entry.base_offset);
        }
        let numbered =
            numbered(batch.header()).filter(|_| !mistake::is_made(Mistake::StaleProducers));
        if let Some(numbered) = numbered {
            let timestamp = match batch.timestamp_type() {
                TimestampType::LogAppendTime => batch.max_timestamp(),
                TimestampType::CreateTime => Timestamp::NONE,
            };
            state.producers.note(&numbered, entry.base_offset, timestamp, entry.wall_ms);
            state.producers.forget_excess(2 * PRODUCERS_MAX);
        }
        if batch.is_transactional() && !mistake::is_made(Mistake::StaleTransactions) {
            let (at, wall_ms) = (entry.base_offset, entry.wall_ms);
            note_transaction(&mut state.transactions, batch.bytes(), at, wall_ms);
            // What is replayed is durable.
            state.transactions.settle(entry.next_offset);
        }
    }

    fn apply_roll(&mut self, entry: &Entry) {
        self.cuts.insert(SegmentName::appended(entry.segment), entry.position);
        if self.state.end < entry.base_offset {
            // What came before it is missing.
            return self.break_here();
        }
        let is_new =
            self.state.segments.last().is_some_and(|last| last.base_offset < entry.base_offset);
        if is_new {
            self.state.segments.push(SegmentState::new(entry.base_offset, self.state.generation));
        }
    }

    fn apply_trim(&mut self, entry: &Entry) {
        let state = &mut self.state;
        if state.end < entry.base_offset {
            return self.break_here();
        }
        state.start = state.start.max(entry.base_offset);
        state.epochs.trim(state.start);
        state.transactions.trim(state.start);
        while 1 < state.segments.len() && state.segments[0].next_offset <= state.start {
            let gone = state.segments.remove(0);
            state.doomed.push(gone.name());
        }
        state.damaged.retain(|range| state.start < range.end);
    }

    fn apply_truncate(&mut self, entry: &Entry, payload: &Bytes) {
        if entry.generation == self.state.generation {
            return;
        }
        if entry.generation != self.state.generation + 1 || self.state.end < entry.base_offset {
            return self.break_here();
        }
        let (end, segment, position) = (entry.base_offset, entry.segment, entry.position);
        let place = Place { offset: end, segment, position };
        let state = &mut self.state;
        state.generation = entry.generation;
        state.end = end;
        state.epochs.truncate(end);
        state.producers.truncate(end);
        state.transactions.truncate(end);
        state.damaged.retain(|range| range.start < end);
        // Of a log that ends where it starts nothing stays.
        let is_empty = end <= state.start;
        let goes = |segment: &SegmentState| is_empty || end <= segment.base_offset;
        while state.segments.last().is_some_and(goes) {
            let gone = state.segments.pop().expect("there is a last one");
            state.doomed.push(gone.name());
        }
        state.compacted_to = state.compacted_to.min(end);
        self.cuts.retain(|name, _| name.base_offset < end);
        // Of a segment that is cut at its very beginning nothing stays: its whole file went.
        if let Some(last) = state.segments.last_mut()
            && last.base_offset == segment
        {
            last.size_bytes = position;
            last.next_offset = end;
            self.cuts.insert(last.name(), position);
        }
        state.segments.push(SegmentState::new(end, state.generation));
        if end < state.synced.offset {
            state.synced = place;
        }
        self.cursor = place;
        self.cut_runs(segment, position);
        if !payload.is_empty() {
            self.note_cut(payload);
        }
    }

    /// Drops what was to be written behind a place that is now the end.
    fn cut_runs(&mut self, segment: Offset, position: u64) {
        self.front = None;
        self.runs.retain(|run| run.segment < segment || run.start < position);
        for run in &mut self.runs {
            if run.segment == segment && position < run.end {
                let mut start = run.start;
                for piece in &mut run.pieces {
                    let kept = position.saturating_sub(start).min(piece.len() as u64);
                    start += piece.len() as u64;
                    piece.truncate(kept as usize);
                }
                run.end = position;
            }
        }
    }

    /// Adds the bytes of an append to what is to be written. False if the block they begin in is
    /// not known.
    fn add_bytes(&mut self, entry: &Entry, prefix_bytes: usize, payload: Bytes) -> bool {
        let data = payload.slice(prefix_bytes..);
        let (segment, position) = (entry.segment, entry.position);
        let end = position + data.len() as u64;
        if let Some(run) = self.runs.last_mut()
            && (run.segment, run.end) == (segment, position)
        {
            run.pieces.push(data);
            run.end = end;
            return true;
        }
        let start = round_down(position);
        let pieces = match &self.front {
            Some((of, until, front)) if (*of, *until) == (segment, position) => {
                vec![front.clone(), data]
            }
            _ if start + prefix_bytes as u64 == position => vec![payload],
            _ => return false,
        };
        self.runs.push(Run { segment, start, end, pieces });
        true
    }

    /// Bytes in memory that are to be written.
    pub(super) fn pending_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }

    /// The writes that bring all runs to disk, as segment, position and whole blocks. What
    /// belongs to deleted segments is left out.
    pub(super) fn take_writes(&mut self) -> Vec<(Offset, u64, Bytes)> {
        let mut writes = Vec::new();
        for run in std::mem::take(&mut self.runs) {
            let name = SegmentName::appended(run.segment);
            let known = self.state.segments.iter().any(|known| known.name() == name);
            let before = writes.len();
            // What follows may go on in this block, also if nothing of it is needed.
            self.front = Some((run.segment, run.end, run.write(&mut writes)));
            match known {
                true => drop(self.written.insert(run.segment)),
                false => writes.truncate(before),
            }
        }
        writes
    }

    /// The state at the end of replay: everything before its end will be durable in segments.
    pub(super) fn finish(&mut self) {
        let cursor = self.cursor;
        let state = &mut self.state;
        state.producers.forget_excess(PRODUCERS_MAX);
        state.transactions.forget_excess();
        if state.end != cursor.offset && !state.dropped && state.broken_at.is_none() {
            // The state speaks of records that no entry brought back.
            state.broken_at = Some(cursor.offset);
        }
        if state.broken_at == Some(cursor.offset) && cursor.offset < state.end {
            // Known to have existed, and lost. The files are left as they are.
            state.end = cursor.offset;
            state.start = state.start.min(cursor.offset);
            state.segments.retain(|segment| segment.base_offset <= cursor.segment);
            match state.segments.last_mut() {
                // A compacted one was whole before it came to be.
                Some(last) if last.is_compacted() && last.next_offset <= cursor.offset => {}
                Some(last) if last.base_offset == cursor.segment => {
                    last.size_bytes = cursor.position;
                    last.next_offset = cursor.offset;
                }
                // The segment it ended in is not known any more.
                _ => state.segments.clear(),
            }
            state.epochs.truncate(cursor.offset);
            state.producers.truncate(cursor.offset);
            state.transactions.truncate(cursor.offset);
            self.cuts.clear();
        }
        state.synced = match state.segments.last() {
            Some(last) => {
                Place { offset: state.end, segment: last.base_offset, position: last.size_bytes }
            }
            None => Place { offset: state.end, segment: state.end, position: 0 },
        };
        let segments = &state.segments;
        let is_kept = |name: &SegmentName| {
            let last = segments.last().map(SegmentState::name);
            segments.iter().any(|segment| segment.name() == *name) && last != Some(*name)
        };
        self.cuts.retain(|name, _| is_kept(name));
    }
}

impl Run {
    /// Adds its writes; returns the bytes of its last, partial block.
    fn write(&self, writes: &mut Vec<(Offset, u64, Bytes)>) -> Bytes {
        let mut position = self.start;
        let mut block = AlignedBytes::with_capacity(PIECE_BYTES_MAX as usize);
        for piece in &self.pieces {
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let room = PIECE_BYTES_MAX as usize - block.len();
                let (now, later) = rest.split_at(room.min(rest.len()));
                block.put(now);
                rest = later;
                if block.len() == PIECE_BYTES_MAX as usize {
                    let full = std::mem::take(&mut block).into_blocks();
                    writes.push((self.segment, position, full));
                    position += PIECE_BYTES_MAX;
                }
            }
        }
        let partial = block.len() % BLOCK_BYTES;
        let front = Bytes::copy_from_slice(&block.as_slice()[block.len() - partial..]);
        if !block.is_empty() {
            writes.push((self.segment, position, block.into_blocks()));
        }
        front
    }
}

/// The batches of a run as if each had been appended by itself; `None` if they are not what the
/// reference says.
fn parts(entry: &Entry, whole: &[u8]) -> Option<Vec<Entry>> {
    let mut parts = Vec::new();
    let mut rest = whole;
    let mut next = (entry.base_offset, entry.position);
    while !rest.is_empty() {
        let (batch, behind) = Batch::parse(rest).ok()?;
        if batch.base_offset() != next.0 {
            return None;
        }
        parts.push(Entry {
            epoch: batch.leader_epoch(),
            base_offset: next.0,
            next_offset: batch.next_offset(),
            position: next.1,
            data_bytes: batch.size_bytes(),
            ..*entry
        });
        next = (batch.next_offset(), next.1 + u64::from(batch.size_bytes()));
        rest = behind;
    }
    (next.0 == entry.next_offset).then_some(parts)
}
