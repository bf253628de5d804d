//! A coordinator and what it has decided, on the way to the disk.
//!
//! Decisions are put into batches in the order in which they were made. Several batches may be on
//! their way at once; only a decision that is larger than a batch waits, after its first part,
//! until that is durable: if a part of it fails, all of it fails.
//!
//! It is pure: batches come out by [`Logged::poll_append`], and what became of them goes in.

use std::collections::VecDeque;

use bytes::BytesMut;
use tidemill_net::kafka::ErrorCode;
use tidemill_record::{BatchBuilder, Codec, Offset, Timestamp};
use tidemill_runtime::edge::Instant;

use super::linger::{Haste, LINGERING_MAX};
use super::rewrite::{Rewrite, Turn};
use super::{Coordinate, LogRecord, Now, Write};
use crate::job::ReplyTo;
use crate::limits::GROUP_APPEND_BYTES;

/// Most batches are no larger: a commit of ten partitions has about 1 KiB.
const BATCH_BYTES_USUAL: usize = 2048;

/// A coordinator, and the log of its partition as far as it concerns it.
pub struct Logged<C: Coordinate> {
    /// Who decides.
    pub coordinator: C,
    /// Decided, not yet handed out to be appended.
    pub(super) unsent: VecDeque<C::Write>,
    /// How many records of the first of them were handed out.
    pub(super) begun: usize,
    /// Handed out, in order.
    pub(super) in_flight: VecDeque<Flight<C::Write>>,
    appends: u64,
    /// Bytes of the log since all that is remembered was written once more.
    pub(super) log_bytes: usize,
    /// The least the log must have grown by before it is written anew.
    pub(super) rewrite_bytes: usize,
    /// A rewrite was refused: the next one begins when the log is larger than this.
    pub(super) again_above_bytes: usize,
    pub(super) rewrite: Option<Rewrite<C::Place>>,
    pub(super) trim_to: Option<Offset>,
    pub(super) is_closed: bool,
}

/// One batch on its way to the disk, and the writes whose last record is in it.
pub(super) struct Flight<W> {
    number: u64,
    writes: Vec<W>,
    /// Its last records are of a write that goes on in the next batch.
    is_cut: bool,
    /// It repeats what is remembered.
    is_rewrite: bool,
}

/// A batch to be appended to the coordinator's partition.
#[derive(Debug)]
pub struct Append {
    /// Its name, for what comes of it.
    pub number: u64,
    /// The batch.
    pub batch: BytesMut,
}

impl<C: Coordinate> Logged<C> {
    /// A coordinator whose log was not read yet. The log is written anew when it has grown by
    /// `rewrite_bytes`, or by some times what is remembered.
    pub fn new(coordinator: C, rewrite_bytes: usize) -> Self {
        Self {
            coordinator,
            unsent: VecDeque::new(),
            begun: 0,
            in_flight: VecDeque::new(),
            appends: 0,
            log_bytes: 0,
            rewrite_bytes,
            again_above_bytes: 0,
            rewrite: None,
            trim_to: None,
            is_closed: false,
        }
    }

    // A start.

    /// Lets a record of the log have happened.
    pub fn replay(&mut self, record: C::Record) {
        self.coordinator.replay(record);
    }

    /// All records were replayed, from a log of so many bytes.
    pub fn loaded(&mut self, log_bytes: usize, now: Now<'_>) {
        self.log_bytes = log_bytes;
        self.coordinator.loaded(now);
    }

    // What happens.

    /// Something is asked; see [`Coordinate::request`].
    pub fn request(
        &mut self,
        request: C::Request,
        reply_to: ReplyTo,
        has_room: bool,
        now: Now<'_>,
    ) {
        self.coordinator.request(request, reply_to, has_room, now);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now<'_>) {
        self.coordinator.tick(now);
    }

    /// When [`Logged::tick`] is wanted.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.coordinator.next_deadline()
    }

    /// It takes nothing more; see [`Coordinate::close`].
    pub fn close(&mut self, error: ErrorCode) {
        self.is_closed = true;
        self.coordinator.close(error);
    }

    /// The replies since the last time.
    pub fn take_replies(&mut self) -> Vec<(ReplyTo, C::Reply)> {
        std::mem::take(self.coordinator.replies())
    }

    /// What is remembered takes so much memory, about.
    pub fn bytes(&self) -> usize {
        self.coordinator.bytes()
    }

    /// How many things are remembered.
    pub fn count(&self) -> usize {
        self.coordinator.count()
    }

    // Writing.

    /// How soon something is to be appended.
    pub(super) fn haste(&mut self) -> Haste {
        self.unsent.extend(self.coordinator.decided().drain(..));
        let goes_on = self.rewrite.is_some() || 0 < self.begun || self.is_closed;
        let is_waited_for = self.coordinator.take_hurry() && !self.unsent.is_empty();
        if goes_on || is_waited_for || LINGERING_MAX <= self.unsent.len() {
            return Haste::Now;
        }
        self.unsent.iter().fold(Haste::Nothing, |haste, write| haste.and(write.may_linger()))
    }

    /// The next batch to append, if there is one. Its end is told by [`Logged::appended`] or
    /// [`Logged::refused`].
    pub fn poll_append(&mut self, wall_ms: i64) -> Option<Append> {
        self.unsent.extend(self.coordinator.decided().drain(..));
        match self.poll_rewrite(wall_ms) {
            Turn::Mine(append) => return Some(append),
            Turn::Waits => return None,
            Turn::Others => {}
        }
        // The rest of a write goes out when its beginning is durable: if that fails, all fails.
        let waits = 0 < self.begun && !self.in_flight.is_empty();
        if self.unsent.is_empty() || waits {
            return None;
        }
        let memory = BytesMut::with_capacity(BATCH_BYTES_USUAL);
        let mut builder = BatchBuilder::reusing(memory, Codec::None);
        let (mut bytes, mut writes) = (0, Vec::new());
        while let Some(write) = self.unsent.front() {
            let records = write.records();
            if GROUP_APPEND_BYTES <= bytes {
                break;
            }
            while let Some(record) = records.get(self.begun)
                && (bytes < GROUP_APPEND_BYTES || write.is_whole())
            {
                bytes += put(&mut builder, record, wall_ms);
                self.begun += 1;
            }
            if self.begun < records.len() {
                break;
            }
            self.begun = 0;
            writes.extend(self.unsent.pop_front());
        }
        Some(self.send(builder, writes, false))
    }

    pub(super) fn send(
        &mut self,
        builder: BatchBuilder,
        writes: Vec<C::Write>,
        is_rewrite: bool,
    ) -> Append {
        let (number, batch) = (self.appends, builder.build());
        self.appends += 1;
        self.log_bytes += batch.len();
        let is_cut = 0 < self.begun && !is_rewrite;
        self.in_flight.push_back(Flight { number, writes, is_cut, is_rewrite });
        Append { number, batch }
    }

    /// A batch is durable, and begins at this offset.
    pub fn appended(&mut self, number: u64, base_offset: Offset, now: Now<'_>) {
        let Some(Flight { writes, is_rewrite, .. }) = self.landed(number) else { return };
        if is_rewrite {
            self.rewritten(base_offset);
        }
        self.begin_rewrite_if_due();
        for write in writes {
            self.coordinator.written(write, now);
        }
    }

    /// A batch was not appended, and never will be.
    pub fn refused(&mut self, number: u64, error: ErrorCode, now: Now<'_>) {
        let Some(Flight { writes, is_cut, is_rewrite, .. }) = self.landed(number) else { return };
        if is_rewrite {
            self.give_up_rewrite();
        }
        let mut failed = writes;
        if is_cut {
            // What it began cannot be ended.
            self.begun = 0;
            failed.extend(self.unsent.pop_front());
        }
        for write in failed {
            self.coordinator.refused(write, error, now);
        }
    }

    /// Takes the log for as large as this.
    #[cfg(test)]
    pub(crate) fn pretend_log_bytes(&mut self, log_bytes: usize) {
        self.log_bytes = log_bytes;
    }

    fn landed(&mut self, number: u64) -> Option<Flight<C::Write>> {
        let place = self.in_flight.iter().position(|flight| flight.number == number)?;
        self.in_flight.remove(place)
    }
}

/// Adds a record to a batch; tells how large it is.
pub(super) fn put(builder: &mut BatchBuilder, record: &impl LogRecord, wall_ms: i64) -> usize {
    let (key, value) = record.encode();
    builder.append(Timestamp(wall_ms), Some(&key), value.as_deref());
    key.len() + value.map_or(0, |value| value.len())
}
