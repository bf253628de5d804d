//! Of a compacted log the last record of each key is there in the end.
//!
//! So a record that is missing has a later one with its key, which is there or was deleted on
//! request. What was aborted, or may have been, is no key's last word.

use std::collections::BTreeMap;

use super::records::Records;
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
    let Some(kept) = records.kept() else { return Ok(()) };
    let mut last: BTreeMap<String, (i64, Value)> = BTreeMap::new();
    for (offset, value) in records.values(start).filter(|(_, value)| counts(*value)) {
        last.insert(value.key(), (offset, value));
    }
    for (key, (offset, value)) in last {
        let is_there = offset < end && kept.contains(&offset);
        check(is_there, "the last record of each key stays", || {
            format!("{value:?} at {offset} is gone, the last one of {key:?}; log {start}..{end}")
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Seen;

    /// Two values with the same key, and one with another.
    fn values() -> [Value; 3] {
        let of = |number| Value { writer: 1, number };
        let same = (1..32).find(|number| of(*number).key() == of(0).key()).unwrap();
        let other = (1..32).find(|number| of(*number).key() != of(0).key()).unwrap();
        [of(0), of(same), of(other)]
    }

    /// The three values, at the offsets 0 to 2, and what is left of them.
    fn compacted(left: &[i64]) -> Records {
        let mut records = Records::default();
        records.compacts();
        for (offset, value) in (0..).zip(values()) {
            records.sending(value);
            records.told(offset, Some(value)).unwrap();
        }
        let seen = left.iter().map(|offset| {
            let value = Some(values()[*offset as usize]);
            Seen { offset: *offset, value, shown: None, batch: 0 }
        });
        records.read(0, 3, &seen.collect::<Vec<_>>()).unwrap();
        records
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
