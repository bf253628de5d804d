//! What stays of a log and what goes, as stories and for any log.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;
use tidemill_record::{
    Batch, BatchBuilder, Codec, Contents, LeaderEpoch, Marker, Offset, Outcome, Producer,
    ProducerEpoch, ProducerId, Sequence, Timestamp, stamp,
};

use super::*;
use crate::log::ProducerState;
use crate::transactions::Aborted;

const DAY_MS: i64 = 86_400_000;
const NOW: i64 = 1_700_000_000_000;
const CODECS: [Codec; 3] = [Codec::None, Codec::Lz4, Codec::Zstd];

/// A log as a row of batches, with all that must be known about its transactions.
#[derive(Clone, Default)]
struct TestLog {
    batches: Vec<BytesMut>,
    end: i64,
    aborted: Vec<Aborted>,
    open: BTreeMap<i64, Offset>,
    producers: Vec<ProducerState>,
    cleaned_to: Offset,
}

/// A record as a reader sees it.
type Seen = (i64, Option<String>, Option<String>);

fn producer(id: i64) -> Producer {
    Producer { id: ProducerId(id), epoch: ProducerEpoch(0) }
}

impl TestLog {
    fn push(&mut self, mut batch: BytesMut) -> Offset {
        let base_offset = Offset(self.end);
        stamp(&mut batch, base_offset, LeaderEpoch(0));
        self.end = Batch::parse(&batch).unwrap().0.next_offset().0;
        self.batches.push(batch);
        base_offset
    }

    fn append(&mut self, codec: Codec, records: &[(&str, Option<&str>)]) -> Offset {
        self.push(fill(BatchBuilder::new(codec), records))
    }

    fn append_in_transaction(&mut self, id: i64, records: &[(&str, Option<&str>)]) -> Offset {
        let builder = BatchBuilder::new(Codec::None).numbered(producer(id), Sequence(0));
        let at = self.push(fill(builder.transactional(), records));
        self.open.entry(id).or_insert(at);
        at
    }

    fn end_transaction(&mut self, id: i64, outcome: Outcome) -> Offset {
        let marker = Marker { outcome, coordinator_epoch: 0 };
        let at = self.push(marker.to_batch(producer(id), Timestamp(NOW)));
        if let (Outcome::Abort, Some(first)) = (outcome, self.open.remove(&id)) {
            let producer_id = ProducerId(id);
            self.aborted.push(Aborted { producer_id, first, last: at, stable: at.plus(1) });
        }
        self.open.remove(&id);
        at
    }

    /// Compacts up to `below` with room for so many keys; says which aborted are forgotten.
    fn compact(&mut self, below: i64, keys_max: usize, now_ms: i64) -> Vec<Offset> {
        let terms = Terms { records_bytes_max: 1 << 20, now_ms, delete_retention_ms: DAY_MS };
        let bytes_max = keys_max * 2 * offset_map::ENTRY_BYTES;
        let map = OffsetMap::new(bytes_max, u64::MAX, 0.5, [3, 4]).unwrap();
        let mut keys = Keys::new(terms, map, self.cleaned_to, Offset(below), &self.aborted);
        for batch in &self.batches {
            keys.take(&Batch::parse(batch).unwrap().0).unwrap();
        }
        assert!(keys.is_done());
        let mut sieve = keys.into_sieve(&self.aborted, &self.producers);
        let mut left = Vec::new();
        for bytes in &self.batches {
            let batch = Batch::parse(bytes).unwrap().0;
            let sifted = sieve.sift(&batch, batch.next_offset().0 == self.end).unwrap();
            assert!(sifted.after <= sifted.before);
            match sifted.batch {
                SiftedBatch::AsItWas => left.push(bytes.clone()),
                SiftedBatch::Rewritten(made) => left.push(made),
                SiftedBatch::Gone => {}
            }
        }
        self.batches = left;
        self.cleaned_to = sieve.below();
        let forgotten = sieve.forgotten(&self.aborted);
        self.aborted.retain(|one| !forgotten.contains(&one.last));
        forgotten
    }

    /// What a reader of committed records sees, from the start.
    fn committed(&self) -> Vec<Seen> {
        let is_aborted = |batch: &Batch<'_>| {
            batch.is_transactional()
                && self.aborted.iter().any(|one| {
                    Some(one.producer_id) == batch.producer().map(|producer| producer.id)
                        && (one.first..one.last).contains(&batch.base_offset())
                })
        };
        self.seen(|batch| !batch.is_control() && !is_aborted(batch))
    }

    fn seen(&self, shows: impl Fn(&Batch<'_>) -> bool) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut next = 0;
        for bytes in &self.batches {
            let batch = Batch::parse(bytes).unwrap().0;
            batch.verify_checksum().unwrap();
            assert!(next <= batch.base_offset().0, "order is kept");
            next = batch.next_offset().0;
            let text = |bytes: Option<&[u8]>| {
                bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
            };
            for record in Contents::open(&batch, 1 << 20).unwrap().records() {
                let record = record.unwrap();
                if shows(&batch) {
                    seen.push((record.offset.0, text(record.key), text(record.value)));
                }
            }
        }
        seen
    }

    fn markers(&self) -> Vec<Offset> {
        let batches = self.batches.iter().map(|bytes| Batch::parse(bytes).unwrap().0);
        batches.filter(|batch| batch.is_control()).map(|batch| batch.base_offset()).collect()
    }
}

fn fill(mut builder: BatchBuilder, records: &[(&str, Option<&str>)]) -> BytesMut {
    for (key, value) in records {
        builder.append(Timestamp(NOW), Some(key.as_bytes()), value.map(str::as_bytes));
    }
    builder.build()
}

fn seen(offset: i64, key: &str, value: Option<&str>) -> Seen {
    (offset, Some(key.to_owned()), value.map(str::to_owned))
}

/// The last record of each key stays at its offset; what lies behind the part that is compacted
/// stays as it is, and counts for nothing.
#[test]
fn the_last_record_of_each_key_stays() {
    for codec in CODECS {
        let mut log = TestLog::default();
        log.append(codec, &[("a", Some("1")), ("b", Some("1")), ("a", Some("2"))]);
        log.append(codec, &[("a", Some("3"))]);
        log.append(codec, &[("c", Some("1")), ("b", Some("2"))]);
        log.append(codec, &[("c", Some("2")), ("c", Some("3"))]);
        log.compact(6, 100, NOW);
        let behind = [seen(6, "c", Some("2")), seen(7, "c", Some("3"))];
        let front = [seen(3, "a", Some("3")), seen(4, "c", Some("1")), seen(5, "b", Some("2"))];
        assert_eq!(log.committed(), [&front[..], &behind].concat());
        assert_eq!(log.batches.len(), 3, "the first batch is gone as a whole");
    }
}

/// A deletion takes what was before it at once, and itself a day after it was first compacted.
#[test]
fn a_deletion_mark_stays_until_its_horizon() {
    let mut log = TestLog::default();
    log.append(Codec::None, &[("a", Some("1")), ("b", Some("1"))]);
    log.append(Codec::None, &[("a", None)]);
    log.append(Codec::None, &[("z", Some("1"))]);
    log.compact(4, 100, NOW);
    let before = [seen(1, "b", Some("1")), seen(2, "a", None), seen(3, "z", Some("1"))];
    assert_eq!(log.committed(), before);
    log.append(Codec::None, &[("y", Some("1"))]);
    log.compact(5, 100, NOW + DAY_MS - 1);
    assert_eq!(log.committed()[..3], before);
    log.append(Codec::None, &[("x", Some("1"))]);
    log.compact(6, 100, NOW + DAY_MS);
    assert_eq!(log.committed()[..2], [before[0].clone(), before[2].clone()]);
}

/// A map that is full covers less, even if it is the middle of a batch; the next round goes on
/// from there. In the end nothing is different.
#[test]
fn a_small_map_needs_more_rounds_and_loses_nothing() {
    let mut log = TestLog::default();
    for value in ["1", "2", "3"] {
        let records =
            [("a", Some(value)), ("b", Some(value)), ("c", Some(value)), ("d", Some(value))];
        log.append(Codec::None, &records);
    }
    let mut rounds = 0;
    while log.cleaned_to < Offset(12) {
        let before = log.cleaned_to;
        log.compact(12, 3, NOW);
        assert!(before < log.cleaned_to, "each round comes further");
        rounds += 1;
    }
    assert!(1 < rounds);
    let last = ["a", "b", "c", "d"].iter().enumerate();
    let expected: Vec<_> = last.map(|(at, key)| seen(8 + at as i64, key, Some("3"))).collect();
    // Rounds in between could leave older values of keys that the map had no room for; a round over
    // all of it leaves none.
    let mut again = log.clone();
    again.cleaned_to = Offset::ZERO;
    again.compact(12, 100, NOW);
    assert_eq!(again.committed(), expected);
    let newest = |seen: Vec<Seen>| -> BTreeMap<_, _> {
        seen.into_iter().map(|(_, key, value)| (key, value)).collect()
    };
    assert_eq!(newest(log.committed()), newest(expected));
}

/// What was aborted goes and is no key's last word; its marker goes a day after that.
#[test]
fn an_aborted_transaction_takes_nothing_with_it() {
    let mut log = TestLog::default();
    log.append(Codec::None, &[("a", Some("1"))]);
    log.append_in_transaction(1, &[("a", Some("aborted")), ("b", Some("aborted"))]);
    log.append_in_transaction(2, &[("c", Some("1"))]);
    let abort = log.end_transaction(1, Outcome::Abort);
    let commit = log.end_transaction(2, Outcome::Commit);
    log.append_in_transaction(1, &[("d", Some("1"))]);
    let second = log.end_transaction(1, Outcome::Commit);
    log.append(Codec::None, &[("c", Some("2")), ("z", Some("1"))]);
    let end = log.end;

    let left = [
        seen(0, "a", Some("1")),
        seen(6, "d", Some("1")),
        seen(8, "c", Some("2")),
        seen(9, "z", Some("1")),
    ];
    assert!(log.compact(end, 100, NOW).is_empty());
    assert_eq!(log.seen(|batch| !batch.is_control()), left);
    assert_eq!(log.markers(), [abort, commit, second]);

    assert_eq!(log.compact(end, 100, NOW), [abort], "nothing is left of it");
    assert_eq!(log.markers(), [abort, commit, second]);
    log.compact(end, 100, NOW + DAY_MS);
    assert_eq!(log.markers(), [second]);
    assert_eq!(log.committed(), left);
}

/// A producer goes on from the number of its last batch, and is fenced by its last marker: of
/// active ones, both stay, though nothing is left in them.
#[test]
fn where_an_active_producer_stands_is_kept() {
    let mut log = TestLog::default();
    let numbered =
        |sequence| BatchBuilder::new(Codec::Zstd).numbered(producer(5), Sequence(sequence));
    log.push(fill(numbered(0), &[("a", Some("1")), ("a", Some("2"))]));
    log.push(fill(numbered(2), &[("a", Some("3")), ("a", Some("4"))]));
    log.append(Codec::None, &[("a", Some("5"))]);
    let state = ProducerState {
        id: ProducerId(5),
        epoch: ProducerEpoch(0),
        active_ms: NOW,
        last_sequence: Some(Sequence(3)),
        transaction: None,
    };
    log.producers.push(state);
    log.compact(5, 100, NOW);
    assert_eq!(log.committed(), [seen(4, "a", Some("5"))]);
    let batches: Vec<_> = log.batches.iter().map(|bytes| Batch::parse(bytes).unwrap().0).collect();
    assert_eq!(batches.len(), 2);
    assert_eq!((batches[0].base_offset(), batches[0].last_offset()), (Offset(2), Offset(3)));
    assert_eq!(batches[0].last_sequence(), Some(Sequence(3)));
    assert_eq!(batches[0].records_count(), 0);

    let bytes = log.batches.clone();
    log.compact(5, 100, NOW);
    assert_eq!(log.batches, bytes, "once empty, it stays as it is");
    log.producers.clear();
    log.compact(5, 100, NOW);
    assert_eq!(log.batches.len(), 1, "nobody needs it any more");
}

/// A batch that cannot be read ends it, in both passes: nobody knows which keys it holds.
#[test]
fn a_batch_that_cannot_be_read_ends_it() {
    let mut log = TestLog::default();
    log.append(Codec::Zstd, &[("a", Some(&"1".repeat(1000)))]);
    let terms = Terms { records_bytes_max: 500, now_ms: NOW, delete_retention_ms: DAY_MS };
    let map = OffsetMap::new(1000, u64::MAX, 0.5, [3, 4]).unwrap();
    let mut keys = Keys::new(terms, map, Offset::ZERO, Offset(1), &[]);
    assert!(keys.take(&Batch::parse(&log.batches[0]).unwrap().0).is_err());
}

/// A little chance, the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// For any log with keys, deletions and transactions, and any row of rounds: of every key the last
/// committed record is found at its offset, or it was a deletion whose time was over; whatever is
/// found was there before.
#[test]
fn of_any_log_the_last_record_of_each_key_is_found() {
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let mut log = TestLog::default();
        let mut original = log.clone();
        let mut now_ms = NOW;
        for _round in 0..4 {
            grow(&mut log, &mut original, &mut dice);
            let stable = log.open.values().min().map_or(log.end, |first| first.0);
            let below = stable - dice.roll(3).min(stable as u64) as i64;
            let keys_max = [2, 5, 1000][dice.roll(3) as usize];
            log.compact(below.max(log.cleaned_to.0), keys_max, now_ms);
            check(&log, &original, now_ms, seed);
            now_ms += [1, DAY_MS / 2, 2 * DAY_MS][dice.roll(3) as usize];
        }
    }
}

fn grow(log: &mut TestLog, original: &mut TestLog, dice: &mut Dice) {
    for _ in 0..dice.roll(30) {
        let keys: Vec<_> = (0..1 + dice.roll(5)).map(|_| format!("k{}", dice.roll(7))).collect();
        let values: Vec<_> = keys.iter().map(|_| format!("v{}", dice.roll(1 << 30))).collect();
        let records: Vec<_> = keys
            .iter()
            .zip(&values)
            .map(|(key, value)| (key.as_str(), (dice.roll(4) != 0).then_some(value.as_str())))
            .collect();
        let (what, id) = (dice.roll(5), dice.roll(3) as i64);
        let codec = CODECS[dice.roll(3) as usize];
        for log in [&mut *log, &mut *original] {
            match what {
                0 | 1 => _ = log.append(codec, &records),
                2 => _ = log.append_in_transaction(id, &records),
                3 => _ = log.end_transaction(id, Outcome::Abort),
                _ => _ = log.end_transaction(id, Outcome::Commit),
            }
        }
    }
}

fn check(log: &TestLog, original: &TestLog, now_ms: i64, seed: u64) {
    let there: BTreeSet<_> = log.committed().into_iter().collect();
    let was: Vec<_> = original.committed();
    let all: BTreeSet<_> = was.iter().cloned().collect();
    assert!(
        there.is_subset(&all),
        "seed {seed}: nothing new, nothing moved, nothing of the aborted"
    );
    let mut last = BTreeMap::new();
    for record in was.iter().filter(|record| record.0 < log.cleaned_to.0) {
        last.insert(record.1.clone(), record.clone());
    }
    for record in last.values() {
        let later = was.iter().any(|other| record.0 < other.0 && other.1 == record.1);
        let is_expired = record.2.is_none() && NOW + DAY_MS <= now_ms;
        let is_there = there.contains(record);
        assert!(is_there || is_expired || later, "seed {seed}: {record:?} is lost");
        if !is_there && is_expired {
            let older = there.iter().any(|other| other.1 == record.1 && other.0 < record.0);
            assert!(!older, "seed {seed}: what {record:?} deleted is back");
        }
    }
    for record in was.iter().filter(|record| log.cleaned_to.0 <= record.0) {
        assert!(there.contains(record), "seed {seed}: {record:?} was not to be looked at");
    }
}
