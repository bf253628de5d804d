//! Which log is to be compacted, how far, and what of it goes into one new segment: decisions only.
//!
//! ```text
//! start          cleaned_to                 below             active
//!   |    clean      |    dirty, may be cleaned |  not yet       |    …
//! ```
//!
//! The rules are Kafka's, so that `min.cleanable.dirty.ratio`, `min.compaction.lag.ms` and
//! `max.compaction.lag.ms` mean here what they mean there: the active segment is never compacted;
//! a log's turn comes when so large a share of it is dirty, or when its oldest dirty record has
//! waited too long; of several logs the one with the largest share comes first.
//!
//! Start reading at [`look`].

use std::ops::Range;

use tidemill_record::{Offset, Timestamp};

use crate::checkpoint::SegmentState;

/// What is looked at in one segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SegmentFacts {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset of the first record behind it.
    pub next_offset: Offset,
    /// Bytes of batches in it.
    pub size_bytes: u64,
    /// When its first batch was appended, by our clock.
    pub opened_ms: i64,
    /// The time of its newest record.
    pub newest_ms: i64,
}

impl From<&SegmentState> for SegmentFacts {
    fn from(state: &SegmentState) -> Self {
        let newest_ms = match state.max_timestamp {
            Timestamp(ms) if 0 <= ms => ms,
            // Its records have no timestamp.
            _ => state.appended_ms,
        };
        Self {
            base_offset: state.base_offset,
            next_offset: state.next_offset,
            size_bytes: state.size_bytes,
            opened_ms: state.opened_ms,
            newest_ms,
        }
    }
}

/// When a log is to be compacted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct When {
    /// `min.cleanable.dirty.ratio`
    pub dirty_ratio_min: f64,
    /// `min.compaction.lag.ms`: records younger than this are left alone.
    pub lag_min_ms: i64,
    /// `max.compaction.lag.ms`: records older than this wait no longer.
    pub lag_max_ms: i64,
}

/// What could be compacted in a log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dirt {
    /// Up to here: the end of a segment.
    pub below: Offset,
    /// Bytes of the segments with records that were not compacted yet.
    pub dirty_bytes: u64,
    /// Bytes of the segments before them.
    pub clean_bytes: u64,
    /// Whether it is time: by its share, or because a record has waited too long.
    pub is_due: bool,
}

impl Dirt {
    /// The share of the log that is dirty.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.dirty_bytes as f64 / (self.dirty_bytes + self.clean_bytes) as f64
    }
}

/// What could be compacted in the log of these segments, oldest first, the active one last. None
/// if there is nothing.
///
/// Nothing at or behind `stable_end` is looked at: what transactions have not decided yet, and what
/// is not committed.
#[must_use]
pub fn look(
    segments: &[SegmentFacts],
    cleaned_to: Offset,
    stable_end: Offset,
    when: When,
    now_ms: i64,
) -> Option<Dirt> {
    let (_active, sealed) = segments.split_last()?;
    let mut dirt = Dirt { below: Offset::ZERO, dirty_bytes: 0, clean_bytes: 0, is_due: false };
    let mut oldest_ms = None;
    for segment in sealed {
        let is_dirty = cleaned_to < segment.next_offset;
        let is_young = now_ms.saturating_sub(when.lag_min_ms) < segment.newest_ms;
        if stable_end < segment.next_offset || (is_dirty && is_young && 0 < when.lag_min_ms) {
            break;
        }
        if is_dirty {
            dirt.dirty_bytes += segment.size_bytes;
            oldest_ms = oldest_ms.or(Some(segment.opened_ms));
        } else {
            dirt.clean_bytes += segment.size_bytes;
        }
        dirt.below = segment.next_offset;
    }
    if dirt.dirty_bytes == 0 {
        return None;
    }
    let waits_too_long = oldest_ms.is_some_and(|ms| ms < now_ms.saturating_sub(when.lag_max_ms));
    dirt.is_due = when.dirty_ratio_min < dirt.ratio() || waits_too_long;
    Some(dirt)
}

/// Which neighbours of `segments` become one new segment: as many as have `segment_bytes` together
/// where that is worth it, one at least. What is left of them is never more by much: a few bytes
/// for each deletion mark.
#[must_use]
pub fn group(segments: &[SegmentFacts], segment_bytes: u64) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, segment) in segments.iter().enumerate() {
        bytes += segment.size_bytes;
        let span = segment.next_offset.distance_from(segments[start].base_offset);
        // Kafka's tools keep the distance of an offset from its segment's first in 31 bits.
        if segment_bytes < bytes || i64::from(i32::MAX) < span {
            add_group(segments, start..at, &mut groups);
            (start, bytes) = (at, segment.size_bytes);
        }
    }
    add_group(segments, start..segments.len(), &mut groups);
    groups
}

/// Adds these neighbours as one group, unless one of them has more than twice the bytes of all
/// others: it is not copied for their sake. So whenever a byte is copied only to have fewer
/// segments, its segment grows by half at least: however many rounds there are, and however little
/// is new in each, that does not happen often.
fn add_group(segments: &[SegmentFacts], group: Range<usize>, groups: &mut Vec<Range<usize>>) {
    let Some(at) = group.clone().max_by_key(|at| segments[*at].size_bytes) else { return };
    let bytes: u64 = segments[group.clone()].iter().map(|segment| segment.size_bytes).sum();
    let largest = segments[at].size_bytes;
    if largest / 2 <= bytes - largest || group.len() == 1 {
        return groups.push(group);
    }
    add_group(segments, group.start..at, groups);
    groups.push(at..at + 1);
    add_group(segments, at + 1..group.end, groups);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;
    const WHEN: When = When { dirty_ratio_min: 0.5, lag_min_ms: 0, lag_max_ms: i64::MAX };

    /// Segments of ten offsets each with these sizes, a second apart, the last of them now.
    fn segments(sizes: &[u64]) -> Vec<SegmentFacts> {
        let facts = sizes.iter().enumerate().map(|(at, &size_bytes)| {
            let newest_ms = NOW - 1000 * (sizes.len() - 1 - at) as i64;
            SegmentFacts {
                base_offset: Offset(10 * at as i64),
                next_offset: Offset(10 * at as i64 + 10),
                size_bytes,
                opened_ms: newest_ms - 900,
                newest_ms,
            }
        });
        facts.collect()
    }

    /// The active segment is left alone, and what transactions have not decided.
    #[test]
    fn what_still_grows_or_is_undecided_is_not_compacted() {
        let log = segments(&[100, 100, 100, 100]);
        let all = look(&log, Offset::ZERO, Offset(40), WHEN, NOW).unwrap();
        assert_eq!((all.below, all.dirty_bytes, all.clean_bytes), (Offset(30), 300, 0));
        let some = look(&log, Offset::ZERO, Offset(29), WHEN, NOW).unwrap();
        assert_eq!((some.below, some.dirty_bytes), (Offset(20), 200));
        assert_eq!(look(&log[..1], Offset::ZERO, Offset(40), WHEN, NOW), None);
        assert_eq!(look(&[], Offset::ZERO, Offset(40), WHEN, NOW), None);
    }

    /// A log's turn comes when more than the given share of it is dirty.
    #[test]
    fn a_log_is_due_by_its_dirty_share() {
        let log = segments(&[600, 300, 301, 100]);
        assert!(!look(&log, Offset(20), Offset(40), WHEN, NOW).unwrap().is_due);
        assert!(look(&log, Offset(10), Offset(40), WHEN, NOW).unwrap().is_due);
        assert_eq!(look(&log, Offset(30), Offset(40), WHEN, NOW), None, "all of it is clean");
        // Half a segment that is clean is as good as none.
        assert_eq!(look(&log, Offset(15), Offset(40), WHEN, NOW).unwrap().dirty_bytes, 601);
        let always = When { dirty_ratio_min: 0.0, ..WHEN };
        assert!(look(&log, Offset(20), Offset(40), always, NOW).unwrap().is_due);
    }

    /// Young records are left alone, old ones do not wait for others.
    #[test]
    fn lags_hold_back_the_young_and_hurry_the_old() {
        let log = segments(&[100, 100, 100, 100]);
        let patient = When { lag_min_ms: 1500, ..WHEN };
        assert_eq!(look(&log, Offset::ZERO, Offset(40), patient, NOW).unwrap().below, Offset(20));
        let never = When { dirty_ratio_min: 1.0, ..WHEN };
        assert!(!look(&log, Offset::ZERO, Offset(40), never, NOW).unwrap().is_due);
        let hurried = When { lag_max_ms: 3000, ..never };
        assert!(look(&log, Offset::ZERO, Offset(40), hurried, NOW).unwrap().is_due);
        assert!(!look(&log, Offset(10), Offset(40), hurried, NOW).unwrap().is_due);
    }

    /// Neighbours become one segment up to the size of one; a large one stays by itself.
    #[test]
    fn small_neighbours_become_one() {
        let log = segments(&[10, 30, 60, 1, 200, 50, 50, 1]);
        assert_eq!(group(&log, 100), [0..3, 3..4, 4..5, 5..7, 7..8]);
        assert_eq!(group(&[], 100), []);
        let mut far = segments(&[10, 10]);
        far[1].next_offset = Offset(i64::from(i32::MAX) + 1);
        assert_eq!(group(&far, 100), [0..1, 1..2]);
    }

    /// A large segment is not copied for the sake of small ones.
    #[test]
    fn a_large_segment_stays_by_itself_among_small_ones() {
        let log = segments(&[1, 1, 90, 1, 1, 1]);
        assert_eq!(group(&log, 100), [0..2, 2..3, 3..6]);
        let log = segments(&[60, 20, 7, 2, 1, 50]);
        assert_eq!(group(&log, 100), [0..5, 5..6]);
        let log = segments(&[70, 14, 10]);
        assert_eq!(group(&log, 100), [0..1, 1..3]);
    }

    /// A little is new in each of very many rounds: what is old is not copied in each of them.
    #[test]
    fn bytes_are_not_copied_again_and_again_to_have_fewer_segments() {
        const ROUNDS: u64 = 4_000;
        let (mut sizes, mut copied, mut most) = (Vec::new(), 0, 0);
        for _ in 0..ROUNDS {
            sizes.push(1);
            let mut merged = Vec::new();
            for group in group(&segments(&sizes), ROUNDS) {
                let bytes: u64 = sizes[group.clone()].iter().sum();
                copied += if group.len() == 1 { 0 } else { bytes };
                merged.push(bytes);
            }
            sizes = merged;
            most = most.max(sizes.len());
        }
        assert_eq!(sizes.iter().sum::<u64>(), ROUNDS);
        assert!(copied < 12 * ROUNDS, "{copied} bytes are copied of {ROUNDS}");
        assert!(most <= 12, "{most} segments");
    }
}
