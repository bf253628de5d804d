//! A batch of records: the unit in which records are sent, stored, replicated and fetched.
//!
//! ```text
//!  0 base offset        i64   where the first record goes; stamped by the leader
//!  8 batch length       i32   bytes after this field
//! 12 leader epoch       i32   stamped by the leader
//! 16 magic              i8    2
//! 17 crc                u32   CRC32C of everything after it
//! 21 attributes         i16   0–2 codec, 3 log append time, 4 transactional, 5 control, 6 delete horizon
//! 23 last offset delta  i32   last offset − base offset
//! 27 base timestamp     i64
//! 35 max timestamp      i64
//! 43 producer id        i64   −1: none
//! 51 producer epoch     i16
//! 53 base sequence      i32
//! 57 records count      i32
//! 61 records, compressed together if there is a codec
//! ```
//!
//! This is Kafka's batch, version 2, and byte for byte also the rkyv archive of [`BatchHeader`]:
//! a batch is read where it lies ([`Batch::parse`]), whoever sent it and wherever it is.
//!
//! Three steps of trust. [`Batch::parse`] believes the bytes only as far as memory and arithmetic
//! are safe: for what we wrote ourselves. [`Batch::verify_checksum`] adds that they are unharmed.
//! [`crate::validate()`] is for strangers: everything a header can be wrong in. None of them looks
//! at the records themselves: see [`crate::Contents`].

use std::mem::offset_of;
use std::ops::Deref;

use rkyv::rancor::Failure;
use rkyv::ser::writer::Buffer;
use rkyv::{Archive, Serialize};

use crate::checksum;
use crate::compression::Codec;
use crate::id::{ProducerEpoch, ProducerId};
use crate::offset::{LeaderEpoch, Offset, Sequence, Timestamp};
use crate::validate::BatchError;

/// Size of a batch's header, and of a batch without records.
pub const HEADER_BYTES: usize = 61;

/// Size of what precedes the bytes that the batch length counts.
pub const PREFIX_BYTES: usize = 12;

/// The only version of the format that is stored.
pub(crate) const MAGIC: i8 = 2;

pub(crate) const CODEC_BITS: i16 = 0b111;
const LOG_APPEND_TIME_BIT: i16 = 1 << 3;
pub(crate) const TRANSACTIONAL_BIT: i16 = 1 << 4;
pub(crate) const CONTROL_BIT: i16 = 1 << 5;
pub(crate) const DELETE_HORIZON_BIT: i16 = 1 << 6;

/// What stands before the records of a batch. Its archive is Kafka's header, field for field.
#[derive(Archive, Serialize, Clone, Copy, Debug, Eq, PartialEq)]
#[rkyv(derive(Clone, Copy, Debug, Eq, PartialEq))]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Bytes of the batch after this field.
    pub batch_length: i32,
    /// Epoch of the leader that appended the batch.
    pub partition_leader_epoch: i32,
    /// Version of the format.
    pub magic: i8,
    /// CRC32C of all that follows it.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: i16,
    /// Last offset less base offset.
    pub last_offset_delta: i32,
    /// What the records' timestamps count from.
    pub base_timestamp: i64,
    /// The latest of the records' timestamps, or the time of the append.
    pub max_timestamp: i64,
    /// Producer, or −1.
    pub producer_id: i64,
    /// Era of the producer id.
    pub producer_epoch: i16,
    /// Sequence of the first record.
    pub base_sequence: i32,
    /// Number of records.
    pub records_count: i32,
}

impl BatchHeader {
    /// The header as it is sent and stored.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        rkyv::api::high::to_bytes_in::<_, Failure>(self, Buffer::from(&mut bytes))
            .expect("the archive of a header has a header's size");
        bytes
    }
}

// The archive is the wire: should rkyv lay it out in another way, nothing may compile.
const _: () = {
    assert!(size_of::<ArchivedBatchHeader>() == HEADER_BYTES);
    assert!(align_of::<ArchivedBatchHeader>() == 1);
    assert!(offset_of!(ArchivedBatchHeader, base_offset) == 0);
    assert!(offset_of!(ArchivedBatchHeader, batch_length) == 8);
    assert!(offset_of!(ArchivedBatchHeader, partition_leader_epoch) == PREFIX_BYTES);
    assert!(offset_of!(ArchivedBatchHeader, magic) == 16);
    assert!(offset_of!(ArchivedBatchHeader, crc) == 17);
    assert!(offset_of!(ArchivedBatchHeader, attributes) == checksum::COVERED_FROM);
    assert!(offset_of!(ArchivedBatchHeader, last_offset_delta) == 23);
    assert!(offset_of!(ArchivedBatchHeader, base_timestamp) == 27);
    assert!(offset_of!(ArchivedBatchHeader, max_timestamp) == 35);
    assert!(offset_of!(ArchivedBatchHeader, producer_id) == 43);
    assert!(offset_of!(ArchivedBatchHeader, producer_epoch) == 51);
    assert!(offset_of!(ArchivedBatchHeader, base_sequence) == 53);
    assert!(offset_of!(ArchivedBatchHeader, records_count) == 57);
};

/// Who says when a record was made.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum TimestampType {
    /// The producer, for each record.
    CreateTime,
    /// The leader, for the whole batch, as it appended it.
    LogAppendTime,
}

/// The producer of a batch, if it numbers its batches.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Producer {
    /// Its id.
    pub id: ProducerId,
    /// The era of the id.
    pub epoch: ProducerEpoch,
}

/// What the header says. Obtained through [`Batch`] or [`crate::Validated`], which have made sure that
/// every sum below stays in range and that the codec is a known one.
impl ArchivedBatchHeader {
    /// Offset of the first record.
    pub fn base_offset(&self) -> Offset {
        Offset(self.base_offset.to_native())
    }

    /// Offset of the last record. (The record itself may have been compacted away.)
    pub fn last_offset(&self) -> Offset {
        self.base_offset().plus(i64::from(self.last_offset_delta()))
    }

    /// The offset after the last record: where the next batch begins.
    pub fn next_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    /// Last offset less base offset.
    pub fn last_offset_delta(&self) -> i32 {
        self.last_offset_delta.to_native()
    }

    /// How many records the batch holds.
    pub fn records_count(&self) -> u32 {
        self.records_count.to_native().unsigned_abs()
    }

    /// Size of the whole batch, header included.
    pub fn size_bytes(&self) -> u32 {
        PREFIX_BYTES as u32 + self.batch_length.to_native().unsigned_abs()
    }

    /// Epoch of the leader that appended the batch.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.partition_leader_epoch.to_native())
    }

    /// The checksum the batch carries.
    pub fn crc(&self) -> u32 {
        self.crc.to_native()
    }

    /// Codec and flags, as they are.
    pub fn attributes(&self) -> i16 {
        self.attributes.to_native()
    }

    /// How the records are compressed.
    pub fn compression(&self) -> Codec {
        Codec::from_number(self.codec_number()).expect("parse refuses unknown codecs")
    }

    fn codec_number(&self) -> u8 {
        (self.attributes() & CODEC_BITS) as u8
    }

    /// Who says when the records were made.
    pub fn timestamp_type(&self) -> TimestampType {
        match self.attributes() & LOG_APPEND_TIME_BIT {
            0 => TimestampType::CreateTime,
            _ => TimestampType::LogAppendTime,
        }
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes() & TRANSACTIONAL_BIT != 0
    }

    /// Whether the batch is a marker for the broker instead of records for applications.
    pub fn is_control(&self) -> bool {
        self.attributes() & CONTROL_BIT != 0
    }

    /// Whether the base timestamp tells when deletion marks in the batch may be compacted away.
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes() & DELETE_HORIZON_BIT != 0
    }

    /// When deletion marks in the batch, or the marker it is, may be compacted away, if that was
    /// decided.
    pub fn delete_horizon(&self) -> Option<Timestamp> {
        self.has_delete_horizon().then(|| self.base_timestamp())
    }

    /// What the records' timestamps count from.
    pub fn base_timestamp(&self) -> Timestamp {
        Timestamp(self.base_timestamp.to_native())
    }

    /// The latest timestamp in the batch, as the producer says, or the time of its append.
    pub fn max_timestamp(&self) -> Timestamp {
        Timestamp(self.max_timestamp.to_native())
    }

    /// The producer, if it numbers its batches.
    pub fn producer(&self) -> Option<Producer> {
        let id = self.producer_id.to_native();
        let epoch = ProducerEpoch(self.producer_epoch.to_native());
        (0 <= id).then_some(Producer { id: ProducerId(id), epoch })
    }

    /// Sequence of the first record, if the producer numbers its batches. Markers have none.
    pub fn base_sequence(&self) -> Option<Sequence> {
        let sequence = self.base_sequence.to_native();
        (0 <= sequence && self.producer().is_some()).then_some(Sequence(sequence))
    }

    /// Sequence of the last record, if the producer numbers its batches. It may have wrapped.
    pub fn last_sequence(&self) -> Option<Sequence> {
        self.base_sequence().map(|base| base.plus(self.last_offset_delta()))
    }

    /// A copy in the machine's own byte order.
    pub fn to_native(&self) -> BatchHeader {
        BatchHeader {
            base_offset: self.base_offset.to_native(),
            batch_length: self.batch_length.to_native(),
            partition_leader_epoch: self.partition_leader_epoch.to_native(),
            magic: self.magic,
            crc: self.crc.to_native(),
            attributes: self.attributes.to_native(),
            last_offset_delta: self.last_offset_delta.to_native(),
            base_timestamp: self.base_timestamp.to_native(),
            max_timestamp: self.max_timestamp.to_native(),
            producer_id: self.producer_id.to_native(),
            producer_epoch: self.producer_epoch.to_native(),
            base_sequence: self.base_sequence.to_native(),
            records_count: self.records_count.to_native(),
        }
    }
}

/// One whole batch, read where it lies. Dereferences to what its header says.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    header: &'a ArchivedBatchHeader,
    bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The batch that `bytes` begin with, and the bytes after it.
    ///
    /// Checks what reading on depends on: the length, the version, the codec, that counts are not
    /// negative and offsets stay in range. Neither the checksum nor what a client may send.
    pub fn parse(bytes: &'a [u8]) -> Result<(Batch<'a>, &'a [u8]), BatchError> {
        let header = read_header(bytes)?;
        check_size(header, bytes.len())?;
        check_readable(header)?;
        let (bytes, rest) = bytes.split_at(header.size_bytes() as usize);
        Ok((Batch { header, bytes }, rest))
    }

    /// Checks that the bytes are those the checksum was made for.
    pub fn verify_checksum(&self) -> Result<(), BatchError> {
        let (expected, found) = (self.header.crc(), checksum::of_batch(self.bytes));
        if expected != found {
            return Err(BatchError::ChecksumMismatch { expected, found });
        }
        Ok(())
    }

    /// The whole batch, header included.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What follows the header: the records, compressed if there is a codec.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// The header, where it lies.
    pub fn header(&self) -> &'a ArchivedBatchHeader {
        self.header
    }
}

impl Deref for Batch<'_> {
    type Target = ArchivedBatchHeader;

    fn deref(&self) -> &ArchivedBatchHeader {
        self.header
    }
}

pub(crate) fn read_header(bytes: &[u8]) -> Result<&ArchivedBatchHeader, BatchError> {
    let cut_short = BatchError::Truncated { needed_bytes: HEADER_BYTES, found_bytes: bytes.len() };
    let header = bytes.get(..HEADER_BYTES).ok_or(cut_short)?;
    // Every bit pattern is a header, so only a wrong size could fail.
    Ok(rkyv::access::<_, Failure>(header).expect("any 61 bytes are a header"))
}

fn check_size(header: &ArchivedBatchHeader, found_bytes: usize) -> Result<(), BatchError> {
    let batch_length = header.batch_length.to_native();
    let length_min = (HEADER_BYTES - PREFIX_BYTES) as i32;
    // The version comes first: older formats mean something else by the same bytes.
    if header.magic != MAGIC {
        return Err(BatchError::UnknownMagic { found: header.magic });
    }
    if batch_length < length_min {
        return Err(BatchError::LengthTooSmall { batch_length, length_min });
    }
    let needed_bytes = header.size_bytes() as usize;
    if found_bytes < needed_bytes {
        return Err(BatchError::Truncated { needed_bytes, found_bytes });
    }
    Ok(())
}

fn check_readable(header: &ArchivedBatchHeader) -> Result<(), BatchError> {
    let found = header.codec_number();
    if Codec::from_number(found).is_none() {
        return Err(BatchError::UnknownCodec { found });
    }
    let records_count = header.records_count.to_native();
    let last_offset_delta = header.last_offset_delta();
    if records_count < 0 || last_offset_delta < 0 {
        return Err(BatchError::CountMismatch { records_count, last_offset_delta });
    }
    let base_offset = header.base_offset();
    let in_range = base_offset.0.checked_add(i64::from(last_offset_delta) + 1).is_some();
    if base_offset < Offset::ZERO || !in_range {
        return Err(BatchError::OffsetOutOfRange { base_offset, last_offset_delta });
    }
    Ok(())
}

/// Gives a batch its place in the log: its base offset and the epoch of the leader.
///
/// Both lie outside the checksum, which stays right. `batch` is one that was parsed or validated:
/// anything else is a mistake of ours and panics.
pub fn stamp(batch: &mut [u8], base_offset: Offset, leader_epoch: LeaderEpoch) {
    assert!(Offset::ZERO <= base_offset);
    put(batch, offset_of!(ArchivedBatchHeader, base_offset), base_offset.0.to_be_bytes());
    put(
        batch,
        offset_of!(ArchivedBatchHeader, partition_leader_epoch),
        leader_epoch.0.to_be_bytes(),
    );
}

/// Makes the time of the append count for all records of a batch, and makes the checksum anew.
///
/// Base timestamp and deltas stay as they are: with the flag set, readers take the max timestamp
/// for every record. `batch` is exactly one that was parsed or validated.
pub fn stamp_log_append_time(batch: &mut [u8], now: Timestamp) {
    let header = read_header(batch).expect("the caller has parsed it");
    let attributes = header.attributes() | LOG_APPEND_TIME_BIT;
    put(batch, offset_of!(ArchivedBatchHeader, attributes), attributes.to_be_bytes());
    put(batch, offset_of!(ArchivedBatchHeader, max_timestamp), now.0.to_be_bytes());
    seal(batch);
}

/// Writes the checksum that the bytes should have.
pub(crate) fn seal(batch: &mut [u8]) {
    let crc = checksum::of_batch(batch);
    put(batch, offset_of!(ArchivedBatchHeader, crc), crc.to_be_bytes());
}

fn put<const N: usize>(batch: &mut [u8], position: usize, field: [u8; N]) {
    assert!(HEADER_BYTES <= batch.len(), "only whole batches are written to");
    batch[position..position + N].copy_from_slice(&field);
}
