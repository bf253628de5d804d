//! Markers: how a transaction ends, written into every partition it touched.
//!
//! ```text
//! batch   transactional and control, the producer's id and epoch, no sequence, one record
//! key     i16 version 0, i16 type: 0 abort, 1 commit
//! value   i16 version 0, i32 epoch of the coordinator
//! ```
//!
//! A marker takes an offset like any record and is never shown to applications: consumers that
//! read only what is committed learn from it where a transaction ended, and how.

use std::fmt;

use bytes::BytesMut;

use crate::batch::{Batch, Producer};
use crate::builder::BatchBuilder;
use crate::compression::Codec;
use crate::offset::Timestamp;
use crate::records::{Contents, Record, RecordError};

/// How a transaction ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// Its records are to be forgotten.
    Abort,
    /// Its records count.
    Commit,
}

/// The end of a transaction in one partition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Marker {
    /// How it ended.
    pub outcome: Outcome,
    /// The epoch of the transaction coordinator that decided so.
    pub coordinator_epoch: i32,
}

/// Markers are tiny and never compressed by us; another broker's may be.
const MARKER_BYTES_MAX: usize = 4096;

impl Marker {
    /// The batch that carries the marker, in the name of the transaction's producer.
    pub fn to_batch(&self, producer: Producer, now: Timestamp) -> BytesMut {
        let kind: i16 = match self.outcome {
            Outcome::Abort => 0,
            Outcome::Commit => 1,
        };
        let version = 0i16.to_be_bytes();
        let key = [version, kind.to_be_bytes()].concat();
        let value = [&version[..], &self.coordinator_epoch.to_be_bytes()].concat();
        let mut builder = BatchBuilder::new(Codec::None).marker(producer);
        builder.append(now, Some(&key), Some(&value));
        builder.build()
    }

    /// Reads the marker a control batch carries. Versions above 0 begin with the same fields.
    pub fn read(batch: &Batch<'_>) -> Result<Marker, MarkerError> {
        if !batch.is_control() {
            return Err(MarkerError::NotControl);
        }
        let contents = Contents::open(batch, MARKER_BYTES_MAX).map_err(MarkerError::Unreadable)?;
        let mut records = contents.records();
        let record = records.next().ok_or(MarkerError::Malformed)?;
        let record = record.map_err(MarkerError::Unreadable)?;
        match records.next() {
            None => Marker::from_record(&record),
            Some(_) => Err(MarkerError::Malformed),
        }
    }

    fn from_record(record: &Record<'_>) -> Result<Marker, MarkerError> {
        let (_, kind) = read_version(record.key)?;
        let kind = kind.first_chunk().ok_or(MarkerError::Malformed)?;
        let outcome = match i16::from_be_bytes(*kind) {
            0 => Outcome::Abort,
            1 => Outcome::Commit,
            found => return Err(MarkerError::OtherKind { found }),
        };
        let (_, epoch) = read_version(record.value)?;
        let epoch = epoch.first_chunk().ok_or(MarkerError::Malformed)?;
        Ok(Marker { outcome, coordinator_epoch: i32::from_be_bytes(*epoch) })
    }
}

/// The version a field begins with, and what follows it.
fn read_version(field: Option<&[u8]>) -> Result<(i16, &[u8]), MarkerError> {
    let (version, rest) =
        field.and_then(|bytes| bytes.split_first_chunk()).ok_or(MarkerError::Malformed)?;
    let version = i16::from_be_bytes(*version);
    if version < 0 {
        return Err(MarkerError::Malformed);
    }
    Ok((version, rest))
}

/// Why a batch is not a marker that ends a transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MarkerError {
    /// It is a batch of ordinary records.
    NotControl,
    /// A control batch for something else than the end of a transaction.
    OtherKind {
        /// Its type.
        found: i16,
    },
    /// Not one record with a key and a value long enough.
    Malformed,
    /// Its record cannot be read.
    Unreadable(RecordError),
}

impl fmt::Display for MarkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MarkerError::NotControl => write!(f, "this is a batch of records, not a marker"),
            MarkerError::OtherKind { found } => write!(f, "a control batch of type {found}"),
            MarkerError::Malformed => write!(f, "a control batch without a marker's fields"),
            MarkerError::Unreadable(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for MarkerError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::HEADER_BYTES;
    use crate::id::{ProducerEpoch, ProducerId};
    use crate::validate::{BatchError, Limits, validate};

    const PRODUCER: Producer = Producer { id: ProducerId(4711), epoch: ProducerEpoch(3) };
    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    /// What was decided is read back, with the producer it concerns.
    #[test]
    fn a_marker_is_read_back() {
        for outcome in [Outcome::Abort, Outcome::Commit] {
            let marker = Marker { outcome, coordinator_epoch: 9 };
            let bytes = marker.to_batch(PRODUCER, NOW);
            let (batch, rest) = Batch::parse(&bytes).expect("a batch");
            assert!(rest.is_empty());
            assert!(batch.is_control() && batch.is_transactional());
            assert_eq!(batch.producer(), Some(PRODUCER));
            assert_eq!(batch.base_sequence(), None);
            assert_eq!(Marker::read(&batch), Ok(marker));
        }
    }

    /// Only the broker writes markers: the same bytes from a client are refused.
    #[test]
    fn a_marker_from_a_client_is_refused() {
        let marker = Marker { outcome: Outcome::Commit, coordinator_epoch: 0 };
        let bytes = marker.to_batch(PRODUCER, NOW);
        let mut limits = Limits { batch_bytes_max: 1000, control_allowed: false };
        assert_eq!(validate(&bytes, &limits).err(), Some(BatchError::ControlNotAllowed));
        limits.control_allowed = true;
        assert!(validate(&bytes, &limits).is_ok());
    }

    /// Byte for byte what Kafka writes: length, attributes, deltas, key, value, no headers.
    #[test]
    fn the_record_of_a_marker_is_kafkas() {
        let marker = Marker { outcome: Outcome::Commit, coordinator_epoch: 258 };
        let bytes = marker.to_batch(PRODUCER, NOW);
        let record = [32, 0, 0, 0, 8, 0, 0, 0, 1, 12, 0, 0, 0, 0, 1, 2, 0];
        assert_eq!(bytes[HEADER_BYTES..], record);
    }

    /// Ordinary records and control batches of other kinds are told apart from markers.
    #[test]
    fn what_is_no_marker_is_not_taken_for_one() {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(NOW, None, Some(b"x"));
        let bytes = builder.build();
        let (batch, _) = Batch::parse(&bytes).expect("a batch");
        assert_eq!(Marker::read(&batch), Err(MarkerError::NotControl));

        let mut builder = BatchBuilder::new(Codec::None).marker(PRODUCER);
        builder.append(NOW, Some(&[0, 0, 0, 2]), Some(&[0; 6]));
        let bytes = builder.build();
        let (batch, _) = Batch::parse(&bytes).expect("a batch");
        assert_eq!(Marker::read(&batch), Err(MarkerError::OtherKind { found: 2 }));
    }
}
