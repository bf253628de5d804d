//! An idempotent producer's values lie in the order it numbered them, none left out.

use std::collections::{BTreeMap, BTreeSet};

use super::{Verdict, check};
use crate::value::Value;

/// The order of values in one partition.
#[derive(Debug, Default)]
pub struct Order {
    followed: BTreeSet<u32>,
    /// Of these, who may leave values out: those of transactions that were given up.
    with_holes: BTreeSet<u32>,
    offsets: BTreeMap<Value, i64>,
}

impl Order {
    /// `writer` was promised order.
    pub fn follow(&mut self, writer: u32) {
        self.followed.insert(writer);
    }

    /// `writer` was promised order, and may leave values out.
    pub fn follow_with_holes(&mut self, writer: u32) {
        self.followed.insert(writer);
        self.with_holes.insert(writer);
    }

    /// `value` lies at `offset`.
    pub fn add(&mut self, offset: i64, value: Value) -> Verdict {
        if !self.followed.contains(&value.writer) {
            return Ok(());
        }
        self.offsets.insert(value, offset);
        let first = Value { writer: value.writer, number: 0 };
        let before = self.offsets.range(first..value).next_back();
        check(
            before.is_none_or(|(_, lower)| *lower < offset),
            "a producer's order is kept",
            || format!("{value:?} is at {offset}, and before it {before:?}"),
        )?;
        let last = Value { writer: value.writer, number: u64::MAX };
        let after = self.offsets.range(value..=last).nth(1);
        check(after.is_none_or(|(_, upper)| offset < *upper), "a producer's order is kept", || {
            format!("{value:?} is at {offset}, and behind it {after:?}")
        })
    }

    /// At the end: all values between `start` and `end` are known now.
    pub fn final_state(&self, start: i64, end: i64) -> Verdict {
        let dense = self.offsets.iter().filter(|(v, _)| !self.with_holes.contains(&v.writer));
        let kept = dense.filter(|(_, at)| start <= **at && **at < end);
        let mut before: Option<(&Value, &i64)> = None;
        for (value, offset) in kept {
            if let Some((last, at)) = before
                && last.writer == value.writer
            {
                check(last.number + 1 == value.number, "no value is left out", || {
                    format!("{last:?} at {at} is followed by {value:?} at {offset}")
                })?;
            } else if start == 0 {
                check(value.number == 0, "no value is left out", || {
                    format!("the first value is {value:?} at {offset}")
                })?;
            }
            before = Some((value, offset));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        let mut order = Order::default();
        order.follow(1);
        order
    }

    fn value(number: u64) -> Value {
        Value { writer: 1, number }
    }

    /// Values in order, seen in any order of time, pass.
    #[test]
    fn values_in_order_pass() {
        let mut order = order();
        for number in [2, 0, 1] {
            order.add(10 + number, value(number as u64)).unwrap();
        }
        order.final_state(10, 13).unwrap();
        order.final_state(11, 13).unwrap();
    }

    /// Bad history: a retry that overtook what was sent before it.
    #[test]
    fn swapped_values_are_found() {
        let mut order = order();
        order.add(5, value(1)).unwrap();
        assert!(order.add(6, value(0)).is_err());
    }

    /// Bad history: a value in the middle was dropped, and the next one accepted.
    #[test]
    fn a_left_out_value_is_found() {
        let mut order = order();
        order.add(0, value(0)).unwrap();
        order.add(1, value(2)).unwrap();
        assert_eq!(order.final_state(0, 2).unwrap_err().rule, "no value is left out");
    }

    /// Producers that were promised nothing may be reordered.
    #[test]
    fn plain_producers_are_not_followed() {
        let mut order = Order::default();
        order.add(5, value(1)).unwrap();
        order.add(6, value(0)).unwrap();
    }
}
