//! How late the records of a partition come: from the event to its append, and behind the newest
//! event before it.
//!
//! One of these per partition that has records, so it is small: buckets a quarter wide, from a
//! millisecond to more than a year, 1.2 KiB in all. A batch costs two additions. A time's bucket is
//! the upper bits of that time as a floating-point number, as in [`crate::counts`].

use crate::document::{LatenessFigures, LatenessQuantiles};

/// Buckets to each doubling.
const STEPS: usize = 4;

/// Of a floating-point number, the bits below those that tell its bucket.
const BITS_BELOW: u32 = f64::MANTISSA_DIGITS - 1 - STEPS.ilog2();

/// The upper bits of a millisecond, less the bucket of 0.
const BELOW_FIRST: usize = (1f64.to_bits() >> BITS_BELOW) as usize - 1;

/// Buckets: one for 0, then four to each doubling, up to 2^36 ms (two years).
const BUCKETS: usize = 1 + 36 * STEPS;

/// Counts of times in milliseconds.
#[derive(Clone, Debug)]
struct Buckets {
    counts: [u32; BUCKETS],
}

impl Buckets {
    const NONE: Self = Self { counts: [0; BUCKETS] };

    #[inline]
    fn add(&mut self, millis: i64) {
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

/// The bucket of a time; what is not positive counts as 0.
#[inline]
fn place(millis: i64) -> usize {
    let bits = (millis.max(0) as f64).to_bits() >> BITS_BELOW;
    (bits as usize).saturating_sub(BELOW_FIRST).min(BUCKETS - 1)
}

/// The largest value that a bucket counts. The first ones are narrower than a millisecond: some of
/// them count nothing.
fn largest(bucket: usize) -> u64 {
    let Some(above) = bucket.checked_sub(1) else { return 0 };
    let (power, step) = (above / STEPS, above % STEPS);
    (((STEPS + step + 1) as u64) << power).div_ceil(STEPS as u64) - 1
}

/// How late the records of one partition came so far.
#[derive(Clone, Debug)]
pub struct Lateness {
    batches: u64,
    from_the_future: u64,
    newest_ms: i64,
    behind_clock: Buckets,
    /// Of those that are.
    behind_newest: Buckets,
}

impl Default for Lateness {
    fn default() -> Self {
        Self {
            batches: 0,
            from_the_future: 0,
            newest_ms: 0,
            behind_clock: Buckets::NONE,
            behind_newest: Buckets::NONE,
        }
    }
}

impl Lateness {
    /// A batch was appended at `wall_ms`; its first record's and its newest record's event times
    /// are as the batch's header says them. Without event times (negative) it is not counted.
    #[inline]
    pub fn append(&mut self, first_ms: i64, newest_ms: i64, wall_ms: i64) {
        if (first_ms | newest_ms) < 0 {
            return;
        }
        self.batches += 1;
        // Neither is negative, so neither difference leaves its type.
        let behind_ms = wall_ms - newest_ms;
        self.from_the_future += u64::from(behind_ms < 0);
        self.behind_clock.add(behind_ms);
        let oldest_ms = first_ms.min(newest_ms);
        // Before the first batch there is nothing that it could be behind.
        if oldest_ms < self.newest_ms {
            self.behind_newest.add(self.newest_ms - oldest_ms);
        }
        self.newest_ms = self.newest_ms.max(newest_ms);
    }

    /// The figures of this partition, named.
    #[must_use]
    pub fn figures(&self, topic: &str, partition: i32) -> LatenessFigures {
        // Mostly batches are behind nothing: those are not counted one by one.
        let mut behind_newest = self.behind_newest.clone();
        let disordered = behind_newest.counts.iter().copied().map(u64::from).sum::<u64>();
        let ordered = self.batches.saturating_sub(disordered);
        behind_newest.counts[0] = u32::try_from(ordered).unwrap_or(u32::MAX);
        LatenessFigures {
            topic: topic.to_owned(),
            partition,
            batches: self.batches,
            newest_event_unix_ms: self.newest_ms.max(0),
            from_the_future: self.from_the_future,
            behind_clock_ms: self.behind_clock.quantiles(),
            behind_newest_ms: behind_newest.quantiles(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each time lies in the one bucket that reaches up to it or further, and a bucket is a quarter
    /// wide at most.
    #[test]
    fn buckets_follow_one_another() {
        assert_eq!(largest(0), 0);
        for bucket in 1..BUCKETS - 1 {
            let (begin, end) = (largest(bucket - 1) + 1, largest(bucket));
            for millis in [begin, end].into_iter().filter(|_| begin <= end) {
                assert_eq!(place(millis as i64), bucket, "{millis}");
            }
            assert!((end + 1).saturating_sub(begin) * 4 <= begin.max(4), "{begin} to {end}");
        }
        for millis in 0..10_000 {
            assert!(millis <= largest(place(millis as i64)), "{millis}");
        }
        assert_eq!((place(i64::MAX), place(-1)), (BUCKETS - 1, 0));
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
