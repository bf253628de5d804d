//! The noun all of Tidemill shares: the record, and the batch it travels in.
//!
//! A record is a key, a value, headers and a timestamp. Producers send records in batches, and a
//! batch stays the bytes it was sent as: from the socket to the disk, to the next node, to the
//! consumer. So this crate reads batches where they lie and writes to them only what a leader must
//! stamp. It performs no I/O, keeps no state, and believes no length that the bytes merely claim.
//!
//! Start reading at [`Batch`]; then [`Contents`] for what is inside one.

mod batch;
mod builder;
pub mod checksum;
mod compression;
mod control;
mod id;
mod id_map;
mod offset;
mod recompress;
mod records;
mod retain;
mod validate;

pub use batch::{
    ArchivedBatchHeader, Batch, BatchHeader, HEADER_BYTES, PREFIX_BYTES, Producer, TimestampType,
    stamp, stamp_log_append_time,
};
pub use builder::BatchBuilder;
pub use compression::{Codec, DecompressError, compress, decompress};
pub use control::{Marker, MarkerError, Outcome};
pub use id::{NodeId, PartitionId, ProducerEpoch, ProducerId, TopicId, TopicPartition};
pub use id_map::{IdHasher, IdMap};
pub use offset::{LeaderEpoch, Offset, Sequence, Timestamp};
pub use recompress::{Recompressed, recompress};
pub use records::{Contents, Header, HeaderIter, Headers, Record, RecordError, Records, Summary};
pub use retain::{Retained, RetainedBatch, emptied, retain};
pub use validate::{BatchError, Limits, Validated, validate};
