//! All the storage of one shard: its logs and their journal.
//!
//! Start reading at [`ShardStorage::append`].

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use tidemill_record::{LeaderEpoch, Offset, Timestamp, TopicPartition, Validated};

use crate::config::{Config, LogConfig};
use crate::error::{AppendError, ReadError, TrimError, TruncateError};
use crate::io;
use crate::log::{Log, LogId};
use crate::recovery::RecoveredShard;

/// All logs of one shard, and the journal that makes their appends durable.
pub struct ShardStorage {
    events: std::collections::VecDeque<Event>,
}

/// What became of an append. It is durable once `log.durable_end() > last_offset`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Appended {
    /// Offset of the batch's first record.
    pub base_offset: Offset,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// Our timestamp for its records, if the log stamps them.
    pub log_append_time: Option<Timestamp>,
    /// Whether it is new.
    pub kind: AppendKind,
}

/// Whether a batch was appended now or had been before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AppendKind {
    /// Appended now.
    New,
    /// The producer sent it again: nothing was appended, the offsets are the original's.
    Duplicate,
}

/// The name of a read under way.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ReadId(pub u64);

/// The answer to a read.
#[derive(Clone, Debug)]
pub enum Read {
    /// Whole batches, back to back in offset order; none if there is nothing to read yet.
    Ready {
        /// The batches, as runs of bytes that hold one or more each.
        batches: Vec<Bytes>,
        /// Bytes in all of them.
        size_bytes: u64,
    },
    /// On disk: [`Event::ReadDone`] brings them.
    Disk(ReadId),
}

/// A record found by its timestamp.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Found {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// The leader epoch it was appended under.
    pub epoch: LeaderEpoch,
}

/// The answer to a question about timestamps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lookup {
    /// Known at once: this record, or none.
    Ready(Option<Found>),
    /// On disk: [`Event::LookupDone`] brings it.
    Disk(ReadId),
}

/// What happened inside storage that the broker must know.
#[derive(Clone, Debug)]
pub enum Event {
    /// Everything below `end` of this log survives a crash now.
    Durable {
        /// Which log.
        log: LogId,
        /// Its durable end.
        end: Offset,
    },
    /// An append that was refused with `SpaceNotReserved` may be tried again.
    Admitted {
        /// Which log.
        log: LogId,
    },
    /// The space an append waits for cannot be had: the disk is full.
    NoSpace {
        /// Which log.
        log: LogId,
    },
    /// A read has ended.
    ReadDone {
        /// Which read.
        read: ReadId,
        /// Whole batches, in offset order.
        result: Result<Vec<Bytes>, ReadError>,
    },
    /// A question about timestamps is answered.
    LookupDone {
        /// Which question.
        read: ReadId,
        /// The record, if there is one.
        result: Result<Option<Found>, ReadError>,
    },
    /// The log's new start is durable.
    Trimmed {
        /// Which log.
        log: LogId,
        /// Its start.
        start: Offset,
    },
    /// The log's new end is durable, and it can be appended to.
    Truncated {
        /// Which log.
        log: LogId,
        /// Its end.
        end: Offset,
    },
    /// The log's files are gone.
    Dropped {
        /// Whose they were.
        partition: TopicPartition,
    },
    /// Bytes of a log do not match their checksum: they will not be served.
    Damaged {
        /// Which log.
        log: LogId,
        /// What is lost.
        offsets: Range<Offset>,
    },
    /// A write or sync failed. Nothing is appended any more; what is durable can still be read.
    /// Every other shard of the node must be told (see [`ShardStorage::fence`]).
    Fenced,
}

impl ShardStorage {
    /// The storage of shard `shard`, from what recovery found.
    #[must_use]
    pub fn new(config: Config, recovered: RecoveredShard) -> Self {
        let _ = (config, recovered);
        unimplemented!("follows")
    }

    /// The log of `partition`: as recovered, or a new, empty one. Costs no I/O before its first
    /// append.
    pub fn create_log(&mut self, partition: TopicPartition, config: LogConfig) -> LogId {
        let _ = (partition, config);
        unimplemented!("follows")
    }

    /// The log of `partition`, if there is one.
    #[must_use]
    pub fn find_log(&self, partition: TopicPartition) -> Option<LogId> {
        let _ = partition;
        unimplemented!("follows")
    }

    /// Changes the rules of a log from now on.
    pub fn configure(&mut self, log: LogId, config: LogConfig) {
        let _ = (log, config);
    }

    /// Removes a log and its files, for ever: its topic is deleted. Ends with
    /// [`Event::Dropped`]. The id is not valid any more.
    pub fn drop_log(&mut self, log: LogId, now: u64) {
        let _ = (log, now);
    }

    /// Appends one batch: gives it offsets and puts it into the open commit window.
    ///
    /// `wall_ms` is the time of day, `now` the monotonic time in nanoseconds.
    pub fn append(
        &mut self,
        log: LogId,
        batch: BytesMut,
        validated: &Validated,
        epoch: LeaderEpoch,
        wall_ms: i64,
        now: u64,
    ) -> Result<Appended, AppendError> {
        let _ = (log, batch, validated, epoch, wall_ms, now);
        unimplemented!("follows")
    }

    /// The batches from the one that holds `from` on, none at or past `visible_end`, about
    /// `limit_bytes` in all.
    ///
    /// With `at_least_one`, the first batch is returned even if it alone exceeds `limit_bytes`.
    pub fn read(
        &mut self,
        log: LogId,
        from: Offset,
        visible_end: Offset,
        limit_bytes: u32,
        at_least_one: bool,
    ) -> Result<Read, ReadError> {
        let _ = (log, from, visible_end, limit_bytes, at_least_one);
        unimplemented!("follows")
    }

    /// The first record below `visible_end` with a timestamp at or after `timestamp`.
    pub fn offset_for_timestamp(
        &mut self,
        log: LogId,
        timestamp: Timestamp,
        visible_end: Offset,
    ) -> Result<Lookup, ReadError> {
        let _ = (log, timestamp, visible_end);
        unimplemented!("follows")
    }

    /// The record below `visible_end` with the largest timestamp; the first of equals.
    pub fn max_timestamp(&mut self, log: LogId, visible_end: Offset) -> Result<Lookup, ReadError> {
        let _ = (log, visible_end);
        unimplemented!("follows")
    }

    /// Where `epoch` ended in this log; see [`crate::epochs::LeaderEpochs::end_of`].
    #[must_use]
    pub fn epoch_end(&self, log: LogId, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let _ = (log, epoch);
        unimplemented!("follows")
    }

    /// Moves the log's start up to `before`: everything below is deleted. Ends with
    /// [`Event::Trimmed`], also if nothing was below.
    pub fn trim(&mut self, log: LogId, before: Offset, now: u64) -> Result<(), TrimError> {
        let _ = (log, before, now);
        unimplemented!("follows")
    }

    /// Cuts the log's end back to `to`. Ends with [`Event::Truncated`].
    pub fn truncate(&mut self, log: LogId, to: Offset, now: u64) -> Result<(), TruncateError> {
        let _ = (log, to, now);
        unimplemented!("follows")
    }

    /// Applies the retention rules of all logs. Called now and then.
    pub fn retention(&mut self, wall_ms: i64, now: u64) {
        let _ = (wall_ms, now);
    }

    /// This log as it is now.
    #[must_use]
    pub fn log(&self, log: LogId) -> &Log {
        let _ = log;
        unimplemented!("follows")
    }

    /// The turn is over: windows are closed, writes are planned.
    pub fn end_turn(&mut self, now: u64) {
        let _ = now;
    }

    /// Time has passed.
    pub fn tick(&mut self, now: u64) {
        let _ = now;
    }

    /// When [`ShardStorage::tick`] is wanted at the latest, if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        None
    }

    /// The next thing to be done to the disk.
    pub fn poll_request(&mut self) -> Option<io::Request> {
        None
    }

    /// A request has ended.
    pub fn handle_completion(&mut self, completion: io::Completion, now: u64) {
        let _ = (completion, now);
    }

    /// The next thing the broker must know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The data directory failed elsewhere: nothing more is appended.
    pub fn fence(&mut self) {}

    /// Whether nothing can be appended before a restart.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        false
    }

    /// Clean stop: no more appends; everything is written and a checkpoint made, so that the next
    /// start has nothing to replay. [`ShardStorage::is_stopped`] tells when that is done.
    pub fn checkpoint_and_stop(&mut self, now: u64) {
        let _ = now;
    }

    /// Whether a clean stop is complete (or cannot be, because the directory is fenced).
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        false
    }

    /// Memory held for batches, windows and indexes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        0
    }
}
