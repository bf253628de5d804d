//! Of a compacted log the last record of each key is there in the end, and what was deleted is not.
//!
//! So a record that is missing has a later one with its key, which is there, or was deleted on
//! request, or deletes the key: such a mark may go once `delete.retention.ms` are over. What was
//! before a record that is gone is gone, too, so that a deleted key never comes back. What was
//! aborted, or may have been, is no key's last word.

use std::collections::{BTreeMap, BTreeSet};

use super::records::{Left, Records};
use super::{Verdict, check};
use crate::value::Value;

/// At the end a compacted log reaches from `start` to `end`, and all of it was read. `counts` tells
/// which values are known not to be aborted.
pub fn final_state(
    start: i64,
    end: i64,
    records: &Records,
    counts: impl Fn(Value) -> bool,
) -> Verdict {
    let Some(left) = records.left() else { return Ok(()) };
    let mut of_key: BTreeMap<String, Vec<(i64, Value)>> = BTreeMap::new();
    for (offset, value) in records.values(start).filter(|(_, value)| counts(*value)) {
        of_key.entry(value.key()).or_default().push((offset, value));
    }
    let lost = records.sent().map(|(value, _)| value).filter(|value| counts(*value));
    let lost: Vec<Value> = lost.filter(|value| records.offset_of(*value).is_none()).collect();
    let unheard: BTreeSet<String> = lost.iter().map(|value| value.key()).collect();
    let deleted: BTreeSet<String> =
        lost.iter().filter(|value| value.deletes()).map(|value| value.key()).collect();
    for (key, values) in &of_key {
        stays_gone(key, values, left)?;
        let (offset, value) = *values.last().expect("a key has a record");
        let is_there = offset < end && left.kept.contains_key(&offset);
        // Nobody has heard where such a record is, or whether it is at all: it may have come last.
        let had_time = value.deletes() && (unheard.contains(key) || may_go(value, offset, records));
        let may_miss = offset < end && (had_time || deleted.contains(key));
        check(is_there || may_miss, "the last record of each key stays", || {
            let times = (records.sent_at(value), left.gone.get(&offset));
            format!(
                "{value:?} at {offset} is gone, the last one of {key:?}; log {start}..{end}, sent and gone at {times:?}"
            )
        })?;
    }
    Ok(())
}

/// Whether a deletion mark that is gone has stayed long enough.
fn may_go(mark: Value, offset: i64, records: &Records) -> bool {
    let sent = records.sent_at(mark);
    let gone = records.left().and_then(|left| left.gone.get(&offset));
    let retention_ms = records.left().map_or(0, |left| left.retention_ms);
    sent.zip(gone).is_some_and(|(sent, gone)| sent.saturating_add(retention_ms) <= *gone)
}

/// Once a record is gone, those of its key before it are, too.
fn stays_gone(key: &str, values: &[(i64, Value)], left: &Left) -> Verdict {
    // The latest of those looked at so far: when it was found to be gone.
    let mut later: Option<(i64, i64)> = None;
    for (offset, value) in values.iter().rev() {
        if let (Some(asked), Some((gone_offset, gone))) = (left.kept.get(offset), later) {
            check(*asked <= gone, "what was replaced or deleted does not come back", || {
                format!(
                    "{value:?} at {offset}, with the key {key:?}, was read after offset {gone_offset} was gone"
                )
            })?;
        }
        if let Some(gone) = left.gone.get(offset)
            && later.is_none_or(|(_, earliest)| *gone < earliest)
        {
            later = Some((*offset, *gone));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Seen;
    use crate::checker::records::Times;

    /// Two values with the same key, and one with another.
    fn values() -> [Value; 3] {
        let of = |number| Value { writer: 1, number };
        let same =
            (1..32).find(|number| of(*number).key() == of(0).key() && !of(*number).deletes());
        let same = same.unwrap();
        let other = (1..32)
            .find(|number| of(*number).key() != of(0).key() && !of(*number).deletes())
            .unwrap();
        [of(0), of(same), of(other)]
    }

    /// The three values, at the offsets 0 to 2, and what is left of them.
    fn compacted(left: &[i64]) -> Records {
        let mut records = Records::default();
        records.compacts(0);
        for (offset, value) in (0..).zip(values()) {
            records.sending(value, 0);
            records.told(offset, Some(value)).unwrap();
        }
        read(&mut records, &values(), left, 100);
        records
    }

    /// So much later, this is left.
    fn read(records: &mut Records, values: &[Value], left: &[i64], now_ms: i64) {
        let seen = left.iter().map(|offset| {
            let value = Some(values[*offset as usize]);
            Seen { offset: *offset, value, shown: None, batch: 0 }
        });
        let times = Times { asked_ms: now_ms, heard_ms: now_ms };
        let seen: Vec<Seen> = seen.collect();
        records.read(0, values.len() as i64, times, &seen).unwrap();
    }

    /// A value, and one that deletes its key, sent at 1000; a mark stays for 500 ms.
    fn deleted() -> (Records, [Value; 2]) {
        let of = |number| Value { writer: 1, number };
        let pairs = (0..32).flat_map(|one| (0..32).map(move |other| [of(one), of(other)]));
        let fits = |[one, other]: &[Value; 2]| {
            one.key() == other.key() && !one.deletes() && other.deletes()
        };
        let pair = pairs.into_iter().find(fits).unwrap();
        let mut records = Records::default();
        records.compacts(500);
        for (offset, value) in (0..).zip(pair) {
            records.sending(value, 1000);
            records.told(offset, Some(value)).unwrap();
        }
        (records, pair)
    }

    /// A mark may go when its time is over, and with it all that it deletes.
    #[test]
    fn a_deletion_mark_goes_in_its_time() {
        for (left, now_ms, fits) in [
            (&[0, 1][..], 9000, true),
            (&[1], 1001, true),
            (&[], 1500, true),
            (&[], 1499, false),
            (&[0], 1499, false),
        ] {
            let (mut records, values) = deleted();
            read(&mut records, &values, left, now_ms);
            assert_eq!(final_state(0, 2, &records, |_| true).is_ok(), fits, "{left:?} at {now_ms}");
        }
    }

    /// Bad history: the mark is gone, and then what it has deleted is there.
    #[test]
    fn a_deleted_key_that_comes_back_is_found() {
        let (mut records, values) = deleted();
        read(&mut records, &values, &[0, 1], 1001);
        read(&mut records, &values, &[0], 1600);
        final_state(0, 2, &records, |_| true).unwrap();
        read(&mut records, &values, &[0], 1601);
        assert!(final_state(0, 2, &records, |_| true).is_err());
    }

    /// That of a key nothing is left may be the work of a mark that nobody has heard of since.
    #[test]
    fn a_mark_that_nobody_heard_of_may_have_deleted_a_key() {
        let (_, [value, mark]) = deleted();
        let mut records = Records::default();
        records.compacts(500);
        records.sending(value, 0);
        records.told(0, Some(value)).unwrap();
        read(&mut records, &[value], &[], 100);
        assert!(final_state(0, 1, &records, |_| true).is_err());
        records.sending(mark, 0);
        final_state(0, 1, &records, |_| true).unwrap();
        assert!(final_state(0, 1, &records, |value| value != mark).is_err());
    }

    /// An earlier record of a key may be gone, and what was deleted on request.
    #[test]
    fn earlier_records_may_be_gone() {
        final_state(0, 3, &compacted(&[1, 2]), |_| true).unwrap();
        final_state(0, 3, &compacted(&[0, 1, 2]), |_| true).unwrap();
        final_state(2, 3, &compacted(&[2]), |_| true).unwrap();
    }

    /// Bad history: the last record of a key is gone, or the end of the log.
    #[test]
    fn a_lost_last_record_is_found() {
        assert!(final_state(0, 3, &compacted(&[0, 2]), |_| true).is_err());
        assert!(final_state(0, 3, &compacted(&[1]), |_| true).is_err());
        assert!(final_state(0, 2, &compacted(&[1, 2]), |_| true).is_err());
    }

    /// Bad history: an aborted record has taken the one before it along.
    #[test]
    fn an_aborted_record_is_no_last_word() {
        let aborted = values()[1];
        let found = final_state(0, 3, &compacted(&[2]), |value| value != aborted);
        assert!(found.is_err());
        final_state(0, 3, &compacted(&[0, 2]), |value| value != aborted).unwrap();
    }
}
