//! A batch with some of its records left out, as compaction makes it.
//!
//! What is left keeps its place: base offset, last offset, sequence, epoch, codec and the records'
//! own bytes stay, so offsets have gaps and nothing moves. New are the number of records, the
//! latest timestamp, the size and the checksum. A batch that loses nothing stays byte for byte.
//!
//! A deletion mark must stay for a while, so that readers on their way see it. Until when, the batch
//! says itself (KIP-534): the first time that marks are found in it, its base timestamp becomes
//! that time, and a bit of its attributes says so. The records' own times stay as they are: their
//! deltas count from there.
//!
//! Start reading at [`retain`].

use bytes::{BufMut, BytesMut};

use crate::batch::{
    self, Batch, BatchHeader, CODEC_BITS, DELETE_HORIZON_BIT, HEADER_BYTES, PREFIX_BYTES,
    TimestampType,
};
use crate::compression::{Codec, compress};
use crate::offset::Timestamp;
use crate::records::{Contents, Record, RecordError, write_shifted};

/// What is left of a batch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Retained {
    /// How many records it had.
    pub before: u32,
    /// How many of them are left.
    pub after: u32,
    /// What is left.
    pub batch: RetainedBatch,
}

/// What is left of a batch, as bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RetainedBatch {
    /// All of it, just as it was.
    AsItWas,
    /// This batch.
    Rewritten(BytesMut),
    /// No record.
    Nothing,
}

/// Leaves out the records that `keep` does not want. Uncompressed, they may have at most
/// `limit_bytes`.
///
/// If deletion marks are left (or anything, of a control batch) and the batch does not say until
/// when they must stay, it says `horizon` from now on.
pub fn retain(
    batch: &Batch<'_>,
    limit_bytes: usize,
    horizon: Option<Timestamp>,
    mut keep: impl FnMut(&Record<'_>) -> bool,
) -> Result<Retained, RecordError> {
    let contents = Contents::open(batch, limit_bytes)?;
    let mut records = contents.records();
    let mut left = BytesMut::new();
    let mut after = 0;
    let mut latest = Timestamp::NONE;
    let mut has_marks = batch.is_control();
    while let Some(record) = records.next_with_bytes() {
        let (record, bytes) = record?;
        if keep(&record) {
            left.put_slice(bytes);
            after += 1;
            latest = latest.max(record.timestamp);
            has_marks |= record.value.is_none();
        }
    }
    let before = batch.records_count();
    let is_new = has_marks && !batch.has_delete_horizon();
    let shifted = horizon.filter(|_| is_new && 0 < after).and_then(|horizon| {
        // A time so far away that no delta reaches it, or deltas that make the batch too large:
        // such marks stay for ever.
        Some((horizon, shift(batch, &left, horizon, limit_bytes)?))
    });
    let batch = match shifted {
        _ if after == 0 => RetainedBatch::Nothing,
        None if after == before => RetainedBatch::AsItWas,
        None => RetainedBatch::Rewritten(rewrite(batch, &left, after, latest, None)),
        Some((horizon, left)) => {
            RetainedBatch::Rewritten(rewrite(batch, &left, after, latest, Some(horizon)))
        }
    };
    Ok(Retained { before, after, batch })
}

/// The batch without any record: it still says up to where its producer came.
pub fn emptied(batch: &Batch<'_>) -> BytesMut {
    let old = batch.to_native();
    let header = BatchHeader {
        batch_length: (HEADER_BYTES - PREFIX_BYTES) as i32,
        attributes: old.attributes & !(CODEC_BITS | DELETE_HORIZON_BIT),
        base_timestamp: Timestamp::NONE.0,
        records_count: 0,
        ..old
    };
    let mut made = BytesMut::from(&header.to_bytes()[..]);
    batch::seal(&mut made);
    made
}

/// The records of `left` as their batch counts their times from `horizon`; none if that is too far,
/// or takes more than `limit_bytes`.
fn shift(
    batch: &Batch<'_>,
    left: &[u8],
    horizon: Timestamp,
    limit_bytes: usize,
) -> Option<BytesMut> {
    let earlier_by = batch.base_timestamp().0.checked_sub(horizon.0)?;
    let mut shifted = BytesMut::with_capacity(left.len() + left.len() / 8);
    let mut rest = left;
    while !rest.is_empty() {
        let (record, after) = crate::records::split_record(rest);
        write_shifted(&mut shifted, record, earlier_by)?;
        rest = after;
    }
    (shifted.len() <= limit_bytes).then_some(shifted)
}

fn rewrite(
    batch: &Batch<'_>,
    left: &[u8],
    records_count: u32,
    latest: Timestamp,
    horizon: Option<Timestamp>,
) -> BytesMut {
    let old = batch.to_native();
    let payload = match batch.compression() {
        Codec::None => None,
        codec => Some(compress(codec, left)),
    };
    let payload = payload.as_deref().unwrap_or(left);
    let batch_length = i32::try_from(HEADER_BYTES - PREFIX_BYTES + payload.len());
    let header = BatchHeader {
        // The records have their limit, a shift adds nine bytes to each at most, and no codec makes
        // twice of anything.
        batch_length: batch_length.expect("a batch is below 2 GiB"),
        attributes: old.attributes | horizon.map_or(0, |_| DELETE_HORIZON_BIT),
        base_timestamp: horizon.map_or(old.base_timestamp, |horizon| horizon.0),
        max_timestamp: match batch.timestamp_type() {
            TimestampType::CreateTime => latest.0,
            TimestampType::LogAppendTime => old.max_timestamp,
        },
        records_count: records_count as i32,
        ..old
    };
    let mut made = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    made.put_slice(&header.to_bytes());
    made.put_slice(payload);
    batch::seal(&mut made);
    made
}
