//! What is done to a batch before it is appended, where a topic asks for it, away from the shard.
//!
//! Two settings need the inside of a batch: `compression.type`, if it is another codec than the
//! producer's, and `message.timestamp.before.max.ms`, whose records may lie anywhere in it. Both
//! mean to decompress and walk all records, for which a turn has no time. So such a batch waits at
//! the head of its partition's queue while the background executor makes it anew; what arrives
//! behind it waits with it, so that order holds, and counts against the same bounds. One batch of a
//! shard is made anew at a time, which bounds the memory for it.
//!
//! A topic that asks for neither pays one comparison for each batch.

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::ErrorCode;
use tidemill_record::{Batch, Codec, RecordError, Timestamp, Validated, recompress};
use tidemill_runtime::edge::{Chore, Computation};

use crate::limits::REWORKED_BYTES_MAX;

/// What a topic asks for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Wanted {
    /// The codec batches are kept in; none for that of the producer.
    pub codec: Option<Codec>,
    /// How far behind the broker's clock a record's timestamp may be; none for any.
    pub behind_max_ms: Option<i64>,
}

/// What is to be done to one batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rework {
    codec: Codec,
    earliest: Timestamp,
}

/// The reasons why nothing came of it, as they are numbered on the way.
const UNREADABLE: u32 = 1;
const TOO_LARGE: u32 = 2;
const TOO_OLD: u32 = 3;

impl Wanted {
    /// What is to be done to a batch that arrives now, if anything.
    #[inline]
    pub fn of(&self, batch: &Validated, wall_ms: i64) -> Option<Rework> {
        if self.codec.is_none() && self.behind_max_ms.is_none() {
            return None;
        }
        let codec = self.codec.unwrap_or(batch.compression());
        let earliest = self.behind_max_ms.map_or(i64::MIN, |ms| wall_ms.saturating_sub(ms));
        let only_one = batch.records_count() == 1;
        // The first record's timestamp is the base, and was compared as the batch came.
        let walks = self.behind_max_ms.is_some() && !only_one;
        let differs = codec != batch.compression();
        (walks || differs).then_some(Rework { codec, earliest: Timestamp(earliest) })
    }
}

impl Rework {
    /// The work on `batch`, for the background executor.
    pub fn chore(self, batch: &[u8]) -> Chore {
        let bytes = Bytes::copy_from_slice(batch);
        let wanted = [i64::from(self.codec.number()), self.earliest.0];
        Chore::Compute(Computation { bytes, wanted, work: rework })
    }
}

/// Makes a batch anew; it has passed validation.
fn rework(batch: &Bytes, [codec, earliest]: [i64; 2]) -> Result<BytesMut, u32> {
    let codec = u8::try_from(codec).ok().and_then(Codec::from_number).expect("as it was given");
    let (batch, _) = Batch::parse(batch).expect("it was validated");
    let made = recompress(&batch, codec, REWORKED_BYTES_MAX).map_err(|error| match error {
        RecordError::Decompress(tidemill_record::DecompressError::TooLarge { .. }) => TOO_LARGE,
        _ => UNREADABLE,
    })?;
    match made.earliest {
        Some(found) if found < Timestamp(earliest) => Err(TOO_OLD),
        _ => Ok(made.batch),
    }
}

/// What the producer is told of a batch that could not be made anew.
pub fn refusal(reason: u32) -> (ErrorCode, &'static str) {
    match reason {
        TOO_LARGE => (ErrorCode::MessageTooLarge, "the records are too large uncompressed"),
        TOO_OLD => (
            ErrorCode::InvalidTimestamp,
            "a record is older than message.timestamp.before.max.ms allows",
        ),
        _ => (ErrorCode::InvalidRecord, "the records in the batch cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_record::{BatchBuilder, Limits, validate};

    const NOW: i64 = 1_000_000;

    fn batch(codec: Codec, times: &[i64]) -> BytesMut {
        let mut builder = BatchBuilder::new(codec);
        times.iter().for_each(|&time| builder.append(Timestamp(time), None, Some(b"value")));
        builder.build()
    }

    fn work(wanted: Wanted, batch: &[u8]) -> Option<Result<BytesMut, u32>> {
        let limits = Limits { batch_bytes_max: 1 << 20, control_allowed: false };
        let rework = wanted.of(&validate(batch, &limits).unwrap(), NOW)?;
        match rework.chore(batch) {
            Chore::Compute(Computation { bytes, wanted, work }) => Some(work(&bytes, wanted)),
            other => panic!("{other:?}"),
        }
    }

    /// Nothing is done to a batch that is as its topic wants it.
    #[test]
    fn what_needs_nothing_is_left_alone() {
        let lz4 = batch(Codec::Lz4, &[NOW, NOW]);
        assert!(work(Wanted::default(), &lz4).is_none());
        let wanted = Wanted { codec: Some(Codec::Lz4), behind_max_ms: None };
        assert!(work(wanted, &lz4).is_none());
        let wanted = Wanted { codec: Some(Codec::Zstd), behind_max_ms: None };
        let made = work(wanted, &lz4).unwrap().unwrap();
        assert_eq!(Batch::parse(&made).unwrap().0.compression(), Codec::Zstd);
    }

    /// One record that is too old refuses its batch, wherever it lies and however compressed; one
    /// without a timestamp is of no age.
    #[test]
    fn an_old_record_in_the_middle_is_found() {
        let wanted = Wanted { codec: None, behind_max_ms: Some(100) };
        for codec in [Codec::None, Codec::Gzip] {
            let good = work(wanted, &batch(codec, &[NOW, NOW - 100, NOW])).unwrap();
            assert_eq!(Batch::parse(&good.unwrap()).unwrap().0.compression(), codec);
            let bad = work(wanted, &batch(codec, &[NOW, NOW - 101, NOW])).unwrap();
            assert_eq!(refusal(bad.unwrap_err()).0, ErrorCode::InvalidTimestamp);
        }
        let some = [Timestamp::NONE.0, NOW];
        assert!(work(wanted, &batch(Codec::None, &some)).unwrap().is_ok());
    }
}
