//! What was acknowledged is there in the end.

use std::collections::BTreeMap;

use super::records::Records;
use super::{Verdict, check};
use crate::value::Value;

/// The acknowledged records of one partition.
#[derive(Debug, Default)]
pub struct Acked {
    at: BTreeMap<i64, Value>,
}

impl Acked {
    /// `value` was acknowledged with `offset`.
    pub fn add(&mut self, offset: i64, value: Value) {
        self.at.insert(offset, value);
    }

    /// At the end the log reaches from `start` to `end`, and `records` were read of it.
    pub fn final_state(&self, start: i64, end: i64, records: &Records) -> Verdict {
        for (offset, value) in self.at.range(start..) {
            let found = records.read_at(*offset).filter(|_| *offset < end);
            check(found == Some(*value), "an acknowledged record survives", || {
                format!("{value:?} at {offset} is gone; the log is {start}..{end}, found {found:?}")
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Seen;
    use crate::checker::records::Times;

    const VALUE: Value = Value { writer: 1, number: 0 };

    fn read(offset: i64) -> Records {
        let mut records = Records::default();
        records.sending(VALUE, 0);
        let seen = Seen { offset, value: Some(VALUE), shown: None, batch: 0 };
        records.read(offset, offset + 1, Times::default(), &[seen]).unwrap();
        records
    }

    /// An acknowledged record that was read, or deleted on request, is not missing.
    #[test]
    fn what_is_there_or_trimmed_is_not_missing() {
        let mut acked = Acked::default();
        acked.add(3, VALUE);
        acked.final_state(0, 4, &read(3)).unwrap();
        acked.final_state(4, 4, &Records::default()).unwrap();
    }

    /// Bad history: an acknowledged record at the end of the log is gone after a power loss.
    #[test]
    fn a_lost_record_is_found() {
        let mut acked = Acked::default();
        acked.add(3, VALUE);
        assert!(acked.final_state(0, 3, &Records::default()).is_err());
        assert!(acked.final_state(0, 3, &read(3)).is_err(), "read once, and then lost");
    }
}
