//! A partition's log: a row of segments, and the batches not yet in them.

use std::ops::Range;

use tidemill_record::{LeaderEpoch, Offset, TopicPartition};

/// A log of this shard. Not used again after the log is dropped.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LogId(pub(crate) u32);

/// A partition's log.
#[derive(Debug)]
pub struct Log {
    partition: TopicPartition,
    start: Offset,
    end: Offset,
    durable_end: Offset,
}

impl Log {
    /// Whose log it is.
    #[must_use]
    pub fn partition(&self) -> TopicPartition {
        self.partition
    }

    /// Offset of the first record kept.
    #[must_use]
    pub fn start(&self) -> Offset {
        self.start
    }

    /// The offset the next record will get.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Everything below survives a crash.
    #[must_use]
    pub fn durable_end(&self) -> Offset {
        self.durable_end
    }

    /// Bytes of batches in all segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        0
    }

    /// The newest leader epoch that appended a record; `LeaderEpoch::NONE` if none did.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch::NONE
    }

    /// The leader epoch of the record at `offset`; `LeaderEpoch::NONE` if that is not known.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> LeaderEpoch {
        let _ = offset;
        LeaderEpoch::NONE
    }

    /// How many producers it remembers.
    #[must_use]
    pub fn producers_count(&self) -> usize {
        0
    }

    /// What of it cannot be served, lowest first.
    #[must_use]
    pub fn damaged(&self) -> &[Range<Offset>] {
        &[]
    }
}
