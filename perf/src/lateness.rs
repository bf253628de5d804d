//! How late the records of a partition come: from the event to its append, and behind the newest
//! event before it.
//!
//! One of these per partition that has records, so it is small: buckets a quarter wide, from a
//! millisecond to more than a year, 1.2 KiB in all. A batch costs two additions.

use crate::document::{LatenessFigures, LatenessQuantiles};

/// Buckets to each doubling.
const STEPS: u64 = 4;

/// Buckets: below 4 ms one each, then four to each doubling, up to 2^36 ms (two years).
const BUCKETS: usize = 4 + 34 * STEPS as usize;

/// Counts of times in milliseconds.
#[derive(Clone, Debug)]
struct Buckets {
    counts: [u32; BUCKETS],
}

impl Buckets {
    const NONE: Self = Self { counts: [0; BUCKETS] };

    fn add(&mut self, millis: u64) {
        let count = &mut self.counts[place(millis)];
        *count = count.saturating_add(1);
    }

    fn quantiles(&self) -> LatenessQuantiles {
        LatenessQuantiles { p50: self.at(0.5), p99: self.at(0.99), max: self.at(1.0) }
    }

    fn at(&self, quantile: f64) -> u64 {
        let total: u64 = self.counts.iter().copied().map(u64::from).sum();
        let rank = ((quantile * total as f64).ceil() as u64).max(1);
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            below += u64::from(*count);
            if rank <= below {
                return largest(bucket);
            }
        }
        0
    }
}

fn place(millis: u64) -> usize {
    if millis < 4 {
        return millis as usize;
    }
    let power = u64::from(millis.ilog2());
    let step = (millis >> (power - 2)) & (STEPS - 1);
    ((4 + (power - 2) * STEPS + step) as usize).min(BUCKETS - 1)
}

/// The largest value that a bucket counts.
fn largest(bucket: usize) -> u64 {
    let Some(above) = (bucket as u64).checked_sub(4) else { return bucket as u64 };
    let (power, step) = (above / STEPS, above % STEPS);
    ((4 + step + 1) << power) - 1
}

/// How late the records of one partition came so far.
#[derive(Clone, Debug)]
pub struct Lateness {
    batches: u64,
    from_the_future: u64,
    newest_ms: i64,
    behind_clock: Buckets,
    behind_newest: Buckets,
}

impl Default for Lateness {
    fn default() -> Self {
        Self {
            batches: 0,
            from_the_future: 0,
            newest_ms: i64::MIN,
            behind_clock: Buckets::NONE,
            behind_newest: Buckets::NONE,
        }
    }
}

impl Lateness {
    /// A batch was appended at `wall_ms`; its first record's and its newest record's event times
    /// are as the batch's header says them. Without event times (negative) it is not counted.
    pub fn append(&mut self, first_ms: i64, newest_ms: i64, wall_ms: i64) {
        if first_ms < 0 || newest_ms < 0 {
            return;
        }
        self.batches += 1;
        self.from_the_future += u64::from(wall_ms < newest_ms);
        self.behind_clock.add(behind(newest_ms, wall_ms));
        if self.newest_ms != i64::MIN {
            self.behind_newest.add(behind(first_ms.min(newest_ms), self.newest_ms));
        }
        self.newest_ms = self.newest_ms.max(newest_ms);
    }

    /// The figures of this partition, named.
    #[must_use]
    pub fn figures(&self, topic: &str, partition: i32) -> LatenessFigures {
        LatenessFigures {
            topic: topic.to_owned(),
            partition,
            batches: self.batches,
            newest_event_unix_ms: self.newest_ms.max(0),
            from_the_future: self.from_the_future,
            behind_clock_ms: self.behind_clock.quantiles(),
            behind_newest_ms: self.behind_newest.quantiles(),
        }
    }
}

/// How far `event` lies before `reference`; zero if it does not.
fn behind(event: i64, reference: i64) -> u64 {
    u64::try_from(reference.saturating_sub(event)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each bucket begins where the one before it ends, and is a quarter wide at most.
    #[test]
    fn buckets_follow_one_another() {
        for bucket in 0..BUCKETS - 1 {
            let end = largest(bucket);
            assert_eq!(place(end), bucket);
            assert_eq!(place(end + 1), bucket + 1);
            let width = largest(bucket + 1) - end;
            assert!(end < 4 || width * 4 <= end + 1, "{end} and {width}");
        }
        assert_eq!(place(u64::MAX), BUCKETS - 1);
    }

    /// A batch from an hour ago shows as an hour late by the clock, and as late behind what came
    /// before it; what comes in order is behind nothing.
    #[test]
    fn late_batches_show_and_prompt_ones_do_not() {
        const HOUR: i64 = 3_600_000;
        let now = 1_000 * HOUR;
        let mut lateness = Lateness::default();
        for i in 0..99 {
            lateness.append(now + i, now + i, now + i);
        }
        let prompt = lateness.figures("t", 0);
        assert_eq!(prompt.behind_newest_ms.max, 0);
        assert_eq!(prompt.behind_clock_ms.max, 0);
        lateness.append(now - HOUR, now - HOUR, now);
        let late = lateness.figures("t", 0);
        assert_eq!(late.behind_clock_ms.p50, 0);
        for max in [late.behind_clock_ms.max, late.behind_newest_ms.max] {
            assert!((HOUR as u64..HOUR as u64 * 5 / 4).contains(&max), "{max}");
        }
        assert_eq!((late.batches, late.newest_event_unix_ms), (100, now + 98));
    }

    /// Event times are the client's: absent, absurd or from the future they break nothing.
    #[test]
    fn absurd_event_times_are_bounded() {
        let mut lateness = Lateness::default();
        lateness.append(-1, -1, 1000);
        assert_eq!(lateness.figures("t", 0).batches, 0, "none was given");
        lateness.append(0, i64::MAX, 1000);
        lateness.append(0, 0, i64::MAX);
        let figures = lateness.figures("t", 0);
        assert_eq!((figures.batches, figures.from_the_future), (2, 1));
        assert!(figures.behind_clock_ms.max <= 1 << 36);
    }
}
