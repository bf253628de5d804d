//! What one answer brought of one partition, taken out batch by batch.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::fetch::AbortedTransaction;
use tidemill_record::{
    Batch, BatchError, Codec, Contents, HEADER_BYTES, Marker, Outcome, RecordError, decompress,
};

use super::ConsumerRecord;
use crate::limits;

/// The records of one partition that one answer brought.
#[derive(Debug)]
pub(super) struct Fetched {
    rest: Bytes,
    /// Transactions that were aborted, the latest first.
    aborted: Vec<AbortedTransaction>,
    /// Producers whose records are those of an aborted transaction, here.
    aborting: BTreeSet<i64>,
}

/// What is next in what was fetched.
#[derive(Debug)]
pub(super) enum Step {
    /// A batch with records to be seen.
    Batch(Bytes),
    /// Nothing to be seen before this offset.
    Skip(i64),
    /// Nothing more: the rest is cut off, or there is none.
    End,
}

impl Fetched {
    pub(super) fn new(rest: Bytes, aborted: &[AbortedTransaction]) -> Fetched {
        let mut aborted = aborted.to_vec();
        aborted.sort_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
        Fetched { rest, aborted, aborting: BTreeSet::new() }
    }

    /// The next batch; or why it cannot be read, and then nothing after it can.
    pub(super) fn next(&mut self, verify: bool) -> Result<Step, BatchError> {
        if self.rest.is_empty() {
            return Ok(Step::End);
        }
        let (batch, _) = match Batch::parse(&self.rest) {
            Ok(parsed) => parsed,
            // An answer may end within a batch, which then comes whole with the next one.
            Err(BatchError::Truncated { .. }) => return Ok(Step::End),
            Err(error) => return Err(error),
        };
        if verify {
            batch.verify_checksum()?;
        }
        let next_offset = batch.next_offset().0;
        let size = batch.size_bytes() as usize;
        let hidden = hides(&mut self.aborted, &mut self.aborting, &batch);
        let bytes = self.rest.split_to(size);
        Ok(if hidden { Step::Skip(next_offset) } else { Step::Batch(bytes) })
    }
}

/// Whether a batch is not for applications: a marker, or part of an aborted transaction.
fn hides(
    aborted: &mut Vec<AbortedTransaction>,
    aborting: &mut BTreeSet<i64>,
    batch: &Batch<'_>,
) -> bool {
    while aborted.last().is_some_and(|first| first.first_offset <= batch.last_offset().0) {
        aborting.extend(aborted.pop().map(|transaction| transaction.producer_id));
    }
    let producer = batch.producer().map(|producer| producer.id.0);
    if batch.is_control() {
        let ended = Marker::read(batch).is_ok_and(|marker| marker.outcome == Outcome::Abort);
        if let Some(producer) = producer.filter(|_| ended) {
            aborting.remove(&producer);
        }
        return true;
    }
    batch.is_transactional() && producer.is_some_and(|producer| aborting.contains(&producer))
}

/// A batch that was read.
#[derive(Clone, Debug)]
pub struct FetchedBatch {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The batch as it is stored.
    pub bytes: Bytes,
    /// What was asked for: records before it are not meant.
    pub from: i64,
}

impl FetchedBatch {
    /// What its header says.
    pub fn batch(&self) -> Batch<'_> {
        Batch::parse(&self.bytes).expect("it was parsed when it was taken out").0
    }

    /// The offset after it.
    pub fn next_offset(&self) -> i64 {
        self.batch().next_offset().0
    }

    /// Appends its records to `records`, decompressed if need be.
    pub fn append_to(&self, records: &mut Vec<ConsumerRecord>) -> Result<(), RecordError> {
        let plain = self.decompressed()?;
        let (batch, _) = Batch::parse(&plain).expect("only its codec has changed");
        let contents = Contents::open(&batch, limits::BATCH_OPEN_BYTES_MAX)?;
        for record in contents.records() {
            let record = record?;
            if record.offset.0 < self.from {
                continue;
            }
            let slice = |bytes: Option<&[u8]>| bytes.map(|bytes| plain.slice_ref(bytes));
            let headers = record
                .headers
                .into_iter()
                .map(|header| (plain.slice_ref(header.key), slice(header.value)));
            records.push(ConsumerRecord {
                topic: Arc::clone(&self.topic),
                partition: self.partition,
                offset: record.offset.0,
                timestamp_ms: record.timestamp.0,
                key: slice(record.key),
                value: slice(record.value),
                headers: headers.collect(),
            });
        }
        Ok(())
    }

    /// The same batch without compression, so that records can be slices of it.
    fn decompressed(&self) -> Result<Bytes, RecordError> {
        let batch = self.batch();
        let codec = batch.compression();
        if codec == Codec::None {
            return Ok(self.bytes.clone());
        }
        let records = decompress(codec, batch.payload(), limits::BATCH_OPEN_BYTES_MAX)
            .map_err(RecordError::Decompress)?;
        let mut header = batch.header().to_native();
        header.attributes &= !i16::from(CODEC_BITS);
        let growth = records.len() as i64 - batch.payload().len() as i64;
        header.batch_length = i32::try_from(i64::from(header.batch_length) + growth)
            .expect("what a batch may become is far below 2 GiB");
        let mut plain = BytesMut::with_capacity(HEADER_BYTES + records.len());
        plain.extend_from_slice(&header.to_bytes());
        plain.extend_from_slice(&records);
        Ok(plain.freeze())
    }
}

/// Where in a batch's attributes its codec stands.
const CODEC_BITS: u8 = 0b111;

const _: () = assert!(limits::BATCH_OPEN_BYTES_MAX < i32::MAX as usize / 2);

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_record::{
        BatchBuilder, LeaderEpoch, Offset, Producer, ProducerEpoch, ProducerId, Sequence,
        Timestamp, stamp,
    };

    const WRITER: Producer = Producer { id: ProducerId(7), epoch: ProducerEpoch(0) };

    fn stamped(mut batch: BytesMut, offset: i64) -> Bytes {
        stamp(&mut batch, Offset(offset), LeaderEpoch(0));
        batch.freeze()
    }

    fn batch(codec: Codec, offset: i64, values: &[&str]) -> Bytes {
        let mut builder = BatchBuilder::new(codec);
        for value in values {
            builder.append(Timestamp(5), Some(b"key"), Some(value.as_bytes()));
        }
        stamped(builder.build(), offset)
    }

    fn in_transaction(offset: i64, value: &str) -> Bytes {
        let mut builder =
            BatchBuilder::new(Codec::None).numbered(WRITER, Sequence(0)).transactional();
        builder.append(Timestamp(5), None, Some(value.as_bytes()));
        stamped(builder.build(), offset)
    }

    fn marker(offset: i64, outcome: Outcome) -> Bytes {
        let marker = Marker { outcome, coordinator_epoch: 0 };
        stamped(marker.to_batch(WRITER, Timestamp(5)), offset)
    }

    fn seen(parts: &[Bytes], aborted: &[AbortedTransaction]) -> Vec<String> {
        let mut fetched = Fetched::new(Bytes::from(parts.concat()), aborted);
        let mut records = Vec::new();
        loop {
            match fetched.next(true).unwrap() {
                Step::End => break,
                Step::Skip(_) => {}
                Step::Batch(bytes) => {
                    let (topic, partition) = (Arc::from("t"), 0);
                    let batch = FetchedBatch { topic, partition, bytes, from: 0 };
                    batch.append_to(&mut records).unwrap();
                }
            }
        }
        let text = |record: &ConsumerRecord| {
            String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap()
        };
        records.iter().map(text).collect()
    }

    /// Every codec gives back keys and values; what lies before the offset asked for is left out.
    #[test]
    fn records_come_out_of_every_codec_from_the_offset_asked_for() {
        for codec in Codec::ALL {
            let bytes = batch(codec, 100, &["a", "b", "c"]);
            let batch = FetchedBatch { topic: Arc::from("t"), partition: 3, bytes, from: 101 };
            let mut records = Vec::new();
            batch.append_to(&mut records).unwrap();
            let found: Vec<_> =
                records.iter().map(|r| (r.offset, r.value.clone().unwrap())).collect();
            let expected = [(101, Bytes::from("b")), (102, Bytes::from("c"))];
            assert_eq!(found, expected, "{codec:?}");
            assert_eq!(records[0].key, Some(Bytes::from("key")));
            assert_eq!(batch.next_offset(), 103);
        }
    }

    /// An answer may end in the middle of a batch: what is whole is read.
    #[test]
    fn a_cut_batch_at_the_end_is_left_for_the_next_answer() {
        let (first, second) = (batch(Codec::None, 0, &["a"]), batch(Codec::None, 1, &["b"]));
        assert_eq!(seen(&[first.clone(), second.slice(..second.len() - 1)], &[]), ["a"]);
        assert_eq!(seen(&[first, second.slice(..20)], &[]), ["a"]);
    }

    /// A bit that flipped on the way is told, and nothing behind it is read.
    #[test]
    fn a_damaged_batch_is_told() {
        let mut bytes = BytesMut::from(&batch(Codec::None, 0, &["value"])[..]);
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        let mut fetched = Fetched::new(bytes.freeze(), &[]);
        assert!(matches!(fetched.next(true), Err(BatchError::ChecksumMismatch { .. })));
    }

    /// Records of an aborted transaction are not seen, those of the same producer's next one are,
    /// and neither are markers.
    #[test]
    fn aborted_transactions_are_not_seen() {
        let parts = [
            batch(Codec::None, 0, &["plain"]),
            in_transaction(1, "aborted"),
            marker(2, Outcome::Abort),
            in_transaction(3, "committed"),
            marker(4, Outcome::Commit),
        ];
        let aborted = [AbortedTransaction { producer_id: 7, first_offset: 1 }];
        assert_eq!(seen(&parts, &aborted), ["plain", "committed"]);
        assert_eq!(seen(&parts, &[]), ["plain", "aborted", "committed"], "uncommitted is read");
    }
}
