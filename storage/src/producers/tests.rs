//! What is remembered of producers, and what their next batches may be.

use tidemill_record::{Marker, Outcome};

use super::*;

const HOUR_MS: i64 = 60 * 60 * 1000;

fn batch(id: i64, epoch: i16, base_sequence: i32, records_count: i32) -> NumberedBatch {
    NumberedBatch {
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence: Sequence(base_sequence),
        records_count,
    }
}

/// A log that appends what its producers may append.
#[derive(Default)]
struct Log {
    producers: Producers,
    end: i64,
    now_ms: i64,
}

impl Log {
    /// Appends `batch` if it is new. Its base offset, also if it was appended before.
    fn append(&mut self, batch: NumberedBatch) -> Result<i64, ProducerError> {
        match self.producers.check(&batch, &mut Transactions::default(), self.now_ms)? {
            Verdict::Duplicate(original) => Ok(original.base_offset.0),
            Verdict::New => {
                let base = self.end;
                self.producers.note(&batch, Offset(base), Timestamp(base + 7), self.now_ms);
                self.end += i64::from(batch.records_count);
                Ok(base)
            }
        }
    }

    fn expected_instead_of(&mut self, batch: NumberedBatch) -> i32 {
        match self.append(batch) {
            Err(ProducerError::OutOfOrderSequence { expected, found, .. }) => {
                assert_eq!(found, batch.base_sequence);
                expected.0
            }
            other => panic!("not out of order: {other:?}"),
        }
    }
}

/// A client that lost a reply sends the batch again, up to five of them: each is answered as
/// the first time and appended once.
#[test]
fn the_last_five_batches_sent_again_are_answered_with_their_original_offsets() {
    let mut log = Log::default();
    for i in 0..6 {
        assert_eq!(log.append(batch(1, 0, 10 * i, 10)), Ok(i64::from(10 * i)));
    }
    for i in 1..6 {
        assert_eq!(log.append(batch(1, 0, 10 * i, 10)), Ok(i64::from(10 * i)));
    }
    assert_eq!(log.end, 60, "nothing was appended twice");
    assert_eq!(log.expected_instead_of(batch(1, 0, 0, 10)), 60, "the sixth last is forgotten");
}

/// The reply to a duplicate carries the original's timestamp too.
#[test]
fn a_duplicate_tells_the_original_timestamp() {
    let mut log = Log::default();
    log.append(batch(1, 0, 0, 3)).unwrap();
    let Ok(Verdict::Duplicate(original)) =
        log.producers.check(&batch(1, 0, 0, 3), &mut Transactions::default(), 0)
    else {
        panic!("a duplicate is recognised");
    };
    assert_eq!(original.timestamp, Timestamp(7));
    assert_eq!(original.last_offset, Offset(2));
}

#[test]
fn a_gap_and_an_overlap_are_both_out_of_order() {
    let mut log = Log::default();
    log.append(batch(1, 0, 0, 10)).unwrap();
    assert_eq!(log.expected_instead_of(batch(1, 0, 11, 1)), 10, "a gap");
    assert_eq!(log.expected_instead_of(batch(1, 0, 5, 10)), 10, "an overlap");
    assert_eq!(log.expected_instead_of(batch(1, 0, 0, 9)), 10, "a part of the original");
    assert_eq!(log.append(batch(1, 0, 10, 1)), Ok(10));
}

/// After 2 147 483 647 comes 0, also in the middle of a batch.
#[test]
fn the_numbering_wraps_to_zero() {
    let mut log = Log::default();
    log.append(batch(1, 0, i32::MAX - 4, 3)).unwrap();
    assert_eq!(log.expected_instead_of(batch(1, 0, 0, 1)), i32::MAX - 1);
    assert_eq!(log.append(batch(1, 0, i32::MAX - 1, 5)), Ok(3), "straddles the wrap");
    assert_eq!(log.append(batch(1, 0, i32::MAX - 1, 5)), Ok(3), "and is known again");
    assert_eq!(log.append(batch(1, 0, 3, 1)), Ok(8));

    let mut exact = Log::default();
    exact.append(batch(1, 0, i32::MAX, 1)).unwrap();
    assert_eq!(exact.append(batch(1, 0, 0, 1)), Ok(1));
}

/// A producer that was replaced must not write between its successor's records.
#[test]
fn an_older_producer_epoch_is_fenced() {
    let mut log = Log::default();
    log.append(batch(1, 3, 0, 1)).unwrap();
    let refused = log.append(batch(1, 2, 0, 1));
    assert_eq!(
        refused,
        Err(ProducerError::FencedProducerEpoch {
            producer_id: ProducerId(1),
            current: ProducerEpoch(3),
            found: ProducerEpoch(2),
        })
    );
}

#[test]
fn a_higher_producer_epoch_begins_at_zero() {
    let mut log = Log::default();
    log.append(batch(1, 0, 0, 5)).unwrap();
    assert_eq!(log.expected_instead_of(batch(1, 1, 5, 1)), 0);
    assert_eq!(log.append(batch(1, 1, 0, 1)), Ok(5));
    assert_eq!(log.append(batch(1, 1, 0, 1)), Ok(5), "the old epoch's batch 0 is forgotten");
}

/// Its state may have been lost with expired records; an error would stop it for ever.
#[test]
fn an_unknown_producer_may_begin_anywhere() {
    let mut log = Log::default();
    assert_eq!(log.append(batch(1, 9, 4711, 2)), Ok(0));
    assert_eq!(log.append(batch(1, 9, 4713, 2)), Ok(2));
}

#[test]
fn producers_do_not_see_one_another() {
    let mut log = Log::default();
    assert_eq!(log.append(batch(1, 0, 0, 2)), Ok(0));
    assert_eq!(log.append(batch(2, 0, 0, 2)), Ok(2));
    assert_eq!(log.append(batch(1, 0, 0, 2)), Ok(0));
}

#[test]
fn silent_producers_expire() {
    let mut log = Log::default();
    log.append(batch(1, 0, 0, 1)).unwrap();
    log.now_ms = 10 * HOUR_MS;
    log.append(batch(2, 0, 0, 1)).unwrap();

    assert_eq!(
        log.producers.expire(&mut Transactions::default(), 24 * HOUR_MS, 24 * HOUR_MS),
        0,
        "not longer than that"
    );
    assert_eq!(
        log.producers.expire(&mut Transactions::default(), 24 * HOUR_MS, 24 * HOUR_MS + 1),
        1
    );
    assert_eq!(log.producers.iter().map(|(id, ..)| id.0).collect::<Vec<_>>(), [2]);
    assert_eq!(log.producers.expire(&mut Transactions::default(), 24 * HOUR_MS, 100 * HOUR_MS), 1);
    assert!(log.producers.is_empty());
}

/// The bug: a producer's numbers were forgotten a while after its last batch, its transactions a
/// while after their last marker; in between what it sent next was refused as out of order.
#[test]
fn numbers_are_not_forgotten_before_transactions() {
    let expiration_ms = 24 * HOUR_MS;
    let (mut producers, mut transactions) = (Producers::default(), Transactions::default());
    let id = ProducerId(1);
    let from = tidemill_record::Producer { id, epoch: ProducerEpoch(0) };
    producers.note(&batch(1, 0, 0, 5), Offset(0), Timestamp::NONE, 0);
    transactions.note_batch(from, Offset(0), 0);
    let late_ms = 30 * HOUR_MS;
    assert_eq!(producers.expire(&mut transactions, expiration_ms, late_ms), 0, "it is open");

    let marker = Marker { outcome: Outcome::Commit, coordinator_epoch: 0 };
    transactions.note_marker(from, marker, Offset(5), late_ms);
    let end_ms = late_ms + expiration_ms;
    assert_eq!(producers.expire(&mut transactions, expiration_ms, end_ms), 0);
    let next = producers.check(&batch(1, 0, 5, 1), &mut transactions, end_ms);
    assert_eq!(next, Ok(Verdict::New));

    assert_eq!(producers.expire(&mut transactions, expiration_ms, end_ms + 1), 1);
    assert_eq!(transactions.get(id), None, "both at once");
    let next = producers.check(&batch(1, 0, 5, 1), &mut transactions, end_ms + 1);
    assert_eq!(next, Ok(Verdict::New));
}

/// A flood of producer ids must not grow memory past its plan, nor push out a producer that
/// may still send something again.
#[test]
fn the_number_of_producers_is_bounded_and_active_ones_are_not_forgotten() {
    let mut log = Log::default();
    for id in 0..PRODUCERS_MAX as i64 {
        log.append(batch(id, 0, 0, 1)).unwrap();
    }
    let refused = log.append(batch(-7, 0, 0, 1));
    assert_eq!(refused, Err(ProducerError::TooManyProducers { limit: PRODUCERS_MAX as u32 }));
    assert_eq!(log.append(batch(0, 0, 0, 1)), Ok(0), "known ones go on");

    log.now_ms = SILENT_MS_MIN + 1;
    log.append(batch(0, 0, 1, 1)).unwrap();
    log.append(batch(-7, 0, 0, 1)).unwrap();
    assert_eq!(log.producers.len(), 2, "only the silent have made room");
}

/// What was cut off may be sent again, and must then be appended, not taken for a duplicate.
#[test]
fn batches_cut_off_by_a_truncation_are_new_when_sent_again() {
    let mut log = Log::default();
    for i in 0..3 {
        log.append(batch(1, 0, i, 1)).unwrap();
    }
    log.append(batch(2, 0, 0, 1)).unwrap();

    assert_eq!(log.producers.truncate(Offset(2)), [ProducerId(2)]);
    log.end = 2;
    assert_eq!(log.append(batch(1, 0, 2, 1)), Ok(2));
    assert_eq!(log.append(batch(1, 0, 1, 1)), Ok(1), "what stayed is known");
}

fn snapshot(producers: &Producers) -> Vec<u8> {
    let mut bytes = Vec::new();
    producers.encode(&mut bytes);
    assert_eq!(bytes.len(), producers.encoded_len());
    bytes
}

/// A restart must not forget what may still be sent again.
#[test]
fn a_snapshot_brings_back_the_same_decisions() {
    let mut log = Log { now_ms: 99, ..Log::default() };
    for i in 0..7 {
        log.append(batch(5, 2, 2 * i, 2)).unwrap();
    }
    log.append(batch(1, 0, i32::MAX, 4)).unwrap();
    let mut bytes = snapshot(&log.producers);
    bytes.push(42);

    let mut rest = &bytes[..];
    log.producers = Producers::decode(&mut rest).unwrap();
    assert_eq!(rest, [42]);
    assert_eq!(snapshot(&log.producers), bytes[..bytes.len() - 1]);
    assert_eq!(log.append(batch(5, 2, 4, 2)), Ok(4));
    assert_eq!(log.expected_instead_of(batch(5, 2, 2, 2)), 14);
    assert_eq!(log.append(batch(1, 0, 3, 1)), Ok(18));
    assert_eq!(
        log.producers.expire(&mut Transactions::default(), 0, 99),
        0,
        "activity is part of it"
    );
    assert_eq!(log.producers.expire(&mut Transactions::default(), 0, 100), 2);
}

/// The bytes of version 1, for ever.
#[test]
fn the_snapshot_format_is_this() {
    let mut log = Log { end: 0x10, now_ms: 0x0a0b, ..Log::default() };
    log.append(batch(0x0102, 3, 4, 2)).unwrap();
    #[rustfmt::skip]
    let expected = [
        1,                                  // version
        0, 0, 0, 1,                         // producers
        0, 0, 0, 0, 0, 0, 1, 2,             // producer id
        0, 3,                               // epoch
        0, 0, 0, 0, 0, 0, 0x0a, 0x0b,       // last active, ms
        1,                                  // batches
        0, 0, 0, 4,                         // first sequence
        0, 0, 0, 5,                         // last sequence
        0, 0, 0, 0, 0, 0, 0, 0x10,          // base offset
        0, 0, 0, 0, 0, 0, 0, 0x11,          // last offset
        0, 0, 0, 0, 0, 0, 0, 0x17,          // timestamp
    ];
    assert_eq!(snapshot(&log.producers), expected);
}

/// No bytes make it panic or allocate by what they merely claim.
#[test]
fn damaged_snapshots_are_errors() {
    let mut log = Log::default();
    log.append(batch(1, 0, 0, 1)).unwrap();
    log.append(batch(2, 0, 0, 1)).unwrap();
    let bytes = snapshot(&log.producers);
    let decode = |bytes: &[u8]| Producers::decode(&mut &bytes[..]);
    for cut in 0..bytes.len() {
        assert_eq!(decode(&bytes[..cut]), Err(ProducersError::TooShort));
    }
    let with = |at: usize, byte| {
        let mut damaged = bytes.clone();
        damaged[at] = byte;
        decode(&damaged)
    };
    assert_eq!(with(0, 2), Err(ProducersError::UnknownVersion { found: 2 }));
    let found = 0xff00_0002;
    assert_eq!(with(1, 0xff), Err(ProducersError::TooManyProducers { found }));
    let producer_id = ProducerId(1);
    assert_eq!(with(23, 0), Err(ProducersError::WrongBatchCount { producer_id, found: 0 }));
    assert_eq!(with(23, 6), Err(ProducersError::WrongBatchCount { producer_id, found: 6 }));
    assert_eq!(with(12, 2), Err(ProducersError::OutOfOrder { producer_id: ProducerId(2) }));
}

/// The bug: producers that had expired came back with a replay, so many that the state written
/// after it could not be read again: the second start failed, and all after it.
#[test]
fn what_a_replay_brings_back_can_be_read_again() {
    let mut producers = Producers::default();
    let count = 2 * PRODUCERS_MAX as i64 + 10;
    for id in 0..count {
        let batch = NumberedBatch {
            producer_id: ProducerId(id),
            producer_epoch: ProducerEpoch(0),
            base_sequence: Sequence::ZERO,
            records_count: 1,
        };
        producers.note(&batch, Offset(id), Timestamp::NONE, id);
        producers.forget_excess(2 * PRODUCERS_MAX);
    }
    producers.forget_excess(PRODUCERS_MAX);
    assert_eq!(producers.len(), PRODUCERS_MAX);
    let oldest = producers.iter().map(|(id, ..)| id.0).min();
    assert_eq!(oldest, Some(count - PRODUCERS_MAX as i64), "those silent for longest are gone");
    let mut bytes = Vec::new();
    producers.encode(&mut bytes);
    assert_eq!(Producers::decode(&mut &bytes[..]).map(|again| again.len()), Ok(PRODUCERS_MAX));
}
