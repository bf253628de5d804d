//! Write-behind: batches that are durable in the journal go to their segments, in large pieces.
//!
//! Each block goes once, when it is full, unless its log is parked or memory is short. A segment
//! that will not grow any more is sealed: drained, synced, cut to its size, its index written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::append::is_dropping;
use super::{Event, Purpose, ShardStorage};
use crate::block::round_down;
use crate::io::{Action, DirName, Fault, Outcome};
use crate::layout::{Entry, EntryKind};
use crate::log::{Log, LogId};
use crate::segment::{IndexSlot, Seal};
use crate::tail::Freed;
use tidemill_record::Offset;

/// So many logs are asked at once to write what they hold, when memory is short.
const RELIEF_LOGS: usize = 64;

impl ShardStorage {
    /// One entry of the journal has become durable. Notes in `advanced` whose durable end moved.
    pub(super) fn handle_durable(
        &mut self,
        id: LogId,
        entry: &Entry,
        advanced: &mut BTreeSet<LogId>,
    ) {
        let Some(log) = self.find_log_mut(id) else { return };
        match entry.kind {
            EntryKind::Append | EntryKind::Reference => {
                assert!(log.durable_end == entry.base_offset, "durable in order");
                log.durable_end = entry.next_offset;
                log.transactions.settle(entry.next_offset);
                if let Some(segment) = log.segment_mut(entry.segment) {
                    segment.advance_durable(entry.position + u64::from(entry.data_bytes));
                }
                advanced.insert(id);
            }
            EntryKind::Roll => self.step_seal(id, entry.segment),
            EntryKind::Trim => self.handle_trim_durable(id, entry.base_offset),
            EntryKind::Truncate => self.handle_truncate_durable(id),
            EntryKind::Drop => self.handle_drop_durable(id),
            EntryKind::Swap => self.handle_swap_durable(id, entry),
        }
    }

    /// This log may have a piece to be written.
    pub(super) fn want_flush(&mut self, id: LogId) {
        let flush_bytes = self.config.flush_bytes as u64;
        let log = self.log_mut(id);
        if !log.flush_queued && log.has_piece(flush_bytes) {
            log.flush_queued = true;
            self.to_flush.push_back(id);
        }
    }

    /// Asks for the writes that may be made now.
    pub(super) fn step_flush(&mut self) {
        self.relieve();
        let in_flight_max = self.config.flush_in_flight_bytes_max as u64;
        while self.flush_bytes_in_flight < in_flight_max {
            let Some(id) = self.to_flush.pop_front() else { break };
            let Some(log) = self.find_log_mut(id) else { continue };
            log.flush_queued = false;
            self.flush_log(id);
        }
    }

    fn flush_log(&mut self, id: LogId) {
        let flush_bytes = self.config.flush_bytes as u64;
        let log = self.logs[id.0 as usize].as_mut().expect("it was looked up");
        let partition = log.partition;
        if is_dropping(log) {
            return;
        }
        for at in 0..log.segments.len() {
            let segment = &log.segments[at];
            let Some((from, to)) = segment.next_piece(flush_bytes) else { continue };
            let base_offset = segment.state.base_offset;
            let file = segment.file(partition);
            let bytes = log.gather(segment, from, to).into_blocks();
            let size = bytes.len() as u64;
            log.segments[at].writing_to = Some(to);
            self.flush_bytes_in_flight += size;
            let action = Action::Write { file, position: from, bytes, durable: false };
            let purpose = Purpose::Flush { log: id, segment: base_offset, to, bytes: size };
            self.requests.ask(purpose, action);
        }
    }

    pub(super) fn handle_flushed(
        &mut self,
        id: LogId,
        base_offset: Offset,
        to: u64,
        bytes: u64,
        result: Result<Outcome, Fault>,
    ) {
        self.flush_bytes_in_flight -= bytes;
        if !self.must_succeed(&result) {
            return;
        }
        let Some(log) = self.find_log_mut(id) else { return };
        // Its name may have gone to a new segment, which nothing is being written to yet.
        let Some(segment) = log.segment(base_offset).filter(|s| s.writing_to.is_some()) else {
            // Trimmed or cut off meanwhile.
            return self.after_last_request(id);
        };
        // Copied out of the tail before the batches of it may leave memory.
        let front = log.gather(segment, round_down(to), to);
        let front = bytes::Bytes::copy_from_slice(front.as_slice());
        let segment = log.segment_mut(base_offset).expect("it was just there");
        segment.advance_written(to, front);
        self.want_flush(id);
        self.step_seal(id, base_offset);
        self.after_last_request(id);
    }

    /// Lets batches leave memory, oldest first, until what is left fits.
    fn relieve(&mut self) {
        while self.config.tail_bytes_max < self.tail_bytes {
            let Some(&id) = self.tail_order.front() else { break };
            if let Some(log) = self.find_log_mut(id) {
                if !log.first_is_written() {
                    return self.press();
                }
                if let Some(batch) = log.tail.pop_first() {
                    if let Some(segment) = log.segment_mut(batch.segment) {
                        segment.released_max = segment.released_max.max(batch.max_timestamp);
                    }
                    self.tail_bytes -= batch.cost_bytes();
                }
            }
            self.tail_order.pop_front();
        }
    }

    /// Batches have left their tail, and not because they were the oldest of all.
    pub(super) fn note_freed(&mut self, freed: Freed) {
        const STALE_MIN: usize = 4096;
        self.tail_bytes -= freed.bytes;
        self.tail_order_stale += freed.batches;
        if self.tail_order_stale < STALE_MIN.max(self.tail_order.len() / 2) {
            return;
        }
        // So many that the order itself takes memory: each log's newest places are the real ones.
        let mut left: BTreeMap<LogId, usize> =
            self.logs().map(|(id, log)| (id, log.tail.len())).collect();
        let mut order: VecDeque<LogId> = VecDeque::new();
        for id in self.tail_order.iter().rev() {
            if let Some(left) = left.get_mut(id).filter(|left| 0 < **left) {
                *left -= 1;
                order.push_front(*id);
            }
        }
        self.tail_order = order;
        self.tail_order_stale = 0;
    }

    /// Asks the logs with the oldest batches in memory to write them, full block or not.
    fn press(&mut self) {
        let oldest: BTreeSet<LogId> = self.tail_order.iter().take(RELIEF_LOGS).copied().collect();
        for id in oldest {
            let Some(log) = self.find_log_mut(id) else { continue };
            for segment in &mut log.segments {
                segment.park_to = segment.park_to.max(segment.durable);
            }
            self.want_flush(id);
        }
    }

    // --- sealing ---

    /// Takes the next step of sealing a segment, if it is time.
    pub(super) fn step_seal(&mut self, id: LogId, base_offset: Offset) {
        let log = self.log_mut(id);
        let partition = log.partition;
        if is_dropping(log) {
            return;
        }
        let Some(segment) = log.segment_mut(base_offset) else { return };
        if segment.seal == Seal::Draining && segment.is_drained() && !segment.writes_index {
            segment.seal = Seal::Syncing;
            let action = Action::Sync { file: segment.file(partition) };
            self.requests.ask(Purpose::Seal { log: id, segment: base_offset }, action);
        }
    }

    pub(super) fn handle_seal(
        &mut self,
        id: LogId,
        base_offset: Offset,
        result: Result<Outcome, Fault>,
    ) {
        let index_is_coming = self.is_index_coming(id, base_offset);
        let Some(log) = self.find_log_mut(id) else { return };
        let partition = log.partition;
        // Its name may have gone to a new segment, which still grows.
        let Some(segment) = log.segment_mut(base_offset).filter(|s| s.seal != Seal::Active) else {
            return self.after_last_request(id);
        };
        let purpose = Purpose::Seal { log: id, segment: base_offset };
        // An index can be built again, so its file may fail; the segment's may not.
        let indexing = matches!(segment.seal, Seal::MakingIndex | Seal::Indexing);
        if result.is_err() && !indexing {
            return self.fence();
        }
        let (next, action) = match (segment.seal, &segment.index) {
            (Seal::Syncing, _) => {
                segment.dirty = false;
                let (file, size) = (segment.file(partition), segment.state.size_bytes);
                (Seal::Cutting, Action::Truncate { file, size })
            }
            (Seal::Cutting, IndexSlot::Ready(_)) => {
                let file = segment.index_file(partition);
                (Seal::MakingIndex, Action::Create { file })
            }
            (Seal::MakingIndex, IndexSlot::Ready(index)) if result.is_ok() => {
                let file = segment.index_file(partition);
                let bytes = index.encode(segment.state.generation);
                (Seal::Indexing, Action::Write { file, position: 0, bytes, durable: false })
            }
            _ => {
                segment.seal = Seal::Sealed;
                // A walk that is under way ends where the slot says: that must not move.
                if matches!(segment.index, IndexSlot::Absent { .. }) && !index_is_coming {
                    segment.forget_index();
                }
                self.note_index(id, base_offset);
                return self.after_last_request(id);
            }
        };
        segment.seal = next;
        self.requests.ask(purpose, action);
    }

    // --- directories ---

    /// The entries of `dir` are made durable with the next checkpoint.
    pub(super) fn sync_later(&mut self, dir: DirName) {
        self.unsynced_dirs.insert(dir);
    }

    /// Tells whether a log can be appended to again, after something that stopped it.
    pub(super) fn tell_admitted(&mut self, id: LogId) {
        self.events.push_back(Event::Admitted { log: id });
    }
}

impl Log {
    /// Whether some segment has a piece to be written.
    fn has_piece(&self, flush_bytes: u64) -> bool {
        self.segments.iter().any(|segment| segment.next_piece(flush_bytes).is_some())
    }

    /// Whether the oldest batch in memory is in its segment's file too.
    fn first_is_written(&self) -> bool {
        let Some(first) = self.tail.first() else { return true };
        let end = first.position + first.bytes.len() as u64;
        // A segment that is gone needs nothing of it.
        self.segment(first.segment).is_none_or(|segment| end <= segment.written)
    }
}
