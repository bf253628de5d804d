//! Numbers that count: offsets, leader epochs, sequences, timestamps.
//!
//! They are all integers and all mean something else. The arithmetic here is the arithmetic that
//! makes sense: an offset plus a number of records is an offset, the distance of two offsets is a
//! number of records, and nothing adds an offset to an epoch.

use std::fmt;

/// The place of a record in its partition, from 0, dense as appended.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Offset(pub i64);

impl Offset {
    /// The first offset of a partition.
    pub const ZERO: Offset = Offset(0);

    /// The offset `records` further on (or back, if negative).
    ///
    /// Panics on overflow: a partition never gets near 2^63 records, so a sum that does is a
    /// mistake of ours. Offsets in batches have been checked by [`crate::Batch::parse`].
    #[must_use]
    pub fn plus(self, records: i64) -> Offset {
        Offset(self.0.checked_add(records).expect("offsets stay below 2^63"))
    }

    /// How many records lie from `earlier` up to, and without, this one. Negative if this one is
    /// the earlier. Panics on overflow, which needs an offset that no partition reaches.
    #[must_use]
    pub fn distance_from(self, earlier: Offset) -> i64 {
        self.0.checked_sub(earlier.0).expect("distances of offsets stay below 2^63")
    }
}

/// The era of a partition's leader. Each new leader has a higher one than all before.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LeaderEpoch(pub i32);

impl LeaderEpoch {
    /// Not known: what producers send, and clients that do not track epochs.
    pub const NONE: LeaderEpoch = LeaderEpoch(-1);

    /// The next era. Panics after 2^31 − 1, which no number of elections reaches.
    #[must_use]
    pub fn next(self) -> LeaderEpoch {
        LeaderEpoch(self.0.checked_add(1).expect("leader epochs stay below 2^31"))
    }
}

/// The number a producer gives a record, to tell repeats and gaps. From 0 to 2^31 − 1, then from
/// 0 again.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Sequence(pub i32);

impl Sequence {
    /// Where each producer epoch begins.
    pub const ZERO: Sequence = Sequence(0);

    /// The number `records` further on; 0 follows 2^31 − 1.
    ///
    /// Sequences have no order (which of two comes first depends on how far they have wrapped),
    /// so there is none here: compare with the one expected.
    #[must_use]
    pub fn plus(self, records: i32) -> Sequence {
        Sequence(self.0.wrapping_add(records) & i32::MAX)
    }
}

/// Milliseconds since 1970-01-01 00:00 UTC. Producers may send any value; −1 means none.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// No timestamp.
    pub const NONE: Timestamp = Timestamp(-1);

    /// This much later, or earlier. Bounded at both ends of the range instead of wrapping:
    /// timestamps come from clients and may be absurd.
    #[must_use]
    pub fn plus_ms(self, ms: i64) -> Timestamp {
        Timestamp(self.0.saturating_add(ms))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LeaderEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After 2 147 483 647 a producer goes on with 0, also in the middle of a batch.
    #[test]
    fn a_sequence_wraps_to_zero() {
        assert_eq!(Sequence(i32::MAX).plus(1), Sequence(0));
        assert_eq!(Sequence(i32::MAX - 2).plus(5), Sequence(2));
        assert_eq!(Sequence(7).plus(0), Sequence(7));
    }

    /// Distance undoes plus, in both directions.
    #[test]
    fn the_distance_of_two_offsets_is_what_leads_from_one_to_the_other() {
        assert_eq!(Offset(10).plus(5), Offset(15));
        assert_eq!(Offset(15).distance_from(Offset(10)), 5);
        assert_eq!(Offset(10).distance_from(Offset(15)), -5);
    }
}
