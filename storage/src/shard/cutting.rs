//! Taking away: trimming the start, truncating the end, dropping whole logs, retention.
//!
//! Each is a journal entry first. Only when that is durable is a file cut or removed, and only
//! when the last request on the file has ended.

use std::collections::VecDeque;

use tidemill_record::Offset;

use super::append::is_dropping;
use super::{Event, Purpose, ShardStorage};
use crate::checkpoint::{Place, SegmentName};
use crate::error::{TrimError, TruncateError};
use crate::index::Index;
use crate::io::{Action, DirName, Fault, FileName, Outcome};
use crate::layout::{Entry, EntryKind};
use crate::log::{Closing, Log, LogId};
use crate::read::SegmentWalk;
use crate::retention::{Keep, Verdict, plan};
use crate::segment::{IndexSlot, Seal, Segment};

/// The removal of one deleted segment: its file, its index, then their directory entries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Removal {
    File,
    Index,
    Dir,
}

/// The cutting of a log's end.
#[derive(Debug)]
pub(crate) enum Cut {
    /// A checkpoint parks the log.
    Parking,
    /// The place of the cut is being looked for.
    Locating(Box<SegmentWalk>),
    /// The journal entry is on its way.
    Journaled { segment: SegmentName },
    /// The entry is durable; the file waits for its last request.
    Ready { segment: SegmentName },
    /// The file is being cut.
    Cutting,
}

/// The dropping of a log, once its entry is durable.
#[derive(Debug)]
pub(crate) enum Drop {
    /// Requests are still under way.
    Waiting,
    /// Its directory is being listed.
    Listing,
    /// Its files are being removed.
    Removing(VecDeque<FileName>),
    /// Directories are being removed and synced, in this order; errors do not matter.
    Leaving(VecDeque<Action>),
}

impl ShardStorage {
    // --- the start ---

    /// Moves the log's start up to `before`: everything below is deleted. Ends with
    /// [`Event::Trimmed`], also if nothing was below.
    pub fn trim(&mut self, log: LogId, before: Offset, now: u64) -> Result<(), TrimError> {
        self.now = self.now.max(now);
        if self.fenced {
            return Err(TrimError::Fenced);
        }
        let has_room = self.journal.has_room(&self.config, 0);
        let books = self.log_mut(log);
        if books.closing.is_some() {
            return Err(TrimError::Closing);
        }
        let durable_end = books.durable_end;
        if durable_end < before {
            return Err(TrimError::OffsetOutOfRange { asked: before, durable_end });
        }
        if !has_room {
            return Err(TrimError::Busy);
        }
        books.trimmed_to = books.trimmed_to.max(before);
        books.epochs.trim(books.trimmed_to);
        let base_offset = books.trimmed_to;
        let entry = Entry { base_offset, ..books.entry(EntryKind::Trim) };
        self.journal_entry(log, entry);
        Ok(())
    }

    pub(super) fn handle_trim_durable(&mut self, id: LogId, start: Offset) {
        let log = self.log_mut(id);
        log.start = log.start.max(start);
        while 1 < log.segments.len() && log.segments[0].state.next_offset <= start {
            let segment = log.segments.remove(0);
            log.doom(&segment);
        }
        log.damaged.retain(|range| start < range.end);
        log.transactions.trim(start);
        let first = log.segments.first().map_or(start, |segment| segment.state.base_offset);
        let freed = log.tail.trim(first);
        self.note_freed(freed);
        self.events.push_back(Event::Trimmed { log: id, start });
        self.remove_doomed(id);
    }

    /// Removes files of deleted segments that nothing is under way on, one after the other.
    pub(super) fn remove_doomed(&mut self, id: LogId) {
        let Some(log) = self.logs[id.0 as usize].as_mut() else { return };
        if log.removal.is_some() || log.closing == Some(Closing::Dropping) || self.fenced {
            return;
        }
        if matches!(log.cut, Some(Cut::Journaled { .. })) {
            // Of what the cut takes away, a crash may still bring back all.
            return;
        }
        let checkpointed = log.checkpointed;
        log.doomed_runs.retain(|(_, runs_end)| checkpointed < *runs_end);
        let has_run = |name: &SegmentName| log.doomed_runs.iter().any(|run| run.0 == *name);
        let is_swapped = |name: &SegmentName| log.doomed_swaps.iter().any(|swap| swap.0 == *name);
        let waits = |name: &SegmentName| has_run(name) || is_swapped(name);
        let Some(&name) = log.doomed.iter().find(|name| !waits(name)) else {
            if !log.doomed_runs.is_empty() {
                // Replay would miss what it refers to. A checkpoint makes it look no more.
                self.force_park(id);
            }
            return;
        };
        let (file, index) = log.files(name);
        if self.requests.is_busy(&file) || self.requests.is_busy(&index) {
            return;
        }
        log.removal = Some((Removal::File, name));
        self.requests.ask(Purpose::Removal { log: id }, Action::Remove { file });
    }

    pub(super) fn handle_removal(&mut self, id: LogId, result: Result<Outcome, Fault>) {
        let Some(log) = self.find_log_mut(id) else { return };
        let (removal, name) = log.removal.take().expect("a removal was under way");
        if result.as_ref().is_err_and(|fault| *fault != Fault::NotFound) {
            return self.fence();
        }
        if is_dropping(log) {
            return self.step_drop(id);
        }
        let (next, action) = match removal {
            Removal::File => (Removal::Index, Action::Remove { file: log.files(name).1 }),
            Removal::Index => (Removal::Dir, Action::SyncDir { dir: log.dir() }),
            Removal::Dir => {
                log.doomed.retain(|doomed| *doomed != name);
                let waited_for = std::mem::take(&mut log.waited_for);
                if waited_for {
                    self.tell_admitted(id);
                }
                return self.remove_doomed(id);
            }
        };
        log.removal = Some((next, name));
        self.requests.ask(Purpose::Removal { log: id }, action);
    }

    /// The last request on a file of the log may just have ended.
    pub(super) fn after_last_request(&mut self, id: LogId) {
        self.remove_doomed(id);
        self.step_drop(id);
        self.step_cut(id);
    }

    /// Applies the retention rules of all logs. Called now and then.
    pub fn retention(&mut self, wall_ms: i64, now: u64) {
        self.now = self.now.max(now);
        for id in self.log_ids() {
            let log = self.log(id);
            let cannot = self.fenced || self.stopping || log.closing.is_some();
            if cannot || log.segments.is_empty() {
                continue;
            }
            let facts: Vec<_> = log.segments.iter().map(Segment::facts).collect();
            let keep = Keep {
                retention_ms: log.config.retention_ms,
                retention_bytes: log.config.retention_bytes,
            };
            // A refused trim is tried again the next time.
            match plan(&facts, keep, log.durable_end, wall_ms) {
                Verdict::Keep => {}
                Verdict::TrimTo(start) => drop(self.trim(id, start, now)),
                Verdict::RollAndTrimTo(start) if log.preparing.is_none() => {
                    self.roll(id, wall_ms);
                    drop(self.trim(id, start, now));
                }
                Verdict::RollAndTrimTo(_) => {}
            }
        }
    }

    // --- the end ---

    /// Cuts the log's end back to `to`, or to the beginning of the batch that holds it. Ends with
    /// [`Event::Truncated`].
    pub fn truncate(&mut self, log: LogId, to: Offset, now: u64) -> Result<(), TruncateError> {
        self.now = self.now.max(now);
        if self.fenced {
            return Err(TruncateError::Fenced);
        }
        let books = self.log_mut(log);
        if books.closing.is_some() {
            return Err(TruncateError::Closing);
        }
        if to < books.trimmed_to || books.end < to {
            return Err(TruncateError::OffsetOutOfRange {
                asked: to,
                log_start: books.trimmed_to,
                log_end: books.end,
            });
        }
        if to == books.end {
            self.events.push_back(Event::Truncated { log, end: to });
            return Ok(());
        }
        books.closing = Some(Closing::Truncating { to });
        books.changed = true;
        books.cut = Some(Cut::Parking);
        self.force_park(log);
        Ok(())
    }

    /// Takes the next step of cutting a log's end, if it is time.
    pub(super) fn step_cut(&mut self, id: LogId) {
        let Some(log) = self.logs[id.0 as usize].as_mut() else { return };
        let Some(Closing::Truncating { to }) = log.closing else { return };
        match &log.cut {
            // Everything is in the segments now, so the place can be looked for there; and
            // replay will not look for what is cut off.
            // And nothing more is being prepared for the segment that grew.
            Some(Cut::Parking) if log.is_checkpointed() && log.preparing.is_none() => {
                let segment = log.segment_holding(to).expect("it is inside the log");
                let size = segment.state.size_bytes;
                let index = segment.state.empty_index(log.partition);
                let walk = SegmentWalk::new(index, log.epochs.clone(), size, to, u32::MAX);
                log.cut = Some(Cut::Locating(Box::new(walk)));
                self.step_locating(id);
            }
            Some(Cut::Ready { segment }) => {
                let name = *segment;
                let (file, _) = log.files(name);
                if self.requests.is_busy(&file) {
                    return;
                }
                // The new segment has its name if nothing of it stays.
                let cut = log.segment(name.base_offset).filter(|_| name.base_offset != log.end);
                let Some(size) = cut.map(|segment| segment.state.size_bytes) else {
                    return self.finish_cut(id);
                };
                log.cut = Some(Cut::Cutting);
                self.requests.ask(Purpose::Cut { log: id }, Action::Truncate { file, size });
            }
            _ => {}
        }
    }

    fn step_locating(&mut self, id: LogId) {
        let log = self.log_mut(id);
        let Some(Cut::Locating(walk)) = &log.cut else { return };
        let base_offset = walk.index().base_offset();
        match walk.next_read() {
            Some((position, size)) => {
                let segment = log.segment(base_offset).expect("it is cut only when it is found");
                let file = segment.file(log.partition);
                let action = Action::Read { file, position, size };
                self.requests.ask(Purpose::Cut { log: id }, action);
            }
            None => {
                let Some(Cut::Locating(walk)) = log.cut.take() else { return };
                self.cut_at(id, walk.into_index());
            }
        }
    }

    pub(super) fn handle_cut(&mut self, id: LogId, result: Result<Outcome, Fault>) {
        let Some(log) = self.find_log_mut(id) else { return };
        match (&mut log.cut, result) {
            (Some(Cut::Locating(walk)), Ok(Outcome::Bytes(bytes))) => {
                // Damage ends the walk: what lies behind it would be cut off anyway, or is lost.
                if let Err(damage) = walk.take(&bytes, |_, _| {}) {
                    self.quarantine(id, &damage);
                }
                self.step_locating(id);
            }
            (Some(Cut::Cutting), Ok(_)) => self.finish_cut(id),
            _ => self.fence(),
        }
    }

    /// `kept` is the index of what stays of the segment that is cut.
    fn cut_at(&mut self, id: LogId, kept: Index) {
        self.forget_parked(id);
        let log = self.log_mut(id);
        // All that is left may lie below the start, with a hole or the rest of a batch behind it.
        // Then none of it stays, and the log goes on at its start.
        let is_empty = kept.next_offset() <= log.trimmed_to;
        let (end, segment, position) = match is_empty {
            true => (log.trimmed_to, log.trimmed_to, 0),
            false => (kept.next_offset(), kept.base_offset(), kept.size_bytes()),
        };
        let freed = log.tail.clear();
        log.generation += 1;
        log.end = end;
        log.durable_end = end;
        log.checkpointed = end;
        // The checkpoint before the cut covers all runs there were.
        log.doomed_runs.clear();
        log.epochs.truncate(end);
        log.producers.truncate(end);
        log.transactions.truncate(end);
        log.damaged.retain(|range| range.start < end);
        log.synced = Place { offset: end, segment, position };
        log.unsynced_since = None;
        log.carries = false;
        let goes = |segment: &Segment| is_empty || end <= segment.state.base_offset;
        while log.segments.last().is_some_and(goes) {
            let gone = log.segments.pop().expect("there is a last one");
            log.doomed.push(gone.state.name());
        }
        log.compacted_to = log.compacted_to.min(end);
        // Of a segment that is cut at its very beginning nothing stays: its whole file goes.
        let mut name = SegmentName::appended(segment);
        let mut cut = Vec::new();
        if let Some(last) = log.segment_mut(segment) {
            name = last.state.name();
            last.state.size_bytes = position;
            last.state.next_offset = end;
            if last.state.is_compacted() {
                last.state.index_crc = kept.checksum(last.state.generation);
            }
            last.runs_end = last.runs_end.min(end);
            last.state.max_timestamp = kept.max_timestamp();
            last.released_max = kept.max_timestamp();
            (last.durable, last.written, last.park_to) = (position, position, 0);
            last.seal = Seal::Sealed;
            last.index = IndexSlot::Ready(kept);
            if last.state.is_compacted() {
                last.state.encode(&mut cut);
            }
        }
        log.segments.push(Segment::new(log.partition, end, log.generation));
        log.cut = Some(Cut::Journaled { segment: name });
        let entry = Entry { segment, position, ..log.entry(EntryKind::Truncate) };
        self.note_freed(freed);
        self.journal_with(id, entry, cut.into());
    }

    pub(super) fn handle_truncate_durable(&mut self, id: LogId) {
        let log = self.log_mut(id);
        if let Some(Cut::Journaled { segment }) = log.cut {
            log.cut = Some(Cut::Ready { segment });
            self.remove_doomed(id);
            self.step_cut(id);
        }
    }

    fn finish_cut(&mut self, id: LogId) {
        let log = self.log_mut(id);
        log.cut = None;
        log.closing = None;
        let end = log.end;
        self.events.push_back(Event::Truncated { log: id, end });
        self.tell_admitted(id);
    }

    // --- all of it ---

    /// Removes a log and its files, for ever: its topic is deleted. Ends with
    /// [`Event::Dropped`]. The id is not valid any more.
    pub fn drop_log(&mut self, log: LogId, now: u64) {
        self.now = self.now.max(now);
        let books = self.log_mut(log);
        let partition = books.partition;
        books.closing = Some(Closing::Dropping);
        let entry = books.entry(EntryKind::Drop);
        self.names.remove(&partition);
        self.journal_entry(log, entry);
    }

    pub(super) fn handle_drop_durable(&mut self, id: LogId) {
        self.log_mut(id).dropping = Some(Drop::Waiting);
        self.step_drop(id);
    }

    /// Once nothing is under way on any file of the log, its directory goes.
    pub(super) fn step_drop(&mut self, id: LogId) {
        let Some(log) = self.logs[id.0 as usize].as_mut() else { return };
        if !matches!(log.dropping, Some(Drop::Waiting)) || self.fenced {
            return;
        }
        let mut names = log.segments.iter().map(|s| s.state.name()).chain(log.doomed.clone());
        let busy = names.any(|name| {
            let (file, index) = log.files(name);
            self.requests.is_busy(&file) || self.requests.is_busy(&index)
        });
        // A compaction under way makes files in the directory.
        let makes_files = log.preparing.is_some() || log.compacting.is_some();
        if busy || makes_files || log.removal.is_some() {
            return;
        }
        log.dropping = Some(Drop::Listing);
        let action = Action::ListDir { dir: log.dir() };
        self.requests.ask(Purpose::Drop { log: id }, action);
    }

    pub(super) fn handle_drop(&mut self, id: LogId, result: Result<Outcome, Fault>) {
        let log = self.log_mut(id);
        let (partition, dir) = (log.partition, log.dir());
        let topic = DirName::Topic { topic: partition.topic };
        match (log.dropping.as_mut(), result) {
            (Some(Drop::Listing), Ok(Outcome::Names(names))) => {
                let files = names.iter().filter_map(|(name, _)| FileName::parse(partition, name));
                log.dropping = Some(Drop::Removing(files.collect()));
            }
            // It never had a directory.
            (Some(Drop::Listing), Err(Fault::NotFound)) => {
                log.dropping = Some(Drop::Removing(VecDeque::new()));
            }
            (Some(Drop::Removing(_)), Err(fault)) if fault != Fault::NotFound => {
                return self.fence();
            }
            (Some(Drop::Removing(_) | Drop::Leaving(_)), _) => {}
            _ => return self.fence(),
        }
        if let Some(Drop::Removing(files)) = &mut log.dropping {
            if let Some(file) = files.pop_front() {
                return self.requests.ask(Purpose::Drop { log: id }, Action::Remove { file });
            }
            log.dropping = Some(Drop::Leaving(VecDeque::from([
                Action::RemoveDir { dir },
                Action::SyncDir { dir: topic.clone() },
                // Fails while the topic has other partitions.
                Action::RemoveDir { dir: topic },
                Action::SyncDir { dir: DirName::Partitions },
            ])));
        }
        match &mut log.dropping {
            Some(Drop::Leaving(actions)) if !actions.is_empty() => {
                let action = actions.pop_front().expect("there is one");
                self.requests.ask(Purpose::Drop { log: id }, action);
            }
            _ => self.forget(id),
        }
    }

    fn forget(&mut self, id: LogId) {
        let mut log = self.logs[id.0 as usize].take().expect("it was being dropped");
        self.note_freed(log.tail.clear());
        self.dropped.push(log.partition);
        self.events.push_back(Event::Dropped { partition: log.partition });
    }
}

impl Log {
    /// Its segment is no longer one of it; the file goes when nothing needs it.
    pub(super) fn doom(&mut self, segment: &Segment) {
        let name = segment.state.name();
        self.doomed.push(name);
        if self.checkpointed < segment.runs_end {
            self.doomed_runs.push((name, segment.runs_end));
        }
    }

    /// Whether a durable checkpoint says that everything of it is durable in segments.
    fn is_checkpointed(&self) -> bool {
        self.synced == self.end_place() && self.checkpointed == self.end
    }

    /// The files of its segment of that name: bytes and index.
    pub(crate) fn files(&self, name: SegmentName) -> (FileName, FileName) {
        (name.file(self.partition), name.index_file(self.partition))
    }
}
