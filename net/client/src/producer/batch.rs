//! A closed batch on its way: what it holds, where its journey stands.

use bytes::{Bytes, BytesMut};
use tidemill_record::{
    Batch as RecordBatch, BatchBuilder, Contents, Header, Producer, Sequence, checksum,
};

use super::intake::Gathered;
use crate::limits;
use crate::time::Instant;

/// Where in a batch its checksum stands, and where what it covers begins.
const CRC: std::ops::Range<usize> = 17..21;

/// Whether a batch is under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// Not to be sent before this.
    Waiting(Instant),
    /// Sent, not yet answered.
    InFlight,
}

/// The batch itself: built and compressed only when it is first sent, and kept for repeats.
#[derive(Debug)]
enum Content {
    Unbuilt(BatchBuilder),
    Built(Bytes),
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Batch {
    /// Tells it from the others of its partition.
    pub(super) number: u64,
    content: Content,
    pub(super) numbered: Option<(Producer, Sequence)>,
    pub(super) records_count: i32,
    pub(super) tags: Vec<u64>,
    /// What it counts in the producer's buffer.
    pub(super) held_bytes: usize,
    pub(super) created: Instant,
    pub(super) state: State,
    /// How often it was sent in vain.
    pub(super) failed_tries: u32,
    /// Why the last try was in vain.
    pub(super) last_trouble: Option<String>,
}

impl Batch {
    pub(super) fn new(number: u64, gathered: Gathered) -> Batch {
        let Gathered { builder, tags, held_bytes, created } = gathered;
        Batch {
            number,
            records_count: builder.records_count() as i32,
            content: Content::Unbuilt(builder),
            numbered: None,
            tags,
            held_bytes,
            created,
            state: State::Waiting(Instant::default()),
            failed_tries: 0,
            last_trouble: None,
        }
    }

    /// Gives it its place in the producer's numbering, for the first time or anew.
    pub(super) fn number(&mut self, producer: Producer, sequence: Sequence) {
        self.numbered = Some((producer, sequence));
        if let Content::Built(bytes) = &self.content {
            self.content = Content::Built(renumbered(bytes, producer, sequence));
        }
    }

    /// The bytes to send; built if need be.
    pub(super) fn bytes(&mut self) -> Bytes {
        let bytes = match std::mem::replace(&mut self.content, Content::Built(Bytes::new())) {
            Content::Built(bytes) => bytes,
            Content::Unbuilt(builder) => {
                let builder = match self.numbered {
                    Some((producer, sequence)) => builder.numbered(producer, sequence),
                    None => builder,
                };
                builder.build().freeze()
            }
        };
        self.content = Content::Built(bytes.clone());
        bytes
    }

    /// What held its records, if nobody else looks at it any more.
    pub(super) fn into_memory(self) -> Option<BytesMut> {
        match self.content {
            Content::Built(bytes) => bytes.try_into_mut().ok(),
            Content::Unbuilt(_) => None,
        }
    }

    /// Two batches with the first and the second half of the records, of which there are two at
    /// least, numbered as they were.
    pub(super) fn split(mut self, second_number: u64) -> (Batch, Batch) {
        assert!(2 <= self.records_count, "one record cannot be halved");
        let bytes = self.bytes();
        let (batch, _) = RecordBatch::parse(&bytes).expect("we have built it");
        let codec = batch.compression();
        let contents =
            Contents::open(&batch, limits::BATCH_OPEN_BYTES_MAX).expect("we have built it");
        let first_count = self.records_count / 2;
        let mut halves = [BatchBuilder::new(codec), BatchBuilder::new(codec)];
        for (at, record) in (0..).zip(contents.records()) {
            let record = record.expect("we have built it");
            let headers: Vec<Header<'_>> = record.headers.into_iter().collect();
            let half = &mut halves[usize::from(first_count <= at)];
            half.append_with_headers(record.timestamp, record.key, record.value, &headers);
        }
        let [first, second] = halves;
        let second_tags = self.tags.split_off(self.tags.len().min(first_count as usize));
        let (created, held_bytes) = (self.created, self.held_bytes / 2);
        let second_held = self.held_bytes - held_bytes;
        let first = Gathered { builder: first, tags: self.tags, held_bytes, created };
        let second =
            Gathered { builder: second, tags: second_tags, held_bytes: second_held, created };
        let mut first = Batch::new(self.number, first);
        let mut second = Batch::new(second_number, second);
        if let Some((producer, sequence)) = self.numbered {
            first.number(producer, sequence);
            second.number(producer, sequence.plus(first_count));
        }
        // Sent before, so kept behind whatever is before them.
        (first.failed_tries, second.failed_tries) = (1, 1);
        (first, second)
    }
}

/// The same records with other numbers, and the checksum made for them.
fn renumbered(batch: &[u8], producer: Producer, sequence: Sequence) -> Bytes {
    let (parsed, _) = RecordBatch::parse(batch).expect("we have built it");
    let mut header = parsed.header().to_native();
    header.producer_id = producer.id.0;
    header.producer_epoch = producer.epoch.0;
    header.base_sequence = sequence.0;
    let mut anew = BytesMut::with_capacity(batch.len());
    anew.extend_from_slice(&header.to_bytes());
    anew.extend_from_slice(parsed.payload());
    let crc = checksum::crc32c(&anew[CRC.end..]);
    anew[CRC].copy_from_slice(&crc.to_be_bytes());
    anew.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_record::{Codec, ProducerEpoch, ProducerId, Timestamp};

    fn producer(id: i64, epoch: i16) -> Producer {
        Producer { id: ProducerId(id), epoch: ProducerEpoch(epoch) }
    }

    fn batch(records: i64) -> Batch {
        let mut builder = BatchBuilder::new(Codec::Lz4);
        for number in 0..records {
            builder.append(Timestamp(number), None, Some(format!("value {number}").as_bytes()));
        }
        let tags = (0..records as u64).collect();
        Batch::new(0, Gathered { builder, tags, held_bytes: 1000, created: Instant::default() })
    }

    fn values(bytes: &Bytes) -> Vec<String> {
        let (batch, rest) = RecordBatch::parse(bytes).unwrap();
        assert!(rest.is_empty());
        batch.verify_checksum().unwrap();
        let contents = Contents::open(&batch, 1 << 20).unwrap();
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        contents.records().map(|record| text(record.unwrap().value.unwrap())).collect()
    }

    /// A batch that gets other numbers after it was built is otherwise the same, checksum and all.
    #[test]
    fn a_renumbered_batch_is_whole() {
        let mut batch = batch(5);
        batch.number(producer(7, 0), Sequence(100));
        let before = values(&batch.bytes());
        batch.number(producer(7, 1), Sequence(0));
        let bytes = batch.bytes();
        assert_eq!(values(&bytes), before);
        let (parsed, _) = RecordBatch::parse(&bytes).unwrap();
        assert_eq!(parsed.producer(), Some(producer(7, 1)));
        assert_eq!(parsed.base_sequence(), Some(Sequence(0)));
    }

    /// Halves of a batch hold its records in order, tags and numbers with them.
    #[test]
    fn halves_hold_the_records_in_order() {
        let mut whole = batch(5);
        whole.number(producer(7, 0), Sequence(100));
        let (mut first, mut second) = whole.split(1);
        assert_eq!(values(&first.bytes()), ["value 0", "value 1"]);
        assert_eq!(values(&second.bytes()), ["value 2", "value 3", "value 4"]);
        assert_eq!((first.tags, second.tags.clone()), (vec![0, 1], vec![2, 3, 4]));
        assert_eq!(second.numbered, Some((producer(7, 0), Sequence(102))));
        let (one, two) = second.split(2);
        assert_eq!((one.records_count, two.records_count), (1, 2));
    }
}
