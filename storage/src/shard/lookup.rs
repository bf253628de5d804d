//! Finding records by their time.
//!
//! Segments and index spans know the newest timestamp so far, so one span is read, and one batch
//! of it opened. What they know counts records that were trimmed since; so in the segment that was
//! trimmed in its middle, the search goes on from the log's start, piece by piece, until a record
//! that is still there answers.
//!
//! Start reading at [`ShardStorage::offset_for_timestamp`].

use tidemill_record::{Offset, Timestamp};

use super::reads::Goal;
use super::{Event, Found, Lookup, ReadId, ShardStorage};
use crate::error::ReadError;
use crate::log::{Log, LogId};
use crate::read::{Cut, Wanted, first_since, newest};

/// A batch is opened only if its records take at most so much memory.
const OPENED_BYTES_MAX: usize = 64 << 20;

/// Where a search goes on.
enum Step {
    /// It is over.
    Known(Option<Found>),
    /// In this segment's file, for records from `from` on.
    Disk { goal: Goal, segment: Offset, from: Offset },
}

impl ShardStorage {
    /// The first record below `visible_end` with a timestamp at or after `timestamp`.
    pub fn offset_for_timestamp(
        &mut self,
        log: LogId,
        timestamp: Timestamp,
        visible_end: Offset,
    ) -> Result<Lookup, ReadError> {
        self.begin_lookup(log, Goal::FirstAt(timestamp), visible_end)
    }

    /// The record below `visible_end` with the largest timestamp; the first of equals.
    pub fn max_timestamp(&mut self, log: LogId, visible_end: Offset) -> Result<Lookup, ReadError> {
        let goal = Goal::Newest { at: Timestamp::NONE, best: None };
        self.begin_lookup(log, goal, visible_end)
    }

    fn begin_lookup(
        &mut self,
        log: LogId,
        goal: Goal,
        visible_end: Offset,
    ) -> Result<Lookup, ReadError> {
        let books = self.log(log);
        match books.next_step(goal, books.start, visible_end) {
            Step::Known(found) => Ok(Lookup::Ready(found)),
            Step::Disk { goal, segment, from } => {
                // One span first: nearly always it is the one.
                let wanted = Wanted { from, visible_end, limit_bytes: 0, min_one: true };
                self.start_read(log, segment, wanted, goal).map(Lookup::Disk)
            }
        }
    }

    /// Batches have been read in which the record may be.
    pub(super) fn finish_lookup(&mut self, id: ReadId, cut: &Cut) {
        let job = self.job(id);
        let (log, goal, visible_end) = (job.log, job.goal, job.wanted.visible_end);
        let Some(log) = self.logs[log.0 as usize].as_ref() else {
            return self.finish_read(id, Err(ReadError::Gone));
        };
        let kept = log.start..visible_end;
        let (found, goal) = match goal {
            Goal::Batches => unreachable!("no lookup wants batches"),
            Goal::FirstAt(at) => {
                let found = first_since(&cut.batches, at, kept, OPENED_BYTES_MAX);
                (found.map(|found| log.found(found)), goal)
            }
            Goal::Newest { at, best } => {
                let found = newest(&cut.batches, kept, OPENED_BYTES_MAX);
                let found = found.map(|found| log.found(found));
                let is_newer = |found: &Found| best.is_none_or(|it| it.timestamp < found.timestamp);
                let best = found.filter(is_newer).or(best);
                // There is none newer.
                let newest = best.filter(|best| at <= best.timestamp);
                (newest, Goal::Newest { at, best })
            }
        };
        if let Some(found) = found {
            return self.answer(id, Ok(Some(found)));
        }
        if let Some(damage) = &cut.damage {
            let offsets = damage.start.offset..damage.end.offset;
            return self.answer(id, Err(ReadError::Damaged { offsets }));
        }
        if cut.batches.is_empty() {
            // Bytes with the right checksum that are no batches.
            let offsets = cut.next_offset..cut.next_offset.plus(1);
            return self.answer(id, Err(ReadError::Damaged { offsets }));
        }
        self.look_on(id, goal, cut.next_offset);
    }

    /// Nothing before `from` answers: takes the next step from there.
    pub(super) fn look_on(&mut self, id: ReadId, goal: Goal, from: Offset) {
        let job = self.job(id);
        let Some(log) = self.logs[job.log.0 as usize].as_ref() else {
            return self.finish_read(id, Err(ReadError::Gone));
        };
        match log.next_step(goal, from, job.wanted.visible_end) {
            Step::Known(found) => self.answer(id, Ok(found)),
            Step::Disk { goal, segment, from } => self.read_on(id, segment, goal, from),
        }
    }

    fn answer(&mut self, id: ReadId, result: Result<Option<Found>, ReadError>) {
        self.take_job(id);
        self.events.push_back(Event::LookupDone { read: id, result });
    }
}

impl Log {
    fn next_step(&self, goal: Goal, from: Offset, visible_end: Offset) -> Step {
        match goal {
            Goal::Batches => unreachable!("no lookup wants batches"),
            Goal::FirstAt(at) => self.step_to_first(at, from, visible_end),
            Goal::Newest { best, .. } => self.step_to_newest(best, from, visible_end),
        }
    }

    fn step_to_first(&self, at: Timestamp, from: Offset, visible_end: Offset) -> Step {
        let from = from.max(self.start);
        let may_hold = |segment: &&crate::segment::Segment| {
            let state = &segment.state;
            from < state.next_offset && at <= state.max_timestamp && 0 < state.size_bytes
        };
        let Some(segment) = self.segments.iter().find(may_hold) else { return Step::Known(None) };
        let from = from.max(segment.state.base_offset);
        if visible_end <= from {
            return Step::Known(None);
        }
        if self.on_disk(segment).offset <= from {
            return Step::Known(self.find_in_tail(at, from, visible_end));
        }
        Step::Disk { goal: Goal::FirstAt(at), segment: segment.state.base_offset, from }
    }

    /// `best` is the newest record from the log's start to `from`.
    fn step_to_newest(&self, best: Option<Found>, from: Offset, visible_end: Offset) -> Step {
        // A trim may have taken what was found: then all that is left is looked at again.
        let best_kept = best.filter(|best| self.start <= best.offset);
        let from = if best_kept == best { from.max(self.start) } else { self.start };
        let best = best_kept;
        let newest = best.map_or(Timestamp::NONE, |best| best.timestamp);
        if visible_end <= from {
            return Step::Known(best);
        }
        // Of the segment that begins below the start, the newest timestamp may be a trimmed one.
        let trimmed = self.segment_holding(from).filter(|segment| {
            segment.state.base_offset < self.start && from < self.on_disk(segment).offset
        });
        let behind = trimmed.map_or(from, |segment| self.on_disk(segment).offset);
        let newest_behind = self.newest_from(behind, visible_end);
        if let Some(segment) = trimmed
            && newest.max(newest_behind) < segment.released_max
        {
            let goal = Goal::Newest { at: segment.released_max, best };
            return Step::Disk { goal, segment: segment.state.base_offset, from };
        }
        if newest_behind <= newest {
            return Step::Known(best);
        }
        self.step_to_first(newest_behind, self.start, visible_end)
    }

    /// The newest timestamp in the segments and in the part of the tail that begin at `from`.
    fn newest_from(&self, from: Offset, visible_end: Offset) -> Timestamp {
        // What is not visible yet is still in the tail.
        let behind = self.segments.iter().filter(|segment| from <= segment.state.base_offset);
        let released = behind.map(|segment| segment.released_max);
        let visible = self.tail.iter_from(from).take_while(|it| it.next_offset <= visible_end);
        let in_memory = visible.map(|batch| match batch.base_offset < from {
            true => newest(&batch.bytes, from..visible_end, OPENED_BYTES_MAX)
                .map_or(Timestamp::NONE, |newest| newest.0),
            false => batch.max_timestamp,
        });
        released.chain(in_memory).max().unwrap_or(Timestamp::NONE)
    }

    fn find_in_tail(&self, at: Timestamp, from: Offset, visible_end: Offset) -> Option<Found> {
        let mut batches = self.tail.iter_from(from).filter(|batch| at <= batch.max_timestamp);
        let found = batches
            .find_map(|batch| first_since(&batch.bytes, at, from..visible_end, OPENED_BYTES_MAX));
        found.map(|found| self.found(found))
    }

    fn found(&self, (timestamp, offset): (Timestamp, Offset)) -> Found {
        Found { offset, timestamp, epoch: self.epoch_at(offset) }
    }
}
