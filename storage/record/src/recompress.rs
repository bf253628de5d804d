//! The same batch with its records kept under another codec, for topics that say which.
//!
//! All that a batch says stays as it was (producer, sequence, times, offsets); only the codec in
//! its attributes, its size and its checksum are new. The records are walked on the way: whoever
//! opens a batch anyway must not store what nobody can read.
//!
//! This takes far longer than anything else done to a batch, so it is no work for a shard's turn.

use bytes::{BufMut, BytesMut};

use crate::batch::{self, Batch, BatchHeader, CODEC_BITS, HEADER_BYTES, PREFIX_BYTES};
use crate::compression::{Codec, compress};
use crate::offset::Timestamp;
use crate::records::{Contents, RecordError};

/// What walking the records of a batch tells beside the batch made of them.
#[derive(Clone, Debug)]
pub struct Recompressed {
    /// The batch.
    pub batch: BytesMut,
    /// The earliest of the records' timestamps; none if no record has one.
    pub earliest: Option<Timestamp>,
}

/// Makes the batch anew with its records compressed by `codec`, or as it is if that is its codec
/// already. Uncompressed, its records may have at most `limit_bytes`.
pub fn recompress(
    batch: &Batch<'_>,
    codec: Codec,
    limit_bytes: usize,
) -> Result<Recompressed, RecordError> {
    let contents = Contents::open(batch, limit_bytes)?;
    let mut earliest: Option<Timestamp> = None;
    for record in contents.records() {
        let timestamp = record?.timestamp;
        if timestamp != Timestamp::NONE && earliest.is_none_or(|earliest| timestamp < earliest) {
            earliest = Some(timestamp);
        }
    }
    if batch.compression() == codec {
        return Ok(Recompressed { batch: BytesMut::from(batch.bytes()), earliest });
    }
    let payload = compress(codec, contents.bytes());
    let old = batch.to_native();
    let batch_length = i32::try_from(HEADER_BYTES - PREFIX_BYTES + payload.len());
    let header = BatchHeader {
        // The limit on the records is far below; no codec makes twice of anything.
        batch_length: batch_length.expect("a batch is below 2 GiB"),
        attributes: old.attributes & !CODEC_BITS | i16::from(codec.number()),
        ..old
    };
    let mut made = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    made.put_slice(&header.to_bytes());
    made.put_slice(&payload);
    batch::seal(&mut made);
    Ok(Recompressed { batch: made, earliest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Producer;
    use crate::builder::BatchBuilder;
    use crate::id::{ProducerEpoch, ProducerId};
    use crate::offset::Sequence;
    use crate::validate::{Limits, validate};

    const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    const LIMIT: usize = 1 << 20;

    fn batch(codec: Codec) -> BytesMut {
        let producer = Producer { id: ProducerId(7), epoch: ProducerEpoch(2) };
        let mut builder = BatchBuilder::new(codec).numbered(producer, Sequence(40));
        for number in 0..100_i64 {
            let value = format!("value {}", number % 7);
            builder.append(Timestamp(1000 + (number - 50).abs()), None, Some(value.as_bytes()));
        }
        builder.build()
    }

    /// Whatever the codecs, a batch says the same before and after, and passes as one that was
    /// sent so.
    #[test]
    fn a_batch_under_another_codec_is_the_same_batch() {
        let limits = Limits { batch_bytes_max: 1 << 20, control_allowed: false };
        for from in CODECS {
            for to in CODECS {
                let sent = batch(from);
                let (parsed, _) = Batch::parse(&sent).unwrap();
                let made = recompress(&parsed, to, LIMIT).unwrap();
                assert_eq!(made.earliest, Some(Timestamp(1000)), "of the record in the middle");

                let valid = validate(&made.batch, &limits).unwrap();
                assert_eq!(valid.compression(), to);
                let told = (valid.producer(), valid.base_sequence(), valid.max_timestamp());
                let before = (parsed.producer(), parsed.base_sequence(), parsed.max_timestamp());
                assert_eq!(told, before);
                let (again, _) = Batch::parse(&made.batch).unwrap();
                let records =
                    |batch: &Batch<'_>| Contents::open(batch, LIMIT).unwrap().bytes().to_vec();
                assert_eq!(records(&again), records(&parsed), "{from:?} to {to:?}");
            }
        }
    }

    /// A bomb does not go off, and records that cannot be read are not made anew.
    #[test]
    fn what_cannot_be_read_is_refused() {
        let sent = batch(Codec::Zstd);
        let (parsed, _) = Batch::parse(&sent).unwrap();
        assert!(matches!(recompress(&parsed, Codec::None, 500), Err(RecordError::Decompress(_))));

        let mut broken = batch(Codec::None);
        let last = broken.len() - 10;
        broken[last] = 0xff;
        let (parsed, _) = Batch::parse(&broken).unwrap();
        assert!(recompress(&parsed, Codec::Lz4, LIMIT).is_err());
    }
}
