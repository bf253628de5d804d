//! Building a batch from records: for clients, tools, tests and the broker's own records.
//!
//! The result is a whole batch as a producer would send it: base offset 0, no leader epoch,
//! checksum made. It is the caller's business to keep it below the broker's limits.
//!
//! Records are written once, behind room for the header: a batch that is not compressed is built
//! where they lie. Nothing is allocated per record, and the memory of a batch that is done with can
//! hold the next one ([`BatchBuilder::reusing`]).
//!
//! Start reading at [`BatchBuilder::append`].

use bytes::{BufMut, BytesMut};

use crate::batch::{self, BatchHeader, HEADER_BYTES, PREFIX_BYTES, Producer};
use crate::compression::{Codec, compress};
use crate::offset::{LeaderEpoch, Sequence, Timestamp};
use crate::records::{self, Header};

/// A batch in the making.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    codec: Codec,
    producer: Option<(Producer, Option<Sequence>)>,
    flags: i16,
    /// Room for the header, and the records behind it, not compressed.
    bytes: BytesMut,
    records_count: i32,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
}

impl BatchBuilder {
    /// An empty batch whose records will be compressed with `codec`.
    pub fn new(codec: Codec) -> BatchBuilder {
        BatchBuilder::reusing(BytesMut::new(), codec)
    }

    /// An empty batch in memory that was used before; what it held is forgotten.
    pub fn reusing(mut memory: BytesMut, codec: Codec) -> BatchBuilder {
        memory.clear();
        memory.put_bytes(0, HEADER_BYTES);
        BatchBuilder {
            codec,
            producer: None,
            flags: 0,
            bytes: memory,
            records_count: 0,
            base_timestamp: Timestamp::NONE,
            max_timestamp: Timestamp::NONE,
        }
    }

    /// Makes it a batch of an idempotent producer; `base_sequence` is that of the first record.
    #[must_use]
    pub fn numbered(mut self, producer: Producer, base_sequence: Sequence) -> BatchBuilder {
        self.producer = Some((producer, Some(base_sequence)));
        self
    }

    /// Makes it part of the producer's transaction.
    #[must_use]
    pub fn transactional(mut self) -> BatchBuilder {
        self.flags |= batch::TRANSACTIONAL_BIT;
        self
    }

    /// Makes it a marker in the name of `producer`. Markers have no sequence.
    pub(crate) fn marker(mut self, producer: Producer) -> BatchBuilder {
        self.producer = Some((producer, None));
        self.flags |= batch::CONTROL_BIT;
        self.transactional()
    }

    /// Appends a record with headers. Panics if its timestamp is 2^63 ms away from the first one.
    pub fn append_with_headers(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) {
        if self.records_count == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        let timestamp_delta = timestamp.0.checked_sub(self.base_timestamp.0);
        let offset_delta = self.records_count;
        records::write_record(
            &mut self.bytes,
            timestamp_delta.expect("the records of a batch are less than 2^63 ms apart"),
            offset_delta,
            key,
            value,
            headers,
        );
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.records_count += 1;
    }

    /// Appends a record.
    pub fn append(&mut self, timestamp: Timestamp, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.append_with_headers(timestamp, key, value, &[]);
    }

    /// How many records it holds so far.
    pub fn records_count(&self) -> u32 {
        self.records_count.unsigned_abs()
    }

    /// Size of the batch so far, if it were not compressed.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The batch. Panics if it is empty or larger than 2 GiB.
    pub fn build(self) -> BytesMut {
        assert!(0 < self.records_count, "a batch holds at least one record");
        let header = |size_bytes: usize| {
            let batch_length = i32::try_from(size_bytes - PREFIX_BYTES);
            self.header(batch_length.expect("a batch is below 2 GiB")).to_bytes()
        };
        let mut batch = match self.codec {
            Codec::None => {
                let header = header(self.bytes.len());
                let mut batch = self.bytes;
                batch[..HEADER_BYTES].copy_from_slice(&header);
                batch
            }
            codec => {
                let payload = compress(codec, &self.bytes[HEADER_BYTES..]);
                let size_bytes = HEADER_BYTES + payload.len();
                let mut batch = BytesMut::with_capacity(size_bytes);
                batch.put_slice(&header(size_bytes));
                batch.put_slice(&payload);
                batch
            }
        };
        batch::seal(&mut batch);
        batch
    }

    fn header(&self, batch_length: i32) -> BatchHeader {
        let producer = self.producer.map(|(producer, _)| producer);
        let base_sequence = self.producer.and_then(|(_, sequence)| sequence);
        BatchHeader {
            base_offset: 0,
            batch_length,
            partition_leader_epoch: LeaderEpoch::NONE.0,
            magic: batch::MAGIC,
            crc: 0,
            attributes: i16::from(self.codec.number()) | self.flags,
            last_offset_delta: self.records_count - 1,
            base_timestamp: self.base_timestamp.0,
            max_timestamp: self.max_timestamp.0,
            producer_id: producer.map_or(-1, |producer| producer.id.0),
            producer_epoch: producer.map_or(-1, |producer| producer.epoch.0),
            base_sequence: base_sequence.map_or(-1, |sequence| sequence.0),
            records_count: self.records_count,
        }
    }
}
