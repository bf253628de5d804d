//! What the header of a batch may say, and what becomes of batches that say something else.

use bytes::BytesMut;
use tidemill_record::{
    Batch, BatchBuilder, BatchError, Codec, HEADER_BYTES, LeaderEpoch, Limits, Offset, Producer,
    ProducerEpoch, ProducerId, Sequence, Timestamp, TimestampType, checksum, stamp,
    stamp_log_append_time, validate,
};

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const PRODUCER: Producer = Producer { id: ProducerId(4711), epoch: ProducerEpoch(2) };
const CLIENT: Limits = Limits { batch_bytes_max: 1_048_588, control_allowed: false };

/// Where the fields lie, written down a second time, from Kafka's documentation.
mod at {
    pub(super) const BASE_OFFSET: usize = 0;
    pub(super) const BATCH_LENGTH: usize = 8;
    pub(super) const MAGIC: usize = 16;
    pub(super) const CRC: usize = 17;
    pub(super) const ATTRIBUTES: usize = 21;
    pub(super) const LAST_OFFSET_DELTA: usize = 23;
    pub(super) const PRODUCER_ID: usize = 43;
    pub(super) const PRODUCER_EPOCH: usize = 51;
    pub(super) const BASE_SEQUENCE: usize = 53;
    pub(super) const RECORDS_COUNT: usize = 57;
}

fn builder_with(records: u32) -> BatchBuilder {
    let mut builder = BatchBuilder::new(Codec::None).numbered(PRODUCER, Sequence(10));
    for i in 0..records {
        builder.append(NOW.plus_ms(i64::from(i)), Some(b"key"), Some(&i.to_be_bytes()));
    }
    builder
}

fn batch_of(records: u32) -> BytesMut {
    builder_with(records).build()
}

/// Changes a field as a faulty client would: with a checksum that is right for the wrong bytes.
fn with_field(position: usize, field: &[u8]) -> BytesMut {
    let mut bytes = batch_of(3);
    bytes[position..position + field.len()].copy_from_slice(field);
    let crc = checksum::crc32c(&bytes[checksum::COVERED_FROM..]);
    bytes[at::CRC..at::CRC + 4].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn refusal(bytes: &[u8]) -> BatchError {
    validate(bytes, &CLIENT).expect_err("it should have been refused")
}

/// A batch says where it begins and ends, who made it and when.
#[test]
fn a_header_is_read_where_it_lies() {
    let bytes = batch_of(3);
    let (batch, rest) = Batch::parse(&bytes).expect("a batch");

    assert!(rest.is_empty());
    assert_eq!(batch.size_bytes() as usize, bytes.len());
    assert_eq!(batch.bytes().as_ptr(), bytes.as_ptr(), "no byte was copied");
    assert_eq!(batch.base_offset(), Offset(0));
    assert_eq!(batch.last_offset(), Offset(2));
    assert_eq!(batch.next_offset(), Offset(3));
    assert_eq!(batch.records_count(), 3);
    assert_eq!(batch.leader_epoch(), LeaderEpoch::NONE);
    assert_eq!(batch.producer(), Some(PRODUCER));
    assert_eq!(batch.base_sequence(), Some(Sequence(10)));
    assert_eq!(batch.last_sequence(), Some(Sequence(12)));
    assert_eq!(batch.compression(), Codec::None);
    assert_eq!(batch.timestamp_type(), TimestampType::CreateTime);
    assert_eq!(batch.base_timestamp(), NOW);
    assert_eq!(batch.max_timestamp(), NOW.plus_ms(2));
    assert!(!batch.is_transactional() && !batch.is_control());
    assert_eq!(batch.header().to_native().to_bytes()[..], bytes[..HEADER_BYTES]);
}

/// Batches lie back to back in a segment: each says where the next begins.
#[test]
fn batches_back_to_back_are_read_one_by_one() {
    let bytes = [batch_of(1), batch_of(2), batch_of(5)].concat();
    let mut rest = &bytes[..];
    let mut counts = Vec::new();
    while !rest.is_empty() {
        let (batch, after) = Batch::parse(rest).expect("a batch");
        counts.push(batch.records_count());
        rest = after;
    }
    assert_eq!(counts, [1, 2, 5]);
}

/// The leader stamps offset and epoch without touching a byte that the checksum covers.
#[test]
fn stamping_changes_place_and_epoch_and_leaves_the_checksum_right() {
    let mut bytes = batch_of(3);
    let before = bytes.clone();
    stamp(&mut bytes, Offset(1_000_000_007), LeaderEpoch(5));

    let (batch, _) = Batch::parse(&bytes).expect("a batch");
    assert_eq!(batch.base_offset(), Offset(1_000_000_007));
    assert_eq!(batch.next_offset(), Offset(1_000_000_010));
    assert_eq!(batch.leader_epoch(), LeaderEpoch(5));
    batch.verify_checksum().expect("the checksum is still right");
    assert_eq!(bytes[at::MAGIC..], before[at::MAGIC..]);
}

/// Where the topic says that the time of the append counts, it counts for every record, and the
/// checksum is made anew because the flag and the time are among what it covers.
#[test]
fn the_time_of_the_append_counts_for_all_records_once_stamped() {
    let mut bytes = batch_of(3);
    let later = NOW.plus_ms(60_000);
    stamp_log_append_time(&mut bytes, later);

    let (batch, _) = Batch::parse(&bytes).expect("a batch");
    batch.verify_checksum().expect("made anew");
    assert_eq!(batch.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(batch.max_timestamp(), later);
    assert_eq!(batch.base_timestamp(), NOW, "stays, as do the deltas");
    let contents = tidemill_record::Contents::open(&batch, 0x1000).expect("uncompressed");
    for record in contents.records() {
        assert_eq!(record.expect("a record").timestamp, later);
    }
}

/// A sequence may wrap inside of a batch: 2 147 483 647 is followed by 0.
#[test]
fn the_last_sequence_may_have_wrapped() {
    let mut builder = BatchBuilder::new(Codec::None).numbered(PRODUCER, Sequence(i32::MAX - 1));
    for _ in 0..4 {
        builder.append(NOW, None, None);
    }
    let bytes = builder.build();
    let validated = validate(&bytes, &CLIENT).expect("a batch");
    assert_eq!(validated.last_sequence(), Some(Sequence(1)));
}

/// Wherever the bytes are cut, the batch is incomplete, and that is all there is to say.
#[test]
fn a_batch_cut_anywhere_is_truncated() {
    let bytes = batch_of(3);
    for cut in 0..bytes.len() {
        let refused = Batch::parse(&bytes[..cut]).map(|_| ()).expect_err("incomplete");
        let needed_bytes = if cut < HEADER_BYTES { HEADER_BYTES } else { bytes.len() };
        assert_eq!(refused, BatchError::Truncated { needed_bytes, found_bytes: cut });
        assert_eq!(refusal(&bytes[..cut]), refused);
    }
}

/// KIP-98: since version 3, a produce request carries exactly one batch for each partition.
#[test]
fn more_than_one_batch_is_refused() {
    let one = batch_of(1);
    let two = [one.clone(), one.clone()].concat();
    assert_eq!(refusal(&two), BatchError::TrailingBytes { extra_bytes: one.len() });
}

/// Every single flipped bit that the checksum covers, or in the checksum itself, is noticed.
#[test]
fn any_flipped_bit_is_noticed() {
    let bytes = batch_of(2);
    for bit in at::CRC * 8..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(validate(&damaged, &CLIENT).is_err(), "bit {bit}");
    }
}

/// A checksum that does not fit is told with both values, for whoever looks for the cause.
#[test]
fn a_wrong_checksum_is_told_with_its_evidence() {
    let mut bytes = batch_of(1);
    let (batch, _) = Batch::parse(&bytes).expect("a batch");
    let right = batch.crc();
    bytes[at::CRC..at::CRC + 4].copy_from_slice(&7u32.to_be_bytes());
    assert_eq!(refusal(&bytes), BatchError::ChecksumMismatch { expected: 7, found: right });
}

/// Lengths are believed only within the bytes that are there, and never below the header's own.
#[test]
fn an_absurd_length_is_refused() {
    let found_bytes = batch_of(3).len();
    let huge = with_field(at::BATCH_LENGTH, &i32::MAX.to_be_bytes());
    let needed_bytes = i32::MAX as usize + 12;
    let refused = Batch::parse(&huge).map(|_| ()).expect_err("too long");
    assert_eq!(refused, BatchError::Truncated { needed_bytes, found_bytes });
    let size_bytes = needed_bytes as u32;
    let limit_bytes = CLIENT.batch_bytes_max;
    assert_eq!(refusal(&huge), BatchError::TooLarge { size_bytes, limit_bytes });

    for batch_length in [48, 0, -1, i32::MIN] {
        let bytes = with_field(at::BATCH_LENGTH, &batch_length.to_be_bytes());
        assert_eq!(refusal(&bytes), BatchError::LengthTooSmall { batch_length, length_min: 49 });
    }
}

/// The limit counts the whole batch, header and the twelve bytes before the length included.
#[test]
fn the_size_limit_is_inclusive() {
    let bytes = batch_of(3);
    let size_bytes = bytes.len() as u32;
    let exact = Limits { batch_bytes_max: size_bytes, control_allowed: false };
    assert!(validate(&bytes, &exact).is_ok());

    let limit_bytes = size_bytes - 1;
    let tight = Limits { batch_bytes_max: limit_bytes, control_allowed: false };
    let refused = validate(&bytes, &tight).expect_err("too large");
    assert_eq!(refused, BatchError::TooLarge { size_bytes, limit_bytes });
}

/// Older formats, and ones yet to come, are refused by their version.
#[test]
fn other_versions_are_refused() {
    for found in [0i8, 1, 3, -1] {
        let bytes = with_field(at::MAGIC, &found.to_be_bytes());
        assert_eq!(refusal(&bytes), BatchError::UnknownMagic { found });
    }
}

/// Three bits name the codec; five of the eight numbers are taken.
#[test]
fn unknown_codecs_are_refused() {
    for found in 5..=7u8 {
        let bytes = with_field(at::ATTRIBUTES, &i16::from(found).to_be_bytes());
        assert_eq!(refusal(&bytes), BatchError::UnknownCodec { found });
    }
}

/// A new batch is dense: its last offset delta is one less than its number of records.
#[test]
fn counts_that_contradict_each_other_are_refused() {
    let wrong_counts = [0, -1, 2, 4, i32::MAX, i32::MIN];
    for records_count in wrong_counts {
        let bytes = with_field(at::RECORDS_COUNT, &records_count.to_be_bytes());
        let last_offset_delta = 2;
        assert_eq!(refusal(&bytes), BatchError::CountMismatch { records_count, last_offset_delta });
    }
    for last_offset_delta in [0, 1, 3, -1, i32::MAX, i32::MIN] {
        let bytes = with_field(at::LAST_OFFSET_DELTA, &last_offset_delta.to_be_bytes());
        let records_count = 3;
        assert_eq!(refusal(&bytes), BatchError::CountMismatch { records_count, last_offset_delta });
    }
}

/// The bug: a batch of 75 bytes that said it held two thousand million records was accepted, and
/// used up as many offsets.
#[test]
fn more_records_than_the_bytes_can_hold_are_refused() {
    for records_count in [1000, i32::MAX] {
        let mut bytes = with_field(at::RECORDS_COUNT, &records_count.to_be_bytes());
        bytes[at::LAST_OFFSET_DELTA..at::LAST_OFFSET_DELTA + 4]
            .copy_from_slice(&(records_count - 1).to_be_bytes());
        let crc = checksum::crc32c(&bytes[checksum::COVERED_FROM..]);
        bytes[at::CRC..at::CRC + 4].copy_from_slice(&crc.to_be_bytes());
        let found_bytes = bytes.len() - HEADER_BYTES;
        let records_count = records_count as u32;
        assert_eq!(refusal(&bytes), BatchError::NoRoomForRecords { records_count, found_bytes });
    }
}

/// Compaction removes records and keeps offsets: what is stored may be sparse, even empty.
#[test]
fn a_sparse_batch_is_read_but_not_accepted_from_clients() {
    let bytes = with_field(at::LAST_OFFSET_DELTA, &99i32.to_be_bytes());
    let (batch, _) = Batch::parse(&bytes).expect("readable");
    assert_eq!((batch.records_count(), batch.next_offset()), (3, Offset(100)));
    assert!(validate(&bytes, &CLIENT).is_err());
}

/// No arithmetic on offsets may overflow, whatever the bytes say.
#[test]
fn offsets_out_of_range_are_refused() {
    for base in [i64::MAX, i64::MAX - 2, -1, i64::MIN] {
        let bytes = with_field(at::BASE_OFFSET, &base.to_be_bytes());
        let refused =
            BatchError::OffsetOutOfRange { base_offset: Offset(base), last_offset_delta: 2 };
        assert_eq!(refusal(&bytes), refused);
    }
    let bytes = with_field(at::BASE_OFFSET, &(i64::MAX - 3).to_be_bytes());
    assert_eq!(Batch::parse(&bytes).expect("just fits").0.next_offset(), Offset(i64::MAX));
}

/// Who has a producer id has an epoch and a sequence; who takes part in a transaction has an id.
#[test]
fn producer_fields_that_contradict_each_other_are_refused() {
    let inconsistent = [
        (at::PRODUCER_ID, (-2i64).to_be_bytes().to_vec()),
        (at::PRODUCER_EPOCH, (-1i16).to_be_bytes().to_vec()),
        (at::BASE_SEQUENCE, (-1i32).to_be_bytes().to_vec()),
    ];
    for (position, field) in inconsistent {
        let refused = refusal(&with_field(position, &field));
        assert!(matches!(refused, BatchError::InconsistentProducer { .. }), "{refused:?}");
    }

    let mut anonymous = BatchBuilder::new(Codec::None).transactional();
    anonymous.append(NOW, None, None);
    let refused = refusal(&anonymous.build());
    assert!(matches!(refused, BatchError::InconsistentProducer { transactional: true, .. }));
}

/// Without a producer id there is no producer, and sequence and epoch mean nothing.
#[test]
fn a_batch_without_a_producer_has_no_sequence() {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(NOW, None, Some(b"value"));
    let validated = validate(&builder.build(), &CLIENT).expect("a batch");
    assert_eq!(validated.producer(), None);
    assert_eq!(validated.base_sequence(), None);
    assert_eq!(validated.last_sequence(), None);
}

/// The memory of a batch that is done with holds the next one: nothing of the old one is left, and
/// nothing is allocated for it.
#[test]
fn the_memory_of_a_batch_holds_the_next_one() {
    let build = |builder: BatchBuilder| {
        let mut builder = builder.numbered(PRODUCER, Sequence(3));
        builder.append(Timestamp(7), Some(b"key"), Some(b"value"));
        builder.build()
    };
    let large = builder_with(100).build();
    let (place, capacity) = (large.as_ptr(), large.capacity());
    let again = build(BatchBuilder::reusing(large, Codec::None));
    assert_eq!(again, build(BatchBuilder::new(Codec::None)));
    assert_eq!((again.as_ptr(), again.capacity()), (place, capacity));
}
