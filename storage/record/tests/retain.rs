//! What compaction leaves of a batch: the records that stay do not move or change.

use bytes::BytesMut;
use proptest::prelude::*;
use tidemill_record::{
    Batch, BatchBuilder, Codec, Contents, LeaderEpoch, Marker, Offset, Outcome, Producer,
    ProducerEpoch, ProducerId, Retained, RetainedBatch, Sequence, Timestamp, emptied, retain,
    stamp, stamp_log_append_time,
};

const LIMIT: usize = 1 << 20;
const PRODUCER: Producer = Producer { id: ProducerId(7), epoch: ProducerEpoch(2) };
const HORIZON: Timestamp = Timestamp(1_700_086_400_000);

type Told = (Offset, Timestamp, Option<Vec<u8>>, Option<Vec<u8>>);

/// A batch at offset 500 whose records have these values.
fn batch(codec: Codec, values: &[Option<&[u8]>]) -> BytesMut {
    let mut builder = BatchBuilder::new(codec).numbered(PRODUCER, Sequence(40));
    for (number, value) in values.iter().enumerate() {
        let time = Timestamp(1_700_000_000_000 + (number as i64 * 7) % 5);
        builder.append(time, Some(format!("key {number}").as_bytes()), *value);
    }
    let mut bytes = builder.build();
    stamp(&mut bytes, Offset(500), LeaderEpoch(3));
    bytes
}

fn parsed(bytes: &[u8]) -> Batch<'_> {
    let (batch, rest) = Batch::parse(bytes).expect("a batch");
    assert!(rest.is_empty());
    batch.verify_checksum().expect("it was made for these bytes");
    batch
}

fn records(bytes: &[u8]) -> Vec<Told> {
    let batch = parsed(bytes);
    let contents = Contents::open(&batch, LIMIT).expect("it decompresses");
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let told = contents.records().map(|record| {
        let record = record.expect("readable");
        (record.offset, record.timestamp, owned(record.key), owned(record.value))
    });
    told.collect()
}

fn keep_at(bytes: &[u8], offsets: &[i64], horizon: Option<Timestamp>) -> Retained {
    retain(&parsed(bytes), LIMIT, horizon, |record| offsets.contains(&record.offset.0))
        .expect("readable")
}

fn rewritten(retained: Retained) -> BytesMut {
    match retained.batch {
        RetainedBatch::Rewritten(batch) => batch,
        other => panic!("{other:?}"),
    }
}

/// Whatever is left out, with whatever codec: the rest says what it said, at the offsets it had,
/// and the batch still covers all of its own.
#[test]
fn what_is_left_keeps_its_place_and_its_words() {
    for codec in Codec::ALL {
        let bytes = batch(codec, &[Some(b"a"), Some(b"b"), Some(b"c"), Some(b"d")]);
        let retained = keep_at(&bytes, &[501, 503], Some(HORIZON));
        assert_eq!((retained.before, retained.after), (4, 2));
        let made = rewritten(retained);

        let (old, new) = (parsed(&bytes), parsed(&made));
        assert_eq!(new.compression(), codec);
        assert_eq!((new.base_offset(), new.last_offset()), (Offset(500), Offset(503)));
        assert_eq!(new.records_count(), 2);
        assert_eq!(new.leader_epoch(), LeaderEpoch(3));
        assert_eq!((new.producer(), new.base_sequence()), (old.producer(), old.base_sequence()));
        assert_eq!(new.last_sequence(), Some(Sequence(43)));
        assert!(!new.has_delete_horizon(), "nothing is deleted in it");
        let all = records(&bytes);
        assert_eq!(records(&made), [all[1].clone(), all[3].clone()]);
        let latest = records(&made).iter().map(|(_, time, ..)| *time).max();
        assert_eq!(Some(new.max_timestamp()), latest);
    }
}

/// A batch that loses nothing is not touched, so that nothing can go wrong with it.
#[test]
fn a_batch_that_loses_nothing_stays_byte_for_byte() {
    let bytes = batch(Codec::Zstd, &[Some(b"a"), Some(b"b")]);
    assert_eq!(keep_at(&bytes, &[500, 501], Some(HORIZON)).batch, RetainedBatch::AsItWas);
    assert_eq!(keep_at(&bytes, &[], Some(HORIZON)).batch, RetainedBatch::Nothing);
}

/// The first time that a deletion mark is found, its batch is told until when it stays; after that
/// nobody tells it another time. The records' own times do not change.
#[test]
fn a_deletion_mark_gets_its_horizon_once() {
    for codec in Codec::ALL {
        let bytes = batch(codec, &[Some(b"a"), None, Some(b"c")]);
        let made = rewritten(keep_at(&bytes, &[500, 501, 502], Some(HORIZON)));
        assert_eq!(parsed(&bytes).delete_horizon(), None);
        assert_eq!(parsed(&made).delete_horizon(), Some(HORIZON));
        assert_eq!(records(&made), records(&bytes));

        let later = Some(HORIZON.plus_ms(1000));
        assert_eq!(keep_at(&made, &[500, 501, 502], later).batch, RetainedBatch::AsItWas);
        let less = rewritten(keep_at(&made, &[501, 502], later));
        assert_eq!(parsed(&less).delete_horizon(), Some(HORIZON));
        assert_eq!(records(&less), records(&bytes)[1..]);
    }
}

/// A time that no delta can reach, and a batch that would grow too large, are left without one.
#[test]
fn a_horizon_that_cannot_be_told_is_not() {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(Timestamp(i64::MIN), Some(b"key"), None);
    let bytes = builder.build();
    assert_eq!(keep_at(&bytes, &[0], Some(HORIZON)).batch, RetainedBatch::AsItWas);

    let bytes = batch(Codec::None, &[None; 100]);
    let batch = parsed(&bytes);
    let exactly = batch.payload().len();
    let retained = retain(&batch, exactly, Some(HORIZON), |_| true).expect("readable");
    assert_eq!(retained.batch, RetainedBatch::AsItWas);
}

/// Where the broker's clock counts, it does so behind compaction too.
#[test]
fn the_time_of_the_append_stays() {
    let mut bytes = batch(Codec::None, &[Some(b"a"), None]);
    stamp_log_append_time(&mut bytes, Timestamp(1_700_000_005_000));
    let made = rewritten(keep_at(&bytes, &[501], Some(HORIZON)));
    assert_eq!(parsed(&made).delete_horizon(), Some(HORIZON));
    assert_eq!(records(&made), records(&bytes)[1..]);
}

/// The marker of a transaction stays a marker when it is told until when it stays.
#[test]
fn a_marker_gets_a_horizon_too() {
    let marker = Marker { outcome: Outcome::Abort, coordinator_epoch: 9 };
    let bytes = marker.to_batch(PRODUCER, Timestamp(1_700_000_000_000));
    let retained = retain(&parsed(&bytes), LIMIT, Some(HORIZON), |_| true).expect("readable");
    let made = rewritten(retained);
    assert_eq!(parsed(&made).delete_horizon(), Some(HORIZON));
    assert_eq!(Marker::read(&parsed(&made)), Ok(marker));
    let untold = retain(&parsed(&bytes), LIMIT, None, |_| true).expect("readable");
    assert_eq!(untold.batch, RetainedBatch::AsItWas);
}

/// Without records, a batch still tells where its producer stands, and takes up its offsets.
#[test]
fn an_emptied_batch_keeps_its_producers_number() {
    let bytes = batch(Codec::Lz4, &[Some(b"a"), None]);
    let marked = rewritten(keep_at(&bytes, &[501], Some(HORIZON)));
    for bytes in [bytes, marked] {
        let made = emptied(&parsed(&bytes));
        let (old, new) = (parsed(&bytes), parsed(&made));
        assert_eq!(records(&made), []);
        assert_eq!((new.base_offset(), new.last_offset()), (Offset(500), Offset(501)));
        assert_eq!((new.producer(), new.last_sequence()), (old.producer(), old.last_sequence()));
        assert_eq!(new.max_timestamp(), old.max_timestamp());
        assert_eq!(new.delete_horizon(), None);
        assert_eq!(new.leader_epoch(), old.leader_epoch());
    }
}

proptest! {
    /// For any records and any choice among them, twice in a row, what is left is what was chosen.
    #[test]
    fn any_choice_of_any_records_is_what_is_left(
        values in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..20)), 1..40),
        chosen in prop::collection::vec(any::<(bool, bool)>(), 40),
        codec in 0..5_usize,
        horizon in prop::option::of(-1_000_000..2_000_000_000_000_i64),
    ) {
        let values: Vec<_> = values.iter().map(Option::as_deref).collect();
        let bytes = batch(Codec::ALL[codec], &values);
        let all = records(&bytes);
        let mut now = bytes.clone();
        let mut expected = all;
        for round in 0..2 {
            let is_chosen = |offset: Offset| {
                let (first, second) = chosen[(offset.0 - 500) as usize];
                if round == 0 { first } else { second }
            };
            expected.retain(|(offset, ..)| is_chosen(*offset));
            let retained = retain(&parsed(&now), LIMIT, horizon.map(Timestamp), |record| is_chosen(record.offset));
            match retained.expect("readable").batch {
                RetainedBatch::AsItWas => {}
                RetainedBatch::Rewritten(made) => now = made,
                RetainedBatch::Nothing => now = emptied(&parsed(&now)),
            }
            prop_assert_eq!(&records(&now), &expected);
            prop_assert_eq!(parsed(&now).last_offset(), parsed(&bytes).last_offset());
        }
    }
}
