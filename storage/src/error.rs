//! Why something was refused: one enum per operation, each variant a sentence.
//!
//! A refusal leaves everything as it was before.

use std::ops::Range;

use tidemill_record::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TopicPartition};

use crate::io::{Fault, FileName};

/// Why a batch was refused. Nothing was written: the log is as it was before.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AppendError {
    /// Files, segment space or journal space for it are still being made ready. Try again at
    /// [`Event::Admitted`](crate::Event::Admitted) for this log.
    SpaceNotReserved,
    /// The disk is full. Tried again by itself with the next append.
    NoSpace,
    /// The log is being cut or dropped. Cutting ends with `Event::Truncated`, dropping with
    /// `Event::Dropped`.
    Closing,
    /// A write or sync failed: nothing is appended before a restart has repaired what is there.
    Fenced,
    /// A part of this log is damaged, so what would follow it could not be trusted.
    Damaged {
        /// From here on nothing is proved.
        from: Offset,
    },
    /// The writer follows an older leader; it must refresh its metadata and send again.
    FencedLeaderEpoch {
        /// The newest epoch that has appended.
        current: LeaderEpoch,
        /// The epoch of this append.
        found: LeaderEpoch,
    },
    /// The producer has been replaced by a newer one with the same id.
    InvalidProducerEpoch {
        /// Who.
        producer: ProducerId,
        /// Its newest epoch.
        current: ProducerEpoch,
        /// The epoch of this batch.
        found: ProducerEpoch,
    },
    /// A gap in the producer's numbering: to accept it would break the order it was promised.
    OutOfOrderSequence {
        /// Who.
        producer: ProducerId,
        /// What was due.
        expected: Sequence,
        /// What came.
        found: Sequence,
    },
    /// So many producers have been active in this log of late that no other can be remembered.
    TooManyProducers {
        /// The limit.
        limit: u32,
    },
    /// The batch lies outside of the transaction that its producer has open.
    NotTransactional {
        /// Who.
        producer: ProducerId,
    },
    /// So many transactions are open or were aborted in what the log holds that no other can be
    /// remembered.
    TooManyTransactions {
        /// The limit.
        limit: u32,
    },
    /// A marker of a transaction coordinator that another has replaced.
    FencedCoordinator {
        /// The epoch of the newest one.
        current: i32,
        /// The epoch in the marker.
        found: i32,
    },
    /// A control batch that is not the marker of a transaction's end.
    NotAMarker,
    /// Larger than a segment or a journal file can take.
    BatchTooLarge {
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
}

/// Why a read failed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ReadError {
    /// The offset is below the log's start or above its end.
    OffsetOutOfRange {
        /// What was asked for.
        asked: Offset,
        /// First offset that exists.
        log_start: Offset,
        /// First offset that does not exist yet.
        log_end: Offset,
    },
    /// The bytes do not match their checksum. The range is quarantined: it stays unreadable until
    /// it is repaired or deleted.
    Damaged {
        /// From where to where nothing can be served.
        offsets: Range<Offset>,
    },
    /// The device failed the read.
    Device {
        /// How.
        fault: Fault,
    },
    /// The log was dropped, or what was read was trimmed, while the read was under way.
    Gone,
    /// Too many reads wait for the disk already.
    Busy,
}

/// Why the start of a log was not moved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TrimError {
    /// Above what is durable.
    OffsetOutOfRange {
        /// What was asked for.
        asked: Offset,
        /// The highest possible start.
        durable_end: Offset,
    },
    /// The log is being cut or dropped.
    Closing,
    /// A write or sync failed before.
    Fenced,
    /// The journal is full; it is being freed.
    Busy,
}

/// Why the end of a log was not cut.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TruncateError {
    /// Below the start or above the end of the log.
    OffsetOutOfRange {
        /// What was asked for.
        asked: Offset,
        /// First offset that exists.
        log_start: Offset,
        /// First offset that does not exist yet.
        log_end: Offset,
    },
    /// The log is being cut or dropped already.
    Closing,
    /// A write or sync failed before.
    Fenced,
    /// The journal is full; it is being freed.
    Busy,
}

/// Why storage could not be recovered. Nothing was served, and nothing that was durable changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RecoverError {
    /// Written by a newer program.
    NewerFormat {
        /// Where.
        file: FileName,
        /// Its version.
        found: u16,
        /// The newest we know.
        known: u16,
    },
    /// The state of all partitions at the last start is damaged, and newer data depends on it.
    BaseDamaged {
        /// The start whose state is missing.
        incarnation: u64,
    },
    /// The node epoch given is not above the one found on disk: two nodes share this directory,
    /// or the metadata log was lost.
    StaleIncarnation {
        /// What was given.
        given: u64,
        /// What was found.
        found: u64,
    },
    /// The device or file system failed.
    Disk {
        /// At what.
        what: String,
        /// How.
        fault: Fault,
    },
}

/// A part of a log that cannot be served.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Damage {
    /// Whose.
    pub partition: TopicPartition,
    /// From where to where.
    pub offsets: Range<Offset>,
}

impl std::fmt::Display for RecoverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NewerFormat { file, found, known } => write!(
                f,
                "{file} has format version {found}, written by a newer program; this one knows up \
                 to {known}"
            ),
            Self::BaseDamaged { incarnation } => write!(
                f,
                "journal/base-{incarnation} is damaged or missing, and newer data depends on it"
            ),
            Self::StaleIncarnation { given, found } => write!(
                f,
                "node epoch {given} is not above {found}, found on disk: the metadata log does \
                 not belong to these partitions"
            ),
            Self::Disk { what, fault } => write!(f, "{what}: {fault:?}"),
        }
    }
}

impl std::error::Error for RecoverError {}
