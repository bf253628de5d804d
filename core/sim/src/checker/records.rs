//! One record per offset, for ever, the same for everybody.
//!
//! In a compacted log offsets may be missing and batches are written anew; what is there keeps its
//! offset. Which records may be missing, and when, [`compacted`](super::compacted) knows.

use std::collections::BTreeMap;

use super::{Seen, Verdict, check};
use crate::value::Value;

/// What the offsets of one partition hold.
#[derive(Debug, Default)]
pub struct Records {
    /// What was sent, and when.
    sent: BTreeMap<Value, i64>,
    at: BTreeMap<i64, Held>,
    offset_of: BTreeMap<Value, i64>,
    /// Of a compacted log: what became of its records.
    left: Option<Left>,
}

/// What is left of a compacted log, as far as it was read.
#[derive(Debug, Default)]
pub struct Left {
    /// How long a deletion mark stays, in ms.
    pub retention_ms: i64,
    /// The offsets that were there when they were last read, and when that read was asked for.
    pub kept: BTreeMap<i64, i64>,
    /// Those that held a record once, and when it was first heard that they do not any more, by the
    /// process there is now.
    pub gone: BTreeMap<i64, i64>,
}

/// When a read was asked for and when its answer was heard, in ms; never, if the process that gave
/// it is gone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// When it was asked for.
    pub asked_ms: i64,
    /// When it was answered.
    pub heard_ms: i64,
}

#[derive(Debug)]
struct Held {
    /// None if it is a marker.
    value: Option<Value>,
    /// The checksum of its batch, once somebody has read it.
    batch: Option<u32>,
}

impl Records {
    /// The log is compacted, and deletion marks stay for so long.
    pub fn compacts(&mut self, retention_ms: i64) {
        self.left.get_or_insert_default().retention_ms = retention_ms;
    }

    /// The node starts: what was gone last may be there again.
    pub fn starts(&mut self) {
        if let Some(left) = &mut self.left {
            left.gone.clear();
        }
    }

    /// What is left of a compacted log.
    #[must_use]
    pub fn left(&self) -> Option<&Left> {
        self.left.as_ref()
    }

    /// Where a value is, if anybody was told.
    #[must_use]
    pub fn offset_of(&self, value: Value) -> Option<i64> {
        self.offset_of.get(&value).copied()
    }

    /// When a value was sent, in ms.
    #[must_use]
    pub fn sent_at(&self, value: Value) -> Option<i64> {
        self.sent.get(&value).copied()
    }

    /// All values that were sent, and when, in ms.
    pub fn sent(&self) -> impl Iterator<Item = (Value, i64)> {
        self.sent.iter().map(|(value, at)| (*value, *at))
    }

    /// Every offset of which it was ever said what it holds, from `start` on; markers left out.
    pub fn values(&self, start: i64) -> impl Iterator<Item = (i64, Value)> {
        self.at.range(start..).filter_map(|(offset, held)| Some((*offset, held.value?)))
    }

    /// A value is about to be sent.
    pub fn sending(&mut self, value: Value, now_ms: i64) {
        self.sent.insert(value, now_ms);
    }

    /// The broker said that `offset` holds `value`, or a marker.
    pub fn told(&mut self, offset: i64, value: Option<Value>) -> Verdict {
        let held = self.at.entry(offset).or_insert(Held { value, batch: None });
        check(held.value == value, "an offset holds one record for ever", || {
            format!("offset {offset} held {:?} and now holds {value:?}", held.value)
        })?;
        let Some(value) = value else { return Ok(()) };
        check(self.sent.contains_key(&value), "nothing appears that nobody sent", || {
            format!("offset {offset} holds {value:?}")
        })?;
        let first = *self.offset_of.entry(value).or_insert(offset);
        check(first == offset, "no value appears twice", || {
            format!("{value:?} is at offset {first} and at offset {offset}")
        })
    }

    /// A reader that asked for `from` was given `seen`, in this order, in batches that end before
    /// `next`.
    pub fn read(&mut self, from: i64, next: i64, times: Times, seen: &[Seen]) -> Verdict {
        if let Some(left) = &mut self.left {
            let read = from..next.max(from);
            for offset in self.at.range(read.clone()).map(|(offset, _)| *offset) {
                left.kept.remove(&offset);
                if times.heard_ms < i64::MAX {
                    left.gone.entry(offset).or_insert(times.heard_ms);
                }
            }
            for record in seen {
                left.kept.insert(record.offset, times.asked_ms);
                let gone = left.gone.remove(&record.offset);
                check(
                    gone.is_none_or(|at| times.asked_ms <= at),
                    "what is gone stays gone",
                    || format!("offset {} was gone before it was read again", record.offset),
                )?;
            }
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
        self.shown(seen)
    }

    /// Somebody was shown these, wherever they lie.
    pub fn shown(&mut self, seen: &[Seen]) -> Verdict {
        for record in seen {
            self.told(record.offset, record.value)?;
            if self.left.is_some() {
                continue;
            }
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
        (0..10).for_each(|number| records.sending(value(number), 0));
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
        records.read(0, 10, Times::default(), &[seen(0, 0), seen(1, 1)]).unwrap();
        records.read(1, 10, Times::default(), &[seen(0, 0), seen(1, 1), seen(2, 2)]).unwrap();
        assert_eq!(records.read_at(2), Some(value(2)));
    }

    /// Bad history: a record replaced after it was acknowledged.
    #[test]
    fn a_replaced_record_is_found() {
        let mut records = records();
        records.told(5, Some(value(1))).unwrap();
        let found = records.read(5, 10, Times::default(), &[seen(5, 2)]);
        assert_eq!(rule(found), "an offset holds one record for ever");
    }

    /// Bad history: a retried batch that was appended twice.
    #[test]
    fn a_duplicate_is_found() {
        let mut records = records();
        let found = records.read(0, 10, Times::default(), &[seen(0, 1), seen(1, 1)]);
        assert_eq!(rule(found), "no value appears twice");
    }

    /// Bad history: an offset that nobody can read between two that can be read.
    #[test]
    fn a_hole_is_found() {
        let found = records().read(0, 10, Times::default(), &[seen(0, 0), seen(2, 1)]);
        assert_eq!(rule(found), "offsets are dense");
        let found = records().read(0, 10, Times::default(), &[seen(1, 0)]);
        assert_eq!(rule(found), "a fetch begins where it was asked to");
    }

    /// Bad history: old bytes of another partition or run come back to life.
    #[test]
    fn a_record_nobody_sent_is_found() {
        let found = records().read(0, 10, Times::default(), &[seen(0, 99)]);
        assert_eq!(rule(found), "nothing appears that nobody sent");
    }

    /// Bad history: the same records in other bytes, as a changed leader epoch would give them.
    #[test]
    fn changed_bytes_are_found() {
        let mut records = records();
        records.read(0, 10, Times::default(), &[seen(0, 0)]).unwrap();
        let found = records.read(0, 10, Times::default(), &[Seen { batch: 2, ..seen(0, 0) }]);
        assert_eq!(rule(found), "a batch has the same bytes for everybody");
    }

    fn at(asked_ms: i64) -> Times {
        Times { asked_ms, heard_ms: asked_ms + 1 }
    }

    /// In a compacted log offsets may be missing, and batches may change; values may not.
    #[test]
    fn what_is_left_of_a_compacted_log_stays_where_it_was() {
        let mut records = records();
        records.compacts(0);
        records.read(0, 3, at(1), &[seen(0, 0), seen(1, 1), seen(2, 2)]).unwrap();
        records.read(0, 3, at(2), &[Seen { batch: 2, ..seen(2, 2) }]).unwrap();
        let left = records.left().unwrap();
        assert!(left.kept.iter().eq([(&2, &2)]));
        assert!(left.gone.iter().eq([(&0, &3), (&1, &3)]));
        records.read(1, 4, at(4), &[]).unwrap();
        assert!(records.left().unwrap().kept.is_empty());
        let found = records.read(0, 3, at(5), &[seen(1, 2)]);
        assert_eq!(rule(found), "what is gone stays gone");
        let found = records.read(0, 3, at(5), &[seen(1, 2)]);
        assert_eq!(rule(found), "an offset holds one record for ever");
    }

    /// Bad history: compaction has taken a record, and it is there again. It may be if the answer
    /// had been on its way, or the node has crashed meanwhile.
    #[test]
    fn a_record_that_comes_back_is_found() {
        let mut records = records();
        records.compacts(0);
        records.read(0, 2, at(1), &[seen(0, 0), seen(1, 1)]).unwrap();
        records.read(0, 2, at(2), &[seen(1, 1)]).unwrap();
        records.read(0, 2, at(2), &[seen(0, 0), seen(1, 1)]).unwrap();
        records.read(0, 2, at(5), &[seen(1, 1)]).unwrap();
        records.starts();
        records.read(0, 2, at(10), &[seen(0, 0), seen(1, 1)]).unwrap();
        records.read(0, 2, at(11), &[seen(1, 1)]).unwrap();
        let found = records.read(0, 2, at(13), &[seen(0, 0), seen(1, 1)]);
        assert_eq!(rule(found), "what is gone stays gone");
    }
}
