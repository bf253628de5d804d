//! The noun all of Tidemill shares: the record, and the batch it travels in.
//!
//! A record is a key, a value, headers and a timestamp. Producers send records in batches, and a
//! batch stays the bytes it was sent as: from the socket to the disk, to the next node, to the
//! consumer. So this crate reads batches where they lie and writes to them only what a leader must
//! stamp. It performs no I/O, keeps no state, and believes no length that the bytes merely claim.
//!
//! Start reading at [`Batch`].

mod batch;
pub mod checksum;
mod id;
mod offset;

pub use batch::{
    ArchivedBatchHeader, Batch, BatchError, BatchHeader, Codec, HEADER_BYTES, Limits, PREFIX_BYTES,
    Producer, TimestampType, Validated, stamp, stamp_log_append_time, validate,
};
pub use id::{NodeId, PartitionId, ProducerEpoch, ProducerId, TopicId, TopicPartition};
pub use offset::{LeaderEpoch, Offset, Sequence, Timestamp};
