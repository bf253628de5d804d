//! Is this a batch that we take from a stranger?
//!
//! [`validate`] answers from the header and the checksum alone. A batch that passes has a right
//! length, version and checksum, dense offsets, a known codec, producer fields that agree, and a
//! size within the limit. What the records inside say is another question: see
//! [`crate::Contents`].

use std::fmt;
use std::ops::Deref;

use crate::batch::{ArchivedBatchHeader, Batch, read_header};
use crate::compression::Codec;
use crate::offset::Offset;

/// A record takes this many bytes at least: its length, attributes, time, offset, the lengths of
/// key and value, and the number of headers, one byte each.
const RECORD_BYTES_MIN: u64 = 7;

/// What a batch must keep to, to be accepted by [`validate`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Size of the whole batch as sent, so compressed and with its header, at most.
    pub batch_bytes_max: u32,
    /// Whether it may be a marker. Only the broker itself writes markers.
    pub control_allowed: bool,
}

/// The header of a batch that passed [`validate`]. A copy, so that the batch can be written to
/// (see [`crate::stamp`]); it says what the batch said when it was validated.
#[derive(Clone, Copy, Debug)]
pub struct Validated {
    header: ArchivedBatchHeader,
}

impl Deref for Validated {
    type Target = ArchivedBatchHeader;

    fn deref(&self) -> &ArchivedBatchHeader {
        &self.header
    }
}

/// Checks that `bytes` are exactly one batch, unharmed, with a header that is right in everything
/// a header can be wrong in. The records in it are not looked at.
pub fn validate(bytes: &[u8], limits: &Limits) -> Result<Validated, BatchError> {
    let header = read_header(bytes)?;
    // First the size: what is too large is not worth a checksum.
    if limits.batch_bytes_max < header.size_bytes() && 0 < header.batch_length.to_native() {
        let (size_bytes, limit_bytes) = (header.size_bytes(), limits.batch_bytes_max);
        return Err(BatchError::TooLarge { size_bytes, limit_bytes });
    }
    let (batch, rest) = Batch::parse(bytes)?;
    if !rest.is_empty() {
        return Err(BatchError::TrailingBytes { extra_bytes: rest.len() });
    }
    batch.verify_checksum()?;
    check_count(header)?;
    check_room(&batch)?;
    check_producer(header)?;
    if header.is_control() && !limits.control_allowed {
        return Err(BatchError::ControlNotAllowed);
    }
    Ok(Validated { header: *header })
}

/// A batch just made is dense: as many records as offsets. (Compaction may thin it out later.)
fn check_count(header: &ArchivedBatchHeader) -> Result<(), BatchError> {
    let records_count = header.records_count.to_native();
    let last_offset_delta = header.last_offset_delta();
    if records_count < 1 || last_offset_delta != records_count - 1 {
        return Err(BatchError::CountMismatch { records_count, last_offset_delta });
    }
    Ok(())
}

/// As many records as the batch says it holds must find room in it, or a few bytes would use up
/// offsets by the thousand million. What compressed records say is for their reader to find out.
fn check_room(batch: &Batch<'_>) -> Result<(), BatchError> {
    let records_count = batch.records_count();
    let found_bytes = batch.payload().len();
    let needed_bytes = u64::from(records_count) * RECORD_BYTES_MIN;
    if batch.compression() == Codec::None && (found_bytes as u64) < needed_bytes {
        return Err(BatchError::NoRoomForRecords { records_count, found_bytes });
    }
    Ok(())
}

/// Who has an id has an epoch too, and a sequence unless it is a marker. A transaction needs an id.
fn check_producer(header: &ArchivedBatchHeader) -> Result<(), BatchError> {
    let native = header.to_native();
    let numbered = 0 <= native.producer_epoch && 0 <= native.base_sequence;
    let marked = 0 <= native.producer_epoch && header.is_control();
    let consistent = match header.producer() {
        Some(_) => numbered || marked,
        None => native.producer_id == -1 && !header.is_transactional(),
    };
    if consistent {
        return Ok(());
    }
    Err(BatchError::InconsistentProducer {
        producer_id: native.producer_id,
        producer_epoch: native.producer_epoch,
        base_sequence: native.base_sequence,
        transactional: header.is_transactional(),
    })
}

/// Why bytes are not a batch, or not one that is accepted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BatchError {
    /// The bytes end before the batch does.
    Truncated {
        /// What the batch needs, as far as known.
        needed_bytes: usize,
        /// What there is.
        found_bytes: usize,
    },
    /// The batch says that it ends inside its own header.
    LengthTooSmall {
        /// What it says.
        batch_length: i32,
        /// The least it can say.
        length_min: i32,
    },
    /// More bytes follow where exactly one batch was expected.
    TrailingBytes {
        /// How many.
        extra_bytes: usize,
    },
    /// Another version of the format than 2.
    UnknownMagic {
        /// The version found.
        found: i8,
    },
    /// The bytes do not match their checksum: damaged on the way here, or a faulty client.
    ChecksumMismatch {
        /// The checksum the batch carries.
        expected: u32,
        /// The checksum of its bytes.
        found: u32,
    },
    /// A codec nobody has defined.
    UnknownCodec {
        /// Its number.
        found: u8,
    },
    /// Not as many records as offsets, or none at all.
    CountMismatch {
        /// How many records the batch says it holds.
        records_count: i32,
        /// How many offsets after the first it says it spans.
        last_offset_delta: i32,
    },
    /// More records than its bytes can hold.
    NoRoomForRecords {
        /// How many records the batch says it holds.
        records_count: u32,
        /// The bytes it has for them.
        found_bytes: usize,
    },
    /// Offsets below zero, or beyond what an offset can be.
    OffsetOutOfRange {
        /// Offset of the first record.
        base_offset: Offset,
        /// How many offsets follow it.
        last_offset_delta: i32,
    },
    /// Producer id, epoch and sequence contradict one another.
    InconsistentProducer {
        /// −1 for none.
        producer_id: i64,
        /// Its era.
        producer_epoch: i16,
        /// Sequence of the first record.
        base_sequence: i32,
        /// Whether the batch belongs to a transaction, which needs a producer id.
        transactional: bool,
    },
    /// A marker from someone who may not write markers.
    ControlNotAllowed,
    /// Above [`Limits::batch_bytes_max`].
    TooLarge {
        /// Size of the whole batch.
        size_bytes: u32,
        /// The limit.
        limit_bytes: u32,
    },
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatchError::Truncated { needed_bytes, found_bytes } => {
                write!(f, "a batch of {needed_bytes} bytes ends after {found_bytes}")
            }
            BatchError::LengthTooSmall { batch_length, length_min } => {
                write!(f, "the batch length {batch_length} is below {length_min}")
            }
            BatchError::TrailingBytes { extra_bytes } => {
                write!(f, "{extra_bytes} bytes follow the one batch expected")
            }
            BatchError::UnknownMagic { found } => {
                write!(f, "version {found} of the record format is not stored, only 2 is")
            }
            BatchError::ChecksumMismatch { expected, found } => {
                write!(
                    f,
                    "the batch says its checksum is {expected:#010x}, but it is {found:#010x}"
                )
            }
            BatchError::UnknownCodec { found } => write!(f, "there is no codec {found}"),
            BatchError::CountMismatch { records_count, last_offset_delta } => write!(
                f,
                "{records_count} records do not fit a last offset delta of {last_offset_delta}"
            ),
            BatchError::NoRoomForRecords { records_count, found_bytes } => {
                write!(f, "{found_bytes} bytes cannot hold {records_count} records")
            }
            BatchError::OffsetOutOfRange { base_offset, last_offset_delta } => {
                write!(f, "base offset {base_offset} and {last_offset_delta} more are out of range")
            }
            BatchError::InconsistentProducer {
                producer_id,
                producer_epoch,
                base_sequence,
                transactional,
            } => write!(
                f,
                "producer id {producer_id}, epoch {producer_epoch}, sequence {base_sequence}, \
                 transactional {transactional} contradict one another"
            ),
            BatchError::ControlNotAllowed => write!(f, "clients may not write markers"),
            BatchError::TooLarge { size_bytes, limit_bytes } => {
                write!(f, "a batch of {size_bytes} bytes is above the limit of {limit_bytes}")
            }
        }
    }
}

impl std::error::Error for BatchError {}
