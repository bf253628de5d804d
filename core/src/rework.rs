//! What is done to a batch before it is appended, where a topic asks for it, away from the shard.
//!
//! Three settings need the inside of a batch: `compression.type`, if it is another codec than the
//! producer's; `message.timestamp.before.max.ms`, whose records may lie anywhere in it; and
//! `cleanup.policy=compact`, which takes no record without a key. They
//! mean to decompress and walk all records, for which a turn has no time. So such a batch waits at
//! the head of its partition's queue while the background executor makes it anew; what arrives
//! behind it waits with it, so that order holds, and counts against the same bounds. One batch of a
//! shard is made anew at a time, which bounds the memory for it.
//!
//! A topic that asks for none of them pays one comparison for each batch. For keys alone, a small
//! batch that is not compressed is walked at once ([`Wanted::check_keys`]).

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::ErrorCode;
use tidemill_record::{Batch, Codec, Contents, RecordError, Timestamp, Validated, recompress};
use tidemill_runtime::edge::{Chore, Computation, Refusal};

use crate::limits::{KEYLESS_NAMED_MAX, KEYS_IN_TURN_BYTES_MAX, REWORKED_BYTES_MAX};

/// What a topic asks for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Wanted {
    /// The codec batches are kept in; none for that of the producer.
    pub codec: Option<Codec>,
    /// How far behind the broker's clock a record's timestamp may be; none for any.
    pub behind_max_ms: Option<i64>,
    /// Whether each record must have a key.
    pub keys: bool,
}

/// What is to be done to one batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rework {
    codec: Codec,
    earliest: Timestamp,
    keys: bool,
}

/// The reasons why nothing came of it, as they are numbered on the way.
const UNREADABLE: u32 = 1;
const TOO_LARGE: u32 = 2;
const TOO_OLD: u32 = 3;
const NO_KEY: u32 = 4;

/// Beside the codec's number: each record must have a key.
const KEYS_BIT: i64 = 1 << 8;

impl Wanted {
    /// What is to be done to a batch that arrives now, if anything.
    #[inline]
    pub fn of(&self, batch: &Validated, wall_ms: i64) -> Option<Rework> {
        if self.codec.is_none() && self.behind_max_ms.is_none() && !self.keys {
            return None;
        }
        let codec = self.codec.unwrap_or(batch.compression());
        let earliest = self.behind_max_ms.map_or(i64::MIN, |ms| wall_ms.saturating_sub(ms));
        let only_one = batch.records_count() == 1;
        // The first record's timestamp is the base, and was compared as the batch came.
        let walks = self.behind_max_ms.is_some() && !only_one;
        let differs = codec != batch.compression();
        let keys = self.keys && !in_turn(batch);
        (walks || differs || keys).then_some(Rework { codec, earliest: Timestamp(earliest), keys })
    }

    /// Whether all records have keys, if they must and it is little work to see; else it is seen
    /// when the batch is made anew.
    #[inline]
    pub fn check_keys(&self, batch: &[u8], validated: &Validated) -> Result<(), Refusal> {
        if !self.keys || !in_turn(validated) {
            return Ok(());
        }
        let (batch, _) = Batch::parse(batch).expect("it was validated");
        find_keyless(&batch)
    }
}

impl Rework {
    /// The work on `batch`, for the background executor.
    pub fn chore(self, batch: &[u8]) -> Chore {
        let bytes = Bytes::copy_from_slice(batch);
        let keys = if self.keys { KEYS_BIT } else { 0 };
        let wanted = [i64::from(self.codec.number()) | keys, self.earliest.0];
        Chore::Compute(Computation { bytes, wanted, work: rework })
    }
}

/// Whether the keys of a batch are looked at in the turn it came in.
fn in_turn(batch: &Validated) -> bool {
    batch.compression() == Codec::None && batch.size_bytes() <= KEYS_IN_TURN_BYTES_MAX
}

/// Makes a batch anew; it has passed validation.
fn rework(batch: &Bytes, [codec, earliest]: [i64; 2]) -> Result<BytesMut, Refusal> {
    let keys = codec & KEYS_BIT != 0;
    let codec = u8::try_from(codec & !KEYS_BIT).ok().and_then(Codec::from_number);
    let codec = codec.expect("as it was given");
    let (batch, _) = Batch::parse(batch).expect("it was validated");
    if keys {
        find_keyless(&batch)?;
    }
    let made = recompress(&batch, codec, REWORKED_BYTES_MAX).map_err(|error| because(&error))?;
    match made.earliest {
        Some(found) if found < Timestamp(earliest) => Err(refusal(TOO_OLD)),
        _ => Ok(made.batch),
    }
}

/// The first records without a key, as the refusal of their batch.
fn find_keyless(batch: &Batch<'_>) -> Result<(), Refusal> {
    let contents = Contents::open(batch, REWORKED_BYTES_MAX).map_err(|error| because(&error))?;
    let mut places = Vec::new();
    for (place, record) in contents.records().enumerate() {
        if record.map_err(|error| because(&error))?.key.is_none() {
            places.push(place as u32);
            if places.len() == KEYLESS_NAMED_MAX {
                break;
            }
        }
    }
    if places.is_empty() { Ok(()) } else { Err(Refusal { reason: NO_KEY, places }) }
}

fn because(error: &RecordError) -> Refusal {
    refusal(match error {
        RecordError::Decompress(tidemill_record::DecompressError::TooLarge { .. }) => TOO_LARGE,
        _ => UNREADABLE,
    })
}

fn refusal(reason: u32) -> Refusal {
    Refusal { reason, places: Vec::new() }
}

/// What the producer is told of a batch that could not be made anew.
pub fn told(reason: u32) -> (ErrorCode, &'static str) {
    match reason {
        TOO_LARGE => (ErrorCode::MessageTooLarge, "the records are too large uncompressed"),
        TOO_OLD => (
            ErrorCode::InvalidTimestamp,
            "a record is older than message.timestamp.before.max.ms allows",
        ),
        NO_KEY => (ErrorCode::InvalidRecord, "a compacted topic takes no record without a key"),
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

    fn work(wanted: Wanted, batch: &[u8]) -> Option<Result<BytesMut, Refusal>> {
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
        let wanted = Wanted { codec: Some(Codec::Lz4), ..Wanted::default() };
        assert!(work(wanted, &lz4).is_none());
        let wanted = Wanted { codec: Some(Codec::Zstd), ..Wanted::default() };
        let made = work(wanted, &lz4).unwrap().unwrap();
        assert_eq!(Batch::parse(&made).unwrap().0.compression(), Codec::Zstd);
    }

    /// One record that is too old refuses its batch, wherever it lies and however compressed; one
    /// without a timestamp is of no age.
    #[test]
    fn an_old_record_in_the_middle_is_found() {
        let wanted = Wanted { behind_max_ms: Some(100), ..Wanted::default() };
        for codec in [Codec::None, Codec::Gzip] {
            let good = work(wanted, &batch(codec, &[NOW, NOW - 100, NOW])).unwrap();
            assert_eq!(Batch::parse(&good.unwrap()).unwrap().0.compression(), codec);
            let bad = work(wanted, &batch(codec, &[NOW, NOW - 101, NOW])).unwrap();
            assert_eq!(told(bad.unwrap_err().reason).0, ErrorCode::InvalidTimestamp);
        }
        let some = [Timestamp::NONE.0, NOW];
        assert!(work(wanted, &batch(Codec::None, &some)).unwrap().is_ok());
    }

    /// A batch of some kilobytes that decompresses to a million records without keys was refused with
    /// the names of all, in an answer of hundreds of megabytes.
    #[test]
    fn of_millions_of_records_without_a_key_few_are_named() {
        let mut builder = BatchBuilder::new(Codec::Zstd);
        (0..100 * KEYLESS_NAMED_MAX).for_each(|_| builder.append(Timestamp(NOW), None, None));
        let batch = builder.build();
        let refused =
            work(Wanted { keys: true, ..Wanted::default() }, &batch).unwrap().unwrap_err();
        let first = (0..KEYLESS_NAMED_MAX as u32).collect();
        assert_eq!(refused, Refusal { reason: NO_KEY, places: first });
    }

    /// A compacted topic names records without a key, whether the batch is looked at at once,
    /// if that is little work, or away from the shard.
    #[test]
    fn records_without_a_key_are_named() {
        let wanted = Wanted { keys: true, ..Wanted::default() };
        let limits = Limits { batch_bytes_max: 1 << 20, control_allowed: false };
        for codec in [Codec::None, Codec::Zstd] {
            for keyless in [false, true] {
                let mut builder = BatchBuilder::new(codec);
                for place in 0..20 {
                    let key = (!keyless || place % 10 != 3).then_some(&b"key"[..]);
                    builder.append(Timestamp(NOW), key, None);
                }
                let batch = builder.build();
                let validated = validate(&batch, &limits).unwrap();
                let at_once = wanted.check_keys(&batch, &validated);
                let later = work(wanted, &batch);
                assert_eq!(later.is_some(), codec == Codec::Zstd);
                let found = later.map_or(at_once, |made| made.map(|_| ()));
                let refused = Refusal { reason: NO_KEY, places: vec![3, 13] };
                assert_eq!(found, if keyless { Err(refused) } else { Ok(()) });
            }
        }
        assert_eq!(told(NO_KEY).0, ErrorCode::InvalidRecord);
    }
}
