//! Finding records by their time.
//!
//! Segments and index spans know the newest timestamp so far, so one span is read, and one batch
//! of it opened.
//!
//! Start reading at [`ShardStorage::offset_for_timestamp`].

use bytes::Bytes;
use tidemill_record::{Batch, Contents, Offset, Timestamp};

use super::reads::Goal;
use super::{Event, Found, Lookup, ReadId, ShardStorage};
use crate::error::ReadError;
use crate::log::{Log, LogId};
use crate::read::{Cut, Wanted};

/// A batch is opened only if its records take at most so much memory.
const OPENED_BYTES_MAX: usize = 64 << 20;

impl ShardStorage {
    /// The first record below `visible_end` with a timestamp at or after `timestamp`.
    pub fn offset_for_timestamp(
        &mut self,
        log: LogId,
        timestamp: Timestamp,
        visible_end: Offset,
    ) -> Result<Lookup, ReadError> {
        let books = self.log(log);
        let mut segments = books.segments.iter();
        let holds = |segment: &&crate::segment::Segment| {
            books.start < segment.state.next_offset
                && timestamp <= segment.state.max_timestamp
                && 0 < segment.state.size_bytes
        };
        let Some(segment) = segments.find(holds) else { return Ok(Lookup::Ready(None)) };
        let base_offset = segment.state.base_offset;
        if books.on_disk(segment).position == 0 {
            return Ok(Lookup::Ready(books.find_in_tail(timestamp, visible_end)));
        }
        let wanted = Wanted {
            from: base_offset.max(books.start),
            visible_end,
            limit_bytes: u32::MAX,
            min_one: true,
        };
        self.start_read(log, base_offset, wanted, Goal::FirstAt(timestamp)).map(Lookup::Disk)
    }

    /// The record below `visible_end` with the largest timestamp; the first of equals.
    pub fn max_timestamp(&mut self, log: LogId, visible_end: Offset) -> Result<Lookup, ReadError> {
        // What is not visible yet is still in the tail.
        let books = self.log(log);
        let in_memory = books.tail.max_timestamp(books.start, visible_end);
        let released = books.segments.iter().map(|segment| segment.released_max);
        let newest = released.fold(in_memory, Timestamp::max);
        match newest == Timestamp::NONE {
            true => Ok(Lookup::Ready(None)),
            false => self.offset_for_timestamp(log, newest, visible_end),
        }
    }

    /// A span has been read that holds such a record, in this part or in the one in the tail.
    pub(super) fn finish_lookup(&mut self, id: ReadId, cut: &Cut, timestamp: Timestamp) {
        let job = self.job(id);
        let visible_end = job.wanted.visible_end;
        let Some(log) = self.logs[job.log.0 as usize].as_ref() else {
            return self.finish_read(id, Err(ReadError::Gone));
        };
        match log.find_in(&cut.batches, timestamp, visible_end) {
            Some(found) => self.answer(id, Ok(Some(found))),
            None => match &cut.damage {
                Some(damage) => {
                    let offsets = damage.start.offset..damage.end.offset;
                    self.answer(id, Err(ReadError::Damaged { offsets }));
                }
                None => self.finish_in_tail(id, timestamp),
            },
        }
    }

    pub(super) fn finish_in_tail(&mut self, id: ReadId, timestamp: Timestamp) {
        let job = self.job(id);
        let log = self.log(job.log);
        let found = log.find_in_tail(timestamp, job.wanted.visible_end);
        self.answer(id, Ok(found));
    }

    fn answer(&mut self, id: ReadId, result: Result<Option<Found>, ReadError>) {
        self.take_job(id);
        self.events.push_back(Event::LookupDone { read: id, result });
    }
}

impl Log {
    fn find_in_tail(&self, timestamp: Timestamp, visible_end: Offset) -> Option<Found> {
        let mut batches = self.tail.iter_from(self.start);
        let newest = batches.find(|batch| timestamp <= batch.max_timestamp)?;
        self.find_in(&newest.bytes, timestamp, visible_end)
    }

    /// The first record in `batches` at or after `timestamp`, if it is kept and visible.
    fn find_in(&self, batches: &Bytes, timestamp: Timestamp, visible_end: Offset) -> Option<Found> {
        let mut rest = &batches[..];
        while let Ok((batch, behind)) = Batch::parse(rest) {
            if timestamp <= batch.max_timestamp() && self.start < batch.next_offset() {
                return self.find_in_batch(&batch, timestamp, visible_end);
            }
            rest = behind;
        }
        None
    }

    fn find_in_batch(
        &self,
        batch: &Batch<'_>,
        timestamp: Timestamp,
        visible_end: Offset,
    ) -> Option<Found> {
        let contents = Contents::open(batch, OPENED_BYTES_MAX);
        let found = contents.ok().and_then(|contents| contents.first_since(timestamp).ok()?);
        // A batch nobody can open still has a newest timestamp: its first offset is close.
        let (timestamp, offset) = found.unwrap_or((batch.max_timestamp(), batch.base_offset()));
        let offset = offset.max(self.start);
        let epoch = batch.leader_epoch();
        (offset < visible_end).then_some(Found { offset, timestamp, epoch })
    }
}
