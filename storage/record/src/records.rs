//! The records inside a batch: walking them, only where someone needs keys, values or times.
//!
//! ```text
//! length            varint   bytes after this field
//! attributes        i8       unused
//! timestamp delta   varlong  to the batch's base timestamp
//! offset delta      varint   to the batch's base offset
//! key length        varint   −1: no key       key
//! value length      varint   −1: no value     value
//! headers count     varint
//!   key length      varint                    key           again for each header
//!   value length    varint   −1: no value     value
//! ```
//!
//! Varints are zigzag: small numbers of either sign are short. The walk believes nothing: a
//! length must fit into what is left, each record must end where it said, offsets must rise and
//! stay within the batch, and after the last record nothing may follow. It copies nothing and
//! reserves nothing, so a hostile count costs no memory.
//!
//! Start reading at [`Contents::open`].

use std::borrow::Cow;
use std::fmt;

use bytes::{BufMut, BytesMut};

use crate::batch::{ArchivedBatchHeader, Batch, TimestampType};
use crate::compression::{DecompressError, decompress};
use crate::offset::{Offset, Timestamp};

/// One record, where it lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Record<'a> {
    /// Its place in the partition (in the numbering of the batch, if that is not yet stamped).
    pub offset: Offset,
    /// When it was made or, if the topic says so, appended.
    pub timestamp: Timestamp,
    /// What it is about.
    pub key: Option<&'a [u8]>,
    /// What it says. `None` on a compacted topic: the key is to be forgotten.
    pub value: Option<&'a [u8]>,
    /// What else it carries.
    pub headers: Headers<'a>,
}

/// One header of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header<'a> {
    /// Its name: UTF-8, if the client keeps to the rules. Names may repeat.
    pub key: &'a [u8],
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// The records of a batch, decompressed if need be.
#[derive(Clone, Debug)]
pub struct Contents<'a> {
    header: &'a ArchivedBatchHeader,
    bytes: Cow<'a, [u8]>,
}

/// What all records of a batch, taken together, say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Summary {
    /// The latest timestamp, and the offset of the first record that has it. `None` if the batch
    /// holds no records, as compaction may leave it.
    pub latest: Option<(Timestamp, Offset)>,
    /// The first record without a key. A compacted topic takes none.
    pub first_without_key: Option<Offset>,
}

impl<'a> Contents<'a> {
    /// Opens a batch. Compressed records become at most `limit_bytes`; uncompressed ones are read
    /// where they lie.
    pub fn open(batch: &Batch<'a>, limit_bytes: usize) -> Result<Contents<'a>, RecordError> {
        let bytes = decompress(batch.compression(), batch.payload(), limit_bytes)
            .map_err(RecordError::Decompress)?;
        Ok(Contents { header: batch.header(), bytes })
    }

    /// The records, one after the other.
    pub fn records(&self) -> Records<'_> {
        Records {
            header: self.header,
            rest: &self.bytes,
            remaining: self.header.records_count(),
            next_delta: 0,
            failed: false,
        }
    }

    /// The records' bytes, uncompressed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Walks all records, so that what is wrong in any of them comes to light.
    pub fn survey(&self) -> Result<Summary, RecordError> {
        let mut summary = Summary { latest: None, first_without_key: None };
        for record in self.records() {
            let record = record?;
            if summary.latest.is_none_or(|(latest, _)| latest < record.timestamp) {
                summary.latest = Some((record.timestamp, record.offset));
            }
            if record.key.is_none() && summary.first_without_key.is_none() {
                summary.first_without_key = Some(record.offset);
            }
        }
        Ok(summary)
    }

    /// The first record, in the order of offsets, that is not older than `from`.
    pub fn first_since(&self, from: Timestamp) -> Result<Option<(Timestamp, Offset)>, RecordError> {
        for record in self.records() {
            let record = record?;
            if from <= record.timestamp {
                return Ok(Some((record.timestamp, record.offset)));
            }
        }
        Ok(None)
    }
}

/// Walks the records of a batch. After an error it ends.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    header: &'a ArchivedBatchHeader,
    rest: &'a [u8],
    remaining: u32,
    /// The lowest offset delta that the next record may have.
    next_delta: i32,
    failed: bool,
}

impl<'a> Records<'a> {
    /// The next record together with its bytes, its length included.
    pub(crate) fn next_with_bytes(
        &mut self,
    ) -> Option<Result<(Record<'a>, &'a [u8]), RecordError>> {
        let before = self.rest;
        let record = self.next()?;
        let size_bytes = before.len() - self.rest.len();
        Some(record.map(|record| (record, &before[..size_bytes])))
    }

    fn read_record(&mut self) -> Result<Record<'a>, RecordError> {
        let mut fields = Fields { rest: self.rest };
        let length = fields.length()?.ok_or(RecordError::NegativeLength { found: -1 })?;
        let body = fields.take(length)?;
        self.rest = fields.rest;

        let mut fields = Fields { rest: body };
        let _attributes = fields.take(1)?;
        let timestamp_delta = fields.varlong()?;
        let offset_delta = fields.varint()?;
        let key = fields.bytes()?;
        let value = fields.bytes()?;
        let headers = fields.headers()?;
        if !fields.rest.is_empty() {
            return Err(RecordError::TrailingBytes { extra_bytes: fields.rest.len() });
        }
        Ok(Record {
            offset: self.offset_at(offset_delta)?,
            timestamp: self.timestamp_at(timestamp_delta)?,
            key,
            value,
            headers,
        })
    }

    /// Deltas rise, with gaps only where compaction removed records. So in a batch with as many
    /// records as offsets, they are 0, 1, 2 and so on.
    fn offset_at(&mut self, found: i32) -> Result<Offset, RecordError> {
        let (lowest, highest) = (self.next_delta, self.header.last_offset_delta());
        if found < lowest || highest < found {
            return Err(RecordError::OffsetDeltaOutOfOrder { found, lowest, highest });
        }
        // `found` may be the last of all offsets; then no record may follow, and none is < 0.
        self.next_delta = found.saturating_add(1);
        Ok(self.header.base_offset().plus(i64::from(found)))
    }

    fn timestamp_at(&self, delta: i64) -> Result<Timestamp, RecordError> {
        let base = self.header.base_timestamp();
        match self.header.timestamp_type() {
            TimestampType::LogAppendTime => Ok(self.header.max_timestamp()),
            TimestampType::CreateTime => match base.0.checked_add(delta) {
                Some(timestamp) => Ok(Timestamp(timestamp)),
                None => Err(RecordError::TimestampOutOfRange { base, delta }),
            },
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = match self.remaining {
            0 if self.rest.is_empty() => return None,
            0 => Err(RecordError::TrailingBytes { extra_bytes: self.rest.len() }),
            _ => self.read_record(),
        };
        self.remaining = self.remaining.saturating_sub(1);
        self.failed = step.is_err();
        Some(step)
    }
}

/// The headers of a record, in their order. They have been checked when the record was read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Headers<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl Headers<'_> {
    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = Header<'a>;
    type IntoIter = HeaderIter<'a>;

    fn into_iter(self) -> HeaderIter<'a> {
        HeaderIter { remaining: self.count, fields: Fields { rest: self.bytes } }
    }
}

/// Walks the headers of a record.
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    remaining: u32,
    fields: Fields<'a>,
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.remaining = self.remaining.checked_sub(1)?;
        Some(self.fields.header().expect("checked when the record was read"))
    }
}

/// What is left to read of some bytes.
#[derive(Clone, Copy, Debug)]
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, size: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(size)
            .ok_or(RecordError::Truncated { needed_bytes: size, found_bytes: self.rest.len() })?;
        self.rest = rest;
        Ok(taken)
    }

    /// An unsigned base-128 number, the lowest seven bits first, of at most `bits` bits.
    fn unsigned(&mut self, bits: u32) -> Result<u64, RecordError> {
        let mut value = 0u64;
        let mut shift = 0;
        loop {
            let byte = self.take(1)?[0];
            let septet = u64::from(byte & 0x7f);
            if bits <= shift || (bits - shift < 7 && septet >> (bits - shift) != 0) {
                return Err(RecordError::NumberTooLong { bits_max: bits });
            }
            value |= septet << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
    }

    fn varint(&mut self) -> Result<i32, RecordError> {
        let zigzag = self.unsigned(32)? as u32;
        Ok((zigzag >> 1) as i32 ^ -((zigzag & 1) as i32))
    }

    fn varlong(&mut self) -> Result<i64, RecordError> {
        let zigzag = self.unsigned(64)?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    /// A length, or `None` for −1.
    fn length(&mut self) -> Result<Option<usize>, RecordError> {
        match self.varint()? {
            -1 => Ok(None),
            found => match usize::try_from(found) {
                Ok(length) => Ok(Some(length)),
                Err(_) => Err(RecordError::NegativeLength { found }),
            },
        }
    }

    fn bytes(&mut self) -> Result<Option<&'a [u8]>, RecordError> {
        self.length()?.map(|length| self.take(length)).transpose()
    }

    fn header(&mut self) -> Result<Header<'a>, RecordError> {
        let key = self.bytes()?.ok_or(RecordError::NegativeLength { found: -1 })?;
        let value = self.bytes()?;
        Ok(Header { key, value })
    }

    /// Walks all headers, so that whoever reads them later meets no surprise.
    fn headers(&mut self) -> Result<Headers<'a>, RecordError> {
        let found = self.varint()?;
        let count = u32::try_from(found).map_err(|_| RecordError::NegativeLength { found })?;
        let start = self.rest;
        // Each header takes two bytes at least, so the count ends the loop or the bytes do.
        for _ in 0..count {
            self.header()?;
        }
        Ok(Headers { count, bytes: &start[..start.len() - self.rest.len()] })
    }
}

/// Writes one record. The counterpart of what [`Records`] reads.
pub(crate) fn write_record(
    out: &mut BytesMut,
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[Header<'_>],
) {
    let offset_delta = i64::from(offset_delta);
    let headers_bytes: usize = headers
        .iter()
        .map(|header| size_of_bytes(Some(header.key)) + size_of_bytes(header.value))
        .sum();
    let body_bytes = 1
        + size_of_varlong(timestamp_delta)
        + size_of_varlong(offset_delta)
        + size_of_bytes(key)
        + size_of_bytes(value)
        + size_of_varlong(headers.len() as i64)
        + headers_bytes;
    out.reserve(size_of_varlong(body_bytes as i64) + body_bytes);
    write_varlong(out, body_bytes as i64);
    out.put_u8(0);
    write_varlong(out, timestamp_delta);
    write_varlong(out, offset_delta);
    write_bytes(out, key);
    write_bytes(out, value);
    write_varlong(out, headers.len() as i64);
    for header in headers {
        write_bytes(out, Some(header.key));
        write_bytes(out, header.value);
    }
}

/// The record that `bytes` begin with, its length included, and what follows it; it was read before.
pub(crate) fn split_record(bytes: &[u8]) -> (&[u8], &[u8]) {
    const READ: &str = "it was read before";
    let mut fields = Fields { rest: bytes };
    let length = fields.length().expect(READ).expect(READ);
    fields.take(length).expect(READ);
    bytes.split_at(bytes.len() - fields.rest.len())
}

/// Writes a record that was read anew, with its timestamp delta `earlier_by` larger: its batch counts
/// from a time that is so much earlier. None if that is no timestamp delta.
pub(crate) fn write_shifted(out: &mut BytesMut, record: &[u8], earlier_by: i64) -> Option<()> {
    const READ: &str = "it was read before";
    let mut fields = Fields { rest: record };
    fields.length().expect(READ);
    let attributes = fields.take(1).expect(READ);
    let timestamp_delta = fields.varlong().expect(READ).checked_add(earlier_by)?;
    let body_bytes = attributes.len() + size_of_varlong(timestamp_delta) + fields.rest.len();
    out.reserve(size_of_varlong(body_bytes as i64) + body_bytes);
    write_varlong(out, body_bytes as i64);
    out.put_slice(attributes);
    write_varlong(out, timestamp_delta);
    out.put_slice(fields.rest);
    Some(())
}

fn write_bytes(out: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        None => write_varlong(out, -1),
        Some(bytes) => {
            write_varlong(out, bytes.len() as i64);
            out.put_slice(bytes);
        }
    }
}

fn size_of_bytes(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| size_of_varlong(bytes.len() as i64) + bytes.len())
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Varints and varlongs of the same number are the same bytes.
fn write_varlong(out: &mut BytesMut, value: i64) {
    let mut rest = zigzag(value);
    // Written at once: one look at how much room there is.
    let mut bytes = [0; VARLONG_BYTES_MAX];
    let mut size = 0;
    while 0x80 <= rest {
        bytes[size] = rest as u8 | 0x80;
        rest >>= 7;
        size += 1;
    }
    bytes[size] = rest as u8;
    out.put_slice(&bytes[..=size]);
}

fn size_of_varlong(value: i64) -> usize {
    let bits = u64::BITS - (zigzag(value) | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// The longest varlong: 64 bits, seven to a byte.
const VARLONG_BYTES_MAX: usize = 10;

/// Why the inside of a batch cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RecordError {
    /// The records do not decompress.
    Decompress(DecompressError),
    /// A field, or a record, reaches past the end of what it is in.
    Truncated {
        /// What it needs.
        needed_bytes: usize,
        /// What is left.
        found_bytes: usize,
    },
    /// A number is longer than its type.
    NumberTooLong {
        /// How many bits the type has.
        bits_max: u32,
    },
    /// A length or a count is negative where it must not be.
    NegativeLength {
        /// The length or count found.
        found: i32,
    },
    /// Bytes are left over after the last field of a record, or after the last record.
    TrailingBytes {
        /// How many.
        extra_bytes: usize,
    },
    /// A record's offset is not above the one before it, or is outside of the batch.
    OffsetDeltaOutOfOrder {
        /// The delta found.
        found: i32,
        /// The lowest that would have been right.
        lowest: i32,
        /// The highest that would have been right.
        highest: i32,
    },
    /// A record's timestamp is beyond what a timestamp can be.
    TimestampOutOfRange {
        /// The batch's base timestamp.
        base: Timestamp,
        /// The record's delta.
        delta: i64,
    },
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Decompress(error) => error.fmt(f),
            RecordError::Truncated { needed_bytes, found_bytes } => {
                write!(f, "a field of {needed_bytes} bytes has {found_bytes} left")
            }
            RecordError::NumberTooLong { bits_max } => {
                write!(f, "a number is longer than {bits_max} bits")
            }
            RecordError::NegativeLength { found } => write!(f, "{found} is not a length"),
            RecordError::TrailingBytes { extra_bytes } => {
                write!(f, "{extra_bytes} bytes are left over")
            }
            RecordError::OffsetDeltaOutOfOrder { found, lowest, highest } => {
                write!(f, "offset delta {found} is not within {lowest} to {highest}")
            }
            RecordError::TimestampOutOfRange { base, delta } => {
                write!(f, "timestamp {base} plus {delta} is out of range")
            }
        }
    }
}

impl std::error::Error for RecordError {}
