//! One record per offset, for ever, the same for everybody.
//!
//! In a compacted log offsets may be missing and batches are written anew; what is there keeps its
//! offset. Which records may be missing, [`compacted`](super::compacted) knows.

use std::collections::{BTreeMap, BTreeSet};

use super::{Seen, Verdict, check};
use crate::value::Value;

/// What the offsets of one partition hold.
#[derive(Debug, Default)]
pub struct Records {
    sent: BTreeSet<Value>,
    at: BTreeMap<i64, Held>,
    offset_of: BTreeMap<Value, i64>,
    /// Of a compacted log: the records that were there when their offsets were last read.
    kept: Option<BTreeSet<i64>>,
}

#[derive(Debug)]
struct Held {
    /// None if it is a marker.
    value: Option<Value>,
    /// The checksum of its batch, once somebody has read it.
    batch: Option<u32>,
}

impl Records {
    /// The log is compacted.
    pub fn compacts(&mut self) {
        self.kept.get_or_insert_default();
    }

    /// What is there of a compacted log: the offsets that were, when they were last read.
    #[must_use]
    pub fn kept(&self) -> Option<&BTreeSet<i64>> {
        self.kept.as_ref()
    }

    /// Every offset of which it was ever said what it holds, from `start` on; markers left out.
    pub fn values(&self, start: i64) -> impl Iterator<Item = (i64, Value)> {
        self.at.range(start..).filter_map(|(offset, held)| Some((*offset, held.value?)))
    }

    /// A value is about to be sent.
    pub fn sending(&mut self, value: Value) {
        self.sent.insert(value);
    }

    /// The broker said that `offset` holds `value`, or a marker.
    pub fn told(&mut self, offset: i64, value: Option<Value>) -> Verdict {
        let held = self.at.entry(offset).or_insert(Held { value, batch: None });
        check(held.value == value, "an offset holds one record for ever", || {
            format!("offset {offset} held {:?} and now holds {value:?}", held.value)
        })?;
        let Some(value) = value else { return Ok(()) };
        check(self.sent.contains(&value), "nothing appears that nobody sent", || {
            format!("offset {offset} holds {value:?}")
        })?;
        let first = *self.offset_of.entry(value).or_insert(offset);
        check(first == offset, "no value appears twice", || {
            format!("{value:?} is at offset {first} and at offset {offset}")
        })
    }

    /// A reader that asked for `from` was given `seen`, in this order, in batches that end before
    /// `next`.
    pub fn read(&mut self, from: i64, next: i64, seen: &[Seen]) -> Verdict {
        if let Some(kept) = &mut self.kept {
            let gone: Vec<i64> = kept.range(from..next.max(from)).copied().collect();
            gone.iter().for_each(|offset| _ = kept.remove(offset));
            kept.extend(seen.iter().map(|record| record.offset));
            for pair in seen.windows(2) {
                check(pair[0].offset < pair[1].offset, "offsets go up", || {
                    format!("offset {} is followed by {}", pair[0].offset, pair[1].offset)
                })?;
            }
            return seen.iter().try_for_each(|record| self.told(record.offset, record.value));
        }
        let Some(first) = seen.first() else { return Ok(()) };
        let last = seen[seen.len() - 1].offset;
        check(
            first.offset <= from && from <= last,
            "a fetch begins where it was asked to",
            || format!("asked for {from}, given {} to {last}", first.offset),
        )?;
        for pair in seen.windows(2) {
            check(pair[0].offset + 1 == pair[1].offset, "offsets are dense", || {
                format!("offset {} is followed by {}", pair[0].offset, pair[1].offset)
            })?;
        }
        for record in seen {
            self.told(record.offset, record.value)?;
            let held = self.at.get_mut(&record.offset).expect("just told");
            let batch = *held.batch.get_or_insert(record.batch);
            check(batch == record.batch, "a batch has the same bytes for everybody", || {
                format!("offset {}: {batch:08x}, then {:08x}", record.offset, record.batch)
            })?;
        }
        Ok(())
    }

    /// What `offset` holds, if anybody has read it.
    #[must_use]
    pub fn read_at(&self, offset: i64) -> Option<Value> {
        self.at.get(&offset).filter(|held| held.batch.is_some())?.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(number: u64) -> Value {
        Value { writer: 1, number }
    }

    fn seen(offset: i64, number: u64) -> Seen {
        Seen { offset, value: Some(value(number)), shown: None, batch: 1 }
    }

    fn records() -> Records {
        let mut records = Records::default();
        (0..10).for_each(|number| records.sending(value(number)));
        records
    }

    fn rule(verdict: Verdict) -> &'static str {
        verdict.unwrap_err().rule
    }

    /// A history without a flaw passes, overlapping reads included.
    #[test]
    fn a_good_history_passes() {
        let mut records = records();
        records.told(0, Some(value(0))).unwrap();
        records.read(0, 10, &[seen(0, 0), seen(1, 1)]).unwrap();
        records.read(1, 10, &[seen(0, 0), seen(1, 1), seen(2, 2)]).unwrap();
        assert_eq!(records.read_at(2), Some(value(2)));
    }

    /// Bad history: a record replaced after it was acknowledged.
    #[test]
    fn a_replaced_record_is_found() {
        let mut records = records();
        records.told(5, Some(value(1))).unwrap();
        let found = records.read(5, 10, &[seen(5, 2)]);
        assert_eq!(rule(found), "an offset holds one record for ever");
    }

    /// Bad history: a retried batch that was appended twice.
    #[test]
    fn a_duplicate_is_found() {
        let mut records = records();
        let found = records.read(0, 10, &[seen(0, 1), seen(1, 1)]);
        assert_eq!(rule(found), "no value appears twice");
    }

    /// Bad history: an offset that nobody can read between two that can be read.
    #[test]
    fn a_hole_is_found() {
        let found = records().read(0, 10, &[seen(0, 0), seen(2, 1)]);
        assert_eq!(rule(found), "offsets are dense");
        let found = records().read(0, 10, &[seen(1, 0)]);
        assert_eq!(rule(found), "a fetch begins where it was asked to");
    }

    /// Bad history: old bytes of another partition or run come back to life.
    #[test]
    fn a_record_nobody_sent_is_found() {
        let found = records().read(0, 10, &[seen(0, 99)]);
        assert_eq!(rule(found), "nothing appears that nobody sent");
    }

    /// Bad history: the same records in other bytes, as a changed leader epoch would give them.
    #[test]
    fn changed_bytes_are_found() {
        let mut records = records();
        records.read(0, 10, &[seen(0, 0)]).unwrap();
        let found = records.read(0, 10, &[Seen { batch: 2, ..seen(0, 0) }]);
        assert_eq!(rule(found), "a batch has the same bytes for everybody");
    }

    /// In a compacted log offsets may be missing, and batches may change; values may not.
    #[test]
    fn what_is_left_of_a_compacted_log_stays_where_it_was() {
        let mut records = records();
        records.compacts();
        records.read(0, 3, &[seen(0, 0), seen(1, 1), seen(2, 2)]).unwrap();
        records.read(0, 3, &[Seen { batch: 2, ..seen(2, 2) }]).unwrap();
        assert_eq!(records.kept(), Some(&BTreeSet::from([2])));
        records.read(1, 4, &[]).unwrap();
        assert_eq!(records.kept(), Some(&BTreeSet::new()));
        let found = records.read(0, 3, &[seen(1, 2)]);
        assert_eq!(rule(found), "an offset holds one record for ever");
    }
}
