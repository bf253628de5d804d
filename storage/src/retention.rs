//! Which segments are too old or too many, and when the active one is full: decisions only.
//!
//! Retention decides, trim does. Whole segments go, oldest first, and none that holds a record
//! which is not yet committed. The rules are Kafka's, so that `retention.ms`, `retention.bytes`,
//! `segment.ms` and `segment.bytes` mean here what they mean there.
//!
//! Start reading at [`plan`].

use tidemill_record::{Offset, Timestamp};

/// The largest segment: Kafka's tools keep positions in 31 bits.
pub const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;

/// What retention looks at in one segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SegmentFacts {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset of the first record behind it.
    pub next_offset: Offset,
    /// Bytes of batches in it.
    pub size_bytes: u64,
    /// The newest timestamp in it, or [`Timestamp::NONE`].
    pub max_timestamp: Timestamp,
    /// When its last batch was appended, by our clock: stands in where records have no timestamp.
    pub appended_ms: i64,
}

/// How much of a log is to be kept.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Keep {
    /// Records for so long; `None`: for ever.
    pub retention_ms: Option<i64>,
    /// About so many bytes; `None`: all.
    pub retention_bytes: Option<u64>,
}

/// What retention wants done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Nothing has to go.
    Keep,
    /// Make this the log start offset, and remove the segments below.
    TrimTo(Offset),
    /// As `TrimTo`, but the active segment has expired as well: roll it first.
    RollAndTrimTo(Offset),
}

/// Decides what is to go from the `segments` of one log, oldest first, the active one last.
///
/// A segment goes when all its records are older than `retention_ms`, or when the log without it
/// would still hold `retention_bytes`. None goes that reaches above `visible_end`: what is not
/// committed is not old.
#[must_use]
pub fn plan(segments: &[SegmentFacts], keep: Keep, visible_end: Offset, now_ms: i64) -> Verdict {
    let mut surplus_bytes = surplus(segments, keep);
    let mut gone = 0;
    for segment in segments {
        let is_active = gone + 1 == segments.len();
        let expired = keep.retention_ms.is_some_and(|keep_ms| keep_ms < age_ms(segment, now_ms));
        // By size the active segment never goes: with it the log would lose its newest records.
        let too_many = segment.size_bytes <= surplus_bytes && !is_active;
        let empty = segment.base_offset == segment.next_offset;
        if empty || visible_end < segment.next_offset || !(expired || too_many) {
            break;
        }
        surplus_bytes = surplus_bytes.saturating_sub(segment.size_bytes);
        gone += 1;
    }
    match gone.checked_sub(1).map(|last| segments[last].next_offset) {
        None => Verdict::Keep,
        Some(start) if gone == segments.len() => Verdict::RollAndTrimTo(start),
        Some(start) => Verdict::TrimTo(start),
    }
}

fn surplus(segments: &[SegmentFacts], keep: Keep) -> u64 {
    let size_bytes: u64 = segments.iter().map(|segment| segment.size_bytes).sum();
    keep.retention_bytes.map_or(0, |keep_bytes| size_bytes.saturating_sub(keep_bytes))
}

fn age_ms(segment: &SegmentFacts, now_ms: i64) -> i64 {
    let newest_ms = match segment.max_timestamp {
        Timestamp(ms) if 0 <= ms => ms,
        _ => segment.appended_ms,
    };
    now_ms.saturating_sub(newest_ms)
}

/// When an active segment is full.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RollLimits {
    /// Above so many bytes.
    pub segment_bytes: u64,
    /// After so long.
    pub segment_ms: i64,
}

/// Whether the active segment is to be rolled before a batch of `incoming_bytes` is appended.
///
/// `opened_ms` is when its first batch was appended. A segment without a batch is never rolled:
/// its successor would have the same name.
#[must_use]
pub fn roll_is_due(
    active: &SegmentFacts,
    opened_ms: i64,
    incoming_bytes: u64,
    limits: RollLimits,
    now_ms: i64,
) -> bool {
    if active.size_bytes == 0 {
        return false;
    }
    let limit_bytes = limits.segment_bytes.min(SEGMENT_BYTES_MAX);
    let full = limit_bytes < active.size_bytes.saturating_add(incoming_bytes);
    let old = limits.segment_ms < now_ms.saturating_sub(opened_ms);
    full || old
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_000_000;
    const ALL: Offset = Offset(i64::MAX);

    /// Four segments of 100 records and 1000 bytes; the newest record of each is `ages_ms` old.
    fn segments_of_age(ages_ms: [i64; 4]) -> Vec<SegmentFacts> {
        (0..4)
            .map(|i| SegmentFacts {
                base_offset: Offset(100 * i),
                next_offset: Offset(100 * i + 100),
                size_bytes: 1000,
                max_timestamp: Timestamp(NOW_MS - ages_ms[i as usize]),
                appended_ms: NOW_MS,
            })
            .collect()
    }

    fn for_ms(retention_ms: i64) -> Keep {
        Keep { retention_ms: Some(retention_ms), retention_bytes: None }
    }

    fn for_bytes(retention_bytes: u64) -> Keep {
        Keep { retention_ms: None, retention_bytes: Some(retention_bytes) }
    }

    #[test]
    fn without_limits_everything_stays() {
        let segments = segments_of_age([900_000; 4]);
        assert_eq!(plan(&segments, Keep::default(), ALL, NOW_MS), Verdict::Keep);
        assert_eq!(plan(&[], for_ms(0), ALL, NOW_MS), Verdict::Keep);
    }

    /// A segment's age is that of its newest record: none is lost before its time.
    #[test]
    fn segments_go_when_their_newest_record_is_older_than_retention_ms() {
        let segments = segments_of_age([400, 301, 300, 10]);
        assert_eq!(plan(&segments, for_ms(300), ALL, NOW_MS), Verdict::TrimTo(Offset(200)));
    }

    /// Offsets stay dense: a young segment in front protects older ones behind it.
    #[test]
    fn only_a_row_of_segments_from_the_oldest_goes() {
        let segments = segments_of_age([10, 900, 900, 10]);
        assert_eq!(plan(&segments, for_ms(300), ALL, NOW_MS), Verdict::Keep);
    }

    #[test]
    fn an_expired_active_segment_is_rolled_first() {
        let segments = segments_of_age([900; 4]);
        assert_eq!(plan(&segments, for_ms(300), ALL, NOW_MS), Verdict::RollAndTrimTo(Offset(400)));
    }

    #[test]
    fn an_empty_active_segment_is_left_alone() {
        let mut segments = segments_of_age([900; 4]);
        segments[3] = SegmentFacts { next_offset: Offset(300), size_bytes: 0, ..segments[3] };
        assert_eq!(plan(&segments, for_ms(300), ALL, NOW_MS), Verdict::TrimTo(Offset(300)));
    }

    /// By size the log keeps at least what was asked for.
    #[test]
    fn by_size_segments_go_while_the_rest_still_holds_retention_bytes() {
        let segments = segments_of_age([0; 4]);
        assert_eq!(plan(&segments, for_bytes(4000), ALL, NOW_MS), Verdict::Keep);
        assert_eq!(plan(&segments, for_bytes(3001), ALL, NOW_MS), Verdict::Keep);
        assert_eq!(plan(&segments, for_bytes(2500), ALL, NOW_MS), Verdict::TrimTo(Offset(100)));
        assert_eq!(plan(&segments, for_bytes(0), ALL, NOW_MS), Verdict::TrimTo(Offset(300)));
    }

    /// What is not committed is never removed, however old it claims to be.
    #[test]
    fn nothing_above_the_visible_end_goes() {
        let segments = segments_of_age([900; 4]);
        let verdict = plan(&segments, for_ms(300), Offset(250), NOW_MS);
        assert_eq!(verdict, Verdict::TrimTo(Offset(200)));
        assert_eq!(plan(&segments, for_ms(300), Offset(99), NOW_MS), Verdict::Keep);
    }

    /// Records without a timestamp are as old as their append.
    #[test]
    fn without_timestamps_our_own_clock_decides() {
        let mut segments = segments_of_age([0; 4]);
        for segment in &mut segments {
            segment.max_timestamp = Timestamp::NONE;
        }
        segments[0].appended_ms = NOW_MS - 301;
        assert_eq!(plan(&segments, for_ms(300), ALL, NOW_MS), Verdict::TrimTo(Offset(100)));
    }

    #[test]
    fn a_segment_rolls_before_it_would_exceed_its_size_or_its_age() {
        let active = segments_of_age([0; 4])[3];
        let limits = RollLimits { segment_bytes: 1500, segment_ms: 60_000 };
        let due = |incoming, opened_ms| roll_is_due(&active, opened_ms, incoming, limits, NOW_MS);
        assert!(!due(500, NOW_MS));
        assert!(due(501, NOW_MS));
        assert!(!due(1, NOW_MS - 60_000));
        assert!(due(1, NOW_MS - 60_001));

        let empty = SegmentFacts { size_bytes: 0, ..active };
        assert!(!roll_is_due(&empty, 0, 5000, limits, NOW_MS), "its name would be taken");
    }
}
